"""Folders of pictures into sets and back."""

import json
import os
from io import BytesIO

import numpy as np
import pytest
import sets
from PIL import Image

from recordio_tools.dataset import RecordDataset
from recordio_tools.format.recordio import RecordError
from recordio_tools.sources import folders
from recordio_tools.sources.photographs import Encoding, find_pictures, load_jpeg
from recordio_tools.sources.warp import TEMPLATE_52


@pytest.fixture
def photos(tmp_path):
    for person in ("s10", "s2", "s1", "nobody"):
        (tmp_path / "photos" / person).mkdir(parents=True)
    (tmp_path / "photos" / "s1" / "b10.jpg").write_bytes(sets.jpeg(10, (16, 16)))
    (tmp_path / "photos" / "s1" / "b9.JPEG").write_bytes(sets.jpeg(20, (16, 16)))
    (tmp_path / "photos" / "s2" / "wide.jpg").write_bytes(sets.jpeg(30, (16, 32)))
    Image.new("L", (16, 16), 40).save(tmp_path / "photos" / "s10" / "grey.png")
    (tmp_path / "photos" / "s10" / "notes.txt").write_text("no picture")
    return tmp_path / "photos"


def pixels(jpeg: np.ndarray) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(jpeg)))


def test_pack(tmp_path, photos):
    assert folders.pack_pictures(photos, tmp_path / "set", Encoding(16)).images == 4
    ds = RecordDataset(tmp_path / "set")
    assert (ds.names, ds.labels.tolist(), ds.image_size) == (["s1", "s2", "s10"], [0, 0, 1, 2], (16, 16))
    assert [ds.jpeg(i).tobytes() for i in range(2)] == [sets.jpeg(20, (16, 16)), sets.jpeg(10, (16, 16))]
    for i, value in [(2, 30), (3, 40)]:
        assert pixels(ds.jpeg(i)).shape == (16, 16, 3)
        assert abs(pixels(ds.jpeg(i)).astype(int) - value).max() <= 2


def test_reencode_touches_every_image(tmp_path, photos):
    folders.pack_pictures(photos, tmp_path / "set", Encoding(16, 30, reencode=True))
    ds = RecordDataset(tmp_path / "set")
    assert all(ds.jpeg(i).tobytes() not in (sets.jpeg(10, (16, 16)), sets.jpeg(20, (16, 16))) for i in range(4))


def test_wide_pictures_are_cut_about_the_centre(tmp_path):
    picture = np.zeros((20, 60, 3), np.uint8)
    picture[:, 20:40] = 200
    Image.fromarray(picture).save(tmp_path / "wide.png")
    jpeg = load_jpeg(tmp_path / "wide.png", Encoding(20)).jpeg
    assert pixels(jpeg).min() > 190


