"""What every knob of the "facelt" block means, accepts and is by default, for the page of docs and for --help-knobs.

Names, accepted values and defaults come from the models in `facelt.config`; what a knob means is said in MEANINGS.
"""

import json
import re
import types
import typing
from typing import Any

from annotated_types import Ge, Gt, Le, Lt

from facelt.config import STAGES, Block, FaceltConfig

BOUNDS = {Ge: ("ge", "≥"), Gt: ("gt", ">"), Le: ("le", "≤"), Lt: ("lt", "<")}
OF_STAGES = "plain, meta and memory"
MEANINGS: dict[str, dict[str, str]] = {
    "facelt": {
        "data": "data folder, where the command line gives no `--data`",
        "output": "folder of the run, where the command line gives no `--output`",
        "seed": "of initial weights, order of images, augmentation and everything else that is drawn",
        "image_size": "side of the square images, in pixels; others are resized",
        "resize": "images that are not augmented are the centre of themselves at this side; null: the whole of them",
        "pixel_mean": "the network takes (x − mean)/std of RGB 0 … 255; with `backbone.init` what belongs to the file",
        "pixel_std": "likewise",
        "embedding_size": "D, numbers of an embedding",
        "products": "what operands of the heads' matrix products are [rounded to](#products-of-the-heads); "
        "sums stay float32",
        "score_budget_mb": "largest matrix of scores (images × classes of a rank) that is kept for the backward pass "
        "instead of computed again, in MB; a head keeps two at most",
        "deterministic": "on CUDA, kernels that give the same numbers every time, where torch has them",
        "preset": "where the defaults of `head` and `meta.sampler` come from; `facelt`: stage memory follows plain",
        "log_every": "steps between two lines in `metrics.jsonl`",
        "checkpoint_every": "steps between two checkpoints; the last step is always saved",
        "keep_last": "how many checkpoints of a stage are kept, the newest; beside them the best",
        "keep_every": "every n-th checkpoint made by `checkpoint_every` is kept for good; null: none",
        "checkpoint_minutes": "most minutes between two checkpoints",
        "stall_minutes": "minutes that a rank may stand still before the run ends; at the start 6 times as many",
        "ddp_timeout": "seconds that a collective waits for a rank, on gloo and NCCL",
        "max_skipped": "bad steps in a row that end the run: skipped ones, and those whose loss is too large",
        "max_loss_growth": "times its first value (or 1) that the loss may grow to",
        "max_unreadable": "share of the images that may not decode before the run ends; one always may",
        "loader_threads": "decoding threads of each rank",
    },
    "backbone": {
        "name": "the network, see [weights of others](#weights-of-others); with `timm` the one that `timm` names",
        "timm": "name of a network of timm's, such as `vit_small_patch16_224`",
        "width": "channels of its first layer; of `mobilefacenet` 128, or another multiple of 64",
        "stem": "of a ResNet; `imagenet`: 7 × 7 with stride 2, then pooling; `face`: 3 × 3 with stride 1, no pooling",
        "neck": "what makes the embedding; of `iresnet…` and `ir…` `arcface`, of `mobilefacenet` `depthwise`",
        "meta_neck": "of stage meta another one, new at its start; null: that of stage plain",
        "batch_norm": "statistics over the images of all ranks, of this rank, or frozen as loaded",
        "init": "weights to begin with (`--init` sets it)",
        "init_channels": "order of channels that they take; null: what belongs to the file",
        "compile": "run by torch.compile",
        "channels_last": "of a ResNet of width 8 or more: keep maps in the order batch, height, width, channels",
        "checkpointing": "keep only the inputs of residual blocks and compute the blocks again in the backward pass",
    },
    "augment": {
        "crop_kind": "random squares, windows of `image_size` in `resize`, or rectangles, see [crops](#crops)",
        "crop": "with `square`: smallest side of the random square crop, as a share of the image's; resized back",
        "flip": "probability of mirroring",
        "jitter": "j: brightness, contrast and saturation are each multiplied by U(1 − j, 1 + j)",
        "grey": "probability of losing all colour",
    },
    "plain, meta and memory": {
        "epochs": "length of the stage; an epoch is as many images as the set holds; memory may have 0",
        "decay_every": "epochs between two drops of the learning rate",
        "decay": "factor of each drop",
        "warmup": "epochs over which the rate rises from zero",
        "lr_scale": "factor of `optimizer.params.lr` in this stage",
        "classifier_lr": "factor of that rate for classifier and hallucinator; 10 in the released stage 2",
        "centroid_lr": "factor of that rate for the centroids, where a gradient moves them",
        "sampler": "every image once an epoch, or every class equally often; preset `cosine`: all `uniform`",
        "class_aware_from": "with `class_aware`: before this epoch images are drawn uniformly (deferred re-sampling)",
        "images_per_class": "with `class_aware`: images of one class in a row; they stay on one rank",
        "sample_rate": "share of the classes outside the batch that take part in a step",
        "freeze_backbone": "train only neck, attention, selector and head",
        "freeze_network": "train only the head; of the network nothing moves, its statistics neither",
    },
    "plain_head": {
        "classifier": "linear, or cosine of normalised features",
        "scale": "factor of the cosine",
        "margin": "on the own class; needs the cosine classifier",
        "margin_size": "cosine for cosface, radians for arcface and adaface",
        "loss": "see [methods to compare with](#methods-to-compare-with)",
        "focal_gamma": "γ of the focal loss",
        "tau": "τ of logit adjustment",
        "metric": "a second loss, on the direct features of the batch of all ranks",
        "metric_weight": "its weight",
        "metric_margin": "α of the lifted loss, a distance; m of the range loss, a squared distance",
        "range_pairs": "k of the range loss: of the largest distances within a class",
        "restart": "with `--start-from`: take the network of that run, and start the classifier anew",
        "classifier_start": "first rows of the cosine classifier; `means`: of each class's unit features",
        "learn_scales": "with `--start-from`: learn a factor of each class's score, and nothing else of the classifier",
        "few_shot": "rows of classes of up to so many training images are made by a weight generator; 0: none are",
    },
    "head": {
        "retrieval": "how the memory is read; `mean`, the same for every image, is a control",
        "hallucinator": "weights of the read: softmax over the classes, or as they come",
        "temperature": "start of the learned temperature of cosine retrieval",
        "mask_own": "probability, in training, that an image's own class is left out of its read",
        "selector": "`zero`: starts at zero and sees the normalised feature; `one`: e = 1",
        "memory": "infuse the memory feature (equation 2)",
        "reach": "calibrate by `reach_scale`/γ (equation 2)",
        "reach_scale": "numerator over γ",
        "squash": "v/(1+‖v‖), or ‖v‖²/(1+‖v‖²) · v/‖v‖",
        "centroid_on": "what the paper's centroid loss takes: v_meta before equation 6, or after it",
        "classify": "what the classifier scores: v_meta after equation 6, or before it",
        "scale": "factor of the logits",
        "classifier_start": "first rows of the classifier: U(±1/√D), or the centroids",
        "margin": "on the own class",
        "margin_size": "cosine for cosface, radians for arcface and adaface",
        "direct_weight": "weight of a cross-entropy of the normalised direct feature, by the same classifier",
        "reduction": "of the cross-entropy over the batch",
        "centroid_loss": "squared distances of the direct feature, or equation 9 on the meta-embedding",
        "centroid_weight": "λ, weight of the centroid loss",
        "centroid_margin": "m, margin of the centroid loss",
        "centroid_gradient": "whether read, reach and cross-entropy pass gradient to the centroids",
        "centroid_update": "what moves the centroids, see [equations](equations.md#what-moves-the-memory)",
        "centroid_momentum": "with `mean`: share of the old centroid that is kept",
        "refresh_every": "with `refresh`: steps between two passes over the whole set",
        "memory_weight_decay": "of the centroids; null: the optimizer's",
        "attention": "modulated attention on the last map",
        "attention_on": "what MA(f) weights: the self-attention's map, or the features (figure 5c)",
        "kernels": "what visits the classes in training, in every stage: torch's products, kernels of our own, or on "
        "CUDA the faster, see [kernels](#kernels-of-the-heads)",
    },
    "memory_head": {
        "scale": "t of the logits t · cos(v, c) in training; what is read with is calibrated",
        "weight": "of the loss by the memory, beside the classifier's",
        "margin": "m, of the class with the fewest images, as a cosine",
        "margin_power": "p of m_k = m · (n_min/n_k)^p",
        "prior": "factor of log n_k, added to the logits of the memory in training",
        "momentum": "share of the old centroid that is kept when a class is met",
        "whitening": "at the end, how far features and memory are whitened within classes; 0: not at all",
        "whitening_ridge": "of the mean variance, added to every direction's before",
    },
    "validation": {
        "packs": "verification packs such as lfw.bin: ten-fold accuracy, TAR at FAR",
        "strangers": "data folders of people who are not trained on: rank-1 by the nearest other image, TAR at FAR",
        "known": "data folders of other images of the training people, with their labels: top-1 by reading and shots",
        "every": "how often a stage is validated; its end always is",
        "unit": "of `every`",
        "share": "most of the time that validation may take before the end; 1: no limit",
        "keep_best": "figure whose best checkpoint is kept, such as `lfw.accuracy`; null: the first of the first set",
        "from_best": "what follows stage plain starts from its best checkpoint, where it was validated",
        "many": "training images of a many-shot class, at least",
        "few": "training images of a few-shot class, at most",
    },
    "telemetry": {
        "wandb": "report to Weights & Biases too; needs `pip install 'facelt[wandb]'`",
    },
}


