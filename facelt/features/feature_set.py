"""Feature sets, written: a folder with a row for each image of a data folder.

features.npy (N x D, float32), labels.npy (N, int64), names.txt (where the data has names of identities), meta.json
(what made it); and columns of a number a row (N, float32): norm.npy, the length of each feature, and what the
recogniser knows beside, such as reachability.npy.
"""

import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from facelt.features.recognisers import Recogniser
from facelt.images.dali import Decoding
from facelt.images.one_pass import each_batch
from facelt.parallel import collectives, group
from recordio_tools.atomic import output_folder
from recordio_tools.dataset import RecordDataset


def write_features(
    folders: list[Path], recogniser: Recogniser, dataset: RecordDataset, decoding: Decoding, source: str
) -> None:
    """Run a recogniser over a set, all ranks together, and put a feature set in each folder, whole or not at all.

    Args:
        folders: one for each of the recogniser's embeddings; existing ones are replaced.
        recogniser: takes images of `decoding.image_size`.
        dataset: in whose order the rows stand.
        decoding: with the images of a rank in a batch.
        source: the data folder, as meta.json is to name it.

    Raises:
        UserError: an image does not decode, or an output cannot be written.
    """
    chief = group.rank() == 0
    with ExitStack() as stack:
        drafts: list[Path] = []

        def begin() -> None:
            drafts.extend(stack.enter_context(output_folder(folder, force=True)) for folder in folders)

        group.on_rank_0(begin)
        matrices: list[np.memmap] = []
        columns: dict[str, np.ndarray] = {}
        for batch in each_batch(recogniser.embed, dataset, decoding, f"features of {Path(source).name}"):
            # Rank 0 writes for all: pages that several machines map for writing would overwrite each other.
            outputs = [collectives.gather(rows_BD.float().contiguous()) for rows_BD in batch.output.features]
            known = {name: collectives.gather(column_B.float()) for name, column_B in batch.output.columns.items()}
            if not chief:
                continue
            images, valid_G = batch.images_G[batch.valid_G], batch.valid_G
            if not matrices:
                shapes = [(len(dataset), rows_GD.shape[1]) for rows_GD in outputs]
                matrices = [_open(draft, shape) for draft, shape in zip(drafts, shapes, strict=True)]
            for matrix, rows_GD in zip(matrices, outputs, strict=True):
                matrix[images] = rows_GD.cpu().numpy()[valid_G]
            for name, column_G in known.items():
                column = columns.setdefault(name, np.empty(len(dataset), np.float32))
                column[images] = column_G.cpu().numpy()[valid_G]
        for draft, matrix, embedding in zip(drafts, matrices, recogniser.embeddings, strict=True) if chief else ():
            matrix.flush()
            for name, column in {"norm": _norms(matrix), **columns}.items():
                np.save(draft / f"{name}.npy", column)
            facts = {"data": source, "embedding": embedding, "images": len(dataset), "dimension": matrix.shape[1]}
            _complete(draft, dataset, {**recogniser.facts, **facts})
    group.barrier()


def write_memory(folder: Path, centroids_KD: np.ndarray, facts: dict[str, Any]) -> None:
    """Put a memory where a feature set is wanted, such as a score cohort: a row a class, labelled by it.

    Args:
        folder: replaced if it exists.
        centroids_KD: the rows.
        facts: for meta.json.
    """
    with output_folder(folder, force=True) as draft:
        np.save(draft / "features.npy", centroids_KD.astype(np.float32))
        np.save(draft / "labels.npy", np.arange(len(centroids_KD)))
        facts = {**facts, "images": len(centroids_KD), "dimension": centroids_KD.shape[1]}
        (draft / "meta.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def _norms(matrix: np.ndarray, rows: int = 65536) -> np.ndarray:
    """‖v‖ of every row, float32, a piece at a time: the matrix may be larger than the memory."""
    pieces = [np.linalg.norm(matrix[start : start + rows], axis=1) for start in range(0, len(matrix), rows)]
    return np.concatenate(pieces)


def _open(folder: Path, shape: tuple[int, int]) -> np.memmap:
    """An empty features.npy, mapped for writing, with its space on the disk: a full one would kill a later write."""
    path = folder / "features.npy"
    matrix = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return matrix


def _complete(folder: Path, dataset: RecordDataset, facts: dict) -> None:
    """Write what stands beside features.npy."""
    np.save(folder / "labels.npy", dataset.labels)
    if dataset.names is not None:
        (folder / "names.txt").write_text("".join(f"{name}\n" for name in dataset.names), encoding="utf-8")
    (folder / "meta.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
