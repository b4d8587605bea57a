"""From a folder of photographs to aligned faces, with a report in which every file has its line."""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from recordio_tools.align.faces import Detector, Faces, no_faces
from recordio_tools.atomic import output_folder
from recordio_tools.errors import UserError
from recordio_tools.format.recordio import RecordError
from recordio_tools.look.sheet import picture_sheet, spread
from recordio_tools.sources.photographs import LeftOut, find_files, in_threads, jpeg_bytes, load_rgb, relative
from recordio_tools.sources.warp import TEMPLATE_SIZE, warp_face
from recordio_tools.writer import DatasetWriter

REPORT, SHEET = "align.tsv", "sheet.png"
HEADING = ("file", "result", "notes", "faces", "aligned", "score", "eyes", "sharpness")
LONGEST_SIDE = 1024  # pixels; larger pictures are scaled down before faces are looked for, and warped as they are
SMALL_EYES = 20  # pixels from eye to eye, under which a face is small: the template has 35
BLURRED = 30.0  # variance of the Laplacian of the aligned face's luminance, under which it is blurred
BATCH = 16  # pictures that the detector sees together
SHEET_FACES = 80
NONE, ONE, MANY = "none", "one", "many"


class Aligned(NamedTuple):
    """A face on the template, how far apart its eyes were, in pixels, and how sharp it is."""

    image: Image.Image
    score: float
    eyes: float
    sharpness: float

    @property
    def notes(self) -> list[str]:
        """What may be wrong with it."""
        return ["small"] * (self.eyes < SMALL_EYES) + ["blurred"] * (self.sharpness < BLURRED)


@dataclass
class Report:
    """What became of every file: lines of HEADING, and counts."""

    lines: list[tuple] = field(default_factory=list)
    results: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    faces: int = 0
    empty: list[str] = field(default_factory=list)  # people of whom no face was found

    def leave_out(self, one: LeftOut) -> None:
        """A file that is not looked at."""
        self.results[one.kind] += 1
        self.lines.append((one.path, one.kind, one.problem, "", "", "", "", ""))

    def add(self, path: str, found: int, aligned: list[Aligned]) -> None:
        """A picture with so many faces, of which these were written, the largest first."""
        result = NONE if found == 0 else ONE if found == 1 else MANY
        notes = sorted({note for one in aligned for note in one.notes})
        self.results[result] += 1
        self.notes.update(notes)
        self.faces += len(aligned)
        figures = [(f"{one.score:.3f}", f"{one.eyes:.1f}", f"{one.sharpness:.0f}") for one in aligned[:1]]
        self.lines.append((path, result, ",".join(notes), found, len(aligned), *(figures or [("", "", "")])[0]))

    def text(self) -> bytes:
        """The report's file."""
        rows = ("\t".join(str(value).replace("\n", " ") for value in line) for line in [HEADING, *self.lines])
        return "".join(f"{row}\n" for row in rows).encode(errors="surrogateescape")


def sharpness(image: Image.Image) -> float:
    """Variance of the Laplacian of the luminance, 0..255: low where nothing is sharp."""
    grey = np.asarray(image.convert("L"), np.float64)
    inner = grey[1:-1, 1:-1]
    return float((grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner).var())


def align_face(picture: Image.Image, points_52: np.ndarray, score: float, size: int) -> Aligned:
    """The face with these landmarks, on the template."""
    image = warp_face(picture, points_52, size)
    eyes = float(np.linalg.norm(points_52[1] - points_52[0]))
    return Aligned(image, score, eyes, sharpness(image))


