"""Writes an InsightFace set: `train.rec`, `train.idx`, `property`, `names.txt`, `paths.txt`."""

from array import array
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from recordio_tools.atomic import output_folder
from recordio_tools.format.index import format_index
from recordio_tools.format.recordio import IMAGE_HEAD, MAGIC, IRHeader, Label, RecordError, RecordWriter, pack

REC, IDX, PROPERTY, NAMES, PATHS = "train.rec", "train.idx", "property", "names.txt", "paths.txt"
MANIFEST = "manifest.json"  # of a set that was chosen from another, or by a list
BUFFER_BYTES = 1 << 20

_RANGE_RECORD = np.dtype(
    [
        ("magic", "<u4"),
        ("lrec", "<u4"),
        ("flag", "<u4"),
        ("label", "<f4"),
        ("id", "<u8"),
        ("id2", "<u8"),
        ("range", "<f4", 2),
    ]
)


def range_records(keys: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> bytes:
    """Framed header and identity records: without an image, their two labels the half-open key range [start, end).

    The format holds the range as float32, which is inexact above 2^24; readers here go by the images' own labels.

    Args:
        keys, starts, ends: int64[n], a record each.
    """
    records = np.zeros(len(keys), _RANGE_RECORD)
    records["magic"], records["lrec"], records["flag"] = MAGIC, IMAGE_HEAD.size + 8, 2
    records["id"] = keys
    records["range"][:, 0], records["range"][:, 1] = starts, ends
    return records.tobytes()


class DatasetWriter(AbstractContextManager):
    """Collects images into a new set; the folder appears when the `with` block ends well, and not at all when it fails.

    Records lie in the file in the order in which they are added, behind the header record. Keys 1..N go to the images
    grouped by identity, and within one in the order of adding, because InsightFace's identity records (N+1..N+K) hold
    key ranges. So images that are added identity by identity in the order of their labels keep their order, and others
    keep only their place in the file.

    Args:
        folder: the new data folder.
        num_classes: K; None takes the largest label + 1.
        image_size: (height, width) in pixels.
        names: one name per class.
        force: an existing folder is replaced.
        paths: where each image came from, in the order of adding; `paths.txt` holds them in the order of the keys.

    Attributes:
        partial: the folder while it is being written, open to further files.
        rec_writer: appends to its `train.rec`.
        names, paths: as given; who leaves images out while adding replaces them before the end.

    Raises:
        RecordError: a label outside the classes, names or paths that do not fit, no image.
        UserError: the folder exists and `force` is not set, or it cannot be written.
    """

    def __init__(
        self,
        folder: Path | str,
        num_classes: int | None,
        image_size: tuple[int, int],
        names: Sequence[str] | None = None,
        force: bool = False,
        *,
        paths: Sequence[str] | None = None,
    ):
        self.folder = Path(folder)
        self.num_classes = num_classes
        self.image_size = tuple(int(side) for side in image_size)
        self.names = None if names is None else [str(name) for name in names]
        self.paths = paths
        for what, lines in (("name", self.names), ("path", paths)):
            for line in lines or []:
                if "\n" in line or "\r" in line:
                    problem = f"{what} {line!r} has more than one line; rename it"
                    raise RecordError(problem, path=self.folder, kind=f"{what}s")
        self._offsets, self._labels = array("q"), array("q")
        self._output = output_folder(folder, force=force)
        self.partial = self._output.__enter__()
        self._file = open(self.partial / REC, "wb", buffering=BUFFER_BYTES)  # noqa: SIM115 - closed by __exit__
        self.rec_writer = RecordWriter(self._file)
        self.rec_writer.write_framed(range_records(np.zeros(1), np.zeros(1), np.zeros(1)))  # filled in at the end

    @property
    def num_images(self) -> int:
        """Images added so far."""
        return len(self._labels)

    def add(self, jpeg: bytes, label: Label) -> None:
        """Append one encoded image. Of several labels (`[label, aligned]`, boxes) the first is the identity."""
        identity = label if isinstance(label, float | int | np.number) else label[0]
        if len(jpeg) == 0:
            raise RecordError(f"image {self.num_images} (label {identity}) is empty", path=self.folder, kind="empty")
        if not float(identity).is_integer():
            raise RecordError(f"label {identity} is not an integer", path=self.folder, kind="label")
        self._refuse_labels(np.array([identity], np.int64))
        self._offsets.append(self.rec_writer.write(pack(IRHeader(0, label, self.num_images + 1), bytes(jpeg))))
        self._labels.append(int(identity))

    def add_framed(self, offsets: np.ndarray, labels: np.ndarray) -> None:
        """Enter image records already written to `records`: their byte offsets and identities (int64[n] both)."""
        self._refuse_labels(labels)
        self._offsets.frombytes(np.asarray(offsets, np.int64).tobytes())
        self._labels.frombytes(np.asarray(labels, np.int64).tobytes())

    def _refuse_labels(self, labels: np.ndarray) -> None:
        limit = np.iinfo(np.int64).max if self.num_classes is None else self.num_classes
        if len(labels) and (labels.min() < 0 or labels.max() >= limit):
            wrong = labels[np.argmax((labels < 0) | (labels >= limit))]
            classes = "0 or above" if self.num_classes is None else f"one of the {limit} classes 0..{limit - 1}"
            raise RecordError(f"label {wrong} given, expected {classes}", path=self.folder, kind="label")

    def __exit__(self, kind, error, trace) -> None:
        try:
            with self._file:
                if kind is None:
                    self._finish()
        except BaseException as failure:
            self._output.__exit__(type(failure), failure, failure.__traceback__)
            raise
        self._output.__exit__(kind, error, trace)

    def _finish(self) -> None:
        labels, offsets = np.frombuffer(self._labels, np.int64), np.frombuffer(self._offsets, np.int64)
        count = len(labels)
        if count == 0:
            raise RecordError("no image was given; a set needs at least one", path=self.folder, kind="empty")
        classes = self.num_classes or int(labels.max()) + 1
        if self.names is not None and len(self.names) != classes:
            problem = f"{len(self.names)} names for {classes} identities; give one for each"
            raise RecordError(problem, path=self.folder, kind="names")
        if self.paths is not None and len(self.paths) != count:
            problem = f"{len(self.paths)} paths for {count} images; give one for each"
            raise RecordError(problem, path=self.folder, kind="paths")
        order = np.argsort(labels, kind="stable")
        bounds = np.searchsorted(labels[order], np.arange(classes + 1)) + 1
        range_keys = np.arange(count + 1, count + 1 + classes)
        ranges = range_records(range_keys, bounds[:-1], bounds[1:])
        ranges_at = self.rec_writer.write_framed(ranges) + _RANGE_RECORD.itemsize * np.arange(classes)
        self._file.seek(0)
        self._file.write(range_records(np.zeros(1), np.array([count + 1]), np.array([count + 1 + classes])))
        keys = np.concatenate([np.arange(count + 1), range_keys])
        (self.partial / IDX).write_bytes(format_index(keys, np.concatenate([[0], offsets[order], ranges_at])))
        (self.partial / PROPERTY).write_text("{},{},{}\n".format(classes, *self.image_size), encoding="utf-8")
        if self.names is not None:
            (self.partial / NAMES).write_bytes("".join(f"{name}\n" for name in self.names).encode())
        if self.paths is not None:
            text = "".join(f"{self.paths[i]}\n" for i in order.tolist())
            (self.partial / PATHS).write_bytes(text.encode(errors="surrogateescape"))  # file names may be no UTF-8
