"""How often 95 % intervals cover and reports claim what is not so: python tests/bench/intervals.py [--sets 2000].

People differ by a beta law whose variance is a share of the largest there can be; trials are ordered pairs of images.
Beside the intervals of `megaface_eval` stand the percentiles of a bootstrap over identities. False claims are counted
by reports: two methods of equal rates on the whole set and on four random parts of it, held together by Holm's rule,
and by gaps between two random halves of the people.
"""

import argparse
import sys
from itertools import product
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1] / "megaface_eval")]

from made_tallies import TAILS, draw_hits, draw_rates, draw_trials  # noqa: E402

from megaface_eval.protocols.metrics import Contrast, Estimate, holm  # noqa: E402

PEOPLE, RATES, ALIKE = (10, 20, 80), (0.5, 0.8, 0.95, 0.99), (0.05, 0.2, 0.5)
APART = 0.1  # how much methods differ on one person, as a share like ALIKE
DRAWS, PARTS = 300, 4


def coverage(rng, hits, trials, rate: float) -> tuple[float, ...]:
    """Shares of sets covered and median widths: by `Estimate`, by percentiles; and the share that has an interval."""
    found = Estimate.of(hits, trials)
    low, high = (end[found.enough] for end in found.ends())
    weights = rng.multinomial(hits.shape[1], np.full(hits.shape[1], 1 / hits.shape[1]), size=DRAWS).T
    least, most = np.percentile((hits @ weights) / (trials @ weights), [2.5, 97.5], axis=1)
    shares = [((a <= rate) & (rate <= b)).mean() if len(a) else np.nan for a, b in ((low, high), (least, most))]
    widths = [np.median(b - a) if len(a) else np.nan for a, b in ((low, high), (least, most))]
    return shares[0], widths[0], shares[1], widths[1], found.enough.mean()


def levels(one, other, trials, masks) -> np.ndarray:
    """p of each set, 1 where identities are too few, of one's rate on the first mask less other's on the second."""
    estimates = []
    for hits, mask in zip((one, other), masks, strict=True):
        held = mask.any(-1, keepdims=True)
        estimates.append(Estimate.of(np.where(mask, hits, 0), np.where(mask | ~held, trials, 0)))
    found = Contrast(*estimates)
    return np.where(found.enough, found.p, 1.0)


def false_claims(rng, trials, rate: float, alike: float) -> tuple[float, float]:
    """Shares of reports with a claim between two methods that are alike, and between two halves of the people."""
    people = draw_rates(rng, rate, np.full(trials.shape, alike))
    one, other = (draw_hits(rng, trials, draw_rates(rng, people, APART)) for _ in range(2))
    part = rng.integers(0, PARTS, trials.shape)
    columns = [np.ones(trials.shape, bool), *(part == i for i in range(PARTS))]
    p = np.stack([levels(one, other, trials, (mask, mask)) for mask in columns], axis=-1)
    gap = levels(one, one, trials, (part < PARTS / 2, part >= PARTS / 2))
    return holm(p)[0].any(-1).mean(), (gap <= 0.05).mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--sets", type=int, default=2000)
    options = parser.parse_args()
    print("| people | images | rate | alike | covered, width | bootstrap | measured | false reports | false gaps |")
    print("| ---: | --- | ---: | ---: | --- | --- | ---: | ---: | ---: |")
    for people, tail, rate, alike in tqdm(list(product(PEOPLE, TAILS, RATES, ALIKE)), disable=None):
        rng = np.random.default_rng(0)
        trials = draw_trials(rng, options.sets, people, tail)
        hits = draw_hits(rng, trials, draw_rates(rng, rate, np.full(trials.shape, alike)))
        ours, width, theirs, its, enough = coverage(rng, hits, trials, rate)
        report, gap = false_claims(rng, trials, rate, alike)
        print(
            f"| {people} | {tail} | {rate} | {alike} | {ours:.3f}, {width:.3f} | {theirs:.3f}, {its:.3f} | "
            f"{enough:.2f} | {report:.3f} | {gap:.3f} |"
        )


if __name__ == "__main__":
    main()