def test_rotated_photographs_are_put_upright(tmp_path):
    picture = np.zeros((16, 16, 3), np.uint8)
    picture[:, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(picture).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    upright = pixels(load_jpeg(tmp_path / "turned.jpg", Encoding(16)).jpeg)
    assert upright[2].mean() > 240
    assert upright[13].mean() < 15


@pytest.mark.parametrize("content", [b"", b"not a picture", sets.jpeg(5, (16, 16))[:300], b"GIF89a"])
def test_a_picture_that_does_not_decode_is_named(tmp_path, photos, content):
    (photos / "s1" / "bad.jpg").write_bytes(content)
    with pytest.raises(RecordError, match=r"bad\.jpg: cannot be decoded as a picture"):
        folders.pack_pictures(photos, tmp_path / "set", Encoding(16))
    assert not (tmp_path / "set").exists()


def test_folders_without_pictures_are_refused(tmp_path):
    with pytest.raises(RecordError, match="no such folder"):
        find_pictures(tmp_path / "none")
    (tmp_path / "empty" / "s1").mkdir(parents=True)
    with pytest.raises(RecordError, match="no folder in it holds a picture"):
        find_pictures(tmp_path / "empty")


def test_unpack_and_pack_again(tmp_path, photos):
    folders.pack_pictures(photos, tmp_path / "set", Encoding(16))
    ds = RecordDataset(tmp_path / "set")
    assert folders.unpack_pictures(ds, tmp_path / "out") == 4
    files = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.jpg"))
    assert files == ["s1/00000001.jpg", "s1/00000002.jpg", "s10/00000004.jpg", "s2/00000003.jpg"]
    assert (tmp_path / "out" / "images.lst").read_text().splitlines()[3] == "4\t2\ts10/00000004.jpg"
    assert (tmp_path / "out" / "s10" / "00000004.jpg").read_bytes() == ds.jpeg(3).tobytes()
    for number, packed in enumerate((tmp_path / "out", tmp_path / "out" / "images.lst")):
        folders.pack_pictures(packed, tmp_path / f"again{number}", Encoding(16))
        for name in ("train.rec", "train.idx", "property", "names.txt"):
            assert (tmp_path / f"again{number}" / name).read_bytes() == (tmp_path / "set" / name).read_bytes()


def test_a_list_keeps_labels_that_folders_would_not(tmp_path):
    records = [(key, sets.payload([label, 0.5], sets.jpeg(key))) for key, label in [(3, 1), (4, 0), (9, 4)]]
    source = RecordDataset(sets.write(tmp_path / "set", records, "6,8,8", ["z", "a", "b", "c", "d", "e"]))
    folders.unpack_pictures(source, tmp_path / "out")
    folders.pack_pictures(tmp_path / "out" / "images.lst", tmp_path / "again", Encoding(8))
    again = RecordDataset(tmp_path / "again")
    assert (again.names, again.num_classes, again.labels.tolist()) == (source.names, 6, [0, 1, 4])
    assert [again.record(i)[0].label.tolist() for i in range(3)] == [[0, 0.5], [1, 0.5], [4, 0.5]]
    assert [again.jpeg(i).tobytes() for i in range(3)] == [sets.jpeg(4), sets.jpeg(3), sets.jpeg(9)]


def test_pack_a_list_of_boxes(tmp_path, photos):
    (tmp_path / "faces.lst").write_text("1\ts1/b9.JPEG\t3\n0\ts2/wide.jpg\t1\t0\t0\t8\t8\n")
    folders.pack_pictures(tmp_path / "faces.lst", tmp_path / "set", Encoding(16), root=photos)
    ds = RecordDataset(tmp_path / "set")
    assert (ds.labels.tolist(), ds.num_classes, ds.names) == ([1, 3], 4, None)
    assert [ds.record(i)[0].label.tolist() for i in range(2)] == [[1, 0, 0, 0, 8, 8], [3, 1]]


def test_as_is_stores_files_of_any_size_and_format(tmp_path, photos):
    folders.pack_pictures(photos, tmp_path / "set", Encoding(16, as_is=True))
    ds = RecordDataset(tmp_path / "set")
    files = ["s1/b9.JPEG", "s1/b10.jpg", "s2/wide.jpg", "s10/grey.png"]
    assert [ds.jpeg(i).tobytes() for i in range(4)] == [(photos / file).read_bytes() for file in files]


def test_unpack_names_folders_by_label_and_files_by_format(tmp_path):
    png = BytesIO()
    Image.new("RGB", (8, 8)).save(png, "PNG")
    source = sets.write(tmp_path / "s", [(1, sets.payload(0, sets.jpeg(1))), (7, sets.payload(12, png.getvalue()))])
    folders.unpack_pictures(RecordDataset(source), tmp_path / "out")
    assert (tmp_path / "out" / "000012" / "00000007.png").read_bytes() == png.getvalue()
    assert (tmp_path / "out" / "000000" / "00000001.jpg").is_file()


@pytest.mark.parametrize("name", ["../up", "..", "", "a/b", "nul\0", "twice", "images.lst"])
def test_names_that_lead_out_of_the_folder_are_refused(tmp_path, name):
    source = sets.write(tmp_path / "s", sets.insightface([0, 1]), "2,8,8", ["twice", name])
    with pytest.raises(RecordError, match="of identity 1 cannot be a folder of its own"):
        folders.unpack_pictures(RecordDataset(source), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s"]


def test_paths_are_kept_in_the_order_of_the_keys(tmp_path, photos):
    folders.pack_pictures(photos, tmp_path / "set", Encoding(16))
    assert (tmp_path / "set" / "paths.txt").read_text() == "s1/b9.JPEG\ns1/b10.jpg\ns2/wide.jpg\ns10/grey.png\n"
    listed = tmp_path / "faces.lst"
    listed.write_text(f"0\t2\tgrey.png\n1\t1\t{photos}/s2/wide.jpg\n2\t1\t{photos}/s1/b9.JPEG\n")
    folders.pack_pictures(listed, tmp_path / "other", Encoding(16), root=photos / "s10")
    above = photos.as_posix().removeprefix("/")
    assert RecordDataset(tmp_path / "other").paths == [f"{above}/s2/wide.jpg", f"{above}/s1/b9.JPEG", "grey.png"]


def test_file_names_of_any_bytes_but_line_ends_are_kept(tmp_path, photos):
    odd = os.fsdecode("ä b\udce9.jpg".encode(errors="surrogateescape"))
    (photos / "s1" / odd).write_bytes(sets.jpeg(3, (16, 16)))
    folders.pack_pictures(photos, tmp_path / "set", Encoding(16))
    assert f"s1/{odd}" in RecordDataset(tmp_path / "set").paths
    (photos / "s2" / "a\nb.jpg").write_bytes(sets.jpeg(3, (16, 16)))
    with pytest.raises(RecordError, match=r"path 's2/a\\nb.jpg' has more than one line; rename it"):
        folders.pack_pictures(photos, tmp_path / "none", Encoding(16))
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("form", sets.PUBLISHED)
def test_pack_a_published_list(tmp_path, form):
    lines = sets.published(form)
    contents = sets.photograph(tmp_path / "root", [path for path, _ in lines] + ["a/not_listed/00000001.jpg"])
    (tmp_path / "lt.txt").write_text("".join(f"{path} {label}\n" for path, label in reversed(lines)))
    packed = folders.pack_listed(tmp_path / "root", tmp_path / "lt.txt", tmp_path / "set", Encoding(16))
    assert (packed.images, packed.identities, packed.list_labels) == (20, 4, [0, 1, 2, 3])
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text())
    assert (manifest["images"], manifest["identities"], manifest["list_labels"]) == (20, 4, [0, 1, 2, 3])
    ds = RecordDataset(tmp_path / "set")
    assert dict(zip(ds.paths, ds.labels.tolist(), strict=True)) == {path.strip("/"): label for path, label in lines}
    assert all(ds.jpeg(i).tobytes() == contents[path] for i, path in enumerate(ds.paths))
    folders_of = sorted({(label, path.split("/")[0]) for path, label in lines if path.count("/") == 1})
    assert ds.names == ([folder for _, folder in folders_of] or None)  # folders within folders make no names
    assert ds.labels.tolist() == sorted(ds.labels.tolist())


def test_a_list_takes_the_labels_of_a_set(tmp_path, photos):
    (tmp_path / "train.txt").write_text("s1/b9.JPEG 2\ns2/wide.jpg 3\ns10/grey.png 5\n")
    folders.pack_listed(photos, tmp_path / "train.txt", tmp_path / "train", Encoding(16))
    (tmp_path / "test.txt").write_text("s10/grey.png 5\ns1/b10.jpg 2\n")
    train = RecordDataset(tmp_path / "train")
    packed = folders.pack_listed(photos, tmp_path / "test.txt", tmp_path / "test", Encoding(16), like=train)
    ds = RecordDataset(tmp_path / "test")
    assert (packed.empty, ds.labels.tolist(), ds.num_classes) == (["3"], [0, 2], 3)
    assert (ds.names, ds.list_labels) == (["s1", "s2", "s10"], [2, 3, 5])
    (tmp_path / "test.txt").write_text("s10/grey.png -1\n")
    with pytest.raises(RecordError, match="line 1 has label -1, expected one of"):
        folders.pack_listed(photos, tmp_path / "test.txt", tmp_path / "none", Encoding(16), like=train)


def test_labels_of_a_list_become_contiguous_and_names_are_theirs(tmp_path, photos):
    (tmp_path / "lt.txt").write_text("s10/grey.png 5\ns1/b9.JPEG 2\n")
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\ne\nf\n")
    packed = folders.pack_listed(photos, tmp_path / "lt.txt", tmp_path / "set", Encoding(16))
    ds = RecordDataset(tmp_path / "set")
    assert (packed.list_labels, ds.labels.tolist(), ds.names) == ([2, 5], [0, 1], ["c", "f"])
    (tmp_path / "open.txt").write_text("s2/wide.jpg -1\n")
    packed = folders.pack_listed(photos, tmp_path / "open.txt", tmp_path / "open", Encoding(16))
    ds = RecordDataset(tmp_path / "open")
    assert (packed.list_labels, ds.labels.tolist(), ds.names) == ([-1], [0], None)
    (tmp_path / "names.txt").write_text("a\n")
    with pytest.raises(RecordError, match=r"1 names, and lt\.txt has label 5; expected a name for each label"):
        folders.pack_listed(photos, tmp_path / "lt.txt", tmp_path / "none", Encoding(16))


@pytest.mark.parametrize(
    "text, words",
    [
        ("s1/b9.JPEG 0\ns1/b10.JPEG 0\ns9/x.jpg 1\n", "2 of its 3 images are missing, the first 's1/b10.JPEG'"),
        ("s1/b9.JPEG\n", "has no labels, expected lines of a path and a label"),
        ("1 0\n", "has record keys, expected lines of a path and a label"),
        ("s1/b9.JPEG 0\n/s1/b9.JPEG 1\n", "line 2 names 's1/b9.JPEG' again, after line 1, with label 1 instead of 0"),
        ("s1/b9.JPEG 0\n./s1/b9.JPEG 0\n", "line 2 names 's1/b9.JPEG' again, after line 1; expected each image once"),
        ("../photos/s1/b9.JPEG 0\n", "expected a path without"),
        ("s1.jpg 0\n", "1 of its 1 images are missing"),
        ("s10/notes\0.jpg 0\n", "1 of its 1 images are missing"),
    ],
)
def test_lists_that_cannot_be_packed(tmp_path, photos, text, words):
    (tmp_path / "lt.txt").write_text(text)
    with pytest.raises(RecordError, match=words) as caught:
        folders.pack_listed(photos, tmp_path / "lt.txt", tmp_path / "set", Encoding(16))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "set").exists()


