"""DALI's batches against Pillow and numpy: order, labels, augmentations, purity, and images that are not as told."""

import math
import sys
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from facelt.config import AugmentConfig
from facelt.images.dali import AT_ONCE, DRAWS, Decoding, Frame, ImagePipeline, changes
from facelt.images.feed import RankPlan
from facelt.images.sampling import ClassAwareSampler, uniforms
from recordio_tools.dataset import DatasetWriter, RecordDataset

STILL = AugmentConfig(crop=1, flip=0, jitter=0, grey=0)
SIDE, FLIP, SATURATION, GREY = 0, 3, 6, 7  # columns of the draws
N, G, SEED = 60, 12, 5


def picture(rng, height, width):
    """A smooth colourful picture with some grain: a JPEG of it looks like one of a face to a codec."""
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    return np.clip(np.asarray(coarse, float) + rng.normal(0, 6, (height, width, 3)), 0, 255).astype(np.uint8)


def encoded(pixels, format_="JPEG"):
    out = BytesIO()
    Image.fromarray(pixels).save(out, format_, **({"quality": 90} if format_ == "JPEG" else {}))
    return out.getvalue()


def pillow(data):
    return Image.open(BytesIO(bytes(data))).convert("RGB")


class Memory:
    """A data set in memory: what ImagePipeline asks of one, and no more."""

    folder = "faces"

    def __init__(self, images, image_size):
        self.images = [np.frombuffer(image, np.uint8) for image in images]
        self.labels = np.arange(len(images)) * 7 % 11
        self.keys = np.arange(len(images)) + 100
        self.image_size = image_size

    def jpeg(self, i):
        return self.images[i]


@pytest.fixture(scope="module")
def faces():
    rng = np.random.default_rng(0)
    return Memory([encoded(picture(rng, 48, 48)) for _ in range(N)], (48, 48))


class Written:
    """A plan written down: the images of each batch and, for augmentation, their draws."""

    def __init__(self, indices, draws=None):
        self.batches, self.drawn = [np.asarray(batch) for batch in indices], draws
        self.asked = []

    def __len__(self):
        return len(self.batches)

    def indices(self, i):
        self.asked.append(i)
        return self.batches[i]

    def draws(self, i):
        return self.drawn[self.batches[i]]

    def instead(self, i, at):
        return ()


class Noted:
    """Where images that do not decode are noted."""

    def __init__(self):
        self.reasons = {}

    def note(self, image, reason):
        self.reasons[image] = reason


def decoding(size, batch, **options):
    return Decoding(size, batch, torch.device("cpu"), **options)


def in_order(dataset, augment=None, draws=None, size=48, batch=16, **options):
    """All images of a set in order, as one B x S x S x 3 array in 0 … 255 (not rounded)."""
    order = np.arange(len(dataset.images))
    plan = Written([order[start : start + batch] for start in range(0, len(order), batch)], draws)
    pipeline = ImagePipeline(dataset, plan, decoding(size, batch, **options), augment)
    images = list(pipeline)
    assert len(images) == len(pipeline) == len(plan)
    return torch.cat(images).permute(0, 2, 3, 1).numpy().astype(np.float64) * 127.5 + 127.5


def drawn(n, seed=1):
    return np.random.default_rng(seed).random((n, DRAWS))


def test_the_disk_is_asked_for_every_batch_once_and_ahead():
    rng, asked, taken = np.random.default_rng(1), [], []

    class OnDisk(Memory):
        def read_ahead(self, images):
            asked.append((len(taken), images.tolist()))

        def jpeg(self, i):
            taken.append(i)
            return super().jpeg(i)

    batches = [[0, 2], [1, 3], [2, 0], [3, 1], [0, 1]]
    faces = OnDisk([encoded(picture(rng, 48, 48)) for _ in range(4)], (48, 48))
    assert len([*ImagePipeline(faces, Written(batches), Decoding(48, 2, torch.device("cpu")))]) == 5
    assert [images for _, images in asked] == batches
    assert [before for before, _ in asked] == [0, 0, 0, 2, 4]


def test_without_augmentation_images_are_pillows_and_the_last_batch_is_short(faces):
    expected = np.stack([np.asarray(pillow(image)) for image in faces.images])
    assert np.abs(in_order(faces) - expected).max() < 1e-4


