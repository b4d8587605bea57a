"""RUN/quarantine.jsonl: the images of the training set that do not decode, each once, whichever rank met it.

Its lines are `recordio_tools.check.unreadable`'s, so that verify --unreadable can leave the same images out.
"""

import math
import os
from collections.abc import Mapping
from pathlib import Path

from facelt.errors import UserError
from facelt.parallel import group
from recordio_tools.atomic import output_file
from recordio_tools.check.unreadable import of_image, read_unreadable, rows_of
from recordio_tools.dataset import RecordDataset
from recordio_tools.format.recordio import RecordError

NAME = "quarantine.jsonl"
NAMED = 5  # images in a line to people


class Quarantine:
    """The unreadable images that this rank knows of, and what it has met since `settle`.

    folder: of the run. share: of the set's images that may be unreadable; one always may.
    All ranks must make one together, and no other process may write the run. Raises UserError where the list of before
    names more than that.
    """

    def __init__(self, folder: Path, dataset: RecordDataset, share: float) -> None:
        self.path, self.dataset = folder / NAME, dataset
        self.most = max(1, math.floor(share * len(dataset) + 1e-9))  # 0.003 · 1000 is not quite 3
        self.share = share
        self._fresh: dict[int, str] = {}
        self._reasons: dict[int, str] = {}
        group.on_rank_0(self._read)
        self._reasons = group.share(self._reasons)
        self._check()

    @property
    def reasons(self) -> Mapping[int, str]:
        """Image number -> why it does not decode."""
        return self._reasons

    @property
    def fresh(self) -> bool:
        """Whether this rank has met images that others do not know of."""
        return bool(self._fresh)

    def note(self, image: int, reason: str) -> None:
        """An image of this rank's that does not decode. Raises UserError where they are more than may be."""
        if image in self._reasons:
            return
        self._reasons[image] = self._fresh[image] = reason
        if len(self._reasons) > self.most:
            if group.rank() == 0:
                self._append(self._fresh)
            self._check()

    def settle(self) -> None:
        """All ranks learn what each has met; it is written and said, a line for all. All ranks must call it.

        Raises UserError where the images are more than may be.
        """
        met = {image: reason for part in group.gather(self._fresh) for image, reason in part.items()}
        if not met:
            return
        group.on_rank_0(self._append, met)
        self._reasons |= met
        self._fresh.clear()
        group.say(
            f"warning: {_named(met, self.dataset)}; skipped, others of the same class stand in; "
            f"{len(self._reasons):,} so far, listed in {self.path}"
        )
        self._check()

    def _check(self) -> None:
        if len(self._reasons) > self.most:
            raise UserError(
                f"{_named(self._reasons, self.dataset)}: more than max_unreadable {self.share:g} of "
                f"{len(self.dataset):,} images; mend the set: python -m recordio_tools verify --decode "
                f"{self.dataset.folder} --unreadable {self.path} --repair OUT, or raise max_unreadable"
            )

    def _read(self) -> None:
        """What a run before has listed, as far as the set still has it; the rest is dropped from the list.

        A damaged list is set aside: its images are met again.
        """
        try:
            listed = read_unreadable(self.path)
        except RecordError as error:
            aside = self.path.with_name(f"{NAME}.damaged")
            group.say(f"warning: {error}; set aside as {aside.name}, its images will be listed anew")
            self.path.replace(aside)
            listed = []
        known = rows_of(listed, self.dataset)
        self._reasons = {row: one.reason for row, one in known.items()}
        lines = "".join(one.line() for one in known.values())
        if self.path.is_file() and self.path.read_bytes() != lines.encode():
            with output_file(self.path, force=True) as draft:
                draft.write_text(lines, encoding="utf-8")

    def _append(self, met: dict[int, str]) -> None:
        lines = [of_image(self.dataset, row, self.dataset.labels[row], reason).line() for row, reason in met.items()]
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write("".join(lines))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            group.say(f"warning: {self.path} cannot be written ({error}); training goes on")


def _named(met: Mapping[int, str], dataset: RecordDataset) -> str:
    """Some of the images, for people: their keys, and why the first does not decode."""
    rows = sorted(met)
    keys = ", ".join(str(dataset.keys[row]) for row in rows[:NAMED])
    more = f" and {len(rows) - NAMED:,} more" if len(rows) > NAMED else ""
    many, verb = ("images of records", "do") if len(rows) > 1 else ("the image of record", "does")
    return f"{many} {keys}{more} {verb} not decode ({met[rows[0]]})"
