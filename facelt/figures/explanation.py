"""What a run made of one image, in numbers: how near it is, what the memory added, whom it resembles.

B: images, D: embedding size, K: classes.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from facelt.figures.opened import OpenedRun, Seen, SomeImages, name_of
from facelt.images.dali import Dataset
from facelt.images.one_pass import each_batch
from recordio_tools.dataset import RecordDataset
from recordio_tools.look.sheet import spread

USUAL = 256  # training images that γ is compared with
TINY = 1e-12  # a norm below it counts as zero


class Identity(NamedTuple):
    """A class beside the image. probability: the classifier's. images: of the training set.

    distance: ‖v_direct - c‖. direct, infused: the cosine of c to v_direct, and to v_direct + e ⊗ v_memory. read: the
    class's coefficient o in what the memory gave (equation 1). All four None in stage plain.
    """

    label: int
    name: str
    images: NDArray[np.int64]
    probability: float
    distance: float | None = None
    direct: float | None = None
    infused: float | None = None
    read: float | None = None


@dataclass(frozen=True)
class Memory:
    """What only a run with a memory has.

    reach: γ of equation 3, and usual: γ of some training images, N. selector: |e| of equation 4, D values. norms: of
    the vectors by name. read_most: classes with the largest coefficients o, in stage meta's own order.
    """

    reach: float
    usual_N: NDArray[np.float32]
    selector_D: NDArray[np.float32]
    norms: dict[str, float]
    read_most: list[Identity]


@dataclass(frozen=True)
class Explanation:
    """nearest: classes by distance to their centroids, in stage plain by probability. best: the classifier's class.

    norm: ‖v_direct‖. memory: None in stage plain. spatial_HW: MA(f) of equation 5, and share: see `opened.Attended`;
    None without attention.
    """

    nearest: list[Identity]
    best: Identity
    norm: float
    memory: Memory | None
    spatial_HW: NDArray[np.float32] | None
    share: float | None


def explain(run: OpenedRun, image: Dataset, train: RecordDataset, top: int) -> Explanation:
    """What the run makes of the one image of a set.

    train: the set that the run was trained on. top: how many classes beside the image.
    Raises UserError where an image does not decode.
    """
    (batch,) = each_batch(run.see, image, run.decoding(1), "the image")
    seen = batch.output
    p_K, top = seen.probabilities_BK[0], min(top, run.state.num_classes)
    identities = _Identities(run, train, seen)
    if seen.embeddings is None:
        nearest = p_K.argsort(descending=True, stable=True)[:top]
        memory = None
    else:
        nearest = identities.distance_K.argsort(stable=True)[:top]
        memory = _memory(run, train, seen, identities, top)
    attended = seen.attended
    return Explanation(
        nearest=[identities.of(int(k)) for k in nearest],
        best=identities.of(int(p_K.argmax())),
        norm=float(seen.direct_BD[0].norm()),
        memory=memory,
        spatial_HW=None if attended is None else attended.spatial_BHW[0].cpu().numpy(),
        share=None if attended is None else float(attended.share_B[0]),
    )


class _Identities:
    """All classes beside one image."""

    def __init__(self, run: OpenedRun, train: RecordDataset, seen: Seen) -> None:
        self.train, self.seen = train, seen
        if seen.embeddings is not None:
            centroids_KD, v = run.centroids_KD, seen.embeddings
            self.distance_K = (v.direct_BD[0] - centroids_KD).norm(dim=1)
            self.direct_K, self.infused_K = (_cosines(x, centroids_KD) for x in (v.direct_BD[0], v.infused_BD[0]))

    def of(self, label: int) -> Identity:
        images = np.flatnonzero(self.train.labels == label)
        found = Identity(label, name_of(self.train, label), images, float(self.seen.probabilities_BK[0, label]))
        if self.seen.coefficients_BK is None:
            return found
        return found._replace(
            distance=float(self.distance_K[label]),
            direct=float(self.direct_K[label]),
            infused=float(self.infused_K[label]),
            read=float(self.seen.coefficients_BK[0, label]),
        )


def _cosines(x_D: Tensor, centroids_KD: Tensor) -> Tensor:
    return normalize(centroids_KD, eps=TINY) @ normalize(x_D, dim=0, eps=TINY)


def _memory(run: OpenedRun, train: RecordDataset, seen: Seen, identities: _Identities, top: int) -> Memory:
    v, e_BD, o_BK = seen.embeddings, seen.concept_BD, seen.coefficients_BK
    assert v is not None
    assert e_BD is not None
    assert o_BK is not None
    some = SomeImages(train, spread(np.arange(len(train)), USUAL))
    usual = [
        batch.output.embeddings.reach_B.cpu().numpy()[batch.valid_G]
        for batch in each_batch(run.see, some, run.decoding(64), "training images to compare with")
        if batch.output.embeddings is not None
    ]
    vectors = {
        "direct feature v_direct": v.direct_BD,
        "memory feature v_memory": v.memory_BD,
        "what is added, e ⊗ v_memory": e_BD * v.memory_BD,
        "infused, v_direct + e ⊗ v_memory": v.infused_BD,
        "meta-embedding v_meta": v.meta_BD,
    }
    return Memory(
        reach=float(v.reach_B[0]),
        usual_N=np.concatenate(usual),
        selector_D=e_BD[0].abs().cpu().numpy(),
        norms={name: float(torch.linalg.vector_norm(rows_BD[0])) for name, rows_BD in vectors.items()},
        read_most=[identities.of(int(k)) for k in o_BK[0].argsort(descending=True, stable=True)[:top]],
    )
