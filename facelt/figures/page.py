"""An explanation as one page that holds all it shows."""

from typing import Any

import numpy as np
from PIL import Image

from facelt.figures.attention import overlay
from facelt.figures.explanation import Explanation, Identity, Memory
from facelt.figures.opened import OpenedRun, picture
from facelt.figures.plotting import data_uri
from recordio_tools.dataset import RecordDataset
from recordio_tools.page.rendering import environment

FACES = 6  # of an identity
SIDE = 224  # pixels of the image that is explained
FACE = 96


def page(run: OpenedRun, title: str, image: Image.Image, found: Explanation, train: RecordDataset) -> str:
    """HTML. title: what to call the image."""
    shown = {
        "title": title,
        "run": str(run.folder),
        "step": run.state.step,
        "stage": run.state.stage,
        "retrieval": run.state.config.head.retrieval,
        "side": run.state.config.image_size,
        "image": data_uri(image, SIDE),
        "attention": None if found.spatial_HW is None else data_uri(overlay(image, found.spatial_HW, SIDE), SIDE),
        "map": "" if found.spatial_HW is None else " × ".join(str(n) for n in found.spatial_HW.shape),
        "found": found,
        "faces": lambda identity: faces(identity, train),
        "memory": None if found.memory is None else about(found.memory),
    }
    return environment("facelt", "figures").get_template("page.html.jinja").render(shown)


def faces(identity: Identity, train: RecordDataset) -> list[str]:
    """The first faces of an identity, as data URIs."""
    return [data_uri(picture(train.jpeg(int(i))), FACE) for i in identity.images[:FACES]]


def about(memory: Memory) -> dict[str, Any]:
    """What the page says of γ, |e| and the vectors."""
    half, most = np.percentile(memory.usual_N, (50, 95))
    counts, edges = np.histogram(memory.selector_D, 20, (0, 1))
    return {
        "half": float(half),
        "most": float(most),
        "beyond": float((memory.usual_N > memory.reach).mean()),
        "selector": float(memory.selector_D.mean()),
        "histogram": [
            (float(edge), int(count), count / counts.max()) for edge, count in zip(edges, counts, strict=False)
        ],
        "longest": max(memory.norms.values()),
    }