def test_normalised_as_arcface(faces):
    (images,) = ImagePipeline(faces, Written([[3, 1]]), decoding(48, 2))
    expected = (np.asarray(pillow(faces.images[3]), np.float32).transpose(2, 0, 1) - 127.5) / 127.5
    assert images.dtype == torch.float32
    np.testing.assert_allclose(images[0], expected, atol=1e-6)


def test_normalised_as_told(faces):
    mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    (images,) = ImagePipeline(faces, Written([[3, 1]]), decoding(48, 2, mean=mean, std=std))
    expected = (np.asarray(pillow(faces.images[3]), np.float32) - np.float32(mean)) / np.float32(std)
    np.testing.assert_allclose(images[0], expected.transpose(2, 0, 1), atol=1e-5)


def test_grey_jpegs_and_pngs_become_rgb():
    pixels = picture(np.random.default_rng(2), 48, 48)
    mixed = Memory([encoded(pixels[:, :, 0]), encoded(pixels, "PNG")], (48, 48))
    out = in_order(mixed)
    assert np.abs(out[0] - np.asarray(pillow(mixed.images[0]))).max() < 1e-4
    assert np.abs(out[1] - pixels).max() < 1e-4


@pytest.mark.parametrize("size", [32, 64])
def test_other_sizes_are_resized_as_pillow_does(faces, size):
    expected = np.stack([np.asarray(pillow(image).resize((size, size), Image.BILINEAR)) for image in faces.images])
    assert np.abs(in_order(faces, size=size) - expected).max() < 1.01


def test_flip_is_exact(faces):
    draws = drawn(N)
    out = in_order(faces, AugmentConfig(crop=1, flip=0.5, jitter=0, grey=0), draws)
    for image, turned, data in zip(out, draws[:, FLIP] < 0.5, faces.images, strict=True):
        expected = np.asarray(pillow(data))
        assert np.abs(image - (expected[:, ::-1] if turned else expected)).max() < 1e-4
    assert 10 < np.sum(draws[:, FLIP] < 0.5) < 50


def test_a_crop_of_whole_pixels_is_exact(faces):
    """48 · 0.75 = 36 pixels are kept, from row 12 · y and column 12 · x."""
    rng = np.random.default_rng(3)
    draws = drawn(N)
    draws[:, SIDE] = 0
    corner = rng.integers(0, 12, (N, 2))
    draws[:, 1:3] = corner / 12 + 1e-9
    out = in_order(faces, AugmentConfig(crop=0.75, flip=0, jitter=0, grey=0), draws, size=36)
    for image, (y, x), data in zip(out, corner, faces.images, strict=True):
        assert np.abs(image - np.asarray(pillow(data))[y : y + 36, x : x + 36]).max() < 1e-4


@pytest.mark.parametrize("size", [48, 24])
def test_a_crop_is_what_pillow_resizes_from_the_same_window(faces, size):
    draws = drawn(N)
    out = in_order(faces, AugmentConfig(crop=0.5, flip=0, jitter=0, grey=0), draws, size=size)
    for image, (u, v, w), data in zip(out, draws[:, :3], faces.images, strict=True):
        side = 48 * (0.5 + 0.5 * u)
        top, left = v * (48 - side), w * (48 - side)
        window = (left, top, left + side, top + side)
        expected = np.asarray(pillow(data).resize((size, size), Image.BILINEAR, box=window), float)
        assert np.abs(image - expected).max() <= 2


@pytest.mark.parametrize("resize, size", [(40, 32), (64, 56), (48, 40), (32, 32), (33, 30)])
def test_what_is_not_augmented_is_the_centre_of_the_resized_image(faces, resize, size):
    first = (resize - size) // 2
    expected = [resized(data, resize)[first : first + size, first : first + size] for data in faces.images]
    assert np.abs(in_order(faces, size=size, resize=resize) - np.stack(expected)).max() < 1.01


def resized(data, side):
    return np.asarray(pillow(data).resize((side, side), Image.BILINEAR), float)


@pytest.mark.parametrize("resize, size", [(40, 32), (64, 56), (48, 40), (32, 32)])
def test_a_fixed_crop_is_cut_from_the_resized_image(faces, resize, size):
    draws = drawn(N)
    draws[:2, 1:3] = [[0, 1 - 1e-12], [1 - 1e-12, 0]]
    knobs = AugmentConfig(crop_kind="fixed", flip=0, jitter=0)
    out = in_order(faces, knobs, draws, size=size, resize=resize)
    corners = [[int(u * (resize - size + 1)) for u in row] for row in draws[:, 1:3]]
    for image, (y, x), data in zip(out, corners, faces.images, strict=True):
        assert np.abs(image - resized(data, resize)[y : y + size, x : x + size]).max() < 1.01
    assert {y for y, _ in corners} == set(range(resize - size + 1))  # every place is drawn, the first and the last


