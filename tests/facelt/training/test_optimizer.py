"""The norm is the whole model's to the last digit, and the fused step is torch's plain one."""

import math

import numpy as np
import pytest
import torch
from ranks import run_ranks

from facelt.errors import UserError
from facelt.parallel import group
from facelt.training.optimizer import norm_and_loss, split, start_moments

KNOBS = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}


def norm_over_ranks(bad: float | None) -> tuple[float, float]:
    rows = torch.arange(70_000, dtype=torch.float32).view(700, 100).tensor_split(group.world_size())[group.rank()]
    if bad is not None and group.rank() == group.world_size() - 1:
        rows = rows.clone()
        rows[-1, -1] = bad
    same = torch.full((5, 3), 1000.0)
    return norm_and_loss([rows, torch.zeros(0)], [same], torch.tensor(1.0 + group.rank()))


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_sharded_gradients_add_up_and_replicated_ones_count_once(ranks):
    n = 69_999
    want = math.sqrt(n * (n + 1) * (2 * n + 1) / 6 + 15 * 1000.0**2)
    norms, losses = zip(*run_ranks(ranks, norm_over_ranks, None), strict=True)
    assert norms == pytest.approx([want] * ranks, rel=1e-7)
    assert losses == (sum(range(1, ranks + 1)),) * ranks


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_one_element_of_one_rank_spoils_it_for_all(bad):
    assert not any(math.isfinite(norm) for norm, _ in run_ranks(2, norm_over_ranks, bad))


def test_millions_of_elements_lose_no_digits():
    gradient = torch.rand(5_000_000, generator=torch.Generator().manual_seed(1)).view(5000, 1000)
    want = np.sqrt(np.square(gradient.numpy().astype(np.float64)).sum())
    assert norm_and_loss([gradient], [], torch.zeros(()))[0] == pytest.approx(want, rel=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("more", [{}, {"nesterov": True}, {"momentum": 0}, {"maximize": True}])
@pytest.mark.parametrize("scale", [None, 8.0])
def test_the_fused_step_is_torchs_plain_one(dtype, more, scale):
    """Four steps on rows that do not fill a vector register; a gradient scale divides the gradient first."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(37, 13, generator=generator, dtype=dtype)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    _, knobs, _ = split({"optimizer": {"type": "SGD", "params": {**KNOBS, **more}}})
    fused = torch.optim.SGD([ours], **knobs)
    assert fused.param_groups[0]["fused"]
    start_moments(fused, ("momentum_buffer",) if knobs["momentum"] else ())
    fused.grad_scale = None if scale is None else torch.tensor(scale)
    plain = torch.optim.SGD([theirs], **{**KNOBS, **more}, foreach=False, fused=False)
    for _ in range(4):
        gradient = torch.randn(37, 13, generator=generator, dtype=dtype)
        ours.grad, theirs.grad = gradient.clone(), gradient / (scale or 1.0)
        fused.step()
        plain.step()
    tolerance = 1e-6 if dtype == torch.float32 else 1e-14
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def test_deepspeed_is_left_nothing_that_would_act_on_the_network_alone():
    given = {
        "optimizer": {"type": "SGD", "params": {"lr": 1}},
        "gradient_clipping": 2,
        "zero_optimization": {"stage": 2},
    }
    ds, knobs, clipping = split(given)
    assert (clipping, ds["gradient_clipping"]) == (2.0, 0.0)
    assert ds["zero_optimization"] == {"stage": 2, "compute_grad_norm": False}
    assert knobs == {"lr": 1, "fused": True}
    assert given["zero_optimization"] == {"stage": 2}  # the caller's own is not touched
    assert split({"optimizer": {"type": "SGD", "params": {"lr": 1}}})[2] == 0.0


SGD = {"type": "SGD", "params": {"lr": 0.1}}


@pytest.mark.parametrize(
    "ds, said",
    [
        ({"train_batch": 8}, "train_batch is not known, or does nothing here; did you mean train_batch_size?"),
        ({"scheduler": {"type": "WarmupLR"}}, "scheduler is not known, or does nothing here"),
        (
            {"torch_autocast": {"enabled": True, "dtype": "int8"}},
            "torch_autocast.dtype is 'int8'; expected bfloat16 or",
        ),
        ({"torch_autocast": {"enabled": "yes"}}, "torch_autocast.enabled is 'yes'"),
        ({"torch_autocast": {"enable": True}}, "did you mean torch_autocast.enabled?"),
        ({"optimizer": {**SGD, "legacy_fusion": True}}, "optimizer.legacy_fusion is not known"),
        ({"optimizer": {"type": "SGD", "params": {}}}, "optimizer.params.lr is None"),
        *(
            (
                {"optimizer": {"type": "SGD", "params": {"lr": 0.1, name: value}}},
                f"optimizer.params.{name} is {value!r}",
            )
            for name in ("lr", "momentum", "weight_decay", "dampening")
            for value in (-1, "0.1", True, float("nan"), float("inf"))
        ),
        ({"optimizer": {"type": "SGD", "params": {"lr": 0.1, "nesterov": True}}}, "does nothing without momentum"),
        ({"optimizer": {"type": "SGD", "params": {"lr": 0.1, "nesterov": "on"}}}, "expected true or false"),
        (
            {"optimizer": {"type": "SGD", "params": {"lr": 0.1, "momentun": 1}}},
            "did you mean optimizer.params.momentum?",
        ),
    ],
)
def test_keys_that_do_nothing_and_values_that_cannot_be_are_one_line(ds, said):
    with pytest.raises(UserError) as caught:
        split({"train_batch_size": 8, "optimizer": SGD, **ds})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
