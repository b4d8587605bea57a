"""Templates of many images, as IJB has them: compared one to one, and searched for in two galleries.

Pooling: the images of one media (a video's frames) are averaged, the means of a template's media are summed, and the
sum is scaled to length 1. With x the feature of an image, that of its mirror image added or appended, and s the score
of its detector:

    norm      weigh  an image weighs by the length of x         unit    every x is first scaled to length 1
    detector  weigh  x is multiplied by s                       ignore  it is not

These are N1, N0, D1, D0 of insightface's scripts, whose F1 is flip `concat` and whose F2 is flip `add`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from megaface_eval.errors import InputError
from megaface_eval.features.feature_set import FeatureSet, spans
from megaface_eval.protocols.open_set import Searches
from megaface_eval.protocols.verification import DIGITS

FLIPS, NORMS, DETECTORS = ("add", "concat", "off"), ("weigh", "unit"), ("weigh", "ignore")
FPIRS = (0.01, 0.1)
RANKS = (1, 5, 10)
ROWS = 8192  # images at a time: 34 MB of float64 at D = 512
PAIRS = 1 << 20  # pairs at a time
STRIP = 1024  # probes at a time
DENSE = 16  # products a pair, up to which all templates of a block of pairs are compared with all


@dataclass(frozen=True)
class Faces:
    """N images in the order of the features, and the T templates that they make.

    images: their names. template: int32 (N), places in `ids`. media: int64 (N). ids: int64 (T), ascending.
    """

    images: list[str]
    template: np.ndarray
    media: np.ndarray
    ids: np.ndarray

    def places(self, ids: np.ndarray, source: str) -> np.ndarray:
        """Places (int32) of templates by their ids. source: names the list in the InputError for one without images."""
        place = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        unknown = self.ids[place] != ids
        if unknown.any():
            raise InputError(
                f"{source}: {unknown.sum():,} of {len(ids):,} entries name a template without images, the first "
                f"{ids[unknown][0]}; expected those of the list of faces: take all files from one release"
            )
        return place.astype(np.int32)


@dataclass(frozen=True)
class TemplatePairs:
    """P pairs of templates. one, other: places, int32 (P). same: bool (P), whether they are of one person."""

    one: np.ndarray
    other: np.ndarray
    same: np.ndarray


@dataclass(frozen=True)
class People:
    """Templates and whose they are. name: of the list. template: places, int32 (n). subject: int64 (n)."""

    name: str
    template: np.ndarray
    subject: np.ndarray


@dataclass(frozen=True, kw_only=True)
class PoolingRule:
    """One of FLIPS, of NORMS and of DETECTORS, as the module's head explains them."""

    flip: str = "off"
    norm: str = "weigh"
    detector: str = "weigh"


@dataclass(frozen=True)
class Searched:
    """Searches of Q probes in two galleries, each probe's mate being in one of them.

    home: int (Q), 0 or 1, the mate's gallery. own: float64 (Q), the mate's score. best: float64 (Q×2), the highest of
    each gallery. rank, rank_in_both: int64 (Q), from 0, of the mate in its gallery and in both put together. highest:
    float64, descending, as many of the scores of other people's templates in both as the largest of FPIRS needs.
    subject: int64 (Q). gallery_sizes: of both.
    """

    home: np.ndarray
    own: np.ndarray
    best: np.ndarray
    rank: np.ndarray
    rank_in_both: np.ndarray
    highest: np.ndarray
    subject: np.ndarray
    gallery_sizes: tuple[int, int]

    def of(self, gallery: int) -> Searches:
        """The searches in one gallery, as open-set identification takes them: who has no mate there is non-mated."""
        mated = self.home == gallery
        return Searches(
            self.rank[mated] == 0, self.best[mated, gallery], self.best[~mated, gallery],
            self.subject[mated], self.subject[~mated],
        )  # fmt: skip


def pool(
    features: FeatureSet, faces: Faces, rule: PoolingRule, *, mirrored: FeatureSet | None, scores: np.ndarray | None
) -> np.ndarray:
    """Unit templates (T×D, float64; T×2D with `concat`), in one pass over the rows of the features.

    mirrored: of the mirror images, for every flip but `off`. scores: the detector's (N), to weigh by. Raises InputError
    for a number of rows that is not the images', a row that is not finite, or a template that is no direction.
    """
    for one in (features, mirrored or features):
        if len(one) != len(faces.images) or one.dimension != features.dimension:
            raise InputError(
                f"{one.where}: {len(one):,} rows of {one.dimension} numbers, expected {len(faces.images):,} of "
                f"{features.dimension}: a row for each line of the list of faces, in its order"
            )
    weights = 1 / _images_of_media(faces)
    if scores is not None and rule.detector == "weigh":
        weights = weights * scores
    sums = np.zeros((len(faces.ids), features.dimension * (2 if rule.flip == "concat" else 1)))
    bar = tqdm(list(spans(len(features), ROWS)), desc="templates", unit="block", delay=2)
    for start, stop in bar:
        rows = _as_pooled(features, mirrored, rule, (start, stop))
        template = faces.template[start:stop]
        order = np.argsort(template, kind="stable")
        first = np.flatnonzero(np.diff(template[order], prepend=-1))
        rows *= weights[start:stop, None]
        sums[template[order[first]]] += np.add.reduceat(rows[order], first)
    lengths = np.linalg.norm(sums, axis=1)
    if not lengths.all():
        raise InputError(
            f"{features.where}: the images of template {faces.ids[lengths == 0][0]} add up to nothing, by their "
            "features or by detector scores of 0; extract them again or give --detector ignore"
        )
    sums /= lengths[:, None]
    return sums