def test_every_file_is_accounted_for(tmp_path, photos):
    picture = Image.new("RGB", (16, 16), (50, 0, 0))
    for name, file_format in [("a.jfif", "JPEG"), ("b.jpe", "JPEG"), ("c.gif", "GIF"), ("no_ending", "PNG")]:
        picture.save(photos / "s1" / name, file_format)
    (photos / "s2" / "2020" / "may").mkdir(parents=True)
    (photos / "s2" / "2020" / "may" / "deep.jpg").write_bytes(sets.jpeg(9, (16, 16)))
    (photos / "s2" / "._wide.jpg").write_bytes(b"resource fork")
    (photos / ".thumbnails").mkdir()
    (photos / ".thumbnails" / "x.jpg").write_bytes(sets.jpeg(9, (16, 16)))
    (photos / "beside.png").write_bytes(sets.jpeg(9, (16, 16)))
    packed = folders.pack_pictures(photos, tmp_path / "set", Encoding(16))
    ds = RecordDataset(tmp_path / "set")
    assert set(ds.paths) >= {"s1/a.jfif", "s1/b.jpe", "s1/c.gif", "s1/no_ending", "s2/2020/may/deep.jpg"}
    assert (packed.images, packed.identities, packed.empty, packed.deeper) == (9, 3, ["nobody"], 1)
    kinds = {one.path: one.kind for one in packed.left_out}
    assert kinds == {
        ".thumbnails/x.jpg": "hidden",
        "beside.png": "in no identity's folder",
        "s10/notes.txt": "no picture",
        "s2/._wide.jpg": "hidden",
    }
    files = {file.relative_to(photos).as_posix() for file in photos.rglob("*") if file.is_file()}
    assert files == set(ds.paths) | kinds.keys()
    lines = (tmp_path / "set" / "left_out.tsv").read_text().splitlines()
    assert {line.split("\t")[2] for line in lines} == kinds.keys()


