"""Weights & Biases, for those who have it: what TensorBoard is told is told there too. Nothing is imported unasked."""

from importlib import import_module
from pathlib import Path
from typing import Any

from facelt.errors import UserError


def need_library() -> Any:
    """The library. Raises UserError where it is not installed."""
    try:
        return import_module("wandb")
    except ImportError:
        raise UserError("telemetry.wandb needs wandb: pip install 'facelt[wandb]', or leave it out") from None


class WandbLog:
    """One process's part of a stage: a run "FOLDER-STAGE" in the group of the folder, of the project facelt.

    WANDB_MODE=offline and its other variables work as everywhere. Raises UserError where no run can be begun.
    """

    def __init__(self, folder: Path, stage: str) -> None:
        name = folder.resolve().name
        try:
            self.run = need_library().init(project="facelt", group=name, name=f"{name}-{stage}", dir=str(folder))
        except UserError:
            raise
        except Exception as error:  # whatever its service answers
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"telemetry.wandb: {reason}; run wandb login, or set WANDB_MODE=offline") from None

    def log(self, figures: dict[str, float], step: int) -> None:
        """Numbers after a step; steps never go back."""
        self.run.log(figures, step=step)

    def close(self) -> None:
        """The process's part is over."""
        self.run.finish()
