"""IJB-B and IJB-C as they are distributed: which images make which template, and which templates are compared.

Files of a set named ijbb or ijbc, in one folder; ids are whole numbers:
    ijbc_face_tid_mid.txt               image, template, media: a line for each row of the features
    ijbc_name_5pts_score.txt            image, ten coordinates, the detector's score: the same lines
    ijbc_template_pair_label.txt        template, template, 1 for one person and 0 for two
    ijbc_1N_gallery_G1.csv, …_G2.csv    a heading, then template,subject and whatever else (S1, S2 in IJB-B)
    ijbc_1N_probe_mixed.csv             the same
"""

import warnings
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from megaface_eval.errors import InputError
from megaface_eval.protocols.templates import Faces, People, TemplatePairs

GALLERIES = {"ijbb": ("S1", "S2"), "ijbc": ("G1", "G2")}
BLOCK_LINES = 1 << 19
QUOTED = 40  # characters of a wrong line that a message shows
SCORE_FIELDS = 12  # image, five points, score


def set_in(folder: Path) -> tuple[Path, str]:
    """The folder that holds the lists, itself or its `meta`, and the set's name there, ijbb or ijbc."""
    places = [(inner, name) for inner in (folder, folder / "meta") for name in GALLERIES]
    found = [(inner, name) for inner, name in places if _faces(inner, name).is_file()]
    if len(found) != 1:
        raise InputError(
            f"{folder}: holds {len(found)} of ijbb_face_tid_mid.txt and ijbc_face_tid_mid.txt; expected one of them, "
            "with the other files of its set, there or in meta/"
        )
    return found[0]


def _faces(folder: Path, name: str) -> Path:
    return folder / f"{name}_face_tid_mid.txt"


def read_faces(folder: Path, name: str) -> Faces:
    """Which image belongs to which template and media."""
    path = _faces(folder, name)
    images, ids = [], []
    for number, line in enumerate(_lines(path), 1):
        fields = line.split()
        if len(fields) != 3 or not all(map(_is_id, fields[1:])):
            raise _wrong(path, number, line, "an image's name, a template and a media")
        images.append(fields[0])
        ids.append((int(fields[1]), int(fields[2])))
    if not images:
        raise InputError(f"{path}: is empty; expected a line for each image")
    table = np.array(ids, np.int64)
    known, template = np.unique(table[:, 0], return_inverse=True)
    return Faces(images, template.astype(np.int32), table[:, 1], known)


def read_scores(folder: Path, name: str, images: list[str]) -> np.ndarray:
    """The detector's score of each image (N, float32, as insightface holds them). images: names, to be met in order."""
    path = folder / f"{name}_name_5pts_score.txt"
    lines = _lines(path)
    if len(lines) != len(images):
        raise InputError(
            f"{path}: {len(lines):,} lines, {name}_face_tid_mid.txt has {len(images):,}; expected a line for each image"
        )
    scores = np.empty(len(images), np.float32)
    for number, (line, image) in enumerate(zip(lines, images, strict=True), 1):
        fields = line.split()
        if len(fields) != SCORE_FIELDS or fields[0] != image:
            raise _wrong(path, number, line, f"{image}, as in {name}_face_tid_mid.txt, five points and a score")
        try:
            scores[number - 1] = float(fields[-1])
        except ValueError:
            raise _wrong(path, number, line, "a number for the score") from None
        if not 0 <= scores[number - 1] < np.inf:
            raise _wrong(path, number, line, "a score from 0 up")
    return scores


def read_pairs(folder: Path, name: str, faces: Faces) -> TemplatePairs:
    """The pairs of 1:1, read by blocks: IJB-C has 15.7 million."""
    path = folder / f"{name}_template_pair_label.txt"
    parts, first = [], 1
    with _opened(path) as file, tqdm(desc=path.name, unit="pair", unit_scale=True, delay=2) as bar:
        while lines := _block(path, file):
            table = _whole_numbers(path, lines, first)
            wrong = np.flatnonzero((table[:, 2] != 0) & (table[:, 2] != 1))
            if len(wrong):
                raise InputError(f"{path}: label {table[wrong[0], 2]} of {len(wrong):,} pairs; expected 1 or 0")
            one, other = (faces.places(table[:, side], str(path)) for side in (0, 1))
            parts.append((one, other, table[:, 2] == 1))
            first += len(lines)
            bar.update(len(lines))
    if not parts:
        raise InputError(f"{path}: is empty; expected a line for each pair")
    one, other, same = (np.concatenate(column) for column in zip(*parts, strict=True))
    if same.all() or not same.any():
        raise InputError(f"{path}: all {len(same):,} pairs have one label; expected pairs of one person and of two")
    return TemplatePairs(one, other, same)


def read_people(folder: Path, name: str, which: str, faces: Faces) -> People:
    """A list of 1:N. which: what its file is called after `1N_`, such as gallery_G1; a template may be named often."""
    path = folder / f"{name}_1N_{which}.csv"
    subjects: dict[int, int] = {}
    for number, line in enumerate(_lines(path)[1:], 2):
        fields = [field.strip() for field in line.split(",")]
        if len(fields) < 2 or not all(map(_is_id, fields[:2])):
            raise _wrong(path, number, line, "a template and a subject, parted by a comma, below a heading")
        template, subject = int(fields[0]), int(fields[1])
        if subjects.setdefault(template, subject) != subject:
            raise _wrong(path, number, line, f"subject {subjects[template]}, as this template had before")
    if not subjects:
        raise InputError(f"{path}: names no template; expected a heading and a line for each")
    templates = np.array(sorted(subjects), np.int64)
    subject = np.array([subjects[one] for one in templates.tolist()], np.int64)
    return People(which, faces.places(templates, str(path)), subject)


def _whole_numbers(path: Path, lines: list[str], first: int) -> np.ndarray:
    """Three whole numbers of every line (n×3, int64). first: number of the first line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # 1.5 for a whole number is only warned of
            table = np.loadtxt(lines, np.int64, comments=None, ndmin=2)
        if table.shape == (len(lines), 3):
            return table
    except (ValueError, Warning):
        pass
    for number, line in enumerate(lines, first):
        fields = line.split()
        if len(fields) != 3 or not all(map(_is_id, fields)):
            raise _wrong(path, number, line, "two templates and 1 or 0")
    raise InputError(f"{path}: lines from {first} on are not three whole numbers each")


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19  # within int64


def _wrong(path: Path, number: int, line: str, expected: str) -> InputError:
    return InputError(f"{path}: line {number} is {line.rstrip()[:QUOTED]!r}; expected {expected}")


def _opened(path: Path):
    try:
        return path.open(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected it beside the other files of its set") from error


def _block(path: Path, file) -> list[str]:
    try:
        return list(islice(file, BLOCK_LINES))
    except (UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: not UTF-8 text ({error}); take it from the release again") from error


def _lines(path: Path) -> list[str]:
    lines = []
    with _opened(path) as file:
        while block := _block(path, file):
            lines += block
    return lines
