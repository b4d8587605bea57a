"""Verification packs and the ten-fold protocol."""

import json
import pickle

import numpy as np
import pytest

from megaface_eval.features.feature_set import load_features, write_features
from megaface_eval.formats.packs import main, pack_distances, ten_fold


def plain_ten_fold(distances, same):
    """Accuracy of each fold by loops over thresholds."""
    folds = np.array_split(np.arange(len(same)), 10)
    accuracies = []
    for fold in folds:
        rest = [i for i in range(len(same)) if i not in set(fold)]
        best, best_rate = 0.0, -1.0
        for step in range(400):
            rate = np.mean([(distances[i] < step * 0.01) == same[i] for i in rest])
            if rate > best_rate:
                best, best_rate = step * 0.01, rate
        accuracies.append(np.mean([(distances[i] < best) == same[i] for i in fold]))
    return np.mean(accuracies), np.std(accuracies)


def test_ten_fold_equals_a_loop():
    rng = np.random.default_rng(0)
    same = rng.random(103) < 0.5
    distances = np.where(same, 1.0, 1.9) + 0.5 * rng.standard_normal(103)
    score = ten_fold(distances, same)
    assert (score.accuracy, score.spread) == pytest.approx(plain_ten_fold(distances, same))
    assert 0.6 < score.accuracy < 1


@pytest.mark.parametrize(
    "content, problem",
    [
        (b"garbage", "not a verification pack"),
        (pickle.dumps(([b"a"], [True])), "1 images for 1 pairs"),
        (pickle.dumps(([], [])), "holds no pairs"),
        (None, "no such file"),
    ],
)
def test_what_is_no_pack_is_answered_in_one_line(tmp_path, capsys, content, problem):
    """What a pack may hold is tested with its reader, `recordio_tools.sources.bins`."""
    if content is not None:
        (tmp_path / "x.bin").write_bytes(content)
    assert main([f"{tmp_path}/x.bin", "--images", f"{tmp_path}/images"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path}/x.bin")
    assert problem in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "images").exists()


def test_distances_with_and_without_the_mirror_image(tmp_path):
    rng = np.random.default_rng(0)
    one, other = rng.standard_normal((2, 8, 16)).astype(np.float32)
    write_features(tmp_path / "a", one, np.arange(8))
    write_features(tmp_path / "b", other, np.arange(8))
    plain, mirrored = load_features(tmp_path / "a"), load_features(tmp_path / "b")
    for rows, extra in ((one, None), (one.astype(float) + other, mirrored)):
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        expected = [((unit[2 * i] - unit[2 * i + 1]) ** 2).sum() for i in range(4)]
        np.testing.assert_allclose(pack_distances(plain, extra), expected, rtol=1e-5)


def test_the_command_scores_and_unpacks(tmp_path, capsys):
    rng = np.random.default_rng(0)
    same = np.arange(40) % 2 == 0
    rows = rng.standard_normal((80, 16)).astype(np.float32)
    rows[1::2][same] = rows[0::2][same] + 0.3 * rng.standard_normal((20, 16)).astype(np.float32)
    images = [b"\xff\xd8" + bytes([i]) for i in range(79)] + [b"\x89PNG"]
    (tmp_path / "p.bin").write_bytes(pickle.dumps((images, same.tolist())))
    write_features(tmp_path / "f", rows, np.zeros(80, int))
    pack, features, out = (str(tmp_path / name) for name in ("p.bin", "f", "images"))
    assert main([pack, "--features", features, "--json"]) == 0
    score = json.loads(capsys.readouterr().out)["without flip"]
    assert score["accuracy"] == pytest.approx(plain_ten_fold(pack_distances(load_features(features)), same)[0])
    assert main([pack, "--images", out]) == 0
    assert (tmp_path / "images/000003.jpg").read_bytes() == images[3]
    assert (tmp_path / "images/000079.png").read_bytes() == images[79]
    assert main([pack, "--images", out]) == 2
    write_features(tmp_path / "short", rows[:10], np.zeros(10, int))
    assert main([pack, "--features", str(tmp_path / "short")]) == 2
    assert "10 rows for 40 pairs" in capsys.readouterr().err
