"""What both halves share of SGD: its knobs in the JSON, the moments it starts with, one gradient norm for all."""

import difflib
import inspect
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from facelt.errors import UserError
from facelt.parallel import collectives, group

# How the arithmetic is done is not the user's to choose: torch's fused kernel, a fifth of the time of the plain one.
_IMPLEMENTATIONS = {"foreach", "fused", "differentiable"}
KNOBS = sorted(set(inspect.signature(torch.optim.SGD).parameters) - {"params"} - _IMPLEMENTATIONS)
NUMBERS = ("lr", "momentum", "dampening", "weight_decay")  # of KNOBS; the others are switches
# DeepSpeed's keys that do something here; its schedulers, checkpoints, data and pipelines have no part in a run.
KEYS = (
    "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "optimizer",
    "zero_optimization", "gradient_clipping", "torch_autocast", "fp16", "bf16", "communication_data_type",
    "prescale_gradients", "gradient_predivide_factor", "disable_allgather", "zero_allow_untested_optimizer",
    "steps_per_print", "wall_clock_breakdown", "memory_breakdown", "dump_state", "comms_logger", "flops_profiler",
)  # fmt: skip
AUTOCAST_KEYS = ("enabled", "dtype", "lower_precision_safe_modules")
AUTOCAST_TYPES = ("bfloat16", "float16")
# A float32 sum of squares over millions of elements loses digits (0.2 % over 38M): rows this long lose none that count.
_ROW = 4096


def norm_and_loss(sharded: Iterable[Tensor], replicated: Iterable[Tensor], loss: Tensor) -> tuple[float, float]:
    """‖g‖ of the whole model, and the loss, the same on all ranks; inf or nan where any element of any rank is.

    sharded: this rank's gradients of what each rank holds a part of. replicated: gradients that all ranks hold alike,
    which count once. loss: this rank's share, a scalar. One collective of two float64 numbers.
    """
    total = _square_sums([*sharded, *(replicated if group.rank() == 0 else ())], loss)
    square, whole = collectives.all_sum(torch.stack([total, loss.detach().double()])).tolist()
    return math.sqrt(square) if square >= 0 else math.nan, whole


def _square_sums(tensors: list[Tensor], like: Tensor) -> Tensor:
    """Σ x² of all elements of all tensors, in float64. like: any tensor of their device."""
    if like.is_cuda and tensors:  # one launch for all, which adds in float64; a CPU has it as one pass after another
        each = [tensor.detach() for tensor in tensors]
        norms = torch._foreach_norm(each, 2, dtype=torch.float64)  # pyright: ignore[reportPrivateImportUsage]
        return torch.stack(norms).square().sum()
    total = torch.zeros((), dtype=torch.float64, device=like.device)
    for tensor in tensors:
        total += _square_sum(tensor)
    return total


def _square_sum(tensor: Tensor) -> Tensor:
    """Σ x² in float64, in one pass and without a copy of the tensor."""
    flat = tensor.detach().reshape(-1)
    whole = len(flat) // _ROW * _ROW
    norms = torch.linalg.vector_norm(flat[:whole].view(-1, _ROW), dim=1)
    return norms.double().square().sum() + torch.linalg.vector_norm(flat[whole:]).double().square()


def start_moments(optimizer: torch.optim.Optimizer, moments: tuple[str, ...]) -> None:
    """Give every parameter moments of zero, which torch would make only at its first step (and, there, undamped)."""
    for param_group in optimizer.param_groups:
        for parameter in param_group["params"]:
            optimizer.state[parameter] = {moment: torch.zeros_like(parameter) for moment in moments}


