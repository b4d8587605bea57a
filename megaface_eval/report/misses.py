"""The worst misses and the closest hits: mates that a distractor beats by the widest margin, and mates that just win.

With thumbnails where there are images.
"""

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from megaface_eval.features.feature_set import FeatureSet
from megaface_eval.protocols.identification import Identified
from megaface_eval.report.schema import Miss, MissImage
from megaface_eval.settings import Sources

SHOWN = 12
THUMBNAIL = 84  # pixels


def worst_misses(found: Identified, probes: FeatureSet, distractors: FeatureSet, sources: Sources) -> list[Miss]:
    """Up to SHOWN missed trials, one a probe, widest margin first; thumbnails where the sources name image folders."""
    margin = found.best_score[found.query] - found.score
    return _widest(found, np.where((found.ranks[-1] > 0) & (margin > 0), margin, -np.inf), probes, distractors, sources)


def closest_hits(found: Identified, probes: FeatureSet, distractors: FeatureSet, sources: Sources) -> list[Miss]:
    """Up to SHOWN found trials, one a probe, narrowest margin first; as the misses are."""
    margin = found.best_score[found.query] - found.score
    return _widest(found, np.where((found.ranks[-1] == 0), margin, -np.inf), probes, distractors, sources)


def _widest(
    found: Identified, margin: np.ndarray, probes: FeatureSet, distractors: FeatureSet, sources: Sources
) -> list[Miss]:
    """The trials of highest margin (T; -inf leaves one out), one a probe."""
    chosen = np.flatnonzero(np.isfinite(margin))
    chosen = chosen[np.argsort(-margin[chosen], kind="stable")]
    _, first = np.unique(found.query[chosen], return_index=True)
    shown = chosen[np.sort(first)][:SHOWN]
    misses = []
    for trial in shown.tolist():
        query, mate = int(found.query[trial]), int(found.mate[trial])
        other = int(found.best_row[query])
        misses.append(
            Miss(
                identity=probes.name_of(int(probes.labels[query])),
                rank=int(found.ranks[-1, trial]) + 1,
                mate_score=float(found.score[trial]),
                distractor_score=float(found.best_score[query]),
                images=[
                    _image("probe", probes, query, sources.probe_images),
                    _image("mate", probes, mate, sources.probe_images),
                    _image("distractor", distractors, other, sources.distractor_images),
                ],
            )
        )
    return misses


def _image(role: str, features: FeatureSet, row: int, root: Path | None) -> MissImage:
    path = features.paths[row] if features.paths is not None else None
    thumbnail = thumbnail_of(root / path) if root is not None and path is not None else None
    shown = None if path is None else path.encode(errors="surrogateescape").decode(errors="replace")
    return MissImage(role=role, row=row, path=shown, thumbnail=thumbnail)


def thumbnail_of(path: Path) -> str | None:
    """A small JPEG as a data URI; None where the file is no readable image."""
    try:
        with Image.open(path) as image:
            small = image.convert("RGB")
            small.thumbnail((2 * THUMBNAIL, 2 * THUMBNAIL))
    except (OSError, UnidentifiedImageError, ValueError):
        return None
    data = io.BytesIO()
    small.save(data, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
