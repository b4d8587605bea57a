"""The "facelt" block of the DeepSpeed JSON: every knob, its default, and the presets of the head.

DeepSpeed's own keys (train_batch_size, optimizer, zero_optimization, torch_autocast …) keep their meaning and their
place in the same file; each number has one home.
"""

import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from facelt.errors import UserError

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
    loss: cross-entropy; "focal", times (1 - p)^focal_gamma; of logits + log n_k ("balanced_softmax"), n_k the training
    images of class k; or of logits + tau·log(n_k/N) ("logit_adjusted").
    metric: a second loss, on the gathered direct features, times metric_weight (see `metric_losses`): "lifted" or
    "range". metric_margin: α of lifted, a distance; m of range, a squared distance. range_pairs: k of range.
    restart: a stage plain that starts from another run's takes its network alone; its classifier starts anew.
    classifier_start: the cosine classifier's first rows: "random", or each class's mean of the unit features that the
    network gives as it starts, from weights that others trained or another run's.
    learn_scales: of a linear classifier that goes on from another run's, a factor of each class's score is learned and
    nothing else: learnable weight scaling (Kang et al. 2020, section 4.4).
    few_shot: rows of classes of up to so many training images are made of those images by a weight generator, which the
    stage trains on the other classes: few-shot learning without forgetting (Gidaris and Komodakis 2018). Of a cosine
    classifier, alone, with cross-entropy; 0: no rows are.
    """

    classifier: Literal["linear", "cosine"] = "linear"
    scale: Positive = 64
    margin: MarginKind = "none"
    margin_size: NonNegative = 0
    loss: Literal["cross_entropy", "focal", "balanced_softmax", "logit_adjusted"] = "cross_entropy"
    focal_gamma: Positive = 2
    tau: Positive = 1
    metric: Literal["none", "lifted", "range"] = "none"
    metric_weight: Positive = 0.01
    metric_margin: Positive = 1
    range_pairs: Count = 2
    restart: bool = False
    classifier_start: Literal["random", "means"] = "random"
    learn_scales: bool = False
    few_shot: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _agree(self) -> "PlainHeadConfig":
        if self.classifier == "linear":
            only = {"scale", "margin", "margin_size", "classifier_start", "few_shot"}
            _refuse(self, only, 'needs "classifier": "cosine"')
        else:
            _refuse(self, {"learn_scales"}, 'needs "classifier": "linear"')
        if self.restart and self.learn_scales:
            raise ValueError("restart and learn_scales: a classifier that starts anew has no rows to scale; take one")
        if self.loss in ("balanced_softmax", "logit_adjusted") and self.margin != "none":
            raise ValueError(f'"loss": "{self.loss}" and "margin": "{self.margin}" both shift the logits; take one')
        if self.few_shot:
            _refuse(self, {"margin", "margin_size", "loss", "metric"}, 'does nothing beside "few_shot"')
        if self.loss != "focal":
            _refuse(self, {"focal_gamma"}, 'needs "loss": "focal"')
        if self.loss != "logit_adjusted":
            _refuse(self, {"tau"}, 'needs "loss": "logit_adjusted"')
        if self.metric == "none":
            _refuse(self, {"metric_weight", "metric_margin"}, 'needs "metric": "lifted" or "range"')
        if self.metric != "range":
            _refuse(self, {"range_pairs"}, 'needs "metric": "range"')
        return _check_margin(self)


class MetaHeadConfig(Block):
    """The meta head. The defaults are the authors' released code; `PRESETS["paper"]` is the equations as printed, and
    `PRESETS["cosine"]` what a comparison of its pieces favoured (docs/presets.md).

    retrieval           what reads the memory: "hallucinator" (eq. 1), "cosine" to the centroids with a learned
                        temperature, or "mean", a control that reads the same from it for every image
    hallucinator        eq. 1: o = softmax(T_hal v), or linear
    temperature         of cosine retrieval, at its start
    mask_own            probability, in training, that an image's own class is left out of what it reads
    selector            "released": e = tanh(T_sel v) (eq. 4); "zero": the same of v/‖v‖, and T_sel starts at zero;
                        "one": e = 1
    memory              whether v_memory is infused (eq. 2)
    reach               whether v_meta is calibrated by reach_scale/γ (eq. 2); else by 1
    reach_scale         eq. 2: the numerator over γ
    squash              eq. 6: v/(1+‖v‖), or ‖v‖²/(1+‖v‖²)·v/‖v‖
    classify            what the classifier scores: v_meta "squashed" by eq. 6, or as eq. 2 leaves it ("meta")
    scale               the factor of the cosine logits
    classifier_start    the cosine classifier's first rows: "random", U(±1/√D), or the "centroids"
    margin, margin_size of the own class's logit: cosine (cosface) or radians (arcface, adaface)
    direct_weight       weight of a cross-entropy of the normalised direct feature, by the same classifier
    reduction           eq. 7: cross-entropy as mean or sum over the batch
    centroid_loss       "released" (squared, one hinge over all, on the direct feature) or "paper" (eq. 9, on v_meta)
    centroid_on         what the paper's centroid loss takes for v_meta: as eq. 2 leaves it ("meta"), or "squashed"
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
    attention_on        what MA(f) weights: SA(f), the "attended" map, or the "features" f themselves (figure 5c)
    kernels             what visits the classes in training, in every stage: "torch", products and blocks; "triton",
                        kernels of our own; "auto", on CUDA the faster of the two, where they agree
    """

    retrieval: Literal["hallucinator", "cosine", "mean"] = "hallucinator"
    hallucinator: Literal["softmax", "linear"] = "softmax"
    temperature: Positive = 16
    mask_own: Fraction = 0
    selector: Literal["released", "zero", "one"] = "released"
    memory: bool = True
    reach: bool = True
    reach_scale: Positive = 10
    squash: Literal["released", "paper"] = "released"
    classify: Literal["squashed", "meta"] = "squashed"
    scale: Positive = 16
    classifier_start: Literal["random", "centroids"] = "random"
    margin: MarginKind = "none"
    margin_size: NonNegative = 0
    direct_weight: NonNegative = 0
    reduction: Literal["mean", "sum"] = "mean"
    centroid_loss: Literal["released", "paper"] = "released"
    centroid_on: Literal["meta", "squashed"] = "meta"
    centroid_weight: NonNegative = 0.01
    centroid_margin: NonNegative = 10
    centroid_gradient: bool = False
    centroid_update: Literal["released", "gradient", "mean", "refresh"] = "released"
    centroid_momentum: Fraction = 0.9
    refresh_every: Count = 1000
    memory_weight_decay: NonNegative | None = None
    attention: bool = True
    attention_on: Literal["attended", "features"] = "attended"
    kernels: Literal["auto", "torch", "triton"] = "auto"

    @model_validator(mode="after")
    def _agree(self) -> "MetaHeadConfig":
        for (name, value), idle in IDLE.items():
            if getattr(self, name) == value:
                _refuse(self, idle, f"does nothing with {json.dumps(name)}: {json.dumps(value)}")
        if not self.memory and not self.reach and self.centroid_gradient:
            raise ValueError('centroid_gradient does nothing with "memory": false and "reach": false; leave it out')
        if self.retrieval != "cosine":
            _refuse(self, {"temperature"}, 'needs "retrieval": "cosine"')
        if self.retrieval == "mean" and self.mask_own:
            raise ValueError('mask_own leaves nothing out of "retrieval": "mean"; take another retrieval')
        if self.retrieval != "hallucinator" and self.hallucinator == "linear":
            raise ValueError('"hallucinator": "linear" needs "retrieval": "hallucinator"; leave it out')
        if self.centroid_loss == "released":
            _refuse(self, {"centroid_on"}, 'needs "centroid_loss": "paper"; the released one takes the direct feature')
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


# Of the meta head: (knob, value) -> the knobs that do nothing beside it. They are refused, and left out of a preset.
IDLE: dict[tuple[str, Any], set[str]] = {
    ("memory", False): {"retrieval", "hallucinator", "temperature", "mask_own", "selector"},
    ("reach", False): {"reach_scale"},
    ("classify", "meta"): {"squash"},
    ("attention", False): {"attention_on"},
}


def _refuse(block: Block, knobs: set[str], reason: str) -> None:
    """Refuse a knob set to other than its default, which would do nothing here."""
    for name in sorted(knobs):
        if getattr(block, name) != type(block).model_fields[name].default:
            raise ValueError(f"{name} {reason}; change that, or leave {name} out")


def _check_margin(block: Any) -> Any:
    if (block.margin == "none") != (block.margin_size == 0):
        raise ValueError(f'margin "{block.margin}" with margin_size {block.margin_size:g}: set both, or neither')
    return block


class MemoryHeadConfig(Block):
    """Stage memory: stage plain goes on, and its memory is read as prototypes, with logits t·cos(v, c_k).

    c_k are the means of the unit direct features of class k; in training they follow as moving averages, and the loss
    is the classifier's, of `plain_head`, plus weight · CE(scale·(cos(v, c_k) - m_k·[k = y]) + prior·log n_k).

    scale          t in training; what the memory is read with afterwards is calibrated
    weight         of the loss by the memory
    margin         m of the class with the fewest images, as a cosine
    margin_power   m_k = margin · (n_min/n_k)^margin_power, n_k the training images of class k (Cao et al. 2019 have
                   1/4); 0: the same for all
    prior          of log n_k, added to the logits of the memory in training (Menon et al. 2021, Ren et al. 2020)
    momentum       of the moving averages: c_k += (1 - momentum)·(mean of the batch's unit features of k - c_k)
    whitening      at the end, features and memory are multiplied by (S + whitening_ridge·s·I)^(-whitening/2), S the
                   covariance of unit features within classes and s its mean variance; 0: by nothing. Of a linear
                   classifier, which is made to score as before; beside a cosine one, nothing is whitened
    """

    scale: Positive = 16
    weight: NonNegative = 0.5
    margin: NonNegative = 0.5
    margin_power: NonNegative = 0.25
    prior: NonNegative = 0
    momentum: Fraction = 0.9
    whitening: Fraction = 0.5
    whitening_ridge: Positive = 0.3

    @model_validator(mode="after")
    def _agree(self) -> "MemoryHeadConfig":
        if not self.whitening:
            _refuse(self, {"whitening_ridge"}, "does nothing where whitening is 0")
        if not self.margin:
            _refuse(self, {"margin_power"}, "does nothing where margin is 0")
        if not self.weight:
            _refuse(self, {"scale", "margin", "margin_power", "prior"}, "does nothing where weight is 0")
        return self


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
    "cosine": {
        "retrieval": "cosine",
        "mask_own": 0.5,
        "selector": "zero",
        "classifier_start": "centroids",
        "direct_weight": 0.5,
        "centroid_update": "mean",
    },
}


RESNETS = ("resnet10", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
NeckName = Literal["linear", "relu", "batch_norm", "none", "arcface", "depthwise"]


class BackboneConfig(Block):
    """The replicated network.

    name: a ResNet with torchvision's names; an IResNet or the MobileFaceNet with insightface's; "ir…", IResNets whose
    first shortcut is not projected, as AdaFace has them; or "timm", the network that timm names so.
    width: channels of the first layer (the default: 64, of the MobileFaceNet 128). stem: of a ResNet: 7x7 stride 2 and
    pooling, or 3x3 stride 1 as face recognisers have it.
    neck: what makes the embedding of the map (the default: "linear", or as the network's authors have it): a linear
    layer of the mean, alone or with "relu" or "batch_norm" after it; "none", the mean itself; "arcface", of the whole
    map between two batch normalisations; "depthwise", of a weighted sum of each channel.
    meta_neck: of stage meta another one, new at its start, as released for ImageNet-LT; None: that of stage plain.
    batch_norm: whose images make the statistics (all ranks', this rank's), or "frozen" at what `init` holds.
    init: a file of weights (`weights.files`). init_channels: the order of channels that it takes, if it says none.
    How it is run in training, with the same numbers (see `backbone.switch`): compile by torch.compile, maps with
    channels_last, checkpointing of the residual blocks.
    """

    name: Literal[
        "resnet10", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152",
        "iresnet18", "iresnet34", "iresnet50", "iresnet100", "iresnet200",
        "ir18", "ir34", "ir50", "ir101", "mobilefacenet", "timm",
    ] = "resnet50"  # fmt: skip
    timm: str | None = None
    width: Count = 64
    stem: Literal["imagenet", "face"] = "imagenet"
    neck: NeckName = "linear"
    meta_neck: NeckName | None = None
    batch_norm: Literal["synchronised", "local", "frozen"] = "synchronised"
    init: str | None = None
    init_channels: Literal["rgb", "bgr"] | None = None
    compile: bool = False
    channels_last: bool = False
    checkpointing: bool = False

    @model_validator(mode="after")
    def _agree(self) -> "BackboneConfig":
        if (self.name == "timm") != (self.timm is not None):
            raise ValueError(
                f'name "{self.name}" with timm {json.dumps(self.timm)}; '
                'for a network of timm\'s set both: "name": "timm", "timm": "vit_small_patch16_224"'
            )
        if self.name not in RESNETS:
            _refuse(self, {"stem"}, f'does nothing with "name": "{self.name}", which has a stem of its own')
        if self.name == "timm":
            idle = {"width", "channels_last", "checkpointing"}
            _refuse(self, idle, 'does nothing with "name": "timm"')
            if "depthwise" in (self.neck, self.meta_neck):
                raise ValueError(
                    'neck "depthwise" needs a map, and of timm\'s networks the pooled feature is taken; '
                    'set "neck": "linear"'
                )
        elif self.name not in RESNETS:
            _refuse(self, {"channels_last"}, f'is for ResNets, not for "name": "{self.name}"')
        if self.init is None:
            _refuse(self, {"init_channels"}, "needs init, the file that takes them in that order")
        for name, value in self._defaults().items():
            if name not in self.model_fields_set:
                object.__setattr__(self, name, value)  # a default that depends on another knob: not counted as set
        if self.name == "mobilefacenet" and self.width % 64:
            raise ValueError(f'width {self.width} with "name": "mobilefacenet"; expected a multiple of 64')
        return self

    def _defaults(self) -> dict[str, Any]:
        """Of the knobs whose defaults are not those that stand above."""
        if self.name == "mobilefacenet":
            return {"width": 128, "neck": "depthwise"}
        return {"neck": "arcface"} if self.name.startswith("ir") else {}

    @property
    def has_map(self) -> bool:
        """Whether its last map has places to attend to."""
        return self.name != "timm"


class AugmentConfig(Block):
    """Random changes of a training image. Amounts are those of the paper's section D.2, fitted to aligned faces.

    crop_kind: "square" keeps a random square, of `crop` of the image's side at least, and resizes it; "fixed" keeps a
    random square of `image_size` of the image resized to the side `resize`; "resized" keeps a random rectangle of 8 to
    100 % of the area, 3:4 to 4:3, and resizes it.
    flip, grey: probabilities. jitter: brightness, contrast and saturation each times U(1-jitter, 1+jitter).
    """

    crop_kind: Literal["square", "fixed", "resized"] = "square"
    crop: Annotated[float, Field(gt=0, le=1)] = 0.875
    flip: Fraction = 0.5
    jitter: Fraction = 0.4
    grey: Fraction = 0.0

    @model_validator(mode="after")
    def _agree(self) -> "AugmentConfig":
        if self.crop_kind != "square":
            _refuse(self, {"crop"}, 'needs "crop_kind": "square"')
        return self


class StageConfig(Block):
    """One stage. An epoch is as many images as the training set holds, however they are sampled.

    lr_scale: times optimizer.params.lr. The rate is multiplied by `decay` after every `decay_every` epochs.
    class_aware_from: with the sampler "class_aware", the epoch before which images are drawn uniformly all the same.
    classifier_lr, centroid_lr: times that rate, for classifier and hallucinator, and for the centroids. The authors'
    stage 2 on ImageNet-LT has .01 for the network, .1 and .01 (there the selector learns at .1 too).
    warmup: epochs over which it rises from zero. sample_rate: share of the classes without an image in the batch that
    take part in a step (`head.class_sampling`). freeze_backbone: train only neck, attention, selector and head, as the
    authors' Places recipe does; the batch normalisation of what is frozen does not move. freeze_network: train only the
    head; of the network nothing moves.
    """

    epochs: NonNegative = 30
    decay_every: Positive = 10
    decay: Positive = 0.1
    warmup: NonNegative = 0
    lr_scale: Positive = 1
    classifier_lr: Positive = 1
    centroid_lr: Positive = 1
    sampler: Literal["uniform", "class_aware"] = "uniform"
    class_aware_from: NonNegative = 0
    images_per_class: Count = 4
    sample_rate: Annotated[float, Field(gt=0, le=1)] = 1
    freeze_backbone: bool = False
    freeze_network: bool = False

    @model_validator(mode="after")
    def _agree(self) -> "StageConfig":
        if self.sampler == "uniform":
            _refuse(self, {"class_aware_from"}, 'needs "sampler": "class_aware"')
        if self.freeze_network:
            _refuse(self, {"freeze_backbone"}, 'does nothing beside "freeze_network": true')
        if self.class_aware_from and self.class_aware_from >= self.epochs:
            raise ValueError(
                f"class_aware_from {self.class_aware_from:g} is not before the end of the stage, at epochs "
                f'{self.epochs:g}; make it smaller, or set "sampler": "uniform"'
            )
        return self


Pixel = tuple[float, float, float]
# Of 0 … 255 RGB, as face recognisers take it (-1 … 1), and as the networks that torchvision trained on ImageNet do.
FACE_PIXELS = {"pixel_mean": (127.5, 127.5, 127.5), "pixel_std": (127.5, 127.5, 127.5)}
IMAGENET_PIXELS = {"pixel_mean": (123.675, 116.28, 103.53), "pixel_std": (58.395, 57.12, 57.375)}

StageName = Literal["plain", "meta", "memory"]
STAGES: tuple[StageName, ...] = ("plain", "meta", "memory")

SHARES = ("all", "many", "medium", "few")  # of the classes, by their training images
# Of pairs of images, and of people with several images: a figure each, the first tells the best checkpoint.
TARS = {"tar_1e-3": 1e-3, "tar_1e-4": 1e-4}
OF_PAIRS, OF_STRANGERS = ("accuracy", *TARS), ("rank_1", *TARS)
# How images of the training people are named, what a stage is trained for first.
_READINGS: dict[StageName, tuple[str, ...]] = {
    "plain": ("classifier",),
    "meta": ("classifier", "memory"),
    "memory": ("memory", "classifier"),
}


class ValidationConfig(Block):
    """What a stage is measured on while it trains, and which of its checkpoints is kept as the best.

    The list in which a set stands says what it is taken for. packs: verification packs. strangers: data folders of
    people whom the run does not train on. known: data folders of other images of the training people, with their
    labels. A text stands for a list of one. A set is called by its file or folder, a pack without its ending.
    every, unit: how often; the end of a stage always is. share: of the time, at most, before that end; 1: no limit.
    keep_best: the figure, higher is better, whose best checkpoint stays; None, and in a stage that has no such figure:
    the first of the first set. from_best: whether what follows stage plain starts from its best checkpoint, if it has
    one, in place of the newest. many, few: bounds in training images of a class, inclusive.
    """

    packs: tuple[str, ...] = ()
    strangers: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    every: Positive = 1
    unit: Literal["epochs", "steps"] = "epochs"
    share: Annotated[float, Field(gt=0, le=1)] = 0.05
    keep_best: str | None = None
    from_best: bool = False
    many: Count = 100
    few: Annotated[int, Field(ge=0)] = 20

    @field_validator("packs", "strangers", "known", mode="before")
    @classmethod
    def _one(cls, paths: Any) -> Any:
        return (paths,) if isinstance(paths, str) else paths

    @model_validator(mode="after")
    def _agree(self) -> "ValidationConfig":
        named: dict[str, str] = {}
        for path in (*self.packs, *self.strangers, *self.known):
            name = set_name(path)
            if name in named:
                raise ValueError(f"{named[name]} and {path} are both called {name}; give one of them another name")
            named[name] = path
        if self.unit == "steps" and self.every != int(self.every):
            raise ValueError(f'every {self.every:g} steps; expected a whole number, or "unit": "epochs"')
        if self.few >= self.many:
            raise ValueError(f"few {self.few} is not below many {self.many}; change one of them")
        return self

    def figures(self, stage: StageName) -> dict[str, tuple[str, str]]:
        """What is measured in a stage, as far as the sets are large enough: name -> (set, figure)."""
        features = ("", "meta.") if stage == "meta" else ("",)
        of_pairs = [(path, of, figure) for path in self.packs for of in features for figure in OF_PAIRS]
        of_strangers = [(path, of, figure) for path in self.strangers for of in features for figure in OF_STRANGERS]
        of_known = [(path, f"{read}.", share) for path in self.known for read in _READINGS[stage] for share in SHARES]
        every = (*of_pairs, *of_strangers, *of_known)
        return {f"{set_name(path)}.{of}{figure}": (set_name(path), figure) for path, of, figure in every}

    def main_figure(self, stage: StageName) -> str | None:
        """The figure by which the best checkpoint of a stage is told; None where nothing is measured."""
        names = self.figures(stage)
        return self.keep_best if self.keep_best in names else next(iter(names), None)


def set_name(path: str) -> str:
    """What a validation set is called: lfw of packs/lfw.bin, val of data/val."""
    return Path(os.path.abspath(path)).name.removesuffix(".bin")


# Stage meta draws class by class as released; the preset cosine image by image (docs/presets.md).
_META_SAMPLERS = {"cosine": "uniform"}


class TelemetryConfig(Block):
    """Where else than to the bar, metrics.jsonl and TensorBoard a run reports. wandb: to Weights & Biases too."""

    wandb: bool = False


class FaceltConfig(Block):
    """The whole block. preset: where the meta head's defaults come from; `head` overrides single knobs. "facelt" has
    stage memory in the place of stage meta.

    pixel_mean, pixel_std: the network takes (x - mean) / std of RGB 0 … 255; a run that begins from `backbone.init`
    takes what belongs to that file unless told, one that goes on from a checkpoint what belongs to that.
    resize: what is not augmented is the centre, of side image_size, of the image resized to this side; None: all of it.
    data, output: used where the command line names none. products: what the operands of the heads' matrix products are
    rounded to; what accumulates stays float32. score_budget_mb: the largest matrix of scores that a head keeps for its
    backward pass (two at most) instead of computing it again, in MB. deterministic: on CUDA, kernels that give the same
    numbers every time, where torch has them (it warns where not), instead of the fastest.
    log_every, checkpoint_every: in steps. checkpoint_minutes: beside it.
    stall_minutes: a rank that stays so long in one stage of a step ends the run. ddp_timeout: seconds that a collective
    waits for a rank. max_skipped: steps in a row that are skipped, or whose loss is above max_loss_growth times that of
    the stage's first step (or of 1), after which the run ends.
    max_unreadable: share of the images that may not decode (one always may), each replaced by another of its class.
    keep_last: how many checkpoints of a stage are kept, beside the best. keep_every: every n-th of those by
    checkpoint_every stays for good; None: none does.
    """

    data: str | None = None
    output: str | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    image_size: Annotated[int, Field(ge=16)] = 112
    resize: Annotated[int, Field(ge=16)] | None = None
    pixel_mean: Pixel = FACE_PIXELS["pixel_mean"]
    pixel_std: tuple[Positive, Positive, Positive] = FACE_PIXELS["pixel_std"]
    embedding_size: Count = 512
    products: Literal["float32", "tf32", "bfloat16"] = "float32"
    score_budget_mb: NonNegative = 96
    deterministic: bool = False
    preset: Literal["released", "paper", "cosine", "facelt"] = "released"
    backbone: BackboneConfig = BackboneConfig()
    augment: AugmentConfig = AugmentConfig()
    plain: StageConfig = StageConfig()
    meta: StageConfig = StageConfig(sampler="class_aware")
    memory: StageConfig = StageConfig()
    plain_head: PlainHeadConfig = PlainHeadConfig()
    head: MetaHeadConfig = MetaHeadConfig()
    memory_head: MemoryHeadConfig = MemoryHeadConfig()
    validation: ValidationConfig = ValidationConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    log_every: Count = 10
    checkpoint_every: Count = 2000
    keep_last: Count = 2
    keep_every: Count | None = None
    checkpoint_minutes: Positive = 15
    stall_minutes: Positive = 5
    ddp_timeout: Positive = 1800
    max_skipped: Count = 50
    max_loss_growth: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 100
    max_unreadable: Annotated[float, Field(ge=0, lt=1)] = 0.001
    loader_threads: Count = 2

    @model_validator(mode="after")
    def _agree(self) -> "FaceltConfig":
        natural = self.backbone.name in (*RESNETS, "timm")
        for name, pixels in IMAGENET_PIXELS.items() if self.backbone.init and natural else ():
            if name not in self.model_fields_set:
                object.__setattr__(self, name, pixels)  # a default that depends on another knob: not counted as set
        if not self.meta.epochs:
            raise ValueError("meta.epochs 0 trains nothing; expected a number above 0 (plain and memory may have 0)")
        for name, knobs in {"plain": self.plain, "memory": self.memory}.items():
            if knobs.centroid_lr != 1:
                raise ValueError(f"{name}.centroid_lr does nothing: no gradient moves centroids there; leave it out")
        if self.plain_head.few_shot and self.plain.sample_rate != 1:
            raise ValueError("plain.sample_rate does nothing beside plain_head.few_shot; leave it out")
        if self.resize is not None and self.resize < self.image_size:
            raise ValueError(
                f"resize {self.resize} is smaller than image_size {self.image_size}, the side that is cut out of it; "
                "set resize to that or more, or leave it out"
            )
        if self.augment.crop_kind == "fixed" and self.resize is None:
            raise ValueError('"crop_kind": "fixed" needs resize, the side of the image that it is cut out of; set it')
        if self.meta.centroid_lr != 1 and self.head.centroid_update in ("mean", "refresh"):
            raise ValueError(
                f'meta.centroid_lr does nothing with "centroid_update": "{self.head.centroid_update}"; leave it out'
            )
        return self

    def stage(self, name: StageName) -> StageConfig:
        """The knobs of a stage."""
        return {"plain": self.plain, "meta": self.meta, "memory": self.memory}[name]

    @property
    def stages(self) -> tuple[StageName, ...]:
        """The stages of a whole run: what follows stage plain is the preset's."""
        return ("plain", "memory" if self.preset == "facelt" else "meta")

    @model_validator(mode="before")
    @classmethod
    def _presets(cls, block: Any) -> Any:
        if isinstance(block, dict):
            preset = str(block.get("preset", "released"))
            preset = "cosine" if preset == "facelt" else preset  # of a stage meta that is asked for
            meta = {"sampler": _META_SAMPLERS.get(preset, "class_aware")}
            own = {name: block.get(name, {}) for name in ("head", "meta")}
            idle = {knob for switch, knobs in IDLE.items() if _is_set(own["head"], *switch) for knob in knobs}
            head = {name: value for name, value in PRESETS.get(preset, {}).items() if name not in idle}
            defaults = {"head": head, "meta": meta}
            merged = {n: {**defaults[n], **knobs} if isinstance(knobs, dict) else knobs for n, knobs in own.items()}
            block = {**block, **merged}
        return block


def _is_set(knobs: Any, name: str, value: Any) -> bool:
    return isinstance(knobs, dict) and name in knobs and knobs[name] == value


def load(path: str | Path, overrides: list[str] | None = None) -> tuple[dict[str, Any], FaceltConfig]:
    """Read a DeepSpeed JSON: its DeepSpeed part (without the block) and the validated block.

    overrides: "key=value" strings; a dotted key that names a knob of the block ("plain.epochs=2"), or of DeepSpeed
    with a leading "ds." ("ds.train_batch_size=64"); values are JSON, or plain text.
    Raises UserError, in one line, for what cannot be read or is not a knob.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"--deepspeed_config {path}: no such file; expected a DeepSpeed JSON such as jobs/ds.json")
    try:
        ds = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); mend the file") from None
    if not isinstance(ds, dict):
        raise UserError(f"{path}: holds a {type(ds).__name__}; expected a JSON object as in jobs/ds.json")
    block = ds.pop("facelt", {})
    for override in overrides or []:
        _override(ds, block, override)
    try:
        return ds, FaceltConfig.model_validate(block)
    except ValidationError as error:
        raise UserError(f"{path}: {in_one_line(error)}") from None


def _override(ds: dict[str, Any], block: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"--set {override}: expected key=value, such as plain.epochs=2")
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    target, names = (ds, key[3:]) if key.startswith("ds.") else (block, key)
    *parents, last = names.split(".")
    if not isinstance(target, dict):
        raise UserError(f"--set {override}: the block facelt is {target!r}; expected an object with its knobs")
    for name in parents:
        target = target.setdefault(name, {})
        if not isinstance(target, dict):
            raise UserError(f"--set {override}: {name} is a single value; expected key=value with an existing key")
    target[last] = value


def in_one_line(error: ValidationError) -> str:
    """The first complaint of pydantic, in one line that names the knob, what was given and what is known."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in ("facelt", *first["loc"]))
    if first["type"] == "value_error":
        return f"{where}: {first.get('ctx', {})['error']}"
    if first["type"] != "extra_forbidden":
        return f"{where} is {first['input']!r}: {first['msg'].lower()}; correct this key"
    model: Any = FaceltConfig
    for part in first["loc"][:-1]:
        model = model.model_fields[str(part)].annotation
    return f"{where} is not a known key; expected one of: {', '.join(sorted(model.model_fields))}"