def rectangle(draws):
    """Height and width in shares of a square image's side, attempt after attempt, as torchvision has it."""
    for u, v in zip(draws[8::2], draws[9::2], strict=True):
        area, ratio = 0.08 + 0.92 * u, math.exp(math.log(3 / 4) + v * (math.log(4 / 3) - math.log(3 / 4)))
        height, width = math.sqrt(area / ratio), math.sqrt(area * ratio)
        if height <= 1 and width <= 1:
            return height, width
    return 1.0, 1.0


@pytest.mark.parametrize("size", [48, 24])
def test_a_resized_crop_is_what_pillow_resizes_from_the_same_rectangle(faces, size):
    draws = drawn(N)
    draws[0, 8:], draws[1, 8:10] = 1 - 1e-12, [1 - 1e-12, 0]  # no attempt fits; the first does not
    knobs = AugmentConfig(crop_kind="resized", flip=0, jitter=0)
    out = in_order(faces, knobs, draws, size=size)
    for image, own, data in zip(out, draws, faces.images, strict=True):
        height, width = (48 * side for side in rectangle(own))
        top, left = own[1] * (48 - height), own[2] * (48 - width)
        window = (left, top, left + width, top + height)
        expected = np.asarray(pillow(data).resize((size, size), Image.BILINEAR, box=window), float)
        assert np.abs(image - expected).max() <= 2
    assert np.abs(out[0] - resized(faces.images[0], size)).max() < 1.01


def test_rectangles_are_distributed_as_torchvisions():
    """Quantiles of height, width and area against those of RandomResizedCrop on a large square image."""
    draws = uniforms(np.arange(20_000, dtype=np.uint64), DRAWS)
    made = changes(draws, AugmentConfig(crop_kind="resized"), Frame(224, 256))
    ours = (made.end_B2 - made.start_B2).astype(float)
    torch.manual_seed(0)
    square = torch.empty(1, 1000, 1000)
    crops = [RandomResizedCrop.get_params(square, [0.08, 1], [3 / 4, 4 / 3]) for _ in range(20_000)]
    theirs = np.array(crops)[:, 2:] / 1000
    quantiles = np.linspace(0, 1, 21)
    for one, other in zip((*ours.T, ours.prod(1)), (*theirs.T, theirs.prod(1)), strict=True):
        np.testing.assert_allclose(np.quantile(one, quantiles), np.quantile(other, quantiles), atol=0.015)


def test_jitter_and_grey_follow_the_formula(faces):
    draws = drawn(N)
    out = in_order(faces, AugmentConfig(crop=1, flip=0, jitter=0.4, grey=0.3), draws)
    for image, (b, c, s, g), data in zip(out, draws[:, 4:8], faces.images, strict=True):
        brightness, contrast, saturation = 0.6 + 0.8 * b, 0.6 + 0.8 * c, 0.0 if g < 0.3 else 0.6 + 0.8 * s
        pixels = np.asarray(pillow(data), float)
        luma = pixels @ [[0.299], [0.587], [0.114]]
        saturated = luma + saturation * (pixels - luma)
        expected = np.clip(brightness * (128 + contrast * (saturated - 128)), 0, 255)
        difference = np.abs(image - expected)
        assert difference.max() < 1.5  # half a level of rounding, and DALI's luma to three digits
        assert difference.mean() < 0.35
        assert np.ptp(image, axis=2).max() < 1.01 or g >= 0.3
    assert 8 < np.sum(draws[:, GREY] < 0.3) < 30


def test_amounts_that_change_nothing_change_nothing(faces):
    assert np.array_equal(in_order(faces, STILL, drawn(N)), in_order(faces))


def test_changes_by_hand():
    draws = np.zeros((3, DRAWS))
    draws[1, :8] = [1, 0.5, 1, 0.49, 1, 0.5, 1, 0.1]
    draws[2, :8] = [0.5, 1, 0, 0.51, 0.5, 1, 0.25, 0.9]
    made = changes(draws, AugmentConfig(crop=0.5, flip=0.5, jitter=0.4, grey=0.2), Frame(48))
    np.testing.assert_allclose(made.start_B2, [[0, 0], [0, 0], [0.25, 0]])
    np.testing.assert_allclose(made.end_B2, [[0.5, 0.5], [1, 1], [1, 0.75]])
    assert made.mirror_B.tolist() == [1, 1, 0]
    np.testing.assert_allclose(made.brightness_B, [0.6, 1.4, 1], rtol=1e-6)
    np.testing.assert_allclose(made.contrast_B, [0.6, 1, 1.4], rtol=1e-6)
    np.testing.assert_allclose(made.saturation_B, [0, 0, 0.8], rtol=1e-6)


