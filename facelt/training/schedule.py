"""Steps and learning rate of a stage: pure functions of the step."""

from dataclasses import dataclass

from facelt.config import StageConfig


@dataclass(frozen=True)
class Schedule:
    """Of a stage over a set of that many images, so many of them in a step."""

    knobs: StageConfig
    images: int
    global_batch: int

    @property
    def steps(self) -> int:
        """How many steps the stage has: epochs · images / global_batch, rounded up."""
        return -int(-self.knobs.epochs * self.images // self.global_batch)

    def learning_rate(self, base: float, step: int) -> float:
        """base · lr_scale · decay^⌊epoch/decay_every⌋, rising linearly from zero over the first `warmup` epochs."""
        knobs, epoch, of_one_step = self.knobs, step * self.global_batch / self.images, self.global_batch / self.images
        rise = min(1.0, (epoch + of_one_step) / knobs.warmup) if knobs.warmup else 1.0
        return base * knobs.lr_scale * knobs.decay ** int(epoch / knobs.decay_every) * rise
