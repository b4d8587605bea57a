"""From photographs to aligned faces: what is written, and that every file has its line; the faces are planted."""

import numpy as np
import pytest
import sets
from PIL import Image, ImageFilter

from recordio_tools.align.aligning import align_folder
from recordio_tools.align.faces import Faces, no_faces
from recordio_tools.dataset import RecordDataset
from recordio_tools.errors import UserError
from recordio_tools.sources.warp import TEMPLATE_52


class Planted:
    """Knows the faces by the colour of a picture's first pixel: red for their number, green for their scale × 10."""

    def __init__(self):
        self.batches = []

    def detect(self, pictures):
        self.batches.append(len(pictures))
        return [self.faces(picture) for picture in pictures]

    def faces(self, picture):
        count, scale = int(picture[0, 0, 0]), picture[0, 0, 1] / 10 * picture.shape[1] / 300
        if count == 0:
            return no_faces()
        sides = scale * (1 + 0.5 * np.arange(count))  # the best is the smallest
        points = TEMPLATE_52 * sides[:, None, None]
        boxes = np.stack([np.zeros(count), np.zeros(count), 112 * sides, 112 * sides], 1)
        return Faces(boxes, np.linspace(0.99, 0.9, count), points)


def photograph(file, count, scale=10, size=(300, 300), blur=0):
    """Noise in which `count` faces are planted."""
    file.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(count).integers(0, 255, (size[1], size[0], 3)).astype(np.uint8)
    image = Image.fromarray(noise).filter(ImageFilter.GaussianBlur(blur))
    pixels = np.array(image)
    pixels[: size[1] // 60 + 1, : size[0] // 60 + 1] = (count, scale, 0)
    Image.fromarray(pixels).save(file)


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "photos"
    photograph(root / "ada" / "one.png", 1)
    photograph(root / "ada" / "2020" / "large.png", 1, size=(3000, 2400))
    photograph(root / "bob" / "none.png", 0)
    photograph(root / "eve" / "three.png", 3, 8)
    photograph(root / "eve" / "small.png", 1, 5)
    photograph(root / "eve" / "blurred.png", 1, blur=6)
    (root / "eve" / "cut.jpg").write_bytes(sets.jpeg(1, (64, 64))[:300])
    (root / "eve" / "._one.png").write_bytes(b"fork")
    (root / "list.txt").write_text("text")
    return root


def lines(out):
    head, *rest = [line.split("\t") for line in (out / "align.tsv").read_text().splitlines()]
    assert head == ["file", "result", "notes", "faces", "aligned", "score", "eyes", "sharpness"]
    return {line[0]: line[1:5] for line in rest}


def test_every_file_has_its_line(tmp_path, photos):
    detector = Planted()
    report = align_folder(photos, tmp_path / "out", detector)
    assert lines(tmp_path / "out") == {
        "ada/2020/large.png": ["one", "", "1", "1"],
        "ada/one.png": ["one", "", "1", "1"],
        "bob/none.png": ["none", "", "0", "0"],
        "eve/blurred.png": ["one", "blurred", "1", "1"],
        "eve/small.png": ["one", "small", "1", "1"],
        "eve/three.png": ["many", "", "3", "1"],
        "eve/cut.jpg": ["unreadable", "cannot be decoded as a picture (OSError)", "", ""],
        "eve/._one.png": ["hidden", "", "", ""],
        "list.txt": ["no picture", "", "", ""],
    }
    assert (report.faces, report.empty, dict(report.notes)) == (5, ["bob"], {"small": 1, "blurred": 1})
    assert detector.batches == [6]
    ds = RecordDataset(tmp_path / "out")
    assert (ds.names, ds.labels.tolist(), ds.image_size) == (["ada", "eve"], [0, 0, 1, 1, 1], (112, 112))
    assert set(ds.paths) == {path for path, line in lines(tmp_path / "out").items() if line[3] == "1"}
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        assert sheet.size == (5 * 116 + 4, 116 + 4)


def test_the_largest_face_is_aligned_at_the_size_of_the_photograph(tmp_path, photos):
    align_folder(photos, tmp_path / "out", Planted())
    eyes = {
        line.split("\t")[0]: line.split("\t")[6] for line in (tmp_path / "out" / "align.tsv").read_text().splitlines()
    }
    assert eyes["ada/one.png"] == "35.2"
    assert float(eyes["ada/2020/large.png"]) == pytest.approx(
        352.4, abs=0.2
    )  # found at 1,024 pixels, measured at 3,000
    assert eyes["eve/three.png"] == "56.4"  # the third is twice as large as the best


def test_all_faces_as_pictures(tmp_path, photos):
    photograph(photos / "beside.png", 1)
    photograph(photos / "eve" / "one.bmp", 1)
    photograph(photos / "eve" / "one.png", 1)
    report = align_folder(photos, tmp_path / "out", Planted(), every_face=True, pictures=True, size=56)
    written = {file.relative_to(tmp_path / "out").as_posix() for file in (tmp_path / "out").rglob("*.jpg")}
    assert written >= {
        "beside.jpg",
        "eve/three.jpg",
        "eve/three_2.jpg",
        "eve/three_3.jpg",
        "eve/one.jpg",
        "eve/one_2.jpg",
    }
    assert len(written) == report.faces == 10
    with Image.open(tmp_path / "out" / "eve" / "three_3.jpg") as image:
        assert image.size == (56, 56)


def test_what_cannot_be_aligned_leaves_nothing_behind(tmp_path, photos):
    for source, words in [
        (tmp_path / "none", "no such folder; expected one with photographs"),
        (photos / "bob", "1 photographs lie in no person's folder, which a data folder needs"),
    ]:
        with pytest.raises(UserError, match=words):
            align_folder(source, tmp_path / "out", Planted())
    with pytest.raises(UserError, match="none of its 1 pictures shows a face; nothing is written"):
        align_folder(photos / "bob", tmp_path / "out", Planted(), pictures=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no picture; expected photographs, or folders of them"):
        align_folder(tmp_path / "empty", tmp_path / "out", Planted())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["empty", "photos"]
