"""Noise lists in their real layouts, and the three ways to take them."""

import numpy as np
import pytest
from small_sets import set_of

from megaface_eval.errors import InputError
from megaface_eval.features.feature_set import ArrayRows, FeatureSet, normalise
from megaface_eval.features.noise import SHAKE, choose, noisy_rows, read_noise, replace_noisy

FACESCRUB = "# mislabelled\nAaron_Eckhart_2.png\nBen_Kingsley_9.jpg\n\n"
MEGAFACE = "# number, path\n17\t100/3/img_4.jpg\n100/3/other\n"


@pytest.fixture
def probes():
    paths = [f"Aaron Eckhart/Aaron_Eckhart_{i}.png" for i in (1, 2, 3)]
    paths += [f"Ben Kingsley/Ben_Kingsley_{i}.png" for i in (9, 1)]
    rows = np.random.default_rng(0).standard_normal((5, 16)).astype(np.float32)
    return FeatureSet(ArrayRows(rows), np.array([0, 0, 0, 1, 1]), "probes", ["a", "b"], paths)


def write(tmp_path, text):
    (tmp_path / "noise.txt").write_text(text)
    return read_noise(tmp_path / "noise.txt")


def test_facescrub_lists_name_files(tmp_path, probes):
    assert noisy_rows(probes, write(tmp_path, FACESCRUB), depth=1).tolist() == [False, True, False, True, False]


def test_megaface_lists_name_paths_and_may_number_them(tmp_path):
    paths = ["FlickrFinal2/100/3/img_4.jpg", "100/3/other.png", "100/4/other.png", "9/100/3.jpg"]
    assert noisy_rows(set_of(np.ones((4, 2)), paths=paths), write(tmp_path, MEGAFACE), depth=3).tolist() == [
        True,
        True,
        False,
        False,
    ]


def test_dropped_rows_are_gone(probes):
    kept = choose(probes, np.array([True, False, True, False, True]))
    np.testing.assert_array_equal(kept.stored.read(0, 3), probes.stored.take(np.array([0, 2, 4])))
    assert kept.labels.tolist() == [0, 0, 1]
    assert kept.paths == [probes.paths[i] for i in (0, 2, 4)]


def test_a_noisy_probe_becomes_its_person_s_clean_mean(probes):
    cleaned = replace_noisy(probes, np.array([False, True, False, True, False]))
    before, after = probes.unit(0, 5), cleaned.unit(0, 5)
    np.testing.assert_allclose(after[[0, 2, 4]], before[[0, 2, 4]], atol=1e-6)
    mean = before[0].astype(float) + before[2]
    assert np.abs(after[1] - mean / np.linalg.norm(mean)).max() < 2.1 * SHAKE
    assert np.abs(after[3] - before[4]).max() < 2.1 * SHAKE
    assert (after[3] != before[4]).any()


def test_a_person_with_no_clean_image_keeps_the_noisy_ones(probes):
    cleaned = replace_noisy(probes, np.array([False, False, False, True, True]))
    np.testing.assert_allclose(cleaned.unit(3, 5), normalise(probes.stored.read(3, 5)), atol=1e-6)


def test_a_set_without_paths_is_refused():
    with pytest.raises(InputError, match=r"paths\.txt"):
        noisy_rows(FeatureSet(ArrayRows(np.ones((1, 2), np.float32)), np.zeros(1, int), "set"), ["a"], 1)
    with pytest.raises(InputError, match="not a readable noise list"):
        read_noise("/no/such/list")


@pytest.mark.parametrize("listed, what", [(["x.png"], "none of its 2"), (["a.png", "b.jpg"], "all of its 2")])
def test_a_list_of_none_or_all_is_refused(listed, what):
    with pytest.raises(InputError, match=what):
        noisy_rows(set_of(np.eye(2), paths=["p/a.png", "p/b.png"]), listed, depth=1)