def test_bad_pictures_are_counted_at_once_and_left_out_on_request(tmp_path, photos):
    (photos / "s1" / "b9.JPEG").write_bytes(b"")
    (photos / "s2" / "wide.jpg").write_bytes(sets.jpeg(5, (16, 16))[:300])
    with pytest.raises(RecordError, match=r"b9\.JPEG.*; 2 of 4 pictures cannot be read: mend them, or give --skip-bad"):
        folders.pack_pictures(photos, tmp_path / "set", Encoding(16))
    assert not (tmp_path / "set").exists()
    packed = folders.pack_pictures(photos, tmp_path / "set", Encoding(16), skip_bad=True)
    ds = RecordDataset(tmp_path / "set")
    assert (ds.names, ds.labels.tolist(), ds.paths) == (["s1", "s10"], [0, 1], ["s1/b10.jpg", "s10/grey.png"])
    assert (packed.images, packed.identities, packed.empty) == (2, 2, ["nobody", "s2"])
    assert [one.path for one in packed.left_out if one.kind == "unreadable"] == ["s1/b9.JPEG", "s2/wide.jpg"]
    for file in ("s1/b10.jpg", "s10/grey.png"):
        (photos / file).write_bytes(b"no picture")
    with pytest.raises(RecordError, match="4 of 4 pictures cannot be read: none is left"):
        folders.pack_pictures(photos, tmp_path / "none", Encoding(16), skip_bad=True)


