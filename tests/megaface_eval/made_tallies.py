"""Many sets of made-up tallies at once, whose true rates are known: what intervals and claims are judged by."""

import numpy as np

TAILS = {"equal": 0.0, "long": 0.6}  # spread of the logarithm of images a person


def draw_trials(rng, sets, people, tail):
    """Ordered pairs of each person's images, 10 in the middle (sets × people), as the devkit counts trials."""
    images = np.round(10 * np.exp(TAILS[tail] * rng.standard_normal((sets, people))))
    images = np.maximum(images, 2)
    return images * (images - 1)


def draw_rates(rng, around, alike):
    """Rates from the beta law around a mean, whose variance is the share `alike` of the largest there can be."""
    odds = 1 / alike - 1
    return rng.beta(np.maximum(around * odds, 1e-9), np.maximum((1 - around) * odds, 1e-9))


def draw_hits(rng, trials, rates):
    """Hits of trials that are found at these rates."""
    return rng.binomial(trials.astype(int), np.nan_to_num(rates, nan=1.0)).astype(float)