def train_pipeline(dataset, rank=0, world_size=1, start=0, steps=8, threads=2, kind="square", unreadable=None):
    sampler = ClassAwareSampler(dataset.labels, G, SEED, images_per_class=2)
    share = RankPlan(
        sampler=sampler,
        labels=dataset.labels,
        seed=SEED,
        rank=rank,
        ranks=world_size,
        micro_batches=1,
        first_step=start,
        steps=steps,
    )
    augment = AugmentConfig(grey=0.2, crop_kind=kind)
    size = decoding(40, G // world_size, threads=threads, resize=44)
    return ImagePipeline(dataset, share, size, augment, unreadable)


def train_batches(dataset, *place, **options):
    return list(train_pipeline(dataset, *place, **options))


@pytest.mark.parametrize("kind", ["square", "fixed", "resized"])
def test_the_same_images_bit_for_bit_on_any_ranks_threads_and_start(faces, kind):
    whole = train_batches(faces, kind=kind)
    assert len(torch.unique(torch.cat(whole).flatten(1), dim=0)) > 7 * G
    for world_size in (2, 3):
        ranks = [train_batches(faces, rank, world_size, threads=1 + rank, kind=kind) for rank in range(world_size)]
        for images, *parts in zip(whole, *ranks, strict=True):
            assert torch.equal(torch.cat(parts), images)
    for images, late in zip(whole[5:], train_batches(faces, start=5, kind=kind), strict=True):
        assert torch.equal(late, images)


def test_images_come_out_of_a_real_set_in_the_order_asked_for(tmp_path):
    """The file's order is not that of the labels, and one record holds the magic word, so it has two parts."""
    rng = np.random.default_rng(4)
    images = [encoded(picture(rng, 32, 32)) for _ in range(12)]
    images[5] += b"\0" * (-len(images[5]) % 4) + b"\x0a\x23\xd7\xce" + b"\0" * 8
    labels = [2, 0, 1] * 4
    with DatasetWriter(tmp_path / "set", 3, (32, 32)) as writer:
        for image, label in zip(images, labels, strict=True):
            writer.add(image, label)
    dataset = RecordDataset(tmp_path / "set")
    by_label = sorted(range(12), key=labels.__getitem__)
    order = np.array([4, 11, 0, 7])
    (out,) = ImagePipeline(dataset, Written([order]), decoding(32, 4))
    for image, i in zip(out, order, strict=True):
        expected = np.asarray(pillow(images[by_label[i]]), np.float32).transpose(2, 0, 1)
        np.testing.assert_allclose(image * 127.5 + 127.5, expected, atol=1e-4)


def test_one_image_of_another_size_is_resized_and_the_others_stay_as_they_are(faces):
    odd = Memory([image.tobytes() for image in faces.images], (48, 48))
    odd.images[37] = np.frombuffer(encoded(picture(np.random.default_rng(5), 30, 70)), np.uint8)
    out = in_order(odd)
    expected = np.stack([np.asarray(pillow(image).resize((48, 48), Image.BILINEAR)) for image in odd.images])
    assert np.abs(out[37] - expected[37]).max() < 1.01
    assert np.abs(np.delete(out - expected, 37, axis=0)).max() < 1e-4


def test_a_set_whose_images_all_differ_from_what_it_says(faces):
    liar = Memory([image.tobytes() for image in faces.images], (32, 32))
    expected = np.stack([np.asarray(pillow(image).resize((32, 32), Image.BILINEAR)) for image in faces.images])
    assert np.abs(in_order(liar, size=32) - expected).max() < 1.01


def test_decoding_runs_ahead_and_a_batch_outlives_the_next_ones(faces):
    plan = Written([np.arange(4) + i for i in range(30)])
    pipeline = ImagePipeline(faces, plan, decoding(48, 4, prefetch=3))
    held = []
    for i, images in enumerate(pipeline):
        held.append((images, images.clone()))
        assert max(plan.asked) == min(i + 3, 29)
    assert all(torch.equal(images, copy) for images, copy in held)
    assert torch.equal(next(iter(pipeline)), held[0][1])  # a new iteration starts again


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    "damage, reason",
    [
        (lambda image: b"not a picture " * 30, "not an image of a known format"),
        (lambda image: image[:3], "not an image of a known format"),
        (lambda image: image[:900], "truncated"),
        (lambda image: b"", "not an image of a known format"),
    ],
)
def test_an_undecodable_image_is_named_with_the_remedy(faces, damage, reason, threads):
    broken = Memory([image.tobytes() for image in faces.images], (48, 48))
    broken.images[41] = np.frombuffer(damage(broken.images[41].tobytes()), np.uint8)
    plan = Written([np.arange(10) + 10 * i for i in range(6)])
    pipeline = ImagePipeline(broken, plan, decoding(48, 10, threads=threads))
    batches = iter(pipeline)
    assert [len(next(batches)) for _ in range(4)] == [10] * 4  # those before it are whole
    with pytest.raises(ValueError, match=r"^faces: the image of record 141 does not decode \(.*\); mend") as caught:
        next(batches)
    message = str(caught.value)
    assert reason in message
    assert "python -m recordio_tools verify --decode faces --repair" in message
    assert "\n" not in message


