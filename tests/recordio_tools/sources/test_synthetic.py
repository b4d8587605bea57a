"""The sets that `synth` writes: the split over identities, purity in (seed, identity, image), and refusals."""

import io
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from recordio_tools.__main__ import main
from recordio_tools.dataset import RecordDataset
from recordio_tools.sources.faces.identity import draw_identities
from recordio_tools.sources.faces.nuisance import draw_shots
from recordio_tools.sources.synthetic import (
    ATTRIBUTES,
    BATCH,
    Drawing,
    attribute_table,
    draw_jpegs,
    image_counts,
    jpegs,
    write_synthetic,
)


def pixels(jpeg) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(bytes(jpeg))))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """150 images of 8 identities by two processes."""
    out = tmp_path_factory.mktemp("synth") / "set"
    assert write_synthetic(out, image_counts(8, 150), seed=5, size=48, workers=2) == 150
    return out


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ((3, 10, "balanced"), [4, 3, 3]),
        ((3, 11, "zipf"), [6, 3, 2]),  # 6/1, 6/2, 6/3
        ((4, 19, "zipf", 1.0, 1, 6), [6, 6, 4, 3]),  # 12/1 held at 6, 12/2, 12/3, 12/4
        ((4, 15, "zipf", 1.0, 3), [6, 3, 3, 3]),  # 6/1, 6/2, and 6/3, 6/4 raised to 3
        ((3, 49, "zipf", 2.0), [36, 9, 4]),  # 36/1, 36/4, 36/9
        ((1, 7, "zipf"), [7]),
    ],
)
def test_counts_computed_by_hand(arguments, expected):
    assert image_counts(*arguments).tolist() == expected


@given(
    st.integers(1, 60), st.floats(0.3, 2.5), st.integers(1, 4), st.integers(0, 40), st.floats(0, 1),
    st.sampled_from(["balanced", "zipf"]),
)  # fmt: skip
def test_counts_sum_stay_in_bounds_and_fall(identities, exponent, least, span, share, tail):
    images = round(identities * (least + share * span))
    counts = image_counts(identities, images, tail, exponent, least, least + span)
    assert counts.sum() == images
    assert counts.min() >= least
    assert counts.max() <= least + span
    assert (np.diff(counts) <= 0).all()


@given(st.integers(2, 50), st.floats(0.3, 2.0), st.integers(1, 20))
def test_zipf_is_a_power_law_to_within_one_image(identities, exponent, per_identity):
    counts = image_counts(identities, identities * per_identity, "zipf", exponent)
    free = [k for k in range(identities) if counts[k] > 1]
    lowest = max((counts[k] - 1) * (k + 1) ** exponent for k in free) if free else 0
    highest = min((counts[k] + 1) * (k + 1) ** exponent for k in range(identities))
    assert lowest <= highest * (1 + 1e-9)  # one scale fits every rank


def test_any_number_of_processes_writes_the_same_bytes(written, tmp_path):
    write_synthetic(tmp_path / "one", image_counts(8, 150), seed=5, size=48, workers=1)
    for name in ("train.rec", "train.idx", "property", "names.txt", ATTRIBUTES):
        assert (tmp_path / "one" / name).read_bytes() == (written / name).read_bytes(), name


def test_an_image_depends_on_seed_identity_and_number_alone(written):
    whole = RecordDataset(written)
    seen = dict.fromkeys(range(8), 0)
    for i in range(150):
        label = int(whole.labels[i])
        alone = draw_jpegs(Drawing(seed=5, size=48), np.array([label]), np.array([seen[label]]))[0]
        assert bytes(whole.jpeg(i)) == alone
        seen[label] += 1
    assert list(seen.values()) == [19] * 6 + [18] * 2


def test_ranges_of_identities_and_images_are_cut_from_one_world():
    world = list(jpegs(np.full(6, 5), Drawing(seed=1, size=32)))
    part = list(jpegs(np.full(2, 3), Drawing(seed=1, size=32), first_identity=3, first_image=2))
    assert [jpeg for jpeg, _ in part] == [world[5 * i + j][0] for i in (3, 4) for j in (2, 3, 4)]
    assert [label for _, label in part] == [0, 0, 0, 1, 1, 1]
    assert len({jpeg for jpeg, _ in world}) == 30
    other = list(jpegs(np.full(6, 5), Drawing(seed=2, size=32)))
    assert not {jpeg for jpeg, _ in world} & {jpeg for jpeg, _ in other}


def test_every_record_is_an_rgb_jpeg_of_the_size_and_some_are_grey(written):
    dataset = RecordDataset(written)
    assert (len(dataset), dataset.num_classes, dataset.image_size) == (150, 8, (48, 48))
    grey = 0
    for i in range(150):
        image = Image.open(io.BytesIO(bytes(dataset.jpeg(i))))
        image.load()
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (48, 48))
        grey += np.ptp(np.asarray(image).astype(int), axis=2).max() <= 2
    assert 25 <= grey <= 65  # a binomial of 150 at 0.3 leaves this once in 10,000


@pytest.mark.parametrize("grey", [0.0, 1.0])
def test_grey_share(grey):
    for jpeg in draw_jpegs(Drawing(size=48, grey=grey), np.arange(12), np.zeros(12, int)):
        assert (np.ptp(pixels(jpeg).astype(int), axis=2).max() <= 2) == (grey == 1)


