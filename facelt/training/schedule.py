"""Steps and learning rate of a stage: pure functions of the step."""

from facelt.config import StageConfig


def total_steps(stage: StageConfig, images: int, global_batch: int) -> int:
    """Steps of a stage over a set of that many images: epochs · images / global_batch, rounded up."""
    return max(1, -int(-stage.epochs * images // global_batch))


def learning_rate(stage: StageConfig, base: float, step: int, images: int, global_batch: int) -> float:
    """base · lr_scale · decay^⌊epoch/decay_every⌋, rising linearly from zero over the first `warmup` epochs."""
    epoch = step * global_batch / images
    rise = min(1.0, (epoch + global_batch / images) / stage.warmup) if stage.warmup else 1.0
    return base * stage.lr_scale * stage.decay ** int(epoch / stage.decay_every) * rise