def test_where_only_dali_fails_the_record_is_named(faces):
    broken = Memory([image.tobytes() for image in faces.images], (48, 48))
    broken.images[3] = np.frombuffer(for_pillow_alone(broken.images[3]), np.uint8)
    pillow(broken.images[3])
    pipeline = ImagePipeline(broken, Written([np.arange(8)]), decoding(48, 8))
    with pytest.raises(
        ValueError, match=r"^faces: the image of record 103 does not decode \(DALI: .+\); mend"
    ) as caught:
        list(pipeline)
    assert "\n" not in str(caught.value)


def for_pillow_alone(image):
    """The JPEG with its first segment under a marker that is none: Pillow's decoder looks for the next one."""
    content = bytes(image)
    return content[:3] + b"\0" + content[4:]


def gif(image):
    out = BytesIO()
    pillow(image).save(out, "GIF")
    return out.getvalue()


def jpeg2000(image):
    out = BytesIO()
    pillow(image).save(out, "JPEG2000")
    return out.getvalue()[:-100]


DAMAGES = {5: lambda image: bytes(image)[:700], 17: gif, 29: lambda image: b"", 40: jpeg2000, 41: for_pillow_alone}


@pytest.fixture(scope="module")
def damaged(faces):
    """Five of the images do not decode, each for a reason of its own."""
    images = [image.tobytes() for image in faces.images]
    for i, damage in DAMAGES.items():
        images[i] = damage(images[i])
    return Memory(images, (48, 48))


def test_others_of_the_class_stand_in_the_same_on_any_ranks_threads_and_start(damaged):
    noted = Noted()
    whole = list(train_pipeline(damaged, unreadable=noted).batches())
    assert set(noted.reasons) == set(DAMAGES)
    assert noted.reasons[17] == "GIF, which training does not read"
    assert "DALI: " in noted.reasons[41]
    plan = train_pipeline(damaged).plan
    replaced = 0
    for i, (indices, _) in enumerate(whole):
        wanted = plan.indices(i)
        bad = np.isin(wanted, list(DAMAGES))
        replaced += bad.sum()
        np.testing.assert_array_equal(indices[~bad], wanted[~bad])
        assert not set(indices) & set(DAMAGES)
        np.testing.assert_array_equal(damaged.labels[indices], damaged.labels[wanted])
    assert replaced > 5
    for world_size in (2, 3):
        ranks = [
            list(train_pipeline(damaged, rank, world_size, threads=1 + rank, unreadable=Noted()).batches())
            for rank in range(world_size)
        ]
        for (indices, images), *parts in zip(whole, *ranks, strict=True):
            np.testing.assert_array_equal(np.concatenate([part for part, _ in parts]), indices)
            assert torch.equal(torch.cat([part for _, part in parts]), images)
    late = train_pipeline(damaged, start=5, unreadable=noted).batches()  # … and what is known already changes nothing
    for (indices, images), (indices_again, images_again) in zip(whole[5:], late, strict=True):
        np.testing.assert_array_equal(indices, indices_again)
        assert torch.equal(images, images_again)


