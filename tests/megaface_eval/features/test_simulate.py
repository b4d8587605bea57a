"""Made-up features have the distribution they claim, and rank-1 is what follows from it."""

import numpy as np
import pytest

from megaface_eval.features.feature_set import normalise
from megaface_eval.features.gallery import Gallery
from megaface_eval.features.simulate import (
    UniformRows,
    concentration_for,
    cosine_density,
    draw_images,
    expected_rank1,
    make_scene,
)
from megaface_eval.protocols.identification import Rules, identify
from megaface_eval.protocols.probes import Probes
from megaface_eval.search.ranks import Search


@pytest.mark.parametrize("dimension, cosine", [(32, 0.3), (512, 0.25), (128, 0.8)])
def test_mates_have_the_cosine_that_was_asked_for(dimension, cosine):
    rng = np.random.default_rng(0)
    directions = normalise(rng.standard_normal((3000, dimension)).astype(np.float32))
    one, other = (draw_images(directions, concentration_for(cosine, dimension), rng) for _ in range(2))
    np.testing.assert_allclose(np.linalg.norm(one, axis=1), 1, atol=1e-5)
    scores = (one * other).sum(axis=1)
    assert scores.mean() == pytest.approx(cosine, abs=4 * scores.std() / np.sqrt(3000))


def test_cosines_to_the_identity_follow_von_mises_fisher():
    rng = np.random.default_rng(1)
    directions = np.tile(np.eye(1, 16, dtype=np.float32), (20_000, 1))
    w = draw_images(directions, 9.0, rng)[:, 0]
    grid, mass = cosine_density(9.0, 16)
    for quantile in (0.1, 0.5, 0.9):
        expected = grid[np.searchsorted(np.cumsum(mass), quantile)]
        assert np.quantile(w, quantile) == pytest.approx(expected, abs=0.01)


def test_any_block_of_uniform_rows_can_be_drawn_again():
    rows = UniformRows(20_000, 4, seed=3)
    whole = rows.read(0, 20_000)
    np.testing.assert_array_equal(rows.read(8000, 17_000), whole[8000:17_000])
    picked = np.array([19_999, 0, 8192, 5])
    np.testing.assert_array_equal(UniformRows(20_000, 4, seed=3).take(picked), whole[picked])


@pytest.mark.parametrize("gallery, cosine", [(100, 0.35), (2000, 0.5)])
def test_measured_rank1_is_the_one_computed_from_the_distribution(gallery, cosine):
    rates = []
    for seed in range(4):
        scene = make_scene(gallery, cosine, seed, dimension=64, identities=40, images=800)
        probes = Probes(scene.probes.unit(0, 800), scene.probes.labels)
        found = identify(probes, Gallery(scene.distractors, [gallery]), Rules(), Search())
        rates.append((found.ranks[0] == 0).mean())
    expected = expected_rank1(cosine, 64, gallery)
    assert 0.2 < expected < 0.98
    assert np.mean(rates) == pytest.approx(expected, abs=4 * np.std(rates, ddof=1) / 2 + 0.003)


def test_expected_rank1_against_one_distractor_is_a_plain_integral():
    rng = np.random.default_rng(0)
    directions = normalise(rng.standard_normal((40_000, 8)).astype(np.float32))
    kappa = concentration_for(0.3, 8)
    one, other = (draw_images(directions, kappa, rng) for _ in range(2))
    stranger = normalise(rng.standard_normal((40_000, 8)).astype(np.float32))
    measured = ((one * other).sum(1) > (one * stranger).sum(1)).mean()
    assert expected_rank1(0.3, 8, 1) == pytest.approx(measured, abs=0.01)