def values(field: Any) -> str:
    """What a field accepts, in words."""
    return _of_type(field.annotation, field.metadata)


def _of_type(kind: Any, bounds: typing.Sequence[Any] = ()) -> str:
    origin = typing.get_origin(kind)
    if origin is typing.Annotated:
        return _of_type(kind.__origin__, [m for b in kind.__metadata__ for m in getattr(b, "metadata", [b])])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_of_type(one) for one in typing.get_args(kind))
    if origin is tuple:
        parts = typing.get_args(kind)
        if parts[-1] is Ellipsis:
            return f"list of {_of_type(parts[0])}"
        return f"{len(parts)} × {_of_type(parts[0])}"
    if origin is typing.Literal:
        return ", ".join(f"`{one}`" for one in typing.get_args(kind))
    name = {int: "whole number", float: "number", bool: "true, false", str: "text", types.NoneType: "null"}[kind]
    signs = {type(b): getattr(b, BOUNDS[type(b)][0]) for b in bounds if type(b) in BOUNDS}
    return " ".join([name, ", ".join(f"{BOUNDS[sign][1]} {limit}" for sign, limit in signs.items())]).strip()


def cell(value: Any) -> str:
    """A default as it is written in JSON, texts without quotation marks."""
    text = value if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else json.dumps(value)
    return f"`{text}`"


def listing() -> str:
    """A line for each knob, by the name that --set takes: its default, what it accepts, what it means."""
    default = FaceltConfig()
    lines = [
        "Knobs of the facelt block, to be put into the JSON or given as --set KEY=VALUE: default (accepts): meaning"
    ]
    lines += _lines("facelt", "", default)
    for name in type(default).model_fields:
        block = getattr(default, name)
        if isinstance(block, Block):
            lines += ["", *_lines(OF_STAGES if name in STAGES else name, f"{name}.", block)]
    return "\n".join(lines)


def _lines(title: str, prefix: str, block: Block) -> list[str]:
    found = []
    for name, field in type(block).model_fields.items():
        value = getattr(block, name)
        if not isinstance(value, Block):
            found.append(_plain(f"{prefix}{name} {cell(value)} ({values(field)}): {MEANINGS[title][name]}"))
    return found


def _plain(markdown: str) -> str:
    """Without the marks of Markdown."""
    return re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", markdown).replace("`", "")
