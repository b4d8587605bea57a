"""Margins by formula in float64, their gradients against finite differences, and AdaFace's running statistics."""

import math

import pytest
import torch

from facelt.head.margins import Margin, adaface, arcface, cosface

R, M = 7.0, 0.5
# θ from 0 to π: both branches, both ends.
angles = torch.linspace(0, math.pi, 101, dtype=torch.float64)
INSIDE = (angles > 0.01) & (angles < math.pi - 0.01)


def of(theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return R * torch.cos(theta), torch.full_like(theta, R)


def test_cosface_takes_the_margin_off_the_cosine():
    own, r = of(angles)
    torch.testing.assert_close(cosface(own, r, M), R * (torch.cos(angles) - M))


def test_arcface_turns_by_the_margin_and_takes_the_safe_branch_beyond_pi():
    own, r = of(angles)
    got = arcface(own, r, M)
    before = INSIDE & (angles < math.pi - M)
    torch.testing.assert_close(got[before], R * torch.cos(angles[before] + M))
    beyond = INSIDE & (angles > math.pi - M)
    torch.testing.assert_close(got[beyond], R * (torch.cos(angles[beyond]) - M * math.sin(M)))
    assert (got.diff() < 0).all(), "a wider angle never scores higher"


def test_adaface_depends_on_quality():
    own, r = of(angles)
    for q in (-1.0, -0.3, 0.0, 1.0):
        got = adaface(own, r, M, torch.full_like(own, q))
        plain = INSIDE & (angles - M * q > 0) & (angles - M * q < math.pi)
        want = R * (torch.cos(angles - M * q) - (M * q + M))
        torch.testing.assert_close(got[plain], want[plain])
    flat = adaface(*of(torch.tensor([0.2], dtype=torch.float64)), M, torch.ones(1, dtype=torch.float64))
    assert flat.item() == pytest.approx(R * (1 - 2 * M)), "turned past zero, the angle stays zero"


@pytest.mark.parametrize("kind", ["cosface", "arcface", "adaface"])
def test_gradients_by_finite_differences(kind):
    quality = torch.linspace(-1, 1, 7, dtype=torch.float64)
    rules = {
        "cosface": lambda own, r: cosface(own, r, M),
        "arcface": lambda own, r: arcface(own, r, M),
        "adaface": lambda own, r: adaface(own, r, M, quality),
    }
    cos = torch.tensor([-0.97, -0.6, -0.1, 0.2, 0.5, 0.8, 0.93], dtype=torch.float64)
    r = torch.linspace(0.5, 16, 7, dtype=torch.float64)
    assert torch.autograd.gradcheck(rules[kind], ((cos * r).requires_grad_(), r.requires_grad_()))


@pytest.mark.parametrize("kind", ["cosface", "arcface", "adaface"])
@pytest.mark.parametrize("cos", [-1.0, 1.0, 1.0000001])
def test_finite_where_image_and_class_meet_or_oppose(kind, cos):
    own = torch.tensor([16.0 * cos], requires_grad=True)
    got = Margin(kind, M)(own, torch.tensor([16.0]), torch.tensor([0]), torch.tensor([20.0]))
    got.sum().backward()
    assert got.isfinite().all()
    assert own.grad.isfinite().all()
    zero = torch.zeros(1, requires_grad=True)
    Margin(kind, M)(zero, torch.zeros(1), torch.tensor([0]), torch.tensor([0.0])).sum().backward()
    assert zero.grad.isfinite().all()


def test_norm_statistics_by_hand():
    margin = Margin("adaface", M)
    norms = torch.tensor([10.0, 20.0, 30.0, 500.0])
    clipped = [10.0, 20.0, 30.0, 100.0]
    mean = sum(clipped) / 4
    deviation = (sum((n - mean) ** 2 for n in clipped) / 3) ** 0.5
    quality = margin.quality(norms)
    running_mean, running_deviation = 0.99 * 20 + 0.01 * mean, 0.99 * 100 + 0.01 * deviation
    assert (margin.mean, margin.deviation) == pytest.approx((running_mean, running_deviation), rel=1e-6)
    want = [max(-1, min(1, 0.333 * (n - running_mean) / (running_deviation + 1e-3))) for n in clipped]
    assert quality.tolist() == pytest.approx(want, rel=1e-5)


def test_none_changes_nothing():
    own = torch.randn(3)
    assert Margin("none", 0)(own, own, torch.arange(3), own) is own
