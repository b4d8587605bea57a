"""The command for verification packs: one or several in a table, bcolz folders, their images."""

import json
import pickle
import sys
import types

import numpy as np
import pytest
from PIL import Image

from megaface_eval.features.feature_set import load_features, write_features
from megaface_eval.formats.packs import open_pack, pack_distances, score_pairs
from megaface_eval.packs import main


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


@pytest.fixture
def pack(tmp_path):
    """Writes a pack of pairs and its features; returns which pairs are of one person."""

    def write(name, pairs=40, seed=0):
        rng = np.random.default_rng(seed)
        same = np.arange(pairs) % 2 == 0
        rows = rng.standard_normal((2 * pairs, 16)).astype(np.float32)
        rows[1::2][same] = rows[0::2][same] + 0.8 * rng.standard_normal((pairs // 2, 16)).astype(np.float32)
        images = [b"\xff\xd8" + bytes([i]) for i in range(2 * pairs - 1)] + [b"\x89PNG"]
        (tmp_path / f"{name}.bin").write_bytes(pickle.dumps((images, same.tolist())))
        write_features(tmp_path / name, rows, np.zeros(2 * pairs, int))
        write_features(tmp_path / f"{name}_m", -rows[::-1], np.zeros(2 * pairs, int))
        return same

    return write


def test_images_are_taken_out_in_order(tmp_path, pack):
    pack("p")
    arguments = [f"{tmp_path}/p.bin", "--images", f"{tmp_path}/images"]
    assert main(arguments) == 0
    assert (tmp_path / "images/000003.jpg").read_bytes() == b"\xff\xd8\x03"
    assert (tmp_path / "images/000079.png").read_bytes() == b"\x89PNG"
    assert main(arguments) == 2


def test_several_packs_stand_in_one_table(tmp_path, pack, capsys):
    held = {name: pack(name, seed=seed) for seed, name in enumerate(("lfw", "cfp_fp"))}
    packs, features, mirrored = ([f"{tmp_path}/{name}{end}" for name in held] for end in (".bin", "", "_m"))
    arguments = [*packs, "--features", *features, "--mirrored", *mirrored, "--far", "0.1"]
    assert main([*arguments, "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    for name, same in held.items():
        plain, other = load_features(tmp_path / name), load_features(tmp_path / f"{name}_m")
        for flip, distances in (("without flip", pack_distances(plain)), ("with flip", pack_distances(plain, other))):
            expected, got = score_pairs(distances, same, 0.1), scores[name][flip]
            assert got["ten_fold"]["accuracy"] == expected.ten_fold.accuracy
            assert got["validation"]["val"] == expected.validation.val
            assert (got["auc"], got["eer"]) == (expected.auc, expected.eer)
    assert main([*arguments, "--output", f"{tmp_path}/report"]) == 0
    printed = capsys.readouterr().out
    table = json.loads((tmp_path / "report/report.json").read_text(encoding="utf-8"))["tables"][0]
    assert [row["name"] for row in table["rows"]] == [f"{n}, {f}" for n in held for f in ("without flip", "with flip")]
    accuracy = scores["cfp_fp"]["with flip"]["ten_fold"]["accuracy"]
    assert table["rows"][3]["entries"][0]["value"] == accuracy
    assert f"{100 * accuracy:.2f}" in printed
    assert len((tmp_path / "report/figures.csv").read_text(encoding="utf-8").splitlines()) == 1 + 4 * 7
    assert main([*arguments, "--output", f"{tmp_path}/report"]) == 2


def test_mistakes_are_answered_in_one_line(tmp_path, pack, capsys):
    pack("p")
    write_features(tmp_path / "short", np.ones((10, 4), np.float32), np.zeros(10, int))
    one = f"{tmp_path}/p.bin"
    for arguments, problem in (
        ([one], "give --features"),
        ([one, "--features", f"{tmp_path}/short"], "10 rows for 40 pairs of p"),
        ([one, one, "--features", f"{tmp_path}/p"], "1 --features for 2 packs"),
        ([one, one, "--features", f"{tmp_path}/p", f"{tmp_path}/p"], "a name is used twice"),
        ([one, "--images", f"{tmp_path}/i", "--mirrored", f"{tmp_path}/p"], "--mirrored without --features"),
        ([one, "--features", f"{tmp_path}/p", "--far", "1"], "--far 1.0"),
        ([f"{tmp_path}/p", "--images", f"{tmp_path}/i"], "is a directory; expected a verification pack"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert problem in error
        assert len(error.splitlines()) == 1


class Blosc(types.ModuleType):
    """Stands for the library where it is not installed: buffers are not compressed."""

    blosc_extension = types.SimpleNamespace(error=RuntimeError)

    @staticmethod
    def compress(data, typesize):
        return b"plain" + data

    @staticmethod
    def decompress(data):
        if data[:5] != b"plain":
            raise RuntimeError("not a buffer")
        return data[5:]


@pytest.fixture(params=["real", "stand-in"])
def blosc(request, monkeypatch):
    if request.param == "real":
        return pytest.importorskip("blosc")
    made = Blosc("blosc")
    monkeypatch.setitem(sys.modules, "blosc", made)
    return made


@pytest.fixture
def bcolz(tmp_path):
    """A bcolz folder of six images, four a chunk, as bcolz lays it out; returns the pixels (6×3×4×4, RGB, uint8)."""

    def write(blosc):
        pixels = np.random.default_rng(0).integers(0, 256, (6, 3, 4, 4)).astype(np.uint8)
        stored = ((pixels[:, ::-1] / 255 - 0.5) / 0.5).astype(np.float32)
        folder = tmp_path / "lfw"
        for inner in ("meta", "data"):
            (folder / inner).mkdir(parents=True)
        (folder / "meta/sizes").write_text(json.dumps({"shape": [6, 3, 4, 4], "nbytes": 1, "cbytes": 1}))
        (folder / "meta/storage").write_text(json.dumps({"dtype": "float32", "chunklen": 4, "cparams": {}}))
        for chunk in range(2):
            buffer = blosc.compress(stored[4 * chunk : 4 * chunk + 4].tobytes(), typesize=4)
            (folder / f"data/__{chunk}.blp").write_bytes(b"blpk" + bytes(12) + buffer)
        np.save(tmp_path / "lfw_list.npy", np.array([True, False, True]))
        return folder, pixels

    return write


def test_bcolz_folders_are_packs(tmp_path, bcolz, blosc):
    folder, pixels = bcolz(blosc)
    assert open_pack(folder).same.tolist() == [True, False, True]
    for channels, expected in (("bgr", pixels), ("rgb", pixels[:, ::-1])):
        images = tmp_path / channels
        assert main([str(folder), "--images", str(images), "--channels", channels]) == 0
        for i in range(6):
            with Image.open(images / f"{i:06d}.png") as image:
                np.testing.assert_array_equal(np.asarray(image), expected[i].transpose(1, 2, 0))


@pytest.mark.parametrize("chunk", [None, 5])
@pytest.mark.parametrize("number", ["float32", "float64"])
def test_folders_that_bcolz_itself_wrote_are_packs(tmp_path, number, chunk):
    pytest.importorskip("blosc")
    real = pytest.importorskip("bcolz")
    pixels = np.random.default_rng(1).integers(0, 256, (12, 3, 16, 16)).astype(np.uint8)
    stored = ((pixels[:, ::-1] / 255 - 0.5) / 0.5).astype(number)
    real.carray(stored, rootdir=str(tmp_path / "lfw"), mode="w", chunklen=chunk).flush()
    np.save(tmp_path / "lfw_list.npy", np.arange(6) % 2 == 0)
    assert open_pack(tmp_path / "lfw").same.tolist() == [True, False] * 3
    assert main([str(tmp_path / "lfw"), "--images", f"{tmp_path}/images"]) == 0
    for i in range(12):
        with Image.open(tmp_path / "images" / f"{i:06d}.png") as image:
            np.testing.assert_array_equal(np.asarray(image), pixels[i].transpose(1, 2, 0))


@pytest.mark.parametrize(
    "spoil, problem",
    [
        (lambda folder: (folder.parent / "lfw_list.npy").unlink(), "lfw_list.npy: no readable .npy"),
        (lambda folder: np.save(folder.parent / "lfw_list.npy", np.ones(2, bool)), "6 images for 2 pairs"),
        (lambda folder: np.save(folder.parent / "lfw_list.npy", np.ones(3)), "expected a bool for each pair"),
        (lambda folder: (folder / "meta/sizes").write_text('{"shape": [6]}'), "meta/sizes has shape [6]"),
        (lambda folder: (folder / "meta/sizes").write_text("{"), "not readable as JSON"),
        (lambda folder: (folder / "meta/storage").write_text("{}"), "meta/storage has dtype None"),
        (lambda folder: (folder / "data/__1.blp").unlink(), "__1.blp: No such file"),
        (lambda folder: (folder / "data/__0.blp").write_bytes(b"blpk" + bytes(40)), "__0.blp: cannot be decoded"),
        (lambda folder: (folder / "data/__0.blp").write_bytes(b"x"), "__0.blp: is no chunk of bcolz"),
    ],
)
def test_a_spoilt_bcolz_pack_is_answered_in_one_line(tmp_path, bcolz, monkeypatch, capsys, spoil, problem):
    made = Blosc("blosc")
    monkeypatch.setitem(sys.modules, "blosc", made)
    folder, _ = bcolz(made)
    spoil(folder)
    assert main([str(folder), "--images", f"{tmp_path}/images"]) == 2
    error = capsys.readouterr().err
    assert problem in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "images").exists()


def test_without_blosc_features_are_scored_and_images_refused(tmp_path, bcolz, monkeypatch, capsys):
    folder, _ = bcolz(Blosc("blosc"))
    monkeypatch.setitem(sys.modules, "blosc", None)
    assert main([str(folder), "--images", f"{tmp_path}/images"]) == 2
    assert "pip install blosc" in capsys.readouterr().err
    assert len(open_pack(folder).same) == 3