def test_pictures_that_all_lie_deeper_are_taken_only_when_said(tmp_path):
    (tmp_path / "train" / "ada").mkdir(parents=True)
    (tmp_path / "train" / "ada" / "1.jpg").write_bytes(sets.jpeg(1, (16, 16)))
    with pytest.raises(RecordError, match=r"two folders deep or more \(train/ada/1\.jpg\)"):
        folders.pack_pictures(tmp_path, tmp_path / "set", Encoding(16))
    assert folders.pack_pictures(tmp_path, tmp_path / "set", Encoding(16), nested=True).deeper == 1


def test_links_to_folders_are_followed_in_no_circle(tmp_path, photos):
    (photos / "s1" / "again").symlink_to(photos / "s1")
    (photos / "s2" / "more").symlink_to(photos / "s10")
    assert folders.pack_pictures(photos, tmp_path / "set", Encoding(16)).images == 5


@pytest.mark.parametrize(
    "size, cut", [((16, 16), 0), ((17, 16), 0), ((32, 32), 0), ((33, 33), 1), ((18, 16), 1), ((16, 24), 1)]
)
def test_pictures_that_are_hardly_aligned_are_counted(tmp_path, size, cut):
    (tmp_path / "photos" / "s1").mkdir(parents=True)
    Image.new("RGB", size).save(tmp_path / "photos" / "s1" / "a.png")
    assert folders.pack_pictures(tmp_path / "photos", tmp_path / "set", Encoding(16)).cut == cut


def test_labels_that_float32_would_merge_become_contiguous_and_are_kept(tmp_path, photos):
    ids = [2**24, 2**24 + 1, 7]
    files = ["s1/b9.JPEG", "s1/b10.jpg", "s10/grey.png"]
    listing = photos / "faces.lst"
    listing.write_text(
        "".join(f"{row}\t{label}\t{file}\n" for row, (label, file) in enumerate(zip(ids, files, strict=True)))
    )
    packed = folders.pack_pictures(listing, tmp_path / "set", Encoding(16))
    ds = RecordDataset(tmp_path / "set")
    assert (ds.num_classes, packed.list_labels) == (3, [7, 2**24, 2**24 + 1])
    assert json.loads((tmp_path / "set" / "manifest.json").read_text())["list_labels"] == packed.list_labels
    assert [packed.list_labels[label] for label in ds.labels] == [7, 2**24, 2**24 + 1]
    assert ds.paths == [files[2], files[0], files[1]]
    listing.write_text(f"0\t{folders.SPARSE + 1}\ts1/b9.JPEG\n")
    assert folders.pack_pictures(listing, tmp_path / "sparse", Encoding(16)).list_labels == [folders.SPARSE + 1]
    listing.write_text(f"0\t{2**53}\ts1/b9.JPEG\n")
    with pytest.raises(RecordError, match=r"whole number from 0, below 2\^53"):
        folders.pack_pictures(listing, tmp_path / "none", Encoding(16))


