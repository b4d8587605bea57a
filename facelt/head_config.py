"""The knobs of the two heads, and the presets of the meta head."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0)]


class Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


MarginKind = Literal["none", "cosface", "arcface", "adaface"]


class PlainHeadConfig(Block):
    """The classifier of stage plain: linear, as the paper has it, or cosine on normalised features times `scale`.

    margin, margin_size: of the own class, with the cosine classifier: radians (arcface, adaface) or cosine (cosface).
    """

    classifier: Literal["linear", "cosine"] = "linear"
    scale: Positive = 64
    margin: MarginKind = "none"
    margin_size: NonNegative = 0

    @model_validator(mode="after")
    def _agree(self) -> "PlainHeadConfig":
        if self.classifier == "linear":
            _refuse(self, {"scale", "margin", "margin_size"}, 'needs "classifier": "cosine"')
        return _check_margin(self)


class HeadConfig(Block):
    """The meta head. The defaults are the authors' released code; `PRESETS["paper"]` is the equations as printed, and
    `PRESETS["facelt"]` what `tests/bench/presets.py` favours.

    retrieval           what reads the memory: "hallucinator" (eq. 1), "cosine" to the centroids with a learned
                        temperature, or "mean", a control that reads the same from it for every image
    hallucinator        eq. 1: o = softmax(T_hal v), or linear
    temperature         of cosine retrieval, at its start
    mask_own            probability, in training, that an image's own class is left out of what it reads
    selector            "released": e = tanh(T_sel v) (eq. 4); "zero": the same of v/‖v‖, and T_sel starts at zero
    reach_scale         eq. 2: the numerator over γ
    squash              eq. 6: v/(1+‖v‖), or ‖v‖²/(1+‖v‖²)·v/‖v‖
    scale               the factor of the cosine logits
    classifier_start    the cosine classifier's first rows: "random", U(±1/√D), or the "centroids"
    margin, margin_size of the own class's logit: cosine (cosface) or radians (arcface, adaface)
    direct_weight       weight of a cross-entropy of the normalised direct feature, by the same classifier
    reduction           eq. 7: cross-entropy as mean or sum over the batch
    centroid_loss       "released" (squared, one hinge over all, on the direct feature) or "paper" (eq. 9, on v_meta)
    centroid_weight     λ of eq. 7
    centroid_margin     m of eq. 9
    centroid_gradient   whether read, reach and cross-entropy pass gradient to the centroids
    centroid_update     what moves the centroids: "released" (its own step, see `losses.released_centroid_loss`),
                        "gradient" (the plain gradient of the centroid loss), "mean" (c += (1 - centroid_momentum)·(mean
                        of the batch's features of its class - c)), or "refresh" (class means over the whole set)
    centroid_momentum   of "mean"
    refresh_every       steps between two passes of "refresh"
    memory_weight_decay weight decay of the centroids; None: the optimizer's; none where no gradient moves them
    attention           modulated attention on the last map (eq. 5)
    """

    retrieval: Literal["hallucinator", "cosine", "mean"] = "hallucinator"
    hallucinator: Literal["softmax", "linear"] = "softmax"
    temperature: Positive = 16
    mask_own: Fraction = 0
    selector: Literal["released", "zero"] = "released"
    reach_scale: Positive = 10
    squash: Literal["released", "paper"] = "released"
    scale: Positive = 16
    classifier_start: Literal["random", "centroids"] = "random"
    margin: MarginKind = "none"
    margin_size: NonNegative = 0
    direct_weight: NonNegative = 0
    reduction: Literal["mean", "sum"] = "mean"
    centroid_loss: Literal["released", "paper"] = "released"
    centroid_weight: NonNegative = 0.01
    centroid_margin: NonNegative = 10
    centroid_gradient: bool = False
    centroid_update: Literal["released", "gradient", "mean", "refresh"] = "released"
    centroid_momentum: Fraction = 0.9
    refresh_every: Count = 1000
    memory_weight_decay: NonNegative | None = None
    attention: bool = True

    @model_validator(mode="after")
    def _agree(self) -> "HeadConfig":
        if self.retrieval != "cosine":
            _refuse(self, {"temperature"}, 'needs "retrieval": "cosine"')
        if self.retrieval == "mean" and self.mask_own:
            raise ValueError('mask_own leaves nothing out of "retrieval": "mean"; take another retrieval')
        if self.retrieval != "hallucinator" and self.hallucinator == "linear":
            raise ValueError('"hallucinator": "linear" needs "retrieval": "hallucinator"; leave it out')
        if self.centroid_loss == "paper" and self.centroid_update == "released":
            raise ValueError('"centroid_loss": "paper" has no released step; set "centroid_update": "gradient"')
        if self.centroid_update in ("mean", "refresh") and self.centroid_gradient:
            raise ValueError(f'centroid_gradient and "centroid_update": "{self.centroid_update}" both move the memory')
        if self.centroid_update in ("mean", "refresh") and self.memory_weight_decay:
            raise ValueError(
                f'memory_weight_decay does nothing with "centroid_update": "{self.centroid_update}"; leave it out'
            )
        if self.centroid_update != "mean":
            _refuse(self, {"centroid_momentum"}, 'needs "centroid_update": "mean"')
        if self.centroid_update != "refresh":
            _refuse(self, {"refresh_every"}, 'needs "centroid_update": "refresh"')
        return _check_margin(self)


def _refuse(block: Block, knobs: set[str], reason: str) -> None:
    """Refuse a knob set to other than its default, which would do nothing here."""
    for name in sorted(knobs):
        if getattr(block, name) != type(block).model_fields[name].default:
            raise ValueError(f"{name} {reason}; set that, or leave {name} out")


def _check_margin(block: Any) -> Any:
    if (block.margin == "none") != (block.margin_size == 0):
        raise ValueError(f'margin "{block.margin}" with margin_size {block.margin_size:g}: set both, or neither')
    return block


PRESETS: dict[str, dict[str, Any]] = {
    "released": {},
    "paper": {
        "hallucinator": "linear",
        "reach_scale": 1,
        "squash": "paper",
        "scale": 1,
        "reduction": "sum",
        "centroid_loss": "paper",
        "centroid_weight": 0.1,
        "centroid_margin": 5,
        "centroid_gradient": True,
        "centroid_update": "gradient",
    },
    "facelt": {
        "retrieval": "cosine",
        "mask_own": 0.5,
        "selector": "zero",
        "classifier_start": "centroids",
        "direct_weight": 0.5,
        "centroid_update": "mean",
    },
}