def test_zoom_enlarges_the_face_and_changes_nothing_else():
    near, far = (draw_shots(0, np.arange(9), np.arange(9), zoom=zoom) for zoom in (1.6, 1.0))
    np.testing.assert_allclose(near.scale, 1.6 * far.scale)
    assert all(np.array_equal(near[name], far[name]) for name in near.dtype.names if name != "scale")
    one, two = (draw_jpegs(Drawing(size=48, zoom=zoom), np.arange(3), np.arange(3)) for zoom in (1.0, 1.6))
    assert all(a != b for a, b in zip(one, two, strict=True))


def test_attributes_name_every_identity_and_its_sex(written):
    heading, *lines = (written / ATTRIBUTES).read_text().splitlines()
    assert heading.split("\t") == ["name", "sex", "skin", "age", "hair", "beard"]
    rows = [line.split("\t") for line in lines]
    assert [row[0] for row in rows] == RecordDataset(written).names == [f"synth-{i:06d}" for i in range(8)]
    assert [row[1] == "male" for row in rows] == [bool(male) for male in draw_identities(5, np.arange(8)).male]


def test_attributes_depend_on_sex():
    rows = [line.split("\t") for line in attribute_table(0, np.arange(2000)).splitlines()[1:]]
    men, women = ([row for row in rows if row[1] == sex] for sex in ("male", "female"))
    assert 900 < len(men) < 1100
    assert {row[5] for row in women} == {"none"}
    assert {row[5] for row in men} == {"none", "moustache", "beard"}
    long_haired = [np.mean([row[4] == "long" for row in group]) for group in (men, women)]
    assert long_haired[0] < 0.5 * long_haired[1]
    for column in (2, 3):
        assert len({row[column] for row in rows}) == (3 if column == 2 else 2)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_set_of_any_size_is_a_stream(workers):
    stream = jpegs(np.full(50_000, 1000), Drawing(size=32), workers=workers)  # 50 million images
    first = list(itertools.islice(stream, BATCH + 1))
    stream.close()
    assert first[-1] == (draw_jpegs(Drawing(size=32), np.array([0]), np.array([BATCH]))[0], 0)


def test_command(tmp_path, capsys):
    out = tmp_path / "set"
    arguments = ["synth", str(out), "--identities", "4", "--images", "20", "--size", "40", "--seed", "3"]
    tail = ["--tail", "zipf", "--min-images", "2", "--max-images", "9", "--first-identity", "70", "--grey", "0"]
    assert main([*arguments, *tail]) == 0
    dataset = RecordDataset(out)
    assert np.bincount(dataset.labels).tolist() == image_counts(4, 20, "zipf", 1.0, 2, 9).tolist()
    assert dataset.names == ["synth-000070", "synth-000071", "synth-000072", "synth-000073"]
    assert bytes(dataset.jpeg(0)) == draw_jpegs(Drawing(seed=3, size=40, grey=0.0), np.array([70]), np.array([0]))[0]
    before = (out / "train.rec").read_bytes()
    capsys.readouterr()
    assert main([*arguments, "--first-identity", "9"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "--force" in said
    assert (out / "train.rec").read_bytes() == before
    assert main([*arguments, "--first-identity", "9", "--force"]) == 0
    assert RecordDataset(out).names[0] == "synth-000009"


@pytest.mark.parametrize(
    "changed, said",
    [
        (["--identities", "0"], "0 identities given, expected 1 to 100000000"),
        (["--identities", "-3"], "-3 identities given, expected 1 to 100000000"),
        (["--identities", "10" * 30], "10" * 30 + " identities given, expected 1 to 100000000"),
        (["--images", "10" * 30], "10" * 30 + " images given, expected at most 281474976710656"),
        (["--images", "3"], "3 images given for 4 identities of 1 to 3 images each, expected 4 to 12 images"),
        (["--images", "-5"], "from 1 to -5 images per identity given, expected 1 <= least <= most"),
        (["--max-images", "2"], "20 images given for 4 identities of 1 to 2 images each, expected 4 to 8 images"),
        (["--min-images", "0"], "from 0 to 20 images per identity given, expected 1 <= least <= most"),
        (["--exponent", "0"], "exponent 0 given, expected a number above 0, at most 10"),
        (["--exponent", "nan"], "exponent nan given, expected a number above 0, at most 10"),
        (["--seed", "-1"], "seed -1 given, expected 0 to 281474976710655"),
        (["--first-identity", "-1"], "first identity -1 given, expected 0 to 281474976710655"),
        (["--first-image", "-1"], "first image -1 given, expected 0 to 281474976710655"),
        (["--workers", "0"], "workers 0 given, expected 1 to 1024"),
        (["--size", "8"], "size 8 given, expected 32 to 1024 pixels"),
        (["--grey", "1.5"], "share 1.5 of grey images given, expected 0 to 1"),
        (["--grey", "nan"], "share nan of grey images given, expected 0 to 1"),
    ],
)
def test_mistakes_are_answered_in_one_line_and_leave_nothing(tmp_path, capsys, changed, said):
    out = tmp_path / "set"
    assert main(["synth", str(out), "--identities", "4", "--images", "20", "--size", "40", *changed]) == 2
    assert capsys.readouterr().err == f"error: {said}\n"
    assert list(tmp_path.iterdir()) == []
