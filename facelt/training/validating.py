"""When a stage is validated, within its share of the time, and whether what was measured is its best so far."""

import time
from dataclasses import dataclass
from typing import NamedTuple

from facelt.config import StageName, ValidationConfig
from facelt.parallel import group, heartbeat
from facelt.run_folder import checkpoint
from facelt.training.engine import Engine
from facelt.training.run import Run
from facelt.training.schedule import Schedule
from facelt.training.telemetry import Telemetry


class Validated(NamedTuple):
    """figures: by name. best: whether they are the best of the stage so far."""

    figures: dict[str, float]
    best: bool


@dataclass
class Budget:
    """The time that validations may take, as a share of all time since this process began the stage.

    spent: seconds that they took. cost: of the last one; None before the first.
    """

    share: float
    spent: float = 0.0
    cost: float | None = None

    def allows(self, elapsed: float, guess: float) -> bool:
        """Whether one more keeps to the share. elapsed: seconds so far. guess: what the first will cost."""
        cost = guess if self.cost is None else self.cost
        return self.share == 1 or self.spent + cost <= self.share * (elapsed + cost)

    def took(self, seconds: float) -> None:
        """One was made."""
        self.spent, self.cost = self.spent + seconds, seconds


def is_due(knobs: ValidationConfig, schedule: Schedule, done: int) -> bool:
    """Whether after so many steps a validation is wanted: each time that `every` has gone by once more."""
    if knobs.unit == "steps":
        return done % int(knobs.every) == 0
    before, now = (steps * schedule.global_batch / schedule.images // knobs.every for steps in (done - 1, done))
    return now > before


class Validating:
    """Validates a stage of a run in its turn. Does nothing for a run without a measure."""

    def __init__(self, run: Run, stage: StageName, schedule: Schedule) -> None:
        self.run, self.schedule, self.knobs = run, schedule, run.config.validation
        self.stage: StageName = stage
        self.budget, self.began, self.steps, self.said = Budget(self.knobs.share), time.monotonic(), 0, False

    def after_step(self, engine: Engine, telemetry: Telemetry, step: int, last: bool) -> Validated | None:
        """What was measured after a step, said and logged; None where nothing was. All ranks must call it.

        last: the stage's end is validated in any case.
        """
        self.steps += 1
        measure = self.run.measure
        if measure is None or not (last or is_due(self.knobs, self.schedule, step + 1)):
            return None
        elapsed = time.monotonic() - self.began
        # Training on as many images takes longer than passing over them.
        guess = measure.images * elapsed / (self.steps * self.schedule.global_batch)
        allowed = group.share(self.budget.allows(elapsed, guess))
        if not allowed and not last:
            self._say_spaced(telemetry, step, guess)
            return None
        found, seconds = self.measure(engine)
        telemetry.validated(step, found.figures, seconds, self.knobs.main_figure(self.stage))
        if not allowed:
            spent, elapsed = self.budget.spent, time.monotonic() - self.began
            telemetry.say(step, f"validation took {spent:.2g} s of {elapsed:.2g} s: the end is validated in any case")
        return found

    def measure(self, engine: Engine) -> tuple[Validated, float]:
        """The figures now, and the seconds that took. Only of a run with a measure."""
        assert self.run.measure is not None
        heartbeat.mark("validation")
        began = time.monotonic()
        figures = self.run.measure(engine.embedder, engine.head)
        seconds = time.monotonic() - began
        self.budget.took(seconds)
        return Validated(figures, group.share(self._is_best(figures))), seconds

    def _is_best(self, figures: dict[str, float]) -> bool:
        name = self.knobs.main_figure(self.stage)
        if name not in figures:
            return False
        best = checkpoint.best(self.run.folder, self.stage, name)
        return best is None or figures[name] > best.value

    def _say_spaced(self, telemetry: Telemetry, step: int, guess: float) -> None:
        if self.said:
            return
        self.said, cost = True, guess if self.budget.cost is None else self.budget.cost
        telemetry.say(
            step,
            f"a validation takes about {cost:.2g} s: to keep to {self.knobs.share:.0%} of the time it is made about "
            f"every {cost / self.knobs.share:.2g} s, not after every {self.knobs.every:g} {self.knobs.unit}; "
            "validation.share changes that",
        )
