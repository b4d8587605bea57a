"""The model card of a checkpoint: Markdown with YAML front matter, as Hugging Face reads it."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from facelt.errors import UserError
from facelt.run_folder import checkpoint
from facelt.run_folder.checkpoint import CheckpointState

CARD = "README.md"  # as Hugging Face names it


@dataclass(frozen=True)
class Figures:
    """A report's table, with intervals, as Markdown. about: on what it was measured, in words."""

    title: str
    about: str
    table: str

    @classmethod
    def of(cls, folder: Path, state: CheckpointState) -> "Figures":
        """From a report folder of facelt.evaluate or megaface_eval.

        Raises UserError for another folder, and for a report of another stage or step than the checkpoint.
        """
        try:
            report: Any = json.loads((folder / "report.json").read_text(encoding="utf-8"))
            table = (folder / "table.md").read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise UserError(
                f"--report {folder}: no report there ({error}); give an --output of facelt.evaluate or megaface_eval"
            ) from None
        source, methods = (report.get(name) if isinstance(report, dict) else None for name in ("source", "methods"))
        if isinstance(source, dict):
            made = [(source.get("stage"), source.get("step"))]
            about = f", on {Path(source.get('data') or '?').name}"
        elif isinstance(methods, list):
            made = [(state.stage, method.get("meta", {}).get("step")) for method in methods]
            about = f", among {report.get('gallery', {}).get('size', 0):,} distractors"
        else:
            raise UserError(f"--report {folder}: holds no report of facelt.evaluate or megaface_eval; give one")
        if (state.stage, state.step) not in made:
            said = ", ".join(f"{stage} step {step}" for stage, step in made)
            raise UserError(
                f"--report {folder}: is of {said}, the checkpoint is of {state.stage} step {state.step}; give its own"
            )
        return cls(folder.name, about, table)


def make_card(folder: Path, file: str, reports: list[Path]) -> str:
    """The card of a checkpoint.

    Args:
        folder: of the checkpoint, as `checkpoint.find` gives it.
        file: what its example loads.
        reports: folders of facelt.evaluate or megaface_eval, whose figures it shows.

    Raises:
        UserError: a report is none, or of another checkpoint.
    """
    state = checkpoint.read_state(folder)
    weights = checkpoint.read_weights(folder)
    counted = [tensor for name, tensor in weights.items() if not name.endswith(("running_mean", "running_var"))]
    recipe = {**state.ds, "facelt": json.loads(state.config.model_dump_json(exclude={"data", "output"}))}
    recipe["facelt"]["backbone"] = {**recipe["facelt"]["backbone"], "init": _name(state.config.backbone.init)}
    environment = Environment(
        loader=PackageLoader("facelt.features", "."),
        autoescape=False,  # Markdown
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("card.md.jinja").render(
        name=folder.parent.parent.name or "recogniser",
        file=file,
        state=state,
        config=state.config,
        parameters=sum(math.prod(tensor.shape) for tensor in counted),
        threshold=state.scalars.get("threshold"),
        optimizer=json.dumps(state.ds.get("optimizer", {"type": "unknown"})),
        recipe=json.dumps(recipe, indent=1),
        reports=[Figures.of(report, state) for report in reports],
    )


def _name(path: str | None) -> str | None:
    """A path's last part: the rest is of the machine that it was on."""
    return None if path is None else Path(path).name
