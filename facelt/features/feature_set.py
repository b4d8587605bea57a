"""Feature sets, written: a folder with a row for each image of a data folder.

features.npy (N x D, float32 or float16), labels.npy (N, int64), names.txt (where the data has names of identities),
paths.txt (where it knows the files of its images), list_labels.npy (K, int64: what a list called each label, where the
data is by one), meta.json (what made it); and columns of a number a row (N, float32): norm.npy, the length of each
feature, and what the recogniser knows beside, such as reachability.npy.
"""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from facelt.errors import UserError
from facelt.features.draft import Draft, Plan, made_of
from facelt.features.recognisers import Recogniser
from facelt.images.dali import Decoding
from facelt.images.one_pass import Batch, each_batch
from facelt.parallel import collectives, group
from recordio_tools.atomic import output_folder
from recordio_tools.dataset import RecordDataset

SAMPLE = 512  # rows, evenly spread, by which a set is judged
FEWEST = 8  # images below which alike features say nothing of the recogniser
ALIKE = 0.99  # a mean cosine above it: features that tell nobody from anybody
BLOCK_SECONDS = 20.0  # of rows that a killed process loses, at most


def write_features(
    outputs: list[tuple[Path, Plan]],
    recogniser: Recogniser,
    dataset: RecordDataset,
    decoding: Decoding,
    source: str,
    *,
    half: bool = False,
    force: bool = True,
) -> None:
    """Run a recogniser over a set, all ranks together, and put a feature set in each folder, whole or not at all.

    Interrupted, what is done stays beside the folder, and the same call goes on from there: bit for bit the features of
    an unbroken run at the same number of ranks.

    Args:
        outputs: a folder for each of the recogniser's embeddings, and all that its rows depend on: what was begun
            by another plan is never gone on with.
        recogniser: takes images of `decoding.image_size`.
        dataset: in whose order the rows stand.
        decoding: with the images of a rank in a batch.
        source: the data folder, as meta.json is to name it.
        half: features are kept as float16, in half the space.
        force: existing folders are replaced; else what came meanwhile stays, and these features are dropped.

    Raises:
        UserError: an image does not decode, an output cannot be written or is begun otherwise already, a feature is not
            finite or does not fit float16; or the features of a foreign recogniser are all alike, which says that it
            was fed wrongly. Nothing stays then.
    """
    number = np.dtype(np.float16 if half else np.float32)
    drafts: list[Draft] = []

    def begin() -> None:
        drafts.extend(Draft(folder, plan, force) for folder, plan in outputs)

    def complete() -> None:
        for draft, embedding in zip(drafts, recogniser.embeddings, strict=True):
            _check_spread(draft.matrix, recogniser, source)
            facts = {"data": source, "embedding": embedding, "images": len(dataset)}
            facts |= {"dimension": draft.matrix.shape[1], "made_of": made_of(draft.plan)}
            np.save(draft.folder / "norm.npy", _norms(draft.matrix))
            _complete(draft.folder, dataset, {**recogniser.facts, **facts})

    try:
        group.on_rank_0(begin)
        done = group.share(min((draft.steps for draft in drafts), default=0))
        if done:
            images = min(done * decoding.batch_size * group.world_size(), len(dataset))
            group.say(f"{outputs[0][0]}: goes on behind {images:,} of {len(dataset):,} images")
        try:
            _write_rows(drafts, recogniser, dataset, decoding, number, done)
            group.on_rank_0(complete)
            group.on_rank_0(lambda: [draft.finish() for draft in drafts])
        except UserError:  # what mends it changes the data, the recogniser or the options
            for draft in drafts:
                draft.drop()
            raise
    finally:
        for draft in drafts:
            draft.close()


