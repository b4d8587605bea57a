"""DALI: record bytes to image batches, in an order that the caller owns.

The only room that names nvidia.dali. Every random choice is a number that the plan hands in (`Plan.draws`), so an
augmented image depends on its bytes and its draws alone: not on the batch it is in, the threads, or what came before.

B: images of this rank's batch, S: side of the images for the network.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from io import BytesIO
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from facelt.config import FACE_PIXELS, AugmentConfig, FaceltConfig, Pixel
from facelt.errors import UserError
from recordio_tools.format.pictures import BEGINNINGS, JPEG2000, undecodable

ATTEMPTS = 10  # at a rectangle that lies within the image, as in torchvision's RandomResizedCrop; then the whole image
# Numbers in [0, 1) that augmentation takes for an image. Each has its column, whatever is switched on: side, y, x,
# flip, brightness, contrast, saturation, grey; then area and ratio of each attempt.
DRAWS = 8 + 2 * ATTEMPTS
AREAS, RATIOS = (0.08, 1.0), (3 / 4, 4 / 3)  # of the rectangles: share of the image's area, width : height
# On the CPU DALI 2.4 may crash where an image does not decode among 32 or more that it takes together; not among fewer.
AT_ONCE = 24
# Batches that the disk is asked for before they are handed to DALI, which waits for what is not in memory yet.
READ_AHEAD = 3
NOTHING = -1  # in the place of an image's number: it does not decode, and black stands there


class Frame(NamedTuple):
    """What the network sees of an image: a square of side `size` out of the image resized to the side `resize`; None:
    all of the image, resized to `size`. Images that are not square are resized to squares."""

    size: int
    resize: int | None = None

    def centre(self) -> tuple[float, float] | None:
        """Where the square in the middle starts and ends, in shares of the side; None: it is the whole image."""
        if self.resize is None:
            return None
        start = (self.resize - self.size) // 2
        return start / self.resize, (start + self.size) / self.resize


WINDOW = ("start_B2", "end_B2")  # the fields of Changes with two numbers an image


class Dataset(Protocol):
    """What is needed of `recordio_tools.dataset.RecordDataset`."""

    @property
    def labels(self) -> NDArray[np.int64]: ...

    @property
    def keys(self) -> NDArray[np.int64]: ...

    @property
    def image_size(self) -> tuple[int, int]: ...

    def __len__(self) -> int: ...

    def jpeg(self, i: int) -> NDArray[np.uint8]: ...


class Changes(NamedTuple):
    """What is done to B images.

    start_B2, end_B2: corners (y, x) of the window that is kept, as shares of the image's height and width.
    mirror_B: 1 to flip left and right. The factors act on colours 0 … 255, with one clamping to 0 … 255 at the end:
    brightness · (128 + contrast · (saturated − 128)), saturated = grey + saturation · (x − grey).
    """

    start_B2: NDArray[np.float32]
    end_B2: NDArray[np.float32]
    mirror_B: NDArray[np.int32]
    brightness_B: NDArray[np.float32]
    contrast_B: NDArray[np.float32]
    saturation_B: NDArray[np.float32]


def changes(draws: NDArray[np.float64], augment: AugmentConfig, frame: Frame) -> Changes:
    """The changes that a B x DRAWS matrix of numbers in [0, 1) stands for. frame: of the image without them."""
    flip, brightness, contrast, saturation, grey = draws[:, 3:8].T
    start_B2, end_B2 = _windows(draws, augment, frame)
    factors = [1 + augment.jitter * (2 * u - 1) for u in (brightness, contrast, saturation)]
    factors[2] = np.where(grey < augment.grey, 0, factors[2])
    return Changes(
        start_B2.astype(np.float32),
        end_B2.astype(np.float32),
        (flip < augment.flip).astype(np.int32),
        *(factor.astype(np.float32) for factor in factors),
    )


def _windows(draws: NDArray[np.float64], augment: AugmentConfig, frame: Frame) -> tuple[NDArray, NDArray]:
    """Corners of the random windows, as `Changes` has them."""
    place_B2 = draws[:, 1:3]
    if augment.crop_kind == "fixed":
        assert frame.resize is not None, "the configuration refuses this"
        pixels_B2 = np.floor(place_B2 * (frame.resize - frame.size + 1))  # whole pixels of the resized image
        return pixels_B2 / frame.resize, (pixels_B2 + frame.size) / frame.resize
    if augment.crop_kind == "square":
        side_B2 = (augment.crop + draws[:, :1] * (1 - augment.crop)).repeat(2, axis=1)
    else:
        side_B2 = _rectangles(draws[:, 8:])
    start_B2 = place_B2 * (1 - side_B2)
    return start_B2, start_B2 + side_B2


def _rectangles(draws: NDArray[np.float64]) -> NDArray[np.float64]:
    """Height and width, B x 2, of the first attempt (area and ratio, side by side) that fits, as shares of the image's.

    As torchvision's RandomResizedCrop on a square image, but for its rounding to whole pixels: the area is uniform, the
    logarithm of the ratio too.
    """
    area_BA = AREAS[0] + draws[:, 0::2] * (AREAS[1] - AREAS[0])
    low, high = np.log(RATIOS)
    ratio_BA = np.exp(low + draws[:, 1::2] * (high - low))
    sides_BA2 = np.sqrt(np.stack([area_BA / ratio_BA, area_BA * ratio_BA], axis=2))
    fits_BA = (sides_BA2 <= 1).all(axis=2)
    first_B2 = sides_BA2[np.arange(len(draws)), fits_BA.argmax(axis=1)]
    return np.where(fits_BA.any(axis=1)[:, None], first_B2, 1.0)


def _used(augment: AugmentConfig | None) -> list[str]:
    """The fields of Changes that can change anything."""
    if augment is None:
        return []
    names = [] if augment.crop_kind == "square" and augment.crop == 1 else [*WINDOW]
    names += ["mirror_B"] if augment.flip else []
    return names + (["brightness_B", "contrast_B", "saturation_B"] if augment.jitter or augment.grey else [])


class Plan(Protocol):
    """Which images a pipeline gives, batch after batch, and what augmentation draws for them."""

    def __len__(self) -> int:
        """How many batches there are."""
        ...

    def indices(self, i: int) -> NDArray[np.int64]:
        """The images of batch i: int64 of shape B, which may differ from batch to batch."""
        ...

    def draws(self, i: int) -> NDArray[np.float64]:
        """Numbers in [0, 1) for the images of batch i, such as `sampling.uniforms(seeds, DRAWS)`: B x DRAWS."""
        ...

    def instead(self, i: int, at: int) -> Iterable[int]:
        """Images that may stand in for the one at place `at` of batch i, the most wanted first; asked for only where
        that one does not decode."""
        ...


class Unreadable(Protocol):
    """What is known of images that do not decode."""

    @property
    def reasons(self) -> Mapping[int, str]:
        """Image number -> why."""
        ...

    def note(self, image: int, reason: str) -> None:
        """One more. Raises UserError where they are too many."""
        ...


@dataclass(frozen=True)
class Decoding:
    """How images are decoded, whichever they are.

    image_size: S. batch_size: the largest B. threads: of the CPU. prefetch: batches that decoding runs ahead.
    resize: see `Frame`; what is not augmented is cut from the middle. mean, std: what comes out is (x - mean) / std of
    RGB 0 … 255. width: of images S high that are not square: the middle of the image at the scale at which it covers
    them; for what is not augmented. None: S.
    """

    image_size: int
    batch_size: int
    device: torch.device
    threads: int = 2
    _: KW_ONLY
    prefetch: int = 2
    resize: int | None = None
    mean: Pixel = FACE_PIXELS["pixel_mean"]
    std: Pixel = FACE_PIXELS["pixel_std"]
    width: int | None = None

    @classmethod
    def of(cls, config: FaceltConfig, batch_size: int, device: torch.device) -> "Decoding":
        """As a configuration has it."""
        return cls(
            config.image_size,
            batch_size,
            device,
            config.loader_threads,
            resize=config.resize,
            mean=config.pixel_mean,
            std=config.pixel_std,
        )

    @property
    def device_id(self) -> int | None:
        """The GPU's number; None on the CPU."""
        return None if self.device.type == "cpu" else self.device.index or 0

    @property
    def frame(self) -> Frame:
        """What the network sees of an image."""
        return Frame(self.image_size, self.resize)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of what comes out."""
        return self.image_size, self.width or self.image_size


class ImagePipeline:
    """Iterates over the batches of a plan: float32 of shape B x 3 x S x S on the device, RGB, normalised.

    Every iteration starts again at the first batch. The tensors stay valid as long as they are held.
    augment: None leaves images as they are, but for their frame and size; then no draws are asked for.
    unreadable: where images that do not decode are noted, and `Plan.instead` stands in for them; None: they end it.

    Whether an image decodes is decided by its bytes alone: a batch that fails is looked at image by image.
    Raises UserError where DALI is missing, and, in the course of iteration, when an image does not decode.
    """

    def __init__(
        self,
        dataset: Dataset,
        plan: Plan,
        decoding: Decoding,
        augment: AugmentConfig | None = None,
        unreadable: Unreadable | None = None,
    ) -> None:
        self.dataset, self.plan, self.decoding, self.augment = dataset, plan, decoding, augment
        self.unreadable = unreadable
        self._used = _used(augment)
        self._dali = _import_dali()
        self._probe = _Probe(self._dali, decoding, self._decode)

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[Tensor]:
        return (images for _, images in self.batches())

    def batches(self) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        """The numbers of each batch's images, as they were taken, and the images. NOTHING: black stands there."""
        resize = tuple(self.dataset.image_size) != self.decoding.shape
        i = 0
        while i < len(self.plan):
            for indices, images in self._batches(i, resize):
                if images is None:
                    resize = True  # left out at first: it costs more than decoding, and the set gave this very size
                    break
                yield indices, images
                i += 1

    def _batches(self, start: int, resize: bool) -> Iterator[tuple[NDArray[np.int64], Tensor | None]]:
        """Batches as the graph makes them, from one on; None for one whose images are not of the wanted size.

        Ends early where an image did not decode that is now among the unreadable.
        """
        fed: deque[_Part] = deque()
        refused: list[UserError] = []
        tensor, waiting = self._dali.tensors.TensorCPU, self._parts(start)

        def source(_: int) -> tuple:
            try:
                part = next(waiting)
            except UserError as error:
                refused.append(error)
                raise StopIteration from None  # the batches before it come out first
            fed.append(part)  # DALI reads what is in it where it lies, until the part is out
            return [tensor(image) for image in part.encoded], *part.changed

        graph = self._graph(source, resize)
        graph.schedule_run()
        done: list[tuple[NDArray[np.int64], Tensor]] = []
        while start < len(self.plan):
            try:
                (out,) = graph.share_outputs(cuda_stream=self._stream())
            except StopIteration:
                raise refused[0] from None
            except RuntimeError as error:
                if "decoders.image" not in str(error):
                    raise
                self._find_undecoded(str(error), [part.indices for part in fed])
                return
            part = fed.popleft()
            images = torch.from_dlpack(out.as_tensor()) if self._fits(out) else None
            graph.release_outputs()  # for DALI's count of batches: the memory lives as long as the tensor
            graph.schedule_run()
            if images is None:
                yield part.indices, None
                return
            done.append((part.indices, images))
            if part.last:
                whole = [images for _, images in done]
                yield np.concatenate([of for of, _ in done]), torch.cat(whole) if len(whole) > 1 else whole[0]
                done.clear()
                start += 1

    def _parts(self, start: int) -> Iterator["_Part"]:
        """The batches from one on, in the parts that DALI decodes at a time."""
        asked, read_ahead = start, getattr(self.dataset, "read_ahead", None)  # a set that lies on the disk has it
        for i in range(start, len(self.plan)):
            while read_ahead is not None and asked < min(i + READ_AHEAD, len(self.plan)):
                read_ahead(self.plan.indices(asked))
                asked += 1
            indices, encoded = self._taken(i)
            changed = self._changes(i)
            cuts = np.linspace(0, len(indices), self._parts_of(len(indices)) + 1).astype(int).tolist()
            for first, end in itertools.pairwise(cuts):
                own = [of[first:end] for of in changed]
                yield _Part(indices[first:end], encoded[first:end], own, end == len(indices))

    def _parts_of(self, images: int) -> int:
        return -(-images // AT_ONCE) if self.decoding.device.type == "cpu" else 1

    def _taken(self, i: int) -> tuple[NDArray[np.int64], list[NDArray[np.uint8]]]:
        """The images of batch i, with others in the place of those that do not decode, as far as that is known."""
        indices = self.plan.indices(i)
        assert len(indices) <= self.decoding.batch_size
        encoded = [self.dataset.jpeg(image) for image in indices.tolist()]
        for at, image in enumerate(indices.tolist()):
            reason = self._known(image) or _not_for_dali(encoded[at])
            if reason is not None:
                self._note(image, reason)
                other = next((other for other in self.plan.instead(i, at) if self._decodes(other)), NOTHING)
                encoded[at] = self._black() if other == NOTHING else self.dataset.jpeg(other)
                indices = np.concatenate([indices[:at], [other], indices[at + 1 :]])
        return indices, encoded

    def _known(self, image: int) -> str | None:
        return None if self.unreadable is None else self.unreadable.reasons.get(image)

    def _decodes(self, image: int) -> bool:
        if self._known(image) is not None:
            return False
        reason = self._probe.fault(self.dataset.jpeg(image))
        if reason is not None:
            self._note(image, reason)
        return reason is None

    def _note(self, image: int, reason: str) -> None:
        """Raises UserError where nothing is known to be done about it."""
        if self.unreadable is not None:
            self.unreadable.note(image, reason)
            return
        folder = getattr(self.dataset, "folder", "the data folder")
        raise UserError(
            f"{folder}: the image of record {self.dataset.keys[image]} does not decode ({reason}); {self._remedy()}"
        )

    def _remedy(self) -> str:
        folder = getattr(self.dataset, "folder", "the data folder")
        return f"mend the set: python -m recordio_tools verify --decode {folder} --repair OUT"

    def _black(self) -> NDArray[np.uint8]:
        black = BytesIO()
        height, width = self.dataset.image_size
        Image.new("RGB", (width, height)).save(black, "PNG")
        return np.frombuffer(black.getvalue(), np.uint8)

    def _find_undecoded(self, error: str, batches: list[NDArray[np.int64]]) -> None:
        """Note the images that DALI could not decode: in the batch that failed, else in those it had begun."""
        for indices in batches:
            faults = {i: self._probe.fault(self.dataset.jpeg(i)) for i in indices.tolist() if i != NOTHING}
            found = {i: reason for i, reason in faults.items() if reason is not None}
            for image, reason in found.items():
                self._note(image, reason)
            if found:
                return
        folder = getattr(self.dataset, "folder", "the data folder")
        first, last = self.dataset.keys[batches[0]].min(), self.dataset.keys[batches[0]].max()
        raise UserError(
            f"{folder}: DALI cannot decode the images of records {first} to {last} together ({_reason(error)}); "
            f"{self._remedy()}"
        )

    def _stream(self) -> Any:
        """The stream that reads the batches: DALI hands them over in its order, and takes the memory back in it too.

        Told of none, DALI would use memory again, once the host let go of it, that a kernel is still to read.
        """
        on_gpu = self.decoding.device.type == "cuda"
        return torch.cuda.current_stream(self.decoding.device) if on_gpu else None

    def _fits(self, out) -> bool:
        return out.is_dense_tensor() and out[0].shape() == [3, *self.decoding.shape]

    def _changes(self, i: int) -> list[NDArray]:
        """What the graph is fed beside the images: the fields of Changes that are in use."""
        if self.augment is None:
            return []
        made = changes(self.plan.draws(i), self.augment, self.decoding.frame)
        return [getattr(made, name) for name in self._used]

    def _graph(self, source: Callable[[int], tuple], resize: bool):
        """The DALI pipeline. A kind of change whose amounts make it nothing is left out."""
        fn, types = self._dali.fn, self._dali.types
        size = list(self.decoding.shape)
        graph = self._dali.pipeline.Pipeline(
            batch_size=self.decoding.batch_size,
            num_threads=self.decoding.threads,
            device_id=self.decoding.device_id,
            prefetch_queue_depth=self.decoding.prefetch * self._parts_of(self.decoding.batch_size),
        )
        with graph:
            encoded, *changed = fn.external_source(
                source,
                num_outputs=1 + len(self._used),
                batch=True,
                no_copy=True,
                dtype=[types.UINT8, *(types.INT32 if name == "mirror_B" else types.FLOAT for name in self._used)],
                ndim=[1, *(name in WINDOW for name in self._used)],
            )
            changed = dict(zip(self._used, changed, strict=True))
            images = self._decode(encoded)
            window = self._window(changed)
            if window is not None:
                images = fn.resize(images, size=size, roi_start=window[0], roi_end=window[1], roi_relative=True)
            elif resize and self.decoding.width is not None:
                images = fn.resize(images, size=size, mode="not_smaller")
            elif resize:
                images = fn.resize(images, size=size)
            if "brightness_B" in changed:
                colours = {name: changed[f"{name}_B"] for name in ("brightness", "contrast", "saturation")}
                images = fn.color_twist(images, **colours)
            images = fn.crop_mirror_normalize(
                images,
                dtype=types.FLOAT,
                output_layout="CHW",
                mean=list(self.decoding.mean),
                std=list(self.decoding.std),
                mirror=changed.get("mirror_B", 0),
                **({"crop": size} if resize and self.decoding.width is not None else {}),
            )
            graph.set_outputs(images)
        graph.build()
        return graph

    def _window(self, changed: dict[str, Any]) -> tuple[Any, Any] | None:
        """Start and end, in shares, of what is kept of the images: random, the centre, or None for all of them.

        Cutting and resizing are one operation; at the scale of `Frame.resize` it gives the pixels of the resized image.
        """
        if "start_B2" in changed:
            return changed["start_B2"], changed["end_B2"]
        centre = self.decoding.frame.centre() if self.augment is None else None
        return None if centre is None else ([centre[0]] * 2, [centre[1]] * 2)

    def _decode(self, encoded):
        fn, types = self._dali.fn, self._dali.types
        if self.decoding.device.type == "cpu":
            return fn.decoders.image(encoded, output_type=types.RGB)
        # The hardware decoder takes a share of a batch and rounds differently: an image would depend on its neighbours.
        return fn.decoders.image(
            encoded, device="mixed", output_type=types.RGB, hw_decoder_load=0, jpeg_fancy_upsampling=True
        )


class _Part(NamedTuple):
    """What DALI decodes at a time. last: whether it ends its batch."""

    indices: NDArray[np.int64]
    encoded: list[NDArray[np.uint8]]
    changed: list[NDArray]
    last: bool


class _Probe:
    """Whether a single image decodes, as it would in a batch. decode: the operator of a graph."""

    def __init__(self, dali: Any, decoding: Decoding, decode: Callable[[Any], Any]) -> None:
        self._dali, self._decoding, self._decode = dali, decoding, decode
        self._graph: Any = None

    def fault(self, encoded: NDArray[np.uint8]) -> str | None:
        """Why an image does not decode; None where it does."""
        refused = _not_for_dali(encoded)
        if refused is not None:
            return refused
        if self._graph is None:
            self._graph = self._built()
        try:
            self._graph.feed_input("encoded", [encoded])
            self._graph.run()
        except RuntimeError as error:
            self._graph = None  # it is of no more use
            return undecodable(encoded) or f"DALI: {_reason(str(error))}"
        return None

    def _built(self) -> Any:
        fn, types = self._dali.fn, self._dali.types
        graph = self._dali.pipeline.Pipeline(
            batch_size=1, num_threads=1, device_id=self._decoding.device_id, prefetch_queue_depth=1
        )
        with graph:
            graph.set_outputs(self._decode(fn.external_source(name="encoded", dtype=types.UINT8, ndim=1)))
        graph.build()
        return graph


def _not_for_dali(encoded: NDArray[np.uint8]) -> str | None:
    """Why an image is not handed to DALI: it is of no known kind, or damaged JPEG 2000, over which DALI crashes."""
    beginning = encoded[:4].tobytes()
    if not beginning.startswith(BEGINNINGS) or beginning.startswith(JPEG2000):
        return undecodable(encoded)
    return None


def _reason(error: str) -> str:
    """The first line of what DALI says of an image."""
    return (error.partition("encountered:")[2] or error).strip().partition("\n")[0]


def _import_dali():
    try:
        from nvidia import dali
        from nvidia.dali import fn, tensors, types  # noqa: F401 - as attributes of dali
    except ImportError as error:
        raise UserError(
            f"images are decoded by DALI, which cannot be imported here ({error}): its wheels exist for Linux on "
            "x86-64; install nvidia-dali-cuda130 there, or train on such a machine"
        ) from None
    return dali
