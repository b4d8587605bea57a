"""MegaFace's own files: feature matrices, list files, result files; and trees of them packed into a feature set.

python -m megaface_eval.devkit pack facescrub_features_list.json facescrub _arcface.bin --output probes
"""

import json
import struct
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from tqdm import tqdm

from megaface_eval.errors import InputError, answer
from megaface_eval.features.feature_set import write_features
from megaface_eval.strict_json import read_json
from recordio_tools.atomic import check_writable, output_folder
from recordio_tools.command_line import Parser

FLOATS = {5: np.float32, 6: np.float64}  # OpenCV's CV_32F and CV_64F
HEADER = struct.Struct("<4i")


def read_bin(path: str | Path) -> np.ndarray:
    """A feature matrix: int32 rows, columns, stride in bytes, OpenCV type, then numbers; r×c, float32 or float64."""
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected a MegaFace feature file") from error
    if len(data) < HEADER.size:
        raise InputError(f"{path}: {len(data)} bytes, expected a header of {HEADER.size}: rows, columns, stride, type")
    rows, columns, stride, kind = HEADER.unpack_from(data)
    if kind not in FLOATS:
        raise InputError(f"{path}: OpenCV type {kind}, expected 5 (float32) or 6 (float64)")
    size = np.dtype(FLOATS[kind]).itemsize
    if rows < 1 or columns < 1 or stride < columns * size or len(data) != HEADER.size + rows * stride:
        raise InputError(
            f"{path}: {len(data)} bytes cannot hold {rows}×{columns} numbers of stride {stride}; truncated?"
        )
    table = np.frombuffer(data, np.uint8, offset=HEADER.size).reshape(rows, stride)[:, : columns * size]
    return np.ascontiguousarray(table).view(np.dtype(FLOATS[kind]).newbyteorder("<"))


def write_bin(path: str | Path, matrix: np.ndarray) -> None:
    """Write a float32 or float64 matrix as MegaFace's tools do; a vector of D is D×1."""
    matrix = np.atleast_2d(np.asarray(matrix).T).T
    kind = {np.dtype(kind): number for number, kind in FLOATS.items()}[matrix.dtype]
    header = HEADER.pack(*matrix.shape, matrix.shape[1] * matrix.itemsize, kind)
    Path(path).write_bytes(header + np.ascontiguousarray(matrix).tobytes())


def read_list(path: str | Path) -> tuple[list[str], list[str] | None]:
    """Paths, and identity ids where the list has them, of a devkit list file (`{"path": […], "id": […]}`)."""
    path = Path(path)
    held = read_json(path)
    paths = held.get("path") if isinstance(held, dict) else None
    ids = held.get("id") if isinstance(held, dict) else None
    if not isinstance(paths, list) or not paths or not all(isinstance(p, str) for p in paths):
        raise InputError(f'{path}: expected an object with a list of texts under "path"')
    if ids is not None and (not isinstance(ids, list) or len(ids) != len(paths)):
        raise InputError(f'{path}: "id" and "path" are not lists of one length')
    if len(set(paths)) < len(paths):
        twice = Counter(paths).most_common(1)[0][0]
        raise InputError(f"{path}: {twice!r} is listed twice; expected one entry an image")
    return paths, None if ids is None else [str(one) for one in ids]


def pack_tree(list_path: Path, root: Path, suffix: str, output: Path, *, force: bool = False) -> int:
    """Gather the feature files `root/<path><suffix>` of a list into one feature set; returns the number of rows.

    Labels number the ids in order of first mention; a list without ids (distractors) gets a label a row.
    force: replace an existing output.
    """
    check_writable(output, force=force, folder=True)
    paths, ids = read_list(list_path)
    dimension = read_bin(root / f"{paths[0]}{suffix}").size
    features = np.empty((len(paths), dimension), np.float32)
    for i, path in enumerate(tqdm(paths, unit="file", delay=2)):
        vector = read_bin(root / f"{path}{suffix}").ravel()
        if len(vector) != dimension:
            raise InputError(
                f"{root / (path + suffix)}: {len(vector)} dimensions, the files before it have {dimension}"
            )
        features[i] = vector
    names = list(dict.fromkeys(ids)) if ids else None
    number = {name: i for i, name in enumerate(names or [])}
    labels = np.array([number[one] for one in ids]) if ids else np.arange(len(paths))
    meta = {"method": suffix.removesuffix(".bin").strip("_"), "source": str(list_path), "dimension": dimension}
    with output_folder(output, force=force) as folder:
        write_features(folder, features, labels, names, paths, meta)
    return len(paths)


def result_files(name: str, size: int, curves: bytes, matches: bytes) -> dict[str, bytes]:
    """The devkit's two result files for one method, by their names there."""
    stem = f"facescrub_megaface_{name.replace('/', '_')}_{size}_1.json"
    return {f"cmc_{stem}": curves, f"matches_{stem}": matches}


def encode_curves(cmc: tuple[list, list], roc: tuple[list, list]) -> bytes:
    """CMC (ranks from 0, shares found) and ROC (FAR, TAR) as the devkit writes them."""
    return json.dumps({"cmc": cmc, "roc": roc}).encode()


def encode_matches(query: np.ndarray, mate: np.ndarray, ranks: np.ndarray) -> bytes:
    """The rank (from 0) of every trial's mate (T each) as the devkit writes them.

    Item i is the i-th image that was put among the distractors; its probes are the images that looked for it.
    """
    order = np.lexsort((query, mate))
    edges = np.flatnonzero(np.diff(mate[order])) + 1
    matches = [
        {"probes": {"idx": query[part].tolist(), "rank": ranks[part].tolist()}} for part in np.split(order, edges)
    ]
    return json.dumps(matches).encode()


def main(arguments: list[str] | None = None) -> int:
    """`pack` a tree of feature files; 0 done, 2 the user's mistake."""
    parser = Parser(
        prog="python -m megaface_eval.devkit",
        description=str(__doc__).splitlines()[0],
        epilog="example:\n  " + str(__doc__).splitlines()[2],
    )
    pack = parser.add_subparsers(dest="action", required=True).add_parser(
        "pack", help="a tree of .bin files to a feature set"
    )
    pack.add_argument("list", type=Path, help="facescrub_features_list.json, megaface_features_list.json_1000000_1 …")
    pack.add_argument("root", type=Path, help="folder that the list's paths start from")
    pack.add_argument("suffix", help="what follows each path in a file's name, such as _arcface.bin")
    pack.add_argument("--output", type=Path, required=True, help="folder of the new feature set")
    pack.add_argument("--force", action="store_true", help="replace an existing output")
    options = parser.parse_args(arguments)

    def work() -> None:
        rows = pack_tree(options.list, options.root, options.suffix, options.output, force=options.force)
        print(f"{rows} rows in {options.output}")

    return answer(work)


if __name__ == "__main__":
    sys.exit(main())
