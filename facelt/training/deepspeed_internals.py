"""The names of DeepSpeed that its documentation does not promise, each with what it is needed for.

They hold for the versions in HELD; a test names the installed version and finds each of them there.
"""

from typing import Any

import deepspeed.ops
import torch
from deepspeed.runtime.config import DeepSpeedConfigError
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
from deepspeed.utils import logger, safe_get_full_optimizer_state, safe_set_full_optimizer_state
from torch import Tensor, nn

from facelt.errors import UserError

__all__ = ["DeepSpeedConfigError", "DynamicLossScaler", "LossScaler"]

HELD = ("0.19",)

# What a dynamic loss scale is made of between two steps.
_SCALER_STATE = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")


def quieten() -> None:
    """Keep DeepSpeed from compiling an operator that nothing here uses, and from notices to its own developers.

    The shared-memory operator of its CPU backend costs a minute of g++ at the first start, behind a lock file that a
    killed process leaves locked. Only inference uses it.
    """
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # pyright: ignore[reportAttributeAccessIssue]
    logger.setLevel("ERROR")


def start_moments(engine: Any) -> None:
    """Make ZeRO's partitioned parameters find the moments that their optimizer holds, before the first step."""
    if engine.zero_optimization():
        engine.optimizer._lazy_init_hp_params_optimizer_state()


def reduce_nothing(engine: Any) -> None:
    """On one rank: leave out the sum of gradients over ranks, which copies them to a buffer and back.

    It stays where it rounds them, under communication_data_type.
    """
    engine.enable_backward_allreduce = engine.communication_data_type != torch.float32


def moment_of(parameter: nn.Parameter, moment: str, optimizer: torch.optim.Optimizer) -> Tensor:
    """A moment in full, of a parameter that the optimizer holds whole (ZeRO 0) or in parts. All ranks must call it."""
    if not hasattr(parameter, "_hp_mapping"):
        return optimizer.state[parameter][moment]
    full = safe_get_full_optimizer_state(parameter, moment)
    assert full is not None
    return full


def load_moment(parameter: nn.Parameter, moment: str, optimizer: torch.optim.Optimizer, value: Tensor) -> None:
    """Load what `moment_of` gave, at this number of ranks and ZeRO stage."""
    if hasattr(parameter, "_hp_mapping"):
        safe_set_full_optimizer_state(parameter, value, moment)
    else:
        optimizer.state[parameter][moment].copy_(value)


def take_scaler(engine: Any) -> LossScaler | DynamicLossScaler:
    """The loss scale of float16 autocast, by the knobs of the "fp16" block; 1 at any other precision.

    DeepSpeed's own scalers of autocast are put out of use: each rank's would go by its own part of the gradients.
    Raises UserError for knobs that no scale can have.
    """
    engine.torch_autocast_z0_gradscaler = None
    if engine.zero_optimization():
        engine.optimizer.torch_autocast_gradscaler = None
    if not engine.torch_autocast_enabled() or engine.torch_autocast_dtype() != torch.float16:
        return LossScaler(1)
    if not engine.dynamic_loss_scale():
        return LossScaler(engine.loss_scale())
    knobs = engine.dynamic_loss_scale_args()
    if knobs["scale_window"] < 1 or knobs["min_scale"] <= 0:
        raise UserError(
            f"fp16.loss_scale_window is {knobs['scale_window']} and fp16.min_loss_scale {knobs['min_scale']}; "
            "expected positive numbers; correct the JSON"
        )
    return DynamicLossScaler(**knobs)


def at_its_smallest(scaler: LossScaler | DynamicLossScaler) -> bool:
    """Whether a dynamic loss scale can sink no further."""
    return isinstance(scaler, DynamicLossScaler) and scaler.cur_scale <= scaler.min_scale


def scaler_state(scaler: LossScaler | DynamicLossScaler) -> dict[str, float]:
    """What a dynamic loss scale is made of; {} for a fixed one."""
    return {name: getattr(scaler, name) for name in _SCALER_STATE} if scaler.dynamic else {}


def load_scaler_state(scaler: LossScaler | DynamicLossScaler, values: dict[str, float]) -> None:
    """Load what `scaler_state` gave; what is missing keeps its start, a fixed scale stays."""
    if scaler.dynamic:
        vars(scaler).update({name: values[name] for name in _SCALER_STATE if name in values})
