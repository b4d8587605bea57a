"""The samplings and lists against their definitions, and the manifest against the sets."""

import hashlib
import itertools
import json

import numpy as np
import pytest
import sets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recordio_tools.dataset import RecordDataset
from recordio_tools.format.recordio import RecordError
from recordio_tools.rewrite import curate
from recordio_tools.rewrite.shuffle import shuffle
from recordio_tools.rewrite.subset import subset
from recordio_tools.sources.folders import pack_listed
from recordio_tools.sources.photographs import Encoding

counts_and_images = (
    st.lists(st.integers(0, 50), min_size=1, max_size=20)
    .filter(sum)
    .flatmap(lambda counts: st.tuples(st.just(np.array(counts)), st.integers(1, sum(counts))))
)


@given(counts_and_images, st.sampled_from(curate.SOLVED))
def test_alpha_gives_the_expected_number(case, reading):
    counts, images = case
    alpha = curate.solve_alpha(counts, images, reading)
    expected = sum(n * min(1, alpha * (n if reading == "proportional" else 1)) for n in counts.tolist())
    assert expected == pytest.approx(images, rel=1e-9)


@given(counts_and_images, st.sampled_from(curate.SOLVED), st.integers(0, 5))
def test_the_sample_is_the_images_whose_draw_lies_below_their_probability(case, reading, seed):
    counts, images = case
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    rows = curate.sample_images(labels, images, reading, seed)
    draws = curate.uniforms(seed, len(labels)).tolist()
    ratios = [u / (counts[label] if reading == "proportional" else 1) for u, label in zip(draws, labels, strict=True)]
    threshold = sorted(ratios)[images - 1]
    assert rows.tolist() == [row for row, ratio in enumerate(ratios) if ratio <= threshold]
    assert len(rows) == images


def test_equal_draws_go_to_the_first_images(monkeypatch):
    monkeypatch.setattr(curate, "uniforms", lambda seed, count: np.full(count, 0.5))
    assert curate.sample_images(np.zeros(9, np.int64), 4, "uniform", 0).tolist() == [0, 1, 2, 3]


def test_shares_follow_the_reading():
    """10 identities of 1,000 images and 1,000 of 10: half of the images each."""
    counts = np.array([1000] * 10 + [10] * 1000)
    labels = np.repeat(np.arange(1010), counts)
    uniform = curate.sample_images(labels, 2000, "uniform", 0)
    assert (labels[uniform] < 10).sum() == pytest.approx(1000, abs=100)
    proportional = curate.sample_images(labels, 2000, "proportional", 0)
    alpha = curate.solve_alpha(counts, 2000, "proportional")
    assert alpha * (10 * 1000**2 + 1000 * 10**2) == pytest.approx(2000)
    assert (labels[proportional] < 10).sum() == pytest.approx(alpha * 10 * 1000**2, abs=30)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20).filter(sum), st.integers(0, 5))