def align_folder(
    source: Path,
    out: Path,
    detector: Detector,
    *,
    every_face: bool = False,
    pictures: bool = False,
    size: int = TEMPLATE_SIZE,
    quality: int = 95,
    force: bool = False,
) -> Report:
    """Write the faces of a folder of photographs, aligned, as a data folder or as pictures; returns the report.

    Beside them `align.tsv` has a line for each file, and `sheet.png` shows up to SHEET_FACES of the faces.

    Args:
        source: photographs at any depth; for a data folder, in a folder for each person.
        out: the new folder.
        detector: finds the faces.
        every_face: all faces of a picture, not the largest alone.
        pictures: JPEGs under the photographs' names, in folders like theirs, not a data folder.
        size: side of the aligned faces in pixels.
        quality: of their JPEGs.
        force: an existing folder is replaced.

    Raises:
        UserError: the folder is missing or holds no picture, no picture shows a face, or people have no folders.
    """
    files, left_out = find_files(source)
    if not files:
        raise UserError(f"{source}: holds no picture; expected photographs, or folders of them")
    beside = sum(file.parent == source for file in files)
    if beside and not pictures:
        problem = f"{beside:,} photographs lie in no person's folder, which a data folder needs"
        raise UserError(f"{source}: {problem}; put them into folders, or give --pictures")
    report, shown = Report(), []
    for one in left_out:
        report.leave_out(one)
    samples = set(spread(np.arange(len(files)), SHEET_FACES).tolist())
    with ExitStack() as stack:
        if pictures:
            output: _Pictures | _Set = _Pictures(stack.enter_context(output_folder(out, force=force)))
        else:
            writer = stack.enter_context(DatasetWriter(out, None, (size, size), names=[], force=force, paths=[]))
            output = _Set(writer)
        bar = tqdm(total=len(files), desc="aligning", unit="picture", delay=2, leave=False)
        for row, (file, picture, faces) in enumerate(_look(files, detector)):
            path = relative(file, source)
            bar.update()
            if isinstance(picture, RecordError):
                problem = str(picture).removeprefix(f"{file}: ")
                report.leave_out(LeftOut(path, "unreadable", problem))
                continue
            chosen = range(len(faces.scores_n) if every_face else min(1, len(faces.scores_n)))
            aligned = [
                align_face(picture, faces.points_n52[face], float(faces.scores_n[face]), size) for face in chosen
            ]
            report.add(path, len(faces.scores_n), aligned)
            for one in aligned:
                output.add(path, jpeg_bytes(one.image, quality))
            if aligned and (row in samples or not shown):
                shown.append(aligned[0].image)
        bar.close()
        if not report.faces:
            raise UserError(f"{source}: none of its {len(files):,} pictures shows a face; nothing is written")
        people = dict.fromkeys(relative(file, source).split("/")[0] for file in files if file.parent != source)
        report.empty = [person for person in people if person not in output.people]
        output.finish()
        (output.folder / REPORT).write_bytes(report.text())
        picture_sheet(shown, cell=TEMPLATE_SIZE).save(output.folder / SHEET, "PNG")
    return report


def _look(files: list[Path], detector: Detector) -> Iterator[tuple[Path, Image.Image | RecordError, Faces]]:
    """Every picture, or what is wrong with it, and its faces, the largest first."""
    batch: list[tuple[Path, Image.Image | RecordError]] = []
    for number, item in enumerate(in_threads(files, load_rgb, BATCH), 1):
        batch.append(item)
        if len(batch) < BATCH and number < len(files):
            continue
        small = [shrink(picture) for _, picture in batch if not isinstance(picture, RecordError)]
        found = iter(detector.detect([np.array(picture) for picture in small]) if small else [])
        for file, picture in batch:
            if isinstance(picture, RecordError):
                yield file, picture, no_faces()
            else:
                faces = next(found)
                factor = max(picture.size) / LONGEST_SIDE
                yield file, picture, (faces.scaled(factor) if factor > 1 else faces).by_size()
        batch.clear()


def shrink(picture: Image.Image) -> Image.Image:
    """A picture whose longer side has at most LONGEST_SIDE pixels."""
    factor = LONGEST_SIDE / max(picture.size)
    if factor >= 1:
        return picture
    sides = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return picture.resize(sides, Image.Resampling.BILINEAR, reducing_gap=2.0)


class _Pictures:
    """Aligned faces as files, in folders like the photographs'."""

    def __init__(self, folder: Path):
        self.folder, self.people = folder, set()
        self._taken: set[str] = set()

    def add(self, path: str, jpeg: bytes) -> None:
        self.people.add(path.split("/")[0])
        stem, number = os.path.splitext(path)[0], 1
        name = f"{stem}.jpg"
        while name in self._taken:
            number += 1
            name = f"{stem}_{number}.jpg"
        self._taken.add(name)
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_bytes(jpeg)

    def finish(self) -> None:
        """Nothing is left to do."""


class _Set:
    """Aligned faces as a data folder: people are numbered as their first faces come."""

    def __init__(self, writer: DatasetWriter):
        self.writer, self.folder = writer, writer.partial
        self.people: dict[str, int] = {}
        self._paths: list[str] = []

    def add(self, path: str, jpeg: bytes) -> None:
        self.writer.add(jpeg, self.people.setdefault(path.split("/")[0], len(self.people)))
        self._paths.append(path)

    def finish(self) -> None:
        self.writer.names, self.writer.paths = list(self.people), self._paths