def split(ds: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], float]:
    """DeepSpeed's configuration without what is done for both halves at once: optimizer, clipping and its norm.

    Returns it, the parameters of the optimizer, and `gradient_clipping` (0: none).
    Raises UserError for what the replicated and the class-sharded half could not do alike.
    """
    ds = dict(ds)
    _known("", ds, KEYS)
    knobs = _optimizer_knobs(ds.pop("optimizer", None))
    clipping = ds.get("gradient_clipping", 0.0)
    if isinstance(clipping, bool) or not isinstance(clipping, int | float) or not 0 <= clipping < float("inf"):
        raise UserError(f"gradient_clipping is {clipping!r}; expected the largest norm of the gradient, or 0 for none")
    zero = ds.get("zero_optimization", {})
    stage = zero.get("stage", 0) if isinstance(zero, dict) else zero
    if not isinstance(zero, dict) or stage not in (0, 1, 2):
        raise UserError(f"zero_optimization.stage is {stage!r}; expected 0, 1 or 2: the class axis is sharded already")
    if zero.get("offload_optimizer"):
        raise UserError("zero_optimization.offload_optimizer would step the network on another device; leave it out")
    if stage:
        ds["zero_optimization"] = {**zero, "compute_grad_norm": False}
    for kind in ("fp16", "bf16", "torch_autocast"):
        if not isinstance(ds.get(kind, {}), dict):
            raise UserError(f'{kind} is {ds[kind]!r}; expected a block such as "torch_autocast": {{"enabled": true}}')
    _check_autocast(ds.get("torch_autocast", {}))
    if any(ds.get(kind, {}).get("enabled") for kind in ("fp16", "bf16")):
        raise UserError('fp16 and bf16 keep no float32 weights; expected "torch_autocast" with a "dtype" instead')
    ds["gradient_clipping"] = 0.0  # left out, DeepSpeed would clip the network alone, to a norm of 1
    ds["fp16"] = {"hysteresis": 1, **ds.get("fp16", {})}  # the first overflow lowers the loss scale, as in torch
    ds.setdefault("zero_allow_untested_optimizer", True)
    return ds, knobs, float(clipping)


def _known(prefix: str, block: dict[str, Any], known: Sequence[str]) -> None:
    """Refuse a key that is unknown or does nothing here, with the one that may have been meant."""
    for key in block:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            meant = f"did you mean {prefix}{near[0]}?" if near else f"expected some of: {', '.join(known)}"
            raise UserError(f"{prefix}{key} is not known, or does nothing here; {meant}")


def _check_autocast(block: dict[str, Any]) -> None:
    _known("torch_autocast.", block, AUTOCAST_KEYS)
    if not isinstance(block.get("enabled", False), bool):
        raise UserError(f"torch_autocast.enabled is {block['enabled']!r}; expected true or false")
    if block.get("dtype", AUTOCAST_TYPES[0]) not in AUTOCAST_TYPES:
        raise UserError(f"torch_autocast.dtype is {block['dtype']!r}; expected {' or '.join(AUTOCAST_TYPES)}")


def _optimizer_knobs(block: Any) -> dict[str, Any]:
    kind, knobs = (block.get("type"), block.get("params")) if isinstance(block, dict) else (block, None)
    if kind != "SGD" or not isinstance(knobs, dict):
        raise UserError(f"optimizer.type is {kind!r}; expected SGD with its params; set it as in jobs/ds.json")
    _known("optimizer.", block, ("type", "params"))
    _known("optimizer.params.", knobs, KNOBS)
    for name, value in {"lr": None, **knobs}.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if name in NUMBERS and not (number and 0 <= value < float("inf")):
            raise UserError(f"optimizer.params.{name} is {value!r}; expected a number from 0 on; set it in the JSON")
        if name not in NUMBERS and not isinstance(value, bool):
            raise UserError(f"optimizer.params.{name} is {value!r}; expected true or false; set it in the JSON")
    if knobs.get("nesterov") and not knobs.get("momentum"):
        raise UserError("optimizer.params.nesterov does nothing without momentum; set that, or leave it out")
    try:
        torch.optim.SGD([torch.zeros(1)], **knobs)
    except (ValueError, TypeError) as error:
        raise UserError(f"optimizer.params: {error}; correct the JSON") from None
    return {**knobs, "fused": True}
