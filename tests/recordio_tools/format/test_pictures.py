"""Sizes of encoded images, and every error that a corrupt one raises."""

from io import BytesIO

import numpy as np
import pytest
import sets
from PIL import Image

from recordio_tools.format import pictures
from recordio_tools.format.pictures import DECODE_ERRORS, decode_size, image_size


def test_size_is_height_and_width():
    encoded = sets.jpeg(5, (6, 10))
    assert image_size(encoded) == decode_size(np.frombuffer(encoded, np.uint8)) == (6, 10)


def test_a_cut_image_has_a_size_but_does_not_decode():
    cut = sets.jpeg(5, (60, 100))[:-80]
    assert image_size(cut) == (60, 100)
    with pytest.raises(OSError, match="truncated"):
        decode_size(cut)


def test_mutated_images_raise_nothing_else():
    rng = np.random.default_rng(0)
    outcomes = {"decoded": 0, "refused": 0}
    for _ in range(2000):
        encoded = bytearray(sets.jpeg(7, (8, 8)))
        encoded[int(rng.integers(len(encoded)))] = rng.integers(256)
        cut = int(rng.integers(1, len(encoded))) if rng.integers(4) == 0 else len(encoded)
        try:
            decode_size(bytes(encoded[:cut]))
            outcomes["decoded"] += 1
        except DECODE_ERRORS:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 200


DEEP = np.array([[0, 1, 128, 129, 255, 256, 385, 1000, 32767, 32768, 65407, 65408, 65535]] * 8, np.uint16)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_sixteen_bits_are_scaled_as_dali_scales_them(tmp_path, suffix):
    file = tmp_path / f"deep{suffix}"
    if suffix == ".pgm":
        file.write_bytes(b"P5\n13 8\n65535\n" + DEEP.astype(">u2").tobytes())
    else:
        Image.fromarray(DEEP).save(file)
    rgb = np.asarray(pictures.upright_rgb(pictures.open_picture(file.read_bytes())))
    assert rgb[0, :, 0].tolist() == [0, 0, 0, 1, 1, 1, 1, 4, 127, 128, 255, 255, 255]
    assert np.abs(rgb[0, :, 2] - (DEEP[0] >> 8).astype(int)).max() <= 1  # what mxnet makes of them
    np.testing.assert_array_equal(rgb, dali(file))


def test_floats_are_scaled_as_dali_scales_them(tmp_path):
    file = tmp_path / "float.tif"
    Image.fromarray(np.array([[0, 0.1, 0.25, 0.5, 0.9, 1]] * 8, np.float32)).save(file)
    rgb = np.asarray(pictures.upright_rgb(pictures.open_picture(file.read_bytes())))
    assert rgb[0, :, 1].tolist() == [0, 26, 64, 128, 230, 255]
    np.testing.assert_array_equal(rgb, dali(file))


def dali(file) -> np.ndarray:
    """What DALI's decoder makes of a file, uint8 [H, W, 3]."""
    pytest.importorskip("nvidia.dali")
    from nvidia.dali import fn, pipeline_def

    @pipeline_def(batch_size=1, num_threads=1, device_id=None)
    def pipeline():
        return fn.decoders.image(fn.readers.file(files=[str(file)])[0], device="cpu")

    built = pipeline()
    built.build()
    return np.asarray(built.run()[0].as_cpu().at(0))


@pytest.mark.parametrize(
    "values, words",
    [
        (np.full((4, 4), 300, np.float32), "values 300 to 300 of mode F, expected 0 to 1"),
        (np.full((4, 4), np.nan, np.float32), "expected 0 to 1"),
        (np.full((4, 4), 70000, np.int32), "values 70000 to 70000 of mode I, expected 0 to 65535"),
    ],
)
def test_values_without_a_brightness_are_refused(values, words):
    with pytest.raises(ValueError, match=words):
        pictures.upright_rgb(Image.fromarray(values))


@pytest.mark.parametrize("name", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000"])
def test_pictures_are_known_by_their_first_bytes(name):
    encoded = BytesIO()
    Image.new("RGB", (16, 16)).save(encoded, name)
    assert pictures.looks_like_picture(encoded.getvalue()[: pictures.HEAD_BYTES])


@pytest.mark.parametrize(
    "head", [b"", b"GIF", b"text", b"\0\0\0\x18ftypmp42", b"RIFF\0\0\0\0WAVE", b"%PDF-1.7", b"BM is a text", b"P5 text"]
)
def test_other_files_are_not(head):
    assert not pictures.looks_like_picture(head)


def test_heic_without_its_library_is_named(monkeypatch):
    head = b"\0\0\0\x18ftypheic"
    assert pictures.looks_like_picture(head)
    monkeypatch.setattr(pictures, "_knows_heic", lambda: False)
    with pytest.raises(ValueError, match="HEIC needs pillow-heif: pip install pillow-heif"):
        pictures.open_picture(head)


@pytest.mark.parametrize("turned", [False, True])
def test_real_heic_files_are_read_and_turned_as_exif_says(turned):
    heif = pytest.importorskip("pillow_heif")
    y, x = np.mgrid[:96, :128]
    pixels = np.stack([2 * y, x, 255 - y], axis=2).astype(np.uint8)
    image, encoded, exif = Image.fromarray(pixels), BytesIO(), Image.Exif()
    exif[0x0112] = 6 if turned else 1  # Orientation: to be turned by a quarter, clockwise
    heif.from_pillow(image).save(encoded, quality=95, exif=exif.tobytes())
    content = encoded.getvalue()
    assert content[8:12] in pictures.HEIF_BRANDS
    assert pictures.looks_like_picture(content[: pictures.HEAD_BYTES])
    with pictures.open_picture(content) as opened:
        got = np.asarray(pictures.upright_rgb(opened)).astype(int)
    assert abs(got - (np.rot90(pixels, -1) if turned else pixels)).mean() < 3
    with pytest.raises(pictures.DECODE_ERRORS):
        pictures.upright_rgb(pictures.open_picture(content[: len(content) // 2]))