def test_a_class_without_an_image_that_decodes_is_stood_in_for_by_another(faces):
    images = [b"" if label == 7 else image.tobytes() for image, label in zip(faces.images, faces.labels, strict=True)]
    lost, noted = Memory(images, (48, 48)), Noted()
    taken = np.concatenate([indices for indices, _ in train_pipeline(lost, unreadable=noted).batches()])
    assert set(noted.reasons) == set(np.flatnonzero(lost.labels == 7))
    assert 7 not in lost.labels[taken]


def test_where_none_may_stand_in_there_is_black(damaged):
    plan = Written([np.arange(10) + 10 * i for i in range(6)])
    found = list(ImagePipeline(damaged, plan, decoding(48, 10), unreadable=Noted()).batches())
    taken = np.concatenate([indices for indices, _ in found])
    expected = np.arange(60)
    expected[list(DAMAGES)] = -1
    np.testing.assert_array_equal(taken, expected)
    images = torch.cat([images for _, images in found])
    assert (images[list(DAMAGES)] == -1).all()  # (0 - 127.5) / 127.5
    whole = in_order(Memory([pixel if i not in DAMAGES else damaged.images[0].tobytes() for i, pixel in
                             enumerate(image.tobytes() for image in damaged.images)], (48, 48)))  # fmt: skip
    for i in set(range(60)) - set(DAMAGES):
        assert np.abs(images[i].permute(1, 2, 0).numpy() * 127.5 + 127.5 - whole[i]).max() < 1e-4


def test_a_failure_of_another_kind_is_not_blamed_on_the_images(faces):
    pipeline = ImagePipeline(faces, Written([np.arange(8)]), decoding(48, 8))

    class Broken:
        def schedule_run(self):
            pass

        def share_outputs(self, cuda_stream):
            raise RuntimeError(f"out of memory on {cuda_stream}")

    pipeline._graph = lambda source, resize: Broken()
    with pytest.raises(RuntimeError, match="out of memory on None"):
        list(pipeline)


def test_on_a_gpu_batches_are_tied_to_the_stream_that_reads_them(faces, monkeypatch):
    pipeline = ImagePipeline(faces, Written([np.arange(8)]), replace(decoding(48, 8), device=torch.device("cuda", 1)))
    asked = []

    class Done(Exception):
        pass

    class Graph:
        def schedule_run(self):
            pass

        def share_outputs(self, cuda_stream):
            asked.append(cuda_stream)
            raise Done

    pipeline._graph = lambda source, resize: Graph()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"the current stream of {device}")
    with pytest.raises(Done):
        list(pipeline)
    assert asked == ["the current stream of cuda:1"]


def test_without_dali_the_error_says_where_it_is_to_be_had(faces, monkeypatch):
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    monkeypatch.delattr("nvidia.dali", raising=False)
    with pytest.raises(ValueError, match="DALI, which cannot be imported here") as caught:
        ImagePipeline(faces, Written([np.arange(8)]), decoding(48, 8))
    assert "\n" not in str(caught.value)


def test_images_that_are_not_square_are_the_middle_at_the_scale_that_covers_them():
    rng = np.random.default_rng(4)
    square, tall = picture(rng, 48, 48), picture(rng, 48, 40)
    mixed = Memory([encoded(square, "PNG"), encoded(tall, "PNG")], (48, 48))
    (images,) = ImagePipeline(mixed, Written([[0, 1]]), decoding(48, 2, width=40))
    got = images.permute(0, 2, 3, 1).numpy() * 127.5 + 127.5
    assert got.shape == (2, 48, 40, 3)
    np.testing.assert_allclose(got[0], square[:, 4:44], atol=1e-3)
    np.testing.assert_allclose(got[1], tall, atol=1e-3)


def test_batches_larger_than_dali_takes_at_once_are_the_same_images(faces):
    large = Memory([image.tobytes() for image in faces.images] * 3, (48, 48))
    n = len(large.images)
    assert n > 2 * AT_ONCE
    whole = in_order(large, batch=n)
    assert np.array_equal(whole, in_order(large, batch=5))


def test_a_large_batch_with_an_image_that_does_not_decode_ends_in_one_line(faces):
    """Handed to DALI together, 32 images or more crash it within a few tries."""
    images = [image.tobytes() for image in faces.images] * 4
    images[4] = images[4][:3] + bytes(40) + images[4][43:]
    damaged = Memory(images[:64], (48, 48))
    for _ in range(20):
        with pytest.raises(ValueError, match="record 104 does not decode"):
            in_order(damaged, batch=64)
