"""Long-tailed selections of a set: how many images of each identity stay, and which.

MS1M-LT is described as sampling "images for each identity with a probability proportional to the image numbers of each
identity" (Liu et al., Large-Scale Long-Tailed Recognition in an Open World, 2019, section 4). Three readings are
offered:

- `uniform`: every image is kept with the same probability α, so about α·n_i images of an identity that has n_i;
- `proportional`: an image of identity i is kept with probability min(1, α·n_i), so about min(n_i, α·n_i²);
- `literal`: the same with α = 1 / max n, so that nothing is solved and the number of images is a result too.

In the first two α follows from the number of images that is asked for; how many identities remain is a result.
`pareto` gives a Pareto tail by formula instead, and `listed` takes the images that a published list names.
"""

from pathlib import Path

import numpy as np

from recordio_tools.dataset import RecordDataset
from recordio_tools.format.listing import ImageList, clean_path, contiguous_labels, labels_of, read_image_list
from recordio_tools.format.recordio import RecordError
from recordio_tools.rewrite.selection import write_selection
from recordio_tools.writer import PATHS

SOLVED = ("uniform", "proportional")
READINGS = (*SOLVED, "literal")


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


def expected(counts: np.ndarray, images: int | None) -> dict[str, tuple[float, float]]:
    """By each reading, how many images and how many identities are expected to stay: Σ n·p and Σ 1 - (1 - p)^n.

    counts: int64[K]. images: how many are asked for; None leaves out the readings that are solved for it. The draws for
    those keep exactly `images`, which changes the number of identities little.
    """
    alphas = {"literal": 1 / counts.max()}
    if images is not None:
        alphas = {reading: solve_alpha(counts, images, reading) for reading in SOLVED} | alphas
    out = {}
    for reading, alpha in alphas.items():
        kept = keep_probability(counts, alpha, reading)
        out[reading] = float(counts @ kept), float((1 - (1 - kept) ** counts).sum())
    return out


def uniforms(seed: int, count: int) -> np.ndarray:
    """`count` float64 in [0, 1) from the raw PCG64 stream, which is the same on every machine and numpy version."""
    return (np.random.PCG64(seed).random_raw(count) >> np.uint64(11)) * 2.0**-53


def sample_images(labels: np.ndarray, images: int, reading: str, seed: int) -> np.ndarray:
    """Indices (ascending, int64[images]) of the images that stay, of a set with these `labels` (int64[N]).

    Image j of identity i stays while u_j < p_i, with u_j uniform: that is u_j/n_i < α (`proportional`) or u_j < α
    (`uniform`). Keeping the images with the smallest ratios gives exactly the number asked for.
    """
    ratios = uniforms(seed, len(labels))
    if reading == "proportional":
        ratios /= np.bincount(labels)[labels]
    kept = np.flatnonzero(ratios <= np.partition(ratios, images - 1)[images - 1])
    return kept if len(kept) == images else np.sort(np.argsort(ratios, kind="stable")[:images])


def sample_literally(labels: np.ndarray, seed: int) -> np.ndarray:
    """Indices (ascending) of the images that stay with `literal`: image j of identity i while u_j < n_i / max n."""
    counts = np.bincount(labels)
    return np.flatnonzero(uniforms(seed, len(labels)) < keep_probability(counts, 1 / counts.max(), "literal")[labels])


def pareto_counts(counts: np.ndarray, alpha: float, most: int, least: int) -> np.ndarray:
    """Images to keep of each identity, int64[K]: a Pareto tail from `most` down to `least`, as far as the images go.

    The identity of rank r among the K with images, by their number, is given the quantile q = 1 - (r + ½)/K of the
    Pareto distribution with power α, x = (1 - q)^(-1/α), scaled so that rank 0 has `most` images and the last `least`.
    The released benchmarks were drawn at random, and differ: α = 6, 1280 and 5 give 104,850 images where ImageNet-LT
    has 115,846; α = 6, 4980 and 5 give 182,604 where Places-LT has 62,500. Raises RecordError.
    """
    if not (alpha > 0 and np.isfinite(alpha) and 1 <= least <= most):
        problem = (
            f"alpha {alpha:g}, at most {most}, at least {least} given, expected alpha above 0 and 1 <= least <= most"
        )
        raise RecordError(problem, kind="count")
    ranked = np.argsort(-counts, kind="stable")[: int((counts > 0).sum())]
    tail = ((np.arange(len(ranked)) + 0.5) / len(ranked)) ** (-1 / alpha)
    share = (tail - tail[-1]) / (tail[0] - tail[-1]) if len(ranked) > 1 else np.ones(1)
    wanted = np.zeros(len(counts), np.int64)
    wanted[ranked] = np.rint(least + (most - least) * share).astype(np.int64)
    return np.minimum(wanted, counts)


def take(labels: np.ndarray, wanted: np.ndarray, seed: int) -> np.ndarray:
    """Indices (ascending) of `wanted[i]` random images of each identity i."""
    order = np.lexsort((uniforms(seed, len(labels)), labels))
    grouped = labels[order]
    place = np.arange(len(grouped)) - np.searchsorted(grouped, grouped)
    return np.sort(order[place < wanted[grouped]])


