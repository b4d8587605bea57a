"""What all ranks decide together about once a second of work: whether to stop, whether a checkpoint is due."""

import time
from dataclasses import dataclass

import torch

from facelt.parallel import collectives
from facelt.training.ending.stopping import StopRequest

PERIOD = 1.0  # seconds of work between two agreements


@dataclass(frozen=True)
class Decision:
    """The same on all ranks. stop: a rank was asked to. save: so many minutes have passed since the last checkpoint.
    news: a rank has met images that do not decode."""

    stop: bool = False
    save: bool = False
    news: bool = False


class Agreement:
    """Agreed after every n steps, n from the slowest rank's pace, so that most steps cost no communication.

    minutes: between two checkpoints, by the clock of the rank whose clock is ahead.
    """

    def __init__(self, stop: StopRequest, device: torch.device, minutes: float) -> None:
        self.stop, self.device, self.seconds = stop, device, 60 * minutes
        self.every, self.steps = 1, 0
        self.since = self.saved_at = time.monotonic()

    def after_step(self, last: bool, news: bool = False) -> Decision:
        """What is decided after a step. last: this is the stage's last, so it is agreed in any case. news: this
        rank's."""
        self.steps += 1
        if self.steps < self.every and not last:
            return Decision()
        now = time.monotonic()
        pace, due = (now - self.since) / self.steps, now - self.saved_at >= self.seconds
        votes = torch.tensor([self.stop.asked, due, news, pace], dtype=torch.float32, device=self.device)
        asked, due, news, pace = collectives.all_max(votes).tolist()
        # At most twice as many as before: a few quick steps are no promise.
        self.every = max(1, min(2 * self.every, int(PERIOD / max(pace, 1e-6))))
        self.steps, self.since = 0, now
        return Decision(stop=bool(asked), save=bool(due), news=bool(news))

    def saved(self) -> None:
        """A checkpoint was written."""
        self.saved_at = time.monotonic()