def _write_rows(
    drafts: list[Draft],
    recogniser: Recogniser,
    dataset: RecordDataset,
    decoding: Decoding,
    number: np.dtype,
    done: int,
) -> None:
    """The rows of all batches behind the first `done`, into the drafts, which rank 0 alone has.

    Rank 0 writes for all: pages that several machines map for writing would overwrite each other.
    """
    kept = time.monotonic()
    title = f"features of {dataset.folder.name}"
    try:
        for batch in each_batch(recogniser.embed, dataset, decoding, title, start=done):
            outputs = [collectives.gather(rows_BD.float().contiguous()) for rows_BD in batch.output.features]
            known = {name: collectives.gather(column_B.float()) for name, column_B in batch.output.columns.items()}
            for rows_GD in outputs:  # the same on all ranks, which end together
                _check_finite(rows_GD[torch.from_numpy(batch.valid_G).to(rows_GD.device)], batch, dataset, number)
            valid_G = batch.valid_G
            columns = {name: column_G.cpu().numpy()[valid_G] for name, column_G in known.items()} if drafts else {}
            for draft, rows_GD in zip(drafts, outputs, strict=False):
                if not done:
                    draft.make((len(dataset), rows_GD.shape[1]), number, [*columns])
                draft.write(batch.images_G[valid_G], rows_GD.cpu().numpy()[valid_G], columns)
            done += 1
            if time.monotonic() - kept > BLOCK_SECONDS:
                kept = time.monotonic()
                for draft in drafts:
                    draft.keep(done)
    finally:  # interrupted, too
        for draft in drafts if done else ():
            draft.keep(done)


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


def _check_finite(rows_nD: torch.Tensor, batch: Batch, dataset: RecordDataset, number: np.dtype) -> None:
    """rows_nD: of the batch's valid images, in their order."""
    bad_n = ~(rows_nD.abs() <= float(np.finfo(number).max)).all(1)
    if not bad_n.any():
        return
    key = dataset.keys[batch.images_G[batch.valid_G][int(bad_n.int().argmax())]]
    if rows_nD.isfinite().all():
        raise UserError(
            f"--half: the feature of record {key} is beyond float16's {np.finfo(number).max:.0f}; leave it out"
        )
    raise UserError(
        f"{dataset.folder}: the feature of record {key} is NaN or infinite ({int(bad_n.sum())} of {len(bad_n)} in its "
        "batch); check what the recogniser is fed, or train it again"
    )


def _check_spread(matrix: np.ndarray, recogniser: Recogniser, source: str) -> None:
    """Refuse features of a foreign recogniser that are all alike; of one's own, warn: it may be at its beginning."""
    sample = np.unique(np.linspace(0, len(matrix) - 1, SAMPLE).astype(np.int64))
    if (n := len(sample)) < FEWEST:
        return
    rows_nD = matrix[sample].astype(np.float64)
    unit_nD = rows_nD / np.linalg.norm(rows_nD, axis=1, keepdims=True).clip(1e-300)
    cosine = float((np.square(unit_nD.sum(0)).sum() - n) / (n * (n - 1)))  # of all pairs but an image with itself
    if cosine <= ALIKE:
        return
    said = f"the mean cosine of {n} images of {source} is {cosine:.4f}: their features are all alike"
    if recogniser.foreign:
        raise UserError(f"{said}; the model wants other pixels: see --mean, --std, --channels and --output-name")
    group.say(f"warning: {said}; such features tell nobody from anybody")


def _norms(matrix: np.ndarray, rows: int = 65536) -> np.ndarray:
    """‖v‖ of every row, float32, a piece at a time: the matrix may be larger than the memory."""
    pieces = [
        np.linalg.norm(matrix[start : start + rows].astype(np.float32), axis=1) for start in range(0, len(matrix), rows)
    ]
    return np.concatenate(pieces)


def _complete(folder: Path, dataset: RecordDataset, facts: dict) -> None:
    """Write what stands beside features.npy."""
    np.save(folder / "labels.npy", dataset.labels)
    if dataset.list_labels is not None:
        np.save(folder / "list_labels.npy", np.array(dataset.list_labels))
    if dataset.names is not None:
        (folder / "names.txt").write_text("".join(f"{name}\n" for name in dataset.names), encoding="utf-8")
    if dataset.paths is not None:
        text = "".join(f"{path}\n" for path in dataset.paths)
        (folder / "paths.txt").write_bytes(text.encode(errors="surrogateescape"))  # file names may be no UTF-8
    (folder / "meta.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
