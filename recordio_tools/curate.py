"""Long-tailed selections of a set: how many images of each identity stay, and which.

MS1M-LT is described as sampling "images for each identity with a probability proportional to the image numbers of each
identity" (Liu et al., Large-Scale Long-Tailed Recognition in an Open World, 2019, section 4). Both readings are
offered:

- `uniform`: every image is kept with the same probability α, so about α·n_i images of an identity that has n_i;
- `proportional`: an image of identity i is kept with probability min(1, α·n_i), so about min(n_i, α·n_i²).

α follows from the number of images that is asked for; how many identities remain is then a result.
"""

import hashlib
import json
from pathlib import Path

import numpy as np

from recordio_tools.copying import copy_images
from recordio_tools.dataset import DatasetWriter, RecordDataset
from recordio_tools.recordio import RecordError

READINGS = ("uniform", "proportional")
MANIFEST = "manifest.json"


def keep_probability(counts: np.ndarray, alpha: float, reading: str) -> np.ndarray:
    """Probability that an image of each identity is kept, float64[K], from its image counts int64[K]."""
    rate = np.full(len(counts), alpha) if reading == "uniform" else alpha * counts
    return np.minimum(1.0, rate)


def solve_alpha(counts: np.ndarray, images: int, reading: str) -> float:
    """The α at which Σ n_i·p_i(α) = `images`, by bisection. Raises RecordError when there are fewer images."""
    total = int(counts.sum())
    if not 1 <= images <= total:
        raise RecordError(
            f"{images} images asked for, expected 1 to {total}, which is what the set holds", kind="count"
        )
    low, high = 0.0, 1.0
    while low < (middle := (low + high) / 2) < high:
        if float(counts @ keep_probability(counts, middle, reading)) < images:
            low = middle
        else:
            high = middle
    return high


def uniforms(seed: int, count: int) -> np.ndarray:
    """`count` float64 in [0, 1) from the raw PCG64 stream, which is the same on every machine and numpy version."""
    return (np.random.PCG64(seed).random_raw(count) >> np.uint64(11)) * 2.0**-53


def sample_images(labels: np.ndarray, images: int, reading: str, seed: int) -> np.ndarray:
    """Indices (ascending, int64[images]) of the images that stay, of a set with these `labels` (int64[N]).

    Image j of identity i stays while u_j < p_i, with u_j uniform: that is u_j/n_i < α (`proportional`) or u_j < α
    (`uniform`). Keeping the images with the smallest ratios gives exactly the number asked for.
    """
    counts = np.bincount(labels)
    solve_alpha(counts, images, reading)
    ratios = uniforms(seed, len(labels))
    if reading == "proportional":
        ratios /= counts[labels]
    return np.sort(np.argsort(ratios, kind="stable")[:images])


def relabel(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Old label -> new contiguous label in the same order, int64[num_classes], -1 for identities without an image."""
    present = np.bincount(labels, minlength=num_classes) > 0
    return np.where(present, np.cumsum(present) - 1, -1)


def write_selection(
    source: RecordDataset, rows: np.ndarray, out: Path, *, choice: dict | None = None, force: bool = False
) -> dict:
    """Copy the images `rows` to a new set with contiguous labels, identity by identity; returns the manifest.

    With `choice` (how the rows were chosen) the manifest is also written into the set as `manifest.json`.
    """
    new_label = relabel(source.labels[rows], source.num_classes)
    kept = np.flatnonzero(new_label >= 0)
    rows = rows[np.argsort(source.labels[rows], kind="stable")]
    names = None if source.names is None else [source.names[old] for old in kept]
    manifest = _manifest(source, rows, new_label, choice)
    with DatasetWriter(out, len(kept), source.image_size, names=names, force=force) as writer:
        copy_images(source, rows, new_label[source.labels[rows]], writer)
        if choice is not None:
            (writer.partial / MANIFEST).write_text(json.dumps(manifest) + "\n")
    return manifest


def _manifest(source: RecordDataset, rows: np.ndarray, new_label: np.ndarray, choice: dict | None) -> dict:
    classes = source.num_classes
    before = np.bincount(source.labels, minlength=classes)
    after = np.bincount(source.labels[rows], minlength=classes)
    return {
        **(choice or {}),
        "source": {
            "name": source.folder.resolve().name,
            "images": len(source),
            "identities": int((before > 0).sum()),
            "rec_bytes": len(source.data),
            "idx_sha256": hashlib.sha256(source.rec_path.with_suffix(".idx").read_bytes()).hexdigest(),
            "labels_sha256": hashlib.sha256(source.labels.astype("<i8").tobytes()).hexdigest(),
        },
        "images": len(rows),
        "identities": int((after > 0).sum()),
        "dropped": np.flatnonzero((before > 0) & (after == 0)).tolist(),
        "by_old_label": {"before": before.tolist(), "after": after.tolist(), "new_label": new_label.tolist()},
    }


def curate(source: RecordDataset, out: Path, *, images: int, reading: str, seed: int, force: bool = False) -> dict:
    """MS1M-LT sampling of `source` down to `images` images, written to `out` with its manifest, which is returned."""
    counts = np.bincount(source.labels)
    choice = {"method": reading, "seed": seed, "alpha": solve_alpha(counts, images, reading)}
    rows = sample_images(source.labels, images, reading, seed)
    return write_selection(source, rows, out, choice=choice, force=force)