def _images_of_media(faces: Faces) -> np.ndarray:
    """How many images of its template and media there are, for each image (N)."""
    media = np.unique(faces.media, return_inverse=True)[1]
    key = faces.template.astype(np.int64) * (media.max() + 1) + media
    _, place, images = np.unique(key, return_inverse=True, return_counts=True)
    return images[place]


def _as_pooled(
    features: FeatureSet, mirrored: FeatureSet | None, rule: PoolingRule, span: tuple[int, int]
) -> np.ndarray:
    """Rows (float64) as they go into a template, but for weights."""
    rows = features.stored.read(*span).astype(np.float64)
    if rule.flip != "off":
        assert mirrored is not None
        others = mirrored.stored.read(*span).astype(np.float64)
        rows = rows + others if rule.flip == "add" else np.concatenate([rows, others], axis=1)
    lengths = np.linalg.norm(rows, axis=1)
    wrong = ~np.isfinite(lengths) | ((lengths == 0) if rule.norm == "unit" else False)
    if wrong.any():
        raise InputError(
            f"{features.where}: row {span[0] + int(np.argmax(wrong))} is zero, or holds NaN or infinity; expected "
            "finite, non-zero features: extract it again"
        )
    return rows / lengths[:, None] if rule.norm == "unit" else rows


def pair_scores(templates_TD: np.ndarray, pairs: TemplatePairs) -> np.ndarray:
    """Cosines (P, float64) of pairs of unit templates, rounded to DIGITS, so that equal templates score alike.

    Lists name a gallery's templates against many probes': where a block of pairs is dense, its templates are multiplied
    all with all, which takes fewer moves of memory than a gather for each pair.
    """
    scores = np.empty(len(pairs.same))
    with tqdm(total=len(scores), desc="1:1", unit="pair", unit_scale=True, delay=2) as bar:
        for start, stop in spans(len(scores), PAIRS):
            ones, one = np.unique(pairs.one[start:stop], return_inverse=True)
            others, other = np.unique(pairs.other[start:stop], return_inverse=True)
            if len(ones) * len(others) <= DENSE * (stop - start):
                scores[start:stop] = (templates_TD[ones] @ templates_TD[others].T)[one, other]
            else:
                for at, end in spans(stop - start, ROWS):
                    left, right = pairs.one[start + at : start + end], pairs.other[start + at : start + end]
                    products = np.einsum("pd,pd->p", templates_TD[left], templates_TD[right])
                    scores[start + at : start + end] = products
            bar.update(stop - start)
    return np.round(scores, DIGITS, out=scores)


def search_galleries(
    templates_TD: np.ndarray, galleries: Sequence[People], probes: People, *, pessimistic: bool = False
) -> Searched:
    """Search two galleries for every probe, by strips of probes. pessimistic: an equal score beats the mate.

    Raises InputError unless every probe's subject is enrolled by one template of the two galleries together.
    """
    enrolled = np.concatenate([gallery.subject for gallery in galleries])
    size, both = len(galleries[0].subject), templates_TD[np.concatenate([g.template for g in galleries])]
    subjects, first, number = np.unique(enrolled, return_index=True, return_counts=True)
    if (number > 1).any():
        raise InputError(f"subject {subjects[number > 1][0]} is enrolled by two templates; expected one in one gallery")
    known = np.minimum(np.searchsorted(subjects, probes.subject), len(subjects) - 1)
    strangers = subjects[known] != probes.subject
    if strangers.any():
        raise InputError(
            f"{probes.name}: subject {probes.subject[strangers][0]} is in no gallery; expected a mate of every probe"
        )
    mate, queries = first[known], len(probes.subject)
    most = math.ceil(queries * max(FPIRS))
    own, best, ranks = np.empty(queries), np.empty((queries, 2)), np.empty((queries, 2), np.int64)
    highest = np.empty(0)
    for start, stop in tqdm(list(spans(queries, STRIP)), desc="1:N", unit="strip", delay=2):
        scores = np.round(templates_TD[probes.template[start:stop]] @ both.T, DIGITS)
        row = np.arange(stop - start)
        own[start:stop] = mine = scores[row, mate[start:stop]]
        best[start:stop] = np.stack([scores[:, :size].max(1), scores[:, size:].max(1)], axis=1)
        scores[row, mate[start:stop]] = -np.inf
        above = scores >= mine[:, None] if pessimistic else scores > mine[:, None]
        ranks[start:stop] = np.stack([above[:, :size].sum(1), above[:, size:].sum(1)], axis=1)
        highest = np.concatenate([highest, scores[np.isfinite(scores)]])
        if len(highest) > most:
            highest = -np.partition(-highest, most - 1)[:most]
    home = (mate >= size).astype(np.int64)
    return Searched(
        home, own, best, ranks[np.arange(queries), home], ranks.sum(axis=1), -np.sort(-highest), probes.subject,
        (size, len(enrolled) - size),
    )  # fmt: skip


def tpir_of_both(searched: Searched, fpir: float) -> tuple[float | None, float | None]:
    """TPIR in both galleries put together by insightface's rule, and its threshold; None where scores are too few.

    With Q probes, the threshold is the ⌈Q·fpir⌉-th highest score of any other person's template, whoever's probe it is
    of; a mate counts if it scores above it, at any rank.
    """
    at = math.ceil(len(searched.own) * fpir)
    if at > len(searched.highest):
        return None, None
    threshold = float(searched.highest[at - 1])
    return float((searched.own > threshold).mean()), threshold
