"""What the small tables compare: each arm goes on from one plain stage, for as many images again."""

from dataclasses import dataclass, field
from typing import Any

from facelt.config import PRESETS, StageName

COSINE = PRESETS["cosine"]


@dataclass(frozen=True)
class Arm:
    """One way to go on.

    stage, block: what is trained, and the knobs of the facelt block; class_aware_from as a share of the stage. reads:
    readings of facelt.evaluate, its own first. clipping: of gradients. after: another arm that it goes on from, for no
    further image, instead of the plain stage.
    """

    stage: StageName = "plain"
    block: dict[str, Any] = field(default_factory=dict)
    reads: tuple[str, ...] = ("classifier", "memory")
    clipping: float | None = None
    after: str | None = None


def plain(head: dict[str, Any] | None = None, reads: tuple[str, ...] = ("classifier", "memory"), **stage: Any) -> Arm:
    """Stage plain with other knobs of its head and of the stage."""
    return Arm("plain", {"plain_head": head or {}, "plain": stage}, reads)


def released(sampler: str = "class_aware", reads: tuple[str, ...] = ("classifier", "memory"), **head: Any) -> Arm:
    """The released head with one part changed, clipped at 1, which serves it best here."""
    return Arm("meta", {"preset": "released", "head": head, "meta": {"sampler": sampler}}, reads, clipping=1.0)


def cosine_without(*names: str, sampler: str = "uniform", **instead: Any) -> Arm:
    """The preset cosine without its loss on the direct feature, and some of its pieces as released, or otherwise."""
    left = {"direct_weight", *names}
    head = {name: value for name, value in COSINE.items() if name not in left} | instead
    return Arm("meta", {"preset": "released", "head": head, "meta": {"sampler": sampler}})


def prototypes(reads: tuple[str, ...] = ("memory", "plda", "classifier"), **head: Any) -> Arm:
    """The preset facelt, or with a knob changed."""
    return Arm("memory", {"preset": "facelt", "memory_head": head}, reads)


MAIN = ("classifier", "memory", "plda")
METHODS = {
    "plain": plain(reads=(*MAIN, "both", "tau", "logit_adjusted", "ncm", "openmax")),
    "class-aware": plain(reads=MAIN, sampler="class_aware"),
    "deferred class-aware": plain(sampler="class_aware", class_aware_from=0.75),
    "classifier re-training": plain({"restart": True}, sampler="class_aware", freeze_network=True),
    "learnable weight scaling": plain({"learn_scales": True}, sampler="class_aware", freeze_network=True),
    "few-shot without forgetting": plain(
        {"classifier": "cosine", "scale": 16, "restart": True, "classifier_start": "means", "few_shot": 6},
        sampler="class_aware",
    ),
    "focal": plain({"loss": "focal"}),
    "focal, class by class": plain({"loss": "focal"}, sampler="class_aware"),
    "balanced softmax": plain({"loss": "balanced_softmax"}, MAIN),
    "lifted structure": plain({"metric": "lifted"}, sampler="class_aware"),
    "range loss": plain(
        {"metric": "range", "metric_weight": 1e-4}, ("classifier", "memory", "openmax"), sampler="class_aware"
    ),
    "released": released(reads=MAIN),
    "paper": Arm("meta", {"preset": "paper"}, clipping=1.0),
    "cosine": Arm("meta", {"preset": "cosine"}, MAIN),
    "plain, whitened": Arm("memory", {"preset": "facelt", "memory": {"epochs": 0}}, ("memory", "plda"), after="plain"),
    "facelt": prototypes(("memory", "plda", "classifier", "both")),
    "facelt, not whitened": prototypes(whitening=0),
}
PARTS_OFF = {
    "released, image by image": released("uniform"),
    "released, trained with the memory's mean": released(reads=MAIN, retrieval="mean"),
    "released without memory": released(memory=False),
    "released, selector 1": released(selector="one"),
    "released without reach": released(reach=False),
    "released without attention": released(attention=False),
    "released, attention on features": released(attention_on="features"),
}
PIECES = {
    "cosine without its direct loss": cosine_without(),
    "… class by class": cosine_without(sampler="class_aware"),
    "… classifier from nothing": cosine_without("classifier_start"),
    "… hallucinator": cosine_without("retrieval"),
    "… own class never masked": cosine_without("mask_own"),
    "… selector as released": cosine_without("selector"),
    "… centroids as released": cosine_without("centroid_update"),
    "… cosface 0.2, scale 32": cosine_without(margin="cosface", margin_size=0.2, scale=32),
    "facelt, margin 0.3 for all": prototypes(margin=0.3, margin_power=0),
    "facelt without a margin": prototypes(margin=0),
    "facelt, half the prior": prototypes(prior=0.5),
}
GROUPS = {"methods": METHODS, "parts": PARTS_OFF, "pieces": PIECES}
ARMS = {name: arm for group in GROUPS.values() for name, arm in group.items()}
BASELINE = ("plain", "classifier")