def curate(
    source: RecordDataset, out: Path, *, images: int | None, reading: str, seed: int, force: bool = False
) -> dict:
    """MS1M-LT sampling of `source`, written to `out` with its manifest, which is returned.

    images: how many to keep; None with `literal`, which says itself how many. Raises RecordError otherwise.
    """
    if (images is None) != (reading == "literal"):
        expected = "none: it follows" if reading == "literal" else "how many are to stay"
        raise RecordError(f"{images} images asked for with reading {reading}, expected {expected}", kind="count")
    counts = np.bincount(source.labels)
    alpha = 1 / counts.max() if images is None else solve_alpha(counts, images, reading)
    choice = {"method": reading, "seed": seed, "alpha": float(alpha)}
    if images is None:
        rows = sample_literally(source.labels, seed)
    else:
        rows = sample_images(source.labels, images, reading, seed)
    return write_selection(source, rows, out, choice=choice, force=force)


def curate_pareto(
    source: RecordDataset, out: Path, *, alpha: float, most: int, least: int, seed: int, force: bool = False
) -> dict:
    """A Pareto-tailed selection (`pareto_counts`) with random images of each identity, and its manifest."""
    wanted = pareto_counts(np.bincount(source.labels), alpha, most, least)
    choice = {"method": "pareto", "seed": seed, "alpha": alpha, "most": most, "least": least}
    return write_selection(source, take(source.labels, wanted, seed), out, choice=choice, force=force)


def curate_listed(
    source: RecordDataset, listing: Path, out: Path, *, like: RecordDataset | None = None, force: bool = False
) -> dict:
    """The images that a list names (`read_image_list`), with its labels where it has them, and the manifest.

    Paths are matched with those of `paths.txt`, the whole of them. Labels are made contiguous (`contiguous_labels`);
    `list_labels` of the manifest holds what they were. like: the set whose labels are kept instead, also where the list
    names no image of one. Labels of record keys must stand for the set's identities one to
    one, since any set has such keys. Raises RecordError when the list is not one of this set.
    """
    listed = read_image_list(listing)
    rows = _rows_of_keys(source, listed) if listed.by_key else _rows_of_paths(source, listed)
    choice: dict = {"method": "list", "list": listing.name}
    order = np.argsort(rows)
    if listed.labels is None:
        if like is not None:
            raise RecordError("has no labels, expected some of --labels-of", path=listing, kind="list")
        return write_selection(source, rows[order], out, choice=choice, force=force)
    if listed.by_key:
        _refuse_other_identities(source.labels[rows], listed.labels, listing)
    if like is None:
        list_labels, labels = contiguous_labels(listed.labels)
        choice["list_labels"] = list_labels.tolist()
    else:
        choice["list_labels"] = like.list_labels or list(range(like.num_classes))
        labels = labels_of(listed, choice["list_labels"], like.folder)
    return write_selection(source, rows[order], out, choice=choice, labels=labels[order], like=like, force=force)


def _rows_of_keys(source: RecordDataset, listed: ImageList) -> np.ndarray:
    keys = np.array([int(image) for image in listed.images], np.int64)
    rows = np.minimum(np.searchsorted(source.keys, keys), len(source) - 1)
    if (unknown := np.flatnonzero(source.keys[rows] != keys)).size:
        problem = f"line {unknown[0] + 1} names image key {keys[unknown[0]]}, which {source.rec_path} does not have"
        raise RecordError(problem, path=listed.file, kind="list")
    return rows


def _rows_of_paths(source: RecordDataset, listed: ImageList) -> np.ndarray:
    if source.paths is None:
        problem = f"names images by path, and {source.folder} has no {PATHS}; pack its pictures again, which writes one"
        raise RecordError(problem, path=listed.file, kind="paths")
    row_of: dict[str, int] = {}
    shared = set()
    for row, path in enumerate(map(clean_path, source.paths)):
        if row_of.setdefault(path, row) != row:
            shared.add(path)
    for number, path in enumerate(listed.images, 1):
        if path in shared:
            problem = f"line {number}: {path!r} is the path of several images of {source.folder}, expected of one"
            raise RecordError(problem, path=listed.file, kind="paths")
    missing = [number for number, path in enumerate(listed.images, 1) if path not in row_of]
    if missing:
        raise listed.without(missing, f"in {source.folder / PATHS}, where they look like {source.paths[0]!r}")
    return np.array([row_of[path] for path in listed.images], np.int64)


def _refuse_other_identities(old: np.ndarray, given: np.ndarray, listing: Path) -> None:
    """Labels that do not stand for the set's identities one to one."""
    pairs = np.unique(np.stack([given, old]), axis=1)
    for column, what, other in ((0, "label", "identities"), (1, "identity", "labels")):
        values, times = np.unique(pairs[column], return_counts=True)
        if (times > 1).any():
            problem = f"{what} {values[np.argmax(times > 1)]} stands for {times.max()} {other} of the set"
            raise RecordError(f"{problem}; is it a list of this set?", path=listing, kind="list")
