"""The version of DeepSpeed that is installed is one that the private names hold for, and has each of them."""

import inspect

import deepspeed
import deepspeed.ops
import pytest
from deepspeed.runtime.engine import DeepSpeedEngine
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer
from deepspeed.utils import mixed_precision_linkage
from ranks import run_ranks

from facelt.errors import UserError
from facelt.training import deepspeed_internals as internals


def dynamic_scale() -> internals.DynamicLossScaler:
    return internals.DynamicLossScaler(
        init_scale=4,
        scale_window=2,
        min_scale=1,
        delayed_shift=1,
        consecutive_hysteresis=False,
        raise_error_at_min_scale=False,
    )


def test_the_installed_version_is_one_that_the_names_hold_for():
    assert deepspeed.__version__.startswith(internals.HELD)


def test_every_private_name_is_there():
    assert "deepspeed_shm_comm" in deepspeed.ops.__compatible_ops__
    assert callable(DeepSpeedZeroOptimizer._lazy_init_hp_params_optimizer_state)
    assert "self.torch_autocast_gradscaler" in inspect.getsource(DeepSpeedZeroOptimizer)
    assert "self.torch_autocast_z0_gradscaler" in inspect.getsource(DeepSpeedEngine)
    assert "if self.enable_backward_allreduce and" in inspect.getsource(DeepSpeedEngine)
    assert "_hp_mapping" in inspect.getsource(mixed_precision_linkage)
    assert set(internals.scaler_state(dynamic_scale())) == set(internals._SCALER_STATE)


def scales_through_overflows() -> dict:
    """Two scales, the second started from the first's state after one overflow; then another overflow in both."""
    deepspeed.init_distributed("gloo", verbose=False)  # its scaler logs by rank
    one, other, fixed = dynamic_scale(), dynamic_scale(), internals.LossScaler(1)
    one.update_scale(True)
    smallest = [internals.at_its_smallest(one)]
    internals.load_scaler_state(other, internals.scaler_state(one))
    for scaler in (one, other):
        scaler.update_scale(True)
    internals.load_scaler_state(fixed, internals.scaler_state(one))
    smallest += [internals.at_its_smallest(one), internals.at_its_smallest(fixed)]
    states = [internals.scaler_state(scaler) for scaler in (one, other, fixed)]
    return {"states": states, "smallest": smallest, "fixed": fixed.cur_scale}


def test_a_dynamic_scale_is_saved_and_loaded_and_a_fixed_one_has_nothing_to_save():
    (got,) = run_ranks(1, scales_through_overflows)
    one, other, fixed = got["states"]
    assert one == other
    assert one["cur_scale"] == 1
    assert fixed == {}
    assert got["fixed"] == 1
    assert got["smallest"] == [False, True, False]


class Float16Engine:
    """An engine as `take_scaler` asks it, with knobs of a loss scale that cannot be."""

    def zero_optimization(self):
        return False

    def torch_autocast_enabled(self):
        return True

    def torch_autocast_dtype(self):
        import torch

        return torch.float16

    def dynamic_loss_scale(self):
        return True

    def dynamic_loss_scale_args(self):
        return {"init_scale": 4, "scale_window": 0, "min_scale": 1}


def test_a_loss_scale_that_cannot_be_is_refused():
    with pytest.raises(UserError, match=r"fp16.loss_scale_window is 0 .* expected positive numbers"):
        internals.take_scaler(Float16Engine())
