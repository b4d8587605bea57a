"""Whether training still goes anywhere: bad steps in a row, and tensors that must not be saved.

A step is bad when its gradient is not finite, so that it was skipped, or its loss is not finite or far above its start.
Ranks come to the same end, each by itself: loss and norm are known to all.
"""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facelt.config import FaceltConfig
from facelt.errors import UserError

NAMED_KEYS = 8
USUAL_SKIPS = 3  # in a row under a loss scale, which finds its size by them: not worth a word


class Divergence:
    """The bad steps of a stage. scalars: what a checkpoint remembers, the loss that the stage started at.

    bad: bad steps in a row. unsound_from: the first of the steps in a row whose loss was bad: a checkpoint after as
    many steps or more holds weights that gave such a loss. None: the last loss was sound, and the state may be saved.
    """

    def __init__(self, config: FaceltConfig, scalars: dict[str, float]) -> None:
        self.budget, self.growth = config.max_skipped, config.max_loss_growth
        self.start = scalars.get("loss_start")
        self.bad, self.unsound_from = 0, None
        self.loss = math.nan

    @property
    def sound(self) -> bool:
        """Whether the loss of the last step was finite and not too large."""
        return self.unsound_from is None

    @property
    def over(self) -> bool:
        """Whether so many steps in a row were bad that the run is to end."""
        return self.bad >= self.budget

    def scalars(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {} if self.start is None else {"loss_start": self.start}

    def after_step(self, step: int, loss: float, skipped: bool, scaled: bool) -> str | None:
        """Take note of a step; what is to be said of it, if anything.

        skipped: its gradient was not finite. scaled: a loss scale was at work, under which that is usual.
        """
        self.loss = loss
        if math.isfinite(loss) and self.start is None:
            self.start = loss
        unsound = not math.isfinite(loss) or loss > self.growth * max(self.start or 0.0, 1.0)
        self.unsound_from = (step if self.sound else self.unsound_from) if unsound else None
        self.bad = self.bad + 1 if skipped or unsound else 0
        if self.bad != (USUAL_SKIPS if scaled and not unsound else 1):
            return None
        words = self._words() if unsound else "its gradient is not finite, it was skipped"
        return f"{words}; the run ends if {self.budget} such steps come in a row"

    def _words(self) -> str:
        if not math.isfinite(self.loss):
            return f"the loss is {self.loss}"
        return f"the loss is {self.loss:.3g}, more than {self.growth:g} times its start, {self.start:.3g}"

    def ending(self, where: str, keys_G: NDArray[np.int64], gradient: str, left: Path | None) -> str:
        """Why the run ends, in one line. keys_G: of the step's images. left: the checkpoint that the stage has."""
        named = ", ".join(str(key) for key in keys_G[:NAMED_KEYS])
        more = f" and {len(keys_G) - NAMED_KEYS} more" if len(keys_G) > NAMED_KEYS else ""
        what = "gradients are not finite" if self.sound else self._words()
        onward = "the stage then begins anew" if left is None else f"it then goes on from {left}"
        return (
            f"{where}: diverged: {what}; {self.bad} bad steps in a row; images with keys {named}{more}; largest "
            f"gradient: {gradient}; give the same command with a lower optimizer.params.lr, {onward}"
        )


def set_aside(stage: Path, unsound_from: int | None) -> None:
    """Rename the checkpoints whose weights gave a bad loss to diverged-N, so that no run goes on from them."""
    if unsound_from is None:
        return
    for folder in stage.glob("step-*"):
        number = folder.name.removeprefix("step-")
        if number.isdigit() and int(number) >= unsound_from:
            aside = folder.with_name(f"diverged-{number}")
            if not aside.exists():
                folder.rename(aside)


def check_finite(tensors: dict[str, Tensor], where: str) -> None:
    """Raise UserError where one of the tensors that are to be saved holds what is not finite."""
    bad = next(_not_finite(tensors.items()), None)
    if bad is not None:
        raise UserError(
            f"{where}: {bad} is not finite, so nothing is saved; give the same command with a lower "
            "optimizer.params.lr: it goes on from the last checkpoint, or begins anew where there is none"
        )


def _not_finite(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[str]:
    return (name for name, tensor in tensors if tensor.is_floating_point() and not torch.isfinite(tensor).all())
