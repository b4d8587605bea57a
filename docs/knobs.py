"""Writes the tables of all knobs into docs/training.md, from `facelt.knobs`: python docs/knobs.py"""

from pathlib import Path

from facelt import config
from facelt.knobs import MEANINGS, OF_STAGES, cell, values

PAGE = Path(__file__).parent / "training.md"
BEGIN, END = "<!-- knobs: written by docs/knobs.py -->\n", "<!-- end of knobs -->\n"
PRESETS = ("released", "paper", "cosine")


def table(block: str, titles: list[str], *instances: config.Block) -> str:
    """A row for each knob of a block: name, accepted values, its value in each of the instances, meaning."""
    rows = [["knob", "accepts", *titles, "meaning"], ["---"] * (len(titles) + 3)]
    for name, field in type(instances[0]).model_fields.items():
        if not isinstance(getattr(instances[0], name), config.Block):
            found = [cell(getattr(one, name)) for one in instances]
            rows.append([f"`{name}`", values(field), *found, MEANINGS[block][name]])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def tables() -> str:
    """All tables, each under the block that it describes."""
    default = config.FaceltConfig()
    heads = [config.FaceltConfig.model_validate({"preset": preset}).head for preset in PRESETS]
    parts = {
        "facelt": (["default"], default),
        "backbone": (["default"], default.backbone),
        "augment": (["default"], default.augment),
        OF_STAGES: (["plain", "meta", "memory"], default.plain, default.meta, default.memory),
        "plain_head": (["default"], default.plain_head),
        "head": (list(PRESETS), *heads),
        "memory_head": (["default"], default.memory_head),
        "validation": (["default"], default.validation),
        "telemetry": (["default"], default.telemetry),
    }
    return "\n".join(f"### Knobs of {block}\n\n{table(block, *part)}" for block, part in parts.items())


def renewed(page: str) -> str:
    """The page with the tables as they are now."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n{tables()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
