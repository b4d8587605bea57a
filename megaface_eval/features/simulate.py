"""Simulated features: von Mises–Fisher identities of a chosen difficulty, drawn block by block and never stored.

An identity is a direction drawn evenly from the sphere; its images are drawn around it with one concentration, set by
the cosine that two images of one identity have on average. Every distractor is an image of a further identity, which
makes it uniform on the sphere, so the rank-1 to expect follows from the distribution (`expected_rank1`). The training
set is long-tailed: a few probes have many look-alikes there, most have none.
"""

from dataclasses import dataclass

import numpy as np

from megaface_eval.errors import InputError
from megaface_eval.features.feature_set import ArrayRows, FeatureSet, normalise

CHUNK = 8192
DIMENSION, IDENTITIES, IMAGES = 512, 80, 3530  # MegaFace's probes: 3,530 images of 80 people
RECOGNISER_COSINE, LOOK_ALIKE_COSINE = 0.85, 0.7


class UniformRows:
    """Rows uniform on the sphere; any block of them can be drawn again."""

    def __init__(self, rows: int, dimension: int, seed: int):
        self.shape: tuple[int, ...] = (rows, dimension)
        self.seed = seed
        self._chunk: tuple[int, np.ndarray] = (-1, np.empty(0))

    def _draw(self, chunk: int) -> np.ndarray:
        if self._chunk[0] != chunk:
            rng = np.random.default_rng([self.seed, chunk])
            self._chunk = chunk, rng.standard_normal((CHUNK, self.shape[1]), dtype=np.float32)
        return self._chunk[1]

    def read(self, start: int, stop: int) -> np.ndarray:
        chunks = range(start // CHUNK, (stop - 1) // CHUNK + 1)
        return np.concatenate([self._draw(c)[max(start - c * CHUNK, 0) : stop - c * CHUNK] for c in chunks])

    def take(self, indices: np.ndarray) -> np.ndarray:
        rows = np.empty((len(indices), self.shape[1]), np.float32)
        for chunk in np.unique(indices // CHUNK):
            here = indices // CHUNK == chunk
            rows[here] = self._draw(int(chunk))[indices[here] % CHUNK]
        return rows


def cosine_density(concentration: float, dimension: int, points: int = 4001) -> tuple[np.ndarray, np.ndarray]:
    """Density of the cosine w between an image and its identity: ∝ exp(κw)(1-w²)^((D-3)/2), on a grid, summing to 1."""
    w = np.linspace(-1, 1, points)[1:-1]
    log = concentration * w + (dimension - 3) / 2 * np.log1p(-(w**2))
    mass = np.exp(log - log.max())
    return w, mass / mass.sum()


def concentration_for(mate_cosine: float, dimension: int) -> float:
    """κ at which two images of one identity have this cosine on average: E[w]² = mate_cosine, found by bisection."""
    if not 0 < mate_cosine < 0.99:
        raise InputError(f"mate cosine {mate_cosine}: expected a value between 0 and 0.99")
    low, high = 0.0, 200.0 * dimension
    for _ in range(60):
        middle = (low + high) / 2
        w, mass = cosine_density(middle, dimension, 20001)
        low, high = (middle, high) if float(w @ mass) ** 2 < mate_cosine else (low, middle)
    return (low + high) / 2


def draw_images(directions_nD: np.ndarray, concentration: float, rng: np.random.Generator) -> np.ndarray:
    """One von Mises–Fisher draw around each unit row (n×D, float32), by Wood's rejection (1994)."""
    n, dimension = directions_nD.shape
    free = dimension - 1
    b = (-2 * concentration + np.sqrt(4 * concentration**2 + free**2)) / free
    x = (1 - b) / (1 + b)
    limit = concentration * x + free * np.log(1 - x**2)
    w, waiting = np.empty(n), np.arange(n)
    while len(waiting):
        beta = rng.beta(free / 2, free / 2, len(waiting))
        drawn = (1 - (1 + b) * beta) / (1 - (1 - b) * beta)
        taken = concentration * drawn + free * np.log(1 - x * drawn) - limit >= np.log(rng.random(len(waiting)))
        w[waiting[taken]] = drawn[taken]
        waiting = waiting[~taken]
    aside = rng.standard_normal((n, dimension))
    aside -= (aside * directions_nD).sum(axis=1, keepdims=True) * directions_nD
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    return (w[:, None] * directions_nD + np.sqrt(1 - w**2)[:, None] * aside).astype(np.float32)


def expected_rank1(mate_cosine: float, dimension: int, gallery: int) -> float:
    """Probability that a mate outscores `gallery` uniform distractors: E[F(s)^gallery] over the mate's score s.

    s = w₁w₂ + √(1-w₁²)√(1-w₂²)·u, with w₁, w₂ the images' cosines to their identity and u that of two uniform
    directions across it; F is the distribution of a uniform row's cosine to the query. Three sums on grids.
    """
    w, mass = cosine_density(concentration_for(mate_cosine, dimension), dimension)
    kept = mass > 1e-9
    w, mass = w[kept][:: max(1, kept.sum() // 60)], mass[kept][:: max(1, kept.sum() // 60)]
    u, u_mass = cosine_density(0.0, dimension - 1, 401)
    grid, below = cosine_density(0.0, dimension, 400_001)
    # log F: ones less the tail summed from the top, where F is within a rounding of 1
    above = np.concatenate([np.cumsum(below[::-1])[::-1][1:], [0.0]])
    log_f = np.log1p(-np.minimum(above, 1 - 1e-15))
    across = np.sqrt(1 - w**2)
    s = np.multiply.outer(np.multiply.outer(w, w), np.ones_like(u)) + np.multiply.outer(
        np.multiply.outer(across, across), u
    )
    wins = np.exp(gallery * np.interp(s, grid, log_f))
    weight = np.multiply.outer(np.multiply.outer(mass, mass), u_mass)
    return float((wins * weight).sum() / weight.sum())


@dataclass(frozen=True)
class Scene:
    """Everything an evaluation takes, made up; `groups` as `subgroups.find_subgroups` gives them."""

    probes: FeatureSet
    distractors: FeatureSet
    train: FeatureSet
    recogniser_probes: FeatureSet
    groups: dict[str, dict[str, np.ndarray]]


def make_scene(
    gallery: int,
    mate_cosine: float,
    seed: int = 0,
    dimension: int = DIMENSION,
    identities: int = IDENTITIES,
    images: int = IMAGES,
) -> Scene:
    """Probes, distractors, a training set a tenth as large, its recogniser's view of the probes, and two sub-groups."""
    rng = np.random.default_rng([seed, 1])
    directions = normalise(rng.standard_normal((identities, dimension)).astype(np.float32))
    labels = np.sort(rng.permutation(np.arange(images) % identities))
    names = [f"person {i:03d}" for i in range(identities)]
    meta = {"method": "simulated", "mate_cosine": mate_cosine, "dimension": dimension, "seed": seed}

    def around(of: np.ndarray, cosine: float) -> np.ndarray:
        return draw_images(directions[of], concentration_for(cosine, dimension), rng)

    probes = FeatureSet(ArrayRows(around(labels, mate_cosine)), labels, "simulated probes", names, None, meta)
    seen = ArrayRows(around(labels, RECOGNISER_COSINE))
    recogniser_probes = FeatureSet(seen, labels, "simulated probes under a recogniser", names)
    look_alikes = np.minimum((0.5 * rng.pareto(0.9, identities)).astype(int), 200)
    of = np.repeat(np.arange(identities), look_alikes)
    near = around(of, LOOK_ALIKE_COSINE) if len(of) else np.empty((0, dimension), np.float32)
    others = rng.standard_normal((max(gallery // 10, 100), dimension)).astype(np.float32)
    train_rows = ArrayRows(np.concatenate([near, others]))
    train = FeatureSet(train_rows, np.arange(len(near) + len(others)), "simulated training set")
    distractors = FeatureSet(
        UniformRows(gallery, dimension, seed), np.zeros(gallery, np.int64), "simulated distractors"
    )
    male = rng.random(identities) < 0.5
    groups = {"group": {"Male": male[labels], "Female": ~male[labels]}}
    return Scene(probes, distractors, train, recogniser_probes, groups)
