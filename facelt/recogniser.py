"""A recogniser from Python: load it, give it pictures, get unit features, compare, identify.

    recogniser = Recogniser.load("runs/lt")          # or an .onnx or .safetensors file
    recogniser.compare(one, other)                   # cosine
    recogniser.identify({"Ann": [a, b], "Bo": c}, pictures)

Pictures are PIL images, or uint8 arrays of shape H x W x 3 in the order R, G, B; aligned as those were that it was
trained on. N: pictures, D: size of a feature.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from facelt.errors import UserError
from facelt.features import recognisers
from facelt.features.onnx_file import OnnxPixels, from_onnx
from facelt.features.pictures import Picture, as_pixels, normalised
from facelt.features.portable import from_safetensors
from facelt.features.recognisers import from_checkpoint
from facelt.head.meta_embedding import EMBEDDINGS
from facelt.run_folder import checkpoint

__all__ = ["Match", "OnnxPixels", "Picture", "Recogniser", "UserError"]

BATCH = 64

Features = NDArray[np.float32]


class Match(NamedTuple):
    """name: of the person in the gallery who is most alike. score: the cosine, -1 … 1."""

    name: str
    score: float


class Recogniser:
    """Turns pictures into unit features. Make one by `load`."""

    def __init__(self, through: recognisers.Recogniser, device: torch.device) -> None:
        self._through, self._device = through, device

    @classmethod
    def load(
        cls,
        path: str | Path,
        embedding: str = "direct",
        pixels: OnnxPixels | None = None,
        device: str | torch.device = "cpu",
    ) -> "Recogniser":
        """A trained run (or a stage or step of it), an ONNX file of anyone, or a file of `facelt.export`.

        Args:
            path: a folder, a file that ends in .onnx, or one that ends in .safetensors.
            embedding: of a run, one of `meta_embedding.EMBEDDINGS`; a file has the one that it was exported with.
            pixels: what an ONNX file expects, where it does not tell.
            device: of a network; ONNX files run where onnxruntime can.

        Raises:
            UserError: there is no recogniser at the path, or it cannot do what is asked for.
        """
        path, on = Path(path), torch.device(device)
        if embedding not in EMBEDDINGS:
            raise UserError(f"embedding {embedding!r} given; expected one of {', '.join(EMBEDDINGS)}")
        if path.suffix not in (".onnx", ".safetensors"):
            if pixels is not None:
                raise UserError(f"{path}: pixels are of ONNX files; leave them out")
            return cls(from_checkpoint(checkpoint.find(path), (embedding,), on), on)
        if embedding != "direct" or (pixels is not None and path.suffix == ".safetensors"):
            what = "embedding" if embedding != "direct" else "pixels"
            raise UserError(f"{path}: a file has its {what} by itself; leave {what} out")
        if path.suffix == ".onnx":
            return cls(from_onnx(path, pixels or OnnxPixels()), torch.device("cpu"))
        return cls(from_safetensors(path, on), on)

    @property
    def dimension(self) -> int:
        """D."""
        height, width = self._through.image_size, self._through.width or self._through.image_size
        return self.features([np.zeros((height, width, 3), np.uint8)], unit=False).shape[1]

    @torch.no_grad()
    def features(self, pictures: Iterable[Picture], unit: bool = True) -> Features:
        """N x D, each of length 1; as the recogniser gives them with unit False.

        Raises UserError for what is no picture, or where a feature is not finite or zero.
        """
        given = [] if isinstance(pictures, Image.Image) else list(pictures)
        if not given:
            raise UserError("no list of pictures given; expected one picture at least, in a list")
        rows = []
        for start in range(0, len(given), BATCH):
            pixels = as_pixels(given[start : start + BATCH], self._through)
            feature_BD = self._through.embed(normalised(pixels, self._through).to(self._device)).features[0]
            rows.append(feature_BD.float().cpu().numpy())
        rows_ND = np.concatenate(rows)
        lengths_N = np.linalg.norm(rows_ND.astype(np.float64), axis=1)
        if not (np.isfinite(lengths_N) & (lengths_N > 0)).all():
            raise UserError(
                f"a feature of length {lengths_N.min():g} … {lengths_N.max():g}; expected finite ones above 0"
            )
        return (rows_ND / lengths_N[:, None]).astype(np.float32) if unit else rows_ND

    def compare(self, one: Picture, other: Picture) -> float:
        """The cosine of two pictures' features, -1 … 1: the higher, the more alike."""
        first, second = self.features([one, other])
        return float(first @ second)

    def identify(self, gallery: Mapping[str, Picture | Sequence[Picture]], pictures: Iterable[Picture]) -> list[Match]:
        """For each picture the most alike person of a gallery.

        gallery: one picture of each person or several, whose unit features are added up. Whether the best score is good
        enough is for a threshold to say that was set on people of one's own.
        """
        if not gallery:
            raise UserError("an empty gallery given; expected a person at least")
        names = list(gallery)
        known = np.stack([self.features(_several(gallery[name])).sum(0) for name in names])
        known /= np.linalg.norm(known, axis=1, keepdims=True)
        scores_NK = self.features(pictures) @ known.T
        best_N = scores_NK.argmax(1)
        return [Match(names[k], float(scores[k])) for k, scores in zip(best_N, scores_NK, strict=True)]


def _several(given: Picture | Sequence[Picture]) -> Sequence[Picture]:
    return given if isinstance(given, Sequence) else [given]
