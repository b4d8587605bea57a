"""Feature sets, written: a folder with a row for each image of a data folder.

features.npy (N x D, float32), labels.npy (N, int64), names.txt (where the data has names of identities), meta.json
(what made it).
"""

import json
import os
from contextlib import ExitStack
from pathlib import Path

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
        drafts = [stack.enter_context(output_folder(folder, force=True)) for folder in folders] if chief else []
        matrices: list[np.memmap] = []
        for batch in each_batch(recogniser.embed, dataset, decoding, f"features of {Path(source).name}"):
            # Rank 0 writes for all: pages that several machines map for writing would overwrite each other.
            outputs = [collectives.gather(rows_BD.float().contiguous()) for rows_BD in batch.output]
            if not chief:
                continue
            if not matrices:
                shapes = [(len(dataset), rows_GD.shape[1]) for rows_GD in outputs]
                matrices = [_open(draft, shape) for draft, shape in zip(drafts, shapes, strict=True)]
            for matrix, rows_GD in zip(matrices, outputs, strict=True):
                matrix[batch.images_G[batch.valid_G]] = rows_GD.cpu().numpy()[batch.valid_G]
        for draft, matrix, embedding in zip(drafts, matrices, recogniser.embeddings, strict=True) if chief else ():
            matrix.flush()
            facts = {"data": source, "embedding": embedding, "images": len(dataset), "dimension": matrix.shape[1]}
            _complete(draft, dataset, {**recogniser.facts, **facts})
    group.barrier()


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