def test_gaps_of_a_list_are_said(tmp_path, photos):
    (photos / "faces.lst").write_text("0\t3\ts1/b9.JPEG\n")
    packed = folders.pack_pictures(photos / "faces.lst", tmp_path / "set", Encoding(16))
    assert (packed.identities, packed.empty, packed.list_labels) == (4, ["0", "1", "2"], None)


def test_a_face_with_landmarks_that_is_not_aligned_is_warped(tmp_path):
    points = TEMPLATE_52 * 3 + [200, 40]
    picture = np.zeros((500, 800, 3), np.uint8)
    for x, y in np.rint(points).astype(int):
        picture[y - 6 : y + 7, x - 6 : x + 7] = 255
    Image.fromarray(picture).save(tmp_path / "scene.png")
    numbers = "\t".join(f"{value:.3f}" for value in points.T.ravel())
    for aligned in (0, 1):
        (tmp_path / "faces.lst").write_text(f"{aligned}\tscene.png\t0\t200\t40\t536\t376\t{numbers}\n")
        folders.pack_pictures(tmp_path / "faces.lst", tmp_path / f"set{aligned}", Encoding(112))
    ds = RecordDataset(tmp_path / "set0")
    image = pixels(ds.jpeg(0))[..., 0]
    assert all(image[y, x] > 150 for x, y in np.rint(TEMPLATE_52).astype(int))
    assert image.mean() < 20
    assert ds.record(0)[0].label.tolist() == [0, 1]
    assert len(RecordDataset(tmp_path / "set1").record(0)[0].label) == 16


def test_swapped_channels_come_back(tmp_path):
    (tmp_path / "photos" / "s1").mkdir(parents=True)
    Image.new("RGB", (16, 16), (250, 100, 20)).save(tmp_path / "photos" / "s1" / "a.jpg", quality=95)
    folders.pack_pictures(tmp_path / "photos", tmp_path / "set", Encoding(16, swap_channels=True))
    swapped = pixels(RecordDataset(tmp_path / "set").jpeg(0))
    assert np.abs(swapped.astype(int) - [20, 100, 250]).max() < 8
    with pytest.raises(RecordError, match="exclude each other"):
        Encoding(as_is=True, swap_channels=True)


def test_paths_come_back_from_an_unpacked_list(tmp_path, photos):
    folders.pack_pictures(photos, tmp_path / "set", Encoding(16))
    folders.unpack_pictures(RecordDataset(tmp_path / "set"), tmp_path / "out")
    folders.pack_pictures(tmp_path / "out" / "images.lst", tmp_path / "again", Encoding(16))
    paths = ["s1/b9.JPEG", "s1/b10.jpg", "s2/wide.jpg", "s10/grey.png"]
    assert RecordDataset(tmp_path / "again").paths == RecordDataset(tmp_path / "set").paths == paths


def test_heic_photographs_are_packed(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    (tmp_path / "photos" / "ada").mkdir(parents=True)
    image = Image.new("RGB", (64, 64), (200, 40, 90))
    heif.from_pillow(image).save(tmp_path / "photos" / "ada" / "IMG_0001.HEIC")
    whole = (tmp_path / "photos" / "ada" / "IMG_0001.HEIC").read_bytes()
    (tmp_path / "photos" / "ada" / "IMG_0002.heic").write_bytes(whole[: len(whole) // 2])
    folders.pack_pictures(tmp_path / "photos", tmp_path / "set", Encoding(32), skip_bad=True)
    ds = RecordDataset(tmp_path / "set")
    assert ds.paths == ["ada/IMG_0001.HEIC"]
    assert "ada/IMG_0002.heic" in (tmp_path / "set" / "left_out.tsv").read_text()
    assert abs(pixels(ds.jpeg(0)).astype(int) - (200, 40, 90)).mean() < 4