def test_literally_an_image_stays_with_the_share_of_the_largest_identity(counts, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    draws = curate.uniforms(seed, len(labels)).tolist()
    kept = [row for row, label in enumerate(labels) if draws[row] < counts[label] / max(counts)]
    assert curate.sample_literally(labels, seed).tolist() == kept
    assert set(np.flatnonzero(labels == np.argmax(counts))) <= set(kept)  # of the largest all stay


def test_the_literal_reading_says_itself_how_many_images_stay(tmp_path):
    source = RecordDataset(sets.write(tmp_path / "s", sets.insightface([0] * 20 + [1] * 5 + [2])))
    manifest = curate.curate(source, tmp_path / "out", images=None, reading="literal", seed=0)
    assert (manifest["method"], manifest["alpha"]) == ("literal", 1 / 20)
    assert manifest["images"] == len(curate.sample_literally(source.labels, 0)) == len(RecordDataset(tmp_path / "out"))
    for images, reading in ((3, "literal"), (None, "uniform")):
        with pytest.raises(RecordError, match=f"{images} images asked for with reading {reading}, expected"):
            curate.curate(source, tmp_path / "no", images=images, reading=reading, seed=0)
    assert not (tmp_path / "no").exists()


def test_draws_are_the_same_everywhere():
    """The raw stream of PCG64, which numpy promises never to change, and what it was when this was written."""
    raw = np.random.PCG64(7).random_raw(3).tolist()
    assert curate.uniforms(7, 3).tolist() == [(word >> 11) / 2**53 for word in raw]
    np.testing.assert_allclose(curate.uniforms(0, 3), [0.63696169, 0.26978671, 0.04097352], atol=1e-8)
    assert curate.uniforms(3, 100_000).mean() == pytest.approx(0.5, abs=0.005)


@pytest.mark.parametrize("images", [0, -1, 8])
def test_more_images_than_there_are_is_refused(images):
    with pytest.raises(RecordError, match=f"{images} images asked for, expected 1 to 7"):
        curate.solve_alpha(np.array([3, 4]), images, "uniform")


def test_curated_set_and_manifest(tmp_path):
    labels = [0] * 30 + [1] + [2] * 4 + [3] + [4] * 9
    folder = sets.write(tmp_path / "source", sets.insightface(labels), "6,8,8\n", list("abcdef"))
    source = RecordDataset(folder)
    manifest = curate.curate(source, tmp_path / "lt", images=12, reading="proportional", seed=5)
    assert manifest == json.loads((tmp_path / "lt" / "manifest.json").read_text())
    rows = curate.sample_images(source.labels, 12, "proportional", 5)
    kept = sorted({labels[row] for row in rows})
    lt = RecordDataset(tmp_path / "lt")
    assert [lt.jpeg(i).tobytes() for i in range(12)] == [source.jpeg(row).tobytes() for row in rows]
    assert lt.labels.tolist() == [kept.index(labels[row]) for row in rows]
    assert (lt.num_classes, lt.image_size, lt.names) == (len(kept), (8, 8), ["abcdef"[old] for old in kept])
    assert (manifest["method"], manifest["seed"], manifest["images"]) == ("proportional", 5, 12)
    assert manifest["alpha"] == curate.solve_alpha(np.array([30, 1, 4, 1, 9]), 12, "proportional")
    assert manifest["dropped"] == [label for label in range(5) if label not in kept]
    assert manifest["identities"] == len(kept)
    assert manifest["by_old_label"] == {
        "before": [30, 1, 4, 1, 9, 0],
        "after": [sum(labels[row] == old for row in rows) for old in range(6)],
        "new_label": [kept.index(old) if old in kept else -1 for old in range(6)],
    }
    assert manifest["source"]["idx_sha256"] == hashlib.sha256((folder / "train.idx").read_bytes()).hexdigest()
    assert manifest["source"]["labels_sha256"] == hashlib.sha256(np.array(labels, "<i8").tobytes()).hexdigest()


def test_the_same_seed_gives_the_same_set(tmp_path):
    source = RecordDataset(sets.write(tmp_path / "source", sets.insightface([0] * 20 + [1] * 5)))
    for name, seed in [("one", 1), ("again", 1), ("other", 2)]:
        curate.curate(source, tmp_path / name, images=9, reading="uniform", seed=seed)
    one, again, other = ((tmp_path / name / "train.rec").read_bytes() for name in ("one", "again", "other"))
    assert one == again != other


def test_pareto_counts_by_hand():
    """Three identities with quantiles 1/6, 1/2, 5/6 of a tail of power 1: 6, 2, 6/5."""
    counts = curate.pareto_counts(np.array([100, 0, 500, 300]), 1.0, 101, 5)
    assert counts.tolist() == [5, 0, 101, round(5 + 96 * (2 - 1.2) / (6 - 1.2))]


def test_pareto_counts_stay_within_the_images():
    assert curate.pareto_counts(np.array([7, 3]), 6.0, 50, 5).tolist() == [7, 3]
    assert curate.pareto_counts(np.array([9]), 6.0, 4, 2).tolist() == [4]


@pytest.mark.parametrize(
    "classes, alpha, most, images, above, below",
    [(1000, 6.0, 1280, 104_850, 350, 158), (365, 6.0, 4980, 182_604, 291, 13), (365, 1.34, 4980, 34_231, 65, 132)],
)
def test_what_the_formula_gives_for_the_benchmarks(classes, alpha, most, images, above, below):
    """The figures of docs/data.md. Released were 115,846 images (ImageNet-LT) and 62,500 (Places-LT: 131 and 71)."""
    counts = curate.pareto_counts(np.full(classes, 5000), alpha, most, 5)
    assert (counts.max(), counts.min(), counts.sum()) == (most, 5, images)
    assert ((counts > 100).sum(), (counts < 20).sum()) == (above, below)


@pytest.mark.parametrize("alpha, most, least", [(0, 9, 1), (-1, 9, 1), (float("nan"), 9, 1), (6, 4, 5), (6, 4, 0)])
def test_pareto_of_nothing_is_refused(alpha, most, least):
    with pytest.raises(RecordError, match="expected alpha above 0 and 1 <= least <= most"):
        curate.pareto_counts(np.array([3, 4]), alpha, most, least)


def test_take_draws_at_random_within_each_identity():
    labels = np.random.default_rng(0).integers(0, 5, 300)
    wanted = np.array([3, 0, 100, 7, 1])
    rows = curate.take(labels, wanted, 2)
    assert np.bincount(labels[rows], minlength=5).tolist() == np.minimum(wanted, np.bincount(labels)).tolist()
    draws = curate.uniforms(2, 300)
    for label in range(5):
        own = sorted(np.flatnonzero(labels == label), key=draws.__getitem__)[: wanted[label]]
        assert sorted(own) == rows[labels[rows] == label].tolist()


def test_pareto_set(tmp_path):
    labels = [0] * 30 + [1] * 10 + [2] * 20
    source = RecordDataset(sets.write(tmp_path / "s", sets.insightface(labels)))
    manifest = curate.curate_pareto(source, tmp_path / "out", alpha=1.0, most=12, least=2, seed=1)
    assert manifest["by_old_label"]["after"] == curate.pareto_counts(np.array([30, 10, 20]), 1.0, 12, 2).tolist()
    assert np.bincount(RecordDataset(tmp_path / "out").labels).tolist() == manifest["by_old_label"]["after"]


@pytest.fixture
def listed(tmp_path):
    return RecordDataset(sets.write(tmp_path / "s", sets.insightface([0, 0, 1, 1, 2]), "3,8,8", list("xyz")))


def test_a_list_with_labels(tmp_path, listed):
    (tmp_path / "lt.txt").write_text("5 10\n02 4\n1 4\n")
    manifest = curate.curate_listed(listed, tmp_path / "lt.txt", tmp_path / "out")
    out = RecordDataset(tmp_path / "out")
    assert (out.labels.tolist(), out.names) == ([0, 0, 1], ["x", "z"])
    assert [out.jpeg(i).tobytes() for i in range(3)] == [sets.jpeg(7), sets.jpeg(14), sets.jpeg(35)]
    assert (manifest["method"], manifest["dropped"], manifest["list_labels"]) == ("list", [1], [4, 10])


def test_the_labels_of_a_list_decide_the_order(tmp_path, listed):
    (tmp_path / "lt.txt").write_text("1 1\n5 0\n")
    curate.curate_listed(listed, tmp_path / "lt.txt", tmp_path / "out")
    assert RecordDataset(tmp_path / "out").names == ["z", "x"]


def test_strangers_of_a_list_have_a_label_of_their_own_behind_the_others(tmp_path, listed):
    (tmp_path / "l.txt").write_text("1 -1\n2 -1\n3 1\n4 1\n5 0\n")
    manifest = curate.curate_listed(listed, tmp_path / "l.txt", tmp_path / "out")
    assert manifest["list_labels"] == [0, 1, -1]
    assert manifest["by_old_label"]["new_label"] == [2, 1, 0]


def test_a_list_of_keys_alone(tmp_path, listed):
    (tmp_path / "lt.txt").write_text("4\n1\n")
    curate.curate_listed(listed, tmp_path / "lt.txt", tmp_path / "out")
    assert RecordDataset(tmp_path / "out").names == ["x", "y"]


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "the list is empty"),
        ("1 0\nface.jpg 0\n", "line 2 is 'face.jpg 0', expected a record key, as on line 1"),
        ("1 0 0\n", "line 1 is '1 0 0'"),
        ("1 x\n", "line 1 is '1 x', expected an image's path or record key, and a label"),
        ("1 0\n2\n", "line 2 is '2', expected a label, as on line 1"),
        ("1 0\n1 0\n", "line 2 names '1' again, after line 1; expected each image once"),
        ("train/z/00000005.jpg 0\n", r"names images by path, and .* has no paths\.txt; pack its pictures again"),
        ("1 0\n9 0\n", "line 2 names image key 9, which"),
        ("1 0\n3 0\n", "label 0 stands for 2 identities of the set"),
        ("1 0\n2 1\n", "identity 0 stands for 2 labels of the set"),
    ],
)
def test_lists_that_do_not_fit(tmp_path, listed, text, words):
    (tmp_path / "lt.txt").write_text(text)
    with pytest.raises(RecordError, match=words):
        curate.curate_listed(listed, tmp_path / "lt.txt", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module", params=sets.PUBLISHED)
def benchmark(request, tmp_path_factory):
    """20 lines of a list, what each path's picture holds, and a set of these pictures among others, in other labels.

    The set is not in the order of the list, and no number in a path is the image's record key.
    """
    folder = tmp_path_factory.mktemp("benchmark")
    lines = sets.published(request.param)
    paths = [f"other/{number}/00000001.jpg" for number in range(3)] + [path for path, _ in reversed(lines)]
    contents = sets.photograph(folder / "root", paths)
    (folder / "all.txt").write_text("".join(f"{path} {number // 5}\n" for number, path in enumerate(paths)))
    pack_listed(folder / "root", folder / "all.txt", folder / "set", Encoding(16))
    return lines, contents, RecordDataset(folder / "set")


def listed_as(lines: list[tuple[str, int]]) -> str:
    return "".join(f"{path} {label}\n" for path, label in lines)


def test_a_published_list_gives_its_images_its_labels(tmp_path, benchmark):
    lines, contents, source = benchmark
    (tmp_path / "lt.txt").write_text(listed_as(lines))
    curate.curate_listed(source, tmp_path / "lt.txt", tmp_path / "out")
    out = RecordDataset(tmp_path / "out")
    assert np.bincount(out.labels).tolist() == [8, 6, 4, 2]
    assert dict(zip(out.paths, out.labels.tolist(), strict=True)) == {path.strip("/"): label for path, label in lines}
    assert all(out.jpeg(i).tobytes() == contents[path] for i, path in enumerate(out.paths))


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
def test_any_part_of_a_list_in_any_order_and_labels(tmp_path, benchmark, data):
    lines, contents, source = benchmark
    paths = data.draw(st.lists(st.sampled_from([path for path, _ in lines]), min_size=1, unique=True))
    labels = data.draw(st.lists(st.integers(-1, 6), min_size=len(paths), max_size=len(paths)))
    (tmp_path / "lt.txt").write_text(listed_as(list(zip(paths, labels, strict=True))))
    manifest = curate.curate_listed(source, tmp_path / "lt.txt", tmp_path / "out", force=True)
    out = RecordDataset(tmp_path / "out")
    assert manifest["list_labels"] == sorted(set(labels), key=lambda label: (label < 0, label))
    stated = [manifest["list_labels"][label] for label in out.labels]
    assert dict(zip(out.paths, stated, strict=True)) == {p.strip("/"): n for p, n in zip(paths, labels, strict=True)}
    assert all(out.jpeg(i).tobytes() == contents[path] for i, path in enumerate(out.paths))


def test_a_list_of_paths_alone_keeps_the_labels(tmp_path, benchmark):
    lines, _, source = benchmark
    (tmp_path / "lt.txt").write_text("".join(f"{path}\n" for path, _ in lines))
    curate.curate_listed(source, tmp_path / "lt.txt", tmp_path / "out")
    out, before = RecordDataset(tmp_path / "out"), dict(zip(source.paths, source.labels.tolist(), strict=True))
    assert out.labels.tolist() == [before[path] for path in out.paths]


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda lines: [*lines, lines[2]], "line 21 names '.*' again, after line 3; expected each image once"),
        (lambda lines: [*lines, (lines[0][0], 3)], "line 21 names '.*' again, after line 1, with label 3 instead of 0"),
        (
            lambda lines: [*lines, ("a/none.jpg", 0), ("/b/none.jpg", 1)],
            r"2 of its 22 images are missing, the first 'a",
        ),
        (lambda lines: [("train/" + lines[0][0].strip("/"), 0)], "missing, .* where they look like 'other/0/00000001"),
        (lambda lines: [*lines, ("a/../b.jpg", 0)], "line 21 is .*, expected a path without"),
        (lambda lines: [*lines, ("a/x.jpg", "abbey")], "line 21 is 'a/x.jpg abbey', expected an image's path"),
        (lambda lines: [*lines, ("a/x.jpg", -2)], "line 21 is 'a/x.jpg -2', expected an image's path"),
        (lambda lines: [*lines, (7, 0)], "line 21 is '7 0', expected a path, as on line 1"),
        (lambda lines: [*lines, ("", "")], "line 21 is ' ', expected an image's path"),
    ],
)
def test_what_is_wrong_with_a_published_list_is_said(tmp_path, benchmark, change, words):
    lines, _, source = benchmark
    (tmp_path / "lt.txt").write_text(listed_as(change(lines)))
    with pytest.raises(RecordError, match=words) as caught:
        curate.curate_listed(source, tmp_path / "lt.txt", tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_path_is_never_taken_for_a_key(tmp_path, listed):
    """`00000001.jpg` is no image of key 1; and a set in which a path stands twice does not say which is meant."""
    (tmp_path / "s" / "paths.txt").write_text("c/00000003.jpg\nc/00000002.jpg\nc/00000001.jpg\nd/1.jpg\n/d/1.jpg\n")
    (tmp_path / "lt.txt").write_text("/c/00000001.jpg 0\n")
    curate.curate_listed(listed, tmp_path / "lt.txt", tmp_path / "out")
    assert RecordDataset(tmp_path / "out").jpeg(0).tobytes() == sets.jpeg(3 * 7)
    (tmp_path / "lt.txt").write_text("d/1.jpg 0\n")
    with pytest.raises(RecordError, match=r"line 1: 'd/1\.jpg' is the path of several images"):
        curate.curate_listed(listed, tmp_path / "lt.txt", tmp_path / "none")


def test_names_stay_where_labels_are_the_identities(tmp_path, listed):
    (tmp_path / "s" / "paths.txt").write_text("x/1.jpg\nx/2.jpg\ny/1.jpg\ny/2.jpg\nz/1.jpg\n")
    (tmp_path / "lt.txt").write_text("z/1.jpg 3\nx/2.jpg 8\n")
    curate.curate_listed(listed, tmp_path / "lt.txt", tmp_path / "out")
    assert RecordDataset(tmp_path / "out").names == ["z", "x"]
    (tmp_path / "open.txt").write_text("z/1.jpg -1\nx/2.jpg -1\n")
    manifest = curate.curate_listed(listed, tmp_path / "open.txt", tmp_path / "open")
    assert (RecordDataset(tmp_path / "open").labels.tolist(), manifest["list_labels"]) == ([0, 0], [-1])
    assert RecordDataset(tmp_path / "open").names is None


def test_what_each_reading_is_expected_to_keep_by_every_outcome():
    """Σ over all 2^N subsets of the images of its probability times what stays in it."""
    labels = np.repeat([0, 1, 2], [1, 3, 5])
    counts = np.bincount(labels)
    found = curate.expected(counts, 4)
    assert list(found) == list(curate.READINGS)
    for reading, (images, identities) in found.items():
        alpha = 1 / 5 if reading == "literal" else curate.solve_alpha(counts, 4, reading)
        kept = np.array([min(1, alpha * (1 if reading == "uniform" else counts[label])) for label in labels])
        want = np.zeros(2)
        for stays in itertools.product([False, True], repeat=len(labels)):
            chance = np.where(stays, kept, 1 - kept).prod()
            want += chance * np.array([sum(stays), len(set(labels[list(stays)]))])
        assert (images, identities) == pytest.approx(tuple(want))
    assert list(curate.expected(counts, None)) == ["literal"]


def test_a_list_takes_the_labels_of_another(tmp_path, listed):
    (tmp_path / "train.txt").write_text("1 4\n3 7\n5 9\n")
    (tmp_path / "test.txt").write_text("2 4\n5 9\n")
    curate.curate_listed(listed, tmp_path / "train.txt", tmp_path / "train")
    train = RecordDataset(tmp_path / "train")
    curate.curate_listed(listed, tmp_path / "test.txt", tmp_path / "test", like=train)
    test = RecordDataset(tmp_path / "test")
    assert (test.labels.tolist(), test.num_classes, test.names) == ([0, 2], 3, ["x", "y", "z"])
    assert test.list_labels == train.list_labels == [4, 7, 9]
    (tmp_path / "test.txt").write_text("2 4\n5 8\n")
    with pytest.raises(RecordError, match=r"line 2 has label 8, expected one of .*train, whose labels"):
        curate.curate_listed(listed, tmp_path / "test.txt", tmp_path / "none", like=train)
    (tmp_path / "test.txt").write_text("2\n")
    with pytest.raises(RecordError, match="has no labels, expected some of --labels-of"):
        curate.curate_listed(listed, tmp_path / "test.txt", tmp_path / "none", like=train)


def test_list_labels_are_carried_on(tmp_path, listed):
    (tmp_path / "train.txt").write_text("1 4\n3 7\n5 9\n")
    curate.curate_listed(listed, tmp_path / "train.txt", tmp_path / "train")
    subset(RecordDataset(tmp_path / "train"), tmp_path / "some", identities=range(1, 3))
    assert RecordDataset(tmp_path / "some").list_labels == [7, 9]
    shuffle(RecordDataset(tmp_path / "some"), tmp_path / "shuffled")
    assert RecordDataset(tmp_path / "shuffled").list_labels == [7, 9]
    for text, words in (("[", "is no JSON object"), ('{"list_labels": [1]}', "list_labels are not 2 whole numbers")):
        (tmp_path / "some" / "manifest.json").write_text(text)
        with pytest.raises(RecordError, match=words):
            _ = RecordDataset(tmp_path / "some").list_labels
