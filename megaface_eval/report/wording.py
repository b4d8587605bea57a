"""How numbers are written in tables, plots and sentences."""

MISSING = "–"


def percent(value: float | None, digits: int = 2) -> str:
    """A share in per cent, or – where there is none."""
    return MISSING if value is None else f"{100 * value:.{digits}f}"


def size_name(size: int) -> str:
    """1M, 100K, 2.5K, 10."""
    for unit, letter in ((1_000_000, "M"), (1_000, "K")):
        if size >= unit and size % (unit // 10) == 0:
            return f"{size / unit:g}{letter}"
    return f"{size:,}"
