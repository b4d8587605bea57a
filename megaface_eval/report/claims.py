"""What a report says of one rate beside another: differences, gaps, and which of them hold among all."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import numpy as np

from megaface_eval.protocols import fairness, metrics
from megaface_eval.protocols.metrics import Contrast, Tallies
from megaface_eval.report import schema

# fields of a group's errors, and what they are called
ERRORS: dict[str, Literal["false non-match", "false match"]] = {
    "false_non_match": "false non-match",
    "false_match": "false match",
}


@dataclass(frozen=True)
class Claims:
    """What a report says of one rate beside another, each held against how many are said."""

    differences: list[schema.Difference]
    gaps: list[schema.Gap]

    @property
    def statements(self) -> list[str]:
        """All of them in words: differences, then gaps."""
        claims = [*self.differences, *self.gaps]
        among = sum(claim.p is not None for claim in claims)
        return [state(claim, among) for claim in claims]


def held_together(
    names: list[str],
    tallies: list[dict[str, Tallies]],
    columns: Sequence[schema.ColumnHead],
    errors: Sequence[tuple[schema.Gap, Contrast | None]] = (),
) -> Claims:
    """All differences and gaps of a report, with intervals, and which of them hold by Holm's rule.

    errors: gaps of other rates than rank-1, as `error_gaps` finds them.
    """
    between, within = differences(names, tallies, columns), [*gaps(names, tallies, columns), *errors]
    measured = [found for _, found in [*between, *within] if found is not None]
    holds, levels = metrics.holm(np.array([float(found.p) for found in measured]))
    held = iter(zip(holds.tolist(), levels.tolist(), strict=True))

    def judged(claim, found: Contrast | None):
        if found is None:
            return claim
        shown, level = next(held)
        low, high = found.ends()
        least = max(float(part) for part in found.reach(level))
        changed = {"low": float(low), "high": float(high), "p": float(found.p), "shown": shown, "least": least}
        return claim.model_copy(update=changed)

    return Claims([judged(*one) for one in between], [judged(*one) for one in within])


def differences(
    names: list[str], tallies: list[dict[str, Tallies]], columns: Sequence[schema.ColumnHead]
) -> list[tuple[schema.Difference, Contrast | None]]:
    """Every later method less the first, paired over identities, for each measured column; not yet judged."""
    found = []
    for name, other in zip(names[1:], tallies[1:], strict=True):
        for column in columns:
            one, two = (held.get(column.key) for held in (tallies[0], other))
            if one is None or two is None or one.rate is None or two.rate is None:
                continue
            claim = schema.Difference(
                method=name, than=names[0], column=column.title, difference=two.rate - one.rate, low=None, high=None
            )
            found.append((claim, metrics.contrast(two, one)))
    return found


def gaps(
    names: list[str], tallies: list[dict[str, Tallies]], columns: Sequence[schema.ColumnHead]
) -> list[tuple[schema.Gap, Contrast | None]]:
    """Each method's first sub-group of an attribute less every further one of it; not yet judged."""
    found = []
    groups = [column for column in columns if column.key.startswith("group:")]
    for name, held in zip(names, tallies, strict=True):
        for _, attribute in groupby(groups, lambda c: c.group):
            counted = [(c.title, held[c.key]) for c in attribute if c.key in held]
            measured = [(title, tally, tally.rate) for title, tally in counted if tally.rate is not None]
            for than, other, its_rate in measured[1:]:
                group, first, rate = measured[0]
                claim = schema.Gap(
                    of="rank-1", method=name, group=group, than=than, low=None, high=None, difference=rate - its_rate
                )
                found.append((claim, metrics.contrast(first, other)))
    return found


def error_gaps(methods: Sequence[schema.MethodReport]) -> list[tuple[schema.Gap, Contrast | None]]:
    """Both errors of the first sub-group of an attribute less those of every further one; not yet judged.

    Of the sub-groups with identities enough: `too_small` are compared with none.
    """
    found = []
    for method in methods:
        groups = method.fairness.groups if method.fairness else []
        for _, attribute in groupby(groups, lambda one: one.attribute):
            members = list(attribute)
            for field, of in ERRORS.items():
                large = [(one.group, known) for one in members if (known := _known(getattr(one, field))) is not None]
                for than, other in large[1:]:
                    group, first = large[0]
                    between = fairness.gap(first, other)
                    claim = schema.Gap(
                        of=of, method=method.name, group=group, than=than, low=None, high=None,
                        difference=float(between.difference),
                    )  # fmt: skip
                    found.append((claim, between))
    return found


def too_small(found: schema.Fairness) -> list[str]:
    """The sub-groups that are compared with none in one of the errors, with their identities."""
    small = [one for one in found.groups if any(_known(getattr(one, field)) is None for field in ERRORS)]
    return [f"{one.group} ({one.identities})" for one in small]


def _known(rate: schema.GroupRate) -> fairness.Counted | None:
    """The estimate behind a rate; None where identities are too few."""
    if rate.rate is None or rate.weight is None or rate.effective is None or rate.weight < metrics.FEWEST:
        return None
    return fairness.counted(rate.rate, rate.weight, rate.effective)


def state(claim: schema.Difference | schema.Gap, among: int) -> str:
    """A difference in plain words, and whether it is more than another choice of identities would bring.

    among: number of statements that it was judged with.
    """
    digits = 4 if isinstance(claim, schema.Gap) and claim.of == "false match" else 2
    points = f"{100 * claim.difference:+.{digits}f}"
    if isinstance(claim, schema.Difference):
        what = f"{claim.column}: {claim.method} against {claim.than} {points}"
    else:
        rate = "" if claim.of == "rank-1" else f"{claim.of}, "
        what = f"{claim.method}: {rate}{claim.group} against {claim.than} {points}"
    if claim.low is None or claim.high is None or claim.least is None:
        return f"{what}; too few identities to tell."
    what += f" (95 % interval {100 * claim.low:+.{digits}f} … {100 * claim.high:+.{digits}f})"
    if claim.shown:
        return f"{what}, outside chance."
    counted = "" if claim.low <= 0 <= claim.high else f" among {among} comparisons"
    return f"{what}: no difference shown{counted}; this set could show one above {100 * claim.least:.{digits}f}."
