"""The tables in Markdown, and in words what beats what."""

from collections.abc import Mapping, Sequence

from tests.bench.tables.comparing import Difference, Sample, compare, outside_chance
from tests.bench.tables.measuring import EMBEDDINGS, KNOWN

Row = tuple[str, str]  # arm, and the reading or embedding
Samples = Mapping[Row, Mapping[str, Sample]]
TITLES = {"F": "F", "AUROC": "AUROC", "drawn": "drawn strangers", "orl": "real strangers (ORL)"}


def cell(sample: Sample, mark: str = "") -> str:
    deviation = "" if len(sample.values_R) < 2 else f" ± {100 * sample.deviation:.1f}"
    return f"{100 * sample.mean:.1f}{deviation}{mark}"


def table(samples: Samples, columns: Sequence[str], baseline: Row, heads: tuple[str, str]) -> str:
    """A row a sample. ▲ ▼: above or below the baseline's row outside chance."""
    marks = {column: marked(samples, column, baseline) for column in columns}
    titles = [TITLES.get(column, column) for column in columns]
    lines = [f"| {heads[0]} | {heads[1]} | " + " | ".join(titles) + " |", "|---|---|" + "---:|" * len(columns)]
    for row, of in samples.items():
        cells = [cell(of[column], marks[column].get(row, "")) if column in of else "–" for column in columns]
        lines.append(f"| {row[0]} | {row[1]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def marked(samples: Samples, column: str, baseline: Row) -> dict[Row, str]:
    """▲ or ▼ of the rows that differ from the baseline outside chance."""
    named = {str(row): row for row in samples if row != baseline and column in samples[row]}
    differences = {name: compare(samples[row][column], samples[baseline][column]) for name, row in named.items()}
    return {named[name]: " ▲" if differences[name].value > 0 else " ▼" for name in outside_chance(differences)}


def versus(samples: Samples, pairs: Mapping[str, tuple[Row, Row]], columns: Sequence[str]) -> str:
    """Differences in points, a line a pair and a cell a column: value, interval; bold where outside chance."""
    lines = ["| | " + " | ".join(TITLES.get(c, c) for c in columns) + " |", "|---|" + "---:|" * len(columns)]
    found: dict[str, Difference] = {}
    for title, (ours, theirs) in pairs.items():
        for column in columns:
            if column in samples.get(ours, {}) and column in samples.get(theirs, {}):
                found[f"{title}\n{column}"] = compare(samples[ours][column], samples[theirs][column])
    shown = outside_chance(found)
    for title in pairs:
        cells = []
        for column in columns:
            difference = found.get(f"{title}\n{column}")
            text = "–" if difference is None else in_points(difference)
            cells.append(f"**{text}**" if f"{title}\n{column}" in shown else text)
        if any(text != "–" for text in cells):
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def in_points(difference: Difference) -> str:
    return f"{100 * difference.value:+.1f} [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"


def known_pairs(samples: Samples) -> dict[str, tuple[Row, Row]]:
    """The questions about known people."""
    arms = dict.fromkeys(arm for arm, _ in samples)
    pairs = {
        f"{arm}: by memory less by its classifier": ((arm, "memory"), (arm, "classifier"))
        for arm in arms
        if {(arm, "memory"), (arm, "classifier")} <= samples.keys()
    }
    pairs |= {
        f"{arm}: by plda less by its memory": ((arm, "plda"), (arm, "memory"))
        for arm in arms
        if {(arm, "plda"), (arm, "memory")} <= samples.keys()
    }
    trained_with_mean = "released, trained with the memory's mean"
    pairs["content: released less trained with the memory's mean"] = (
        ("released", "classifier"),
        (trained_with_mean, "classifier"),
    )
    pairs |= {
        f"part: released less {arm.removeprefix('released').strip(', ')}": (
            ("released", "classifier"),
            (arm, "classifier"),
        )
        for arm in arms
        if arm.startswith("released ") or (arm.startswith("released,") and arm != trained_with_mean)
    }
    pairs["released less class-aware, by classifier"] = (("released", "classifier"), ("class-aware", "classifier"))
    for arm in ("plain, whitened", "facelt, not whitened", "facelt"):
        pairs[f"{arm} less plain, both by memory"] = ((arm, "memory"), ("plain", "memory"))
    for arm in (trained_with_mean, "plain, whitened", "facelt, not whitened", "facelt"):
        pairs[f"{arm} by plda less plain by memory"] = ((arm, "plda"), ("plain", "memory"))
    pairs["facelt less plain, both by plda"] = (("facelt", "plda"), ("plain", "plda"))
    pairs["facelt less plain, whitened, both by memory"] = (("facelt", "memory"), ("plain, whitened", "memory"))
    return pairs


def stranger_pairs(samples: Samples) -> dict[str, tuple[Row, Row]]:
    """The questions about strangers."""
    arms = dict.fromkeys(arm for arm, _ in samples)
    content = {
        f"content: {arm}, meta less control": ((arm, EMBEDDINGS[1]), (arm, EMBEDDINGS[2]))
        for arm in arms
        if (arm, EMBEDDINGS[2]) in samples
    }
    ours = {
        f"{arm} less plain": ((arm, "direct"), ("plain", "direct"))
        for arm in ("plain, whitened", "facelt, not whitened", "facelt")
    }
    return {**content, **ours}


def in_words(samples: Samples, columns: Sequence[str], baseline: Row) -> list[str]:
    """For each column: the highest row, and how many are above and below the baseline outside chance."""
    lines = []
    for column in columns:
        having = [row for row in samples if column in samples[row]]
        best = max(having, key=lambda row: samples[row][column].mean)
        marks = list(marked(samples, column, baseline).values())
        up, down = (sum(sign in mark for mark in marks) for sign in "▲▼")
        lines.append(
            f"- {TITLES.get(column, column)}: highest {said(best)}; of {len(having) - 1} others {up} above and {down} "
            f"below {said(baseline)} outside chance."
        )
    return lines


def said(row: Row) -> str:
    return f"{row[0]} by {row[1]}"


KNOWN_COLUMNS = KNOWN
STRANGER_COLUMNS = ("drawn", "orl")
