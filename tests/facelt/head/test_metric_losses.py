"""Lifted structure and range loss against the formulas pair by pair, and where there is nothing to compare."""

import dense
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from facelt.head.metric_losses import lifted, range_loss


def both(kind: str, f: torch.Tensor, y: torch.Tensor, margin: float, pairs: int) -> list[torch.Tensor]:
    """(loss, gradient) by the vectorised form, and by the twin."""
    out = []
    for module in ({"lifted": lifted, "range": range_loss}, {"lifted": dense.lifted, "range": dense.range_loss}):
        x = f.clone().requires_grad_()
        loss = module[kind](x, y, margin, *([pairs] if kind == "range" else []))
        loss.backward()
        out += [loss.detach(), x.grad]
    return out


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(["lifted", "range"]),
    labels=st.lists(st.integers(0, 4), min_size=3, max_size=9).filter(lambda y: 1 < len(set(y)) < len(y)),
    margin=st.sampled_from([0.5, 3.0, 50.0]),
    pairs=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_is_the_formula(kind, labels, margin, pairs, seed):
    f = torch.randn(len(labels), 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    loss, grad, want_loss, want_grad = both(kind, f, torch.tensor(labels), margin, pairs)
    torch.testing.assert_close(loss, want_loss, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(grad, want_grad, rtol=1e-9, atol=1e-11)


def test_by_hand():
    f, y = torch.tensor([[0.0], [1.0], [3.0], [10.0]]), torch.tensor([4, 4, 4, 7])
    # Squared distances in class 4 are 9, 4, 1: the harmonic mean of the two largest; centres 4/3 and 10.
    assert range_loss(f, y, 80, 2).item() == pytest.approx(2 / (1 / 9 + 1 / 4) + 80 - (10 - 4 / 3) ** 2, rel=1e-6)
    assert range_loss(f, y, 5, 2).item() == pytest.approx(2 / (1 / 9 + 1 / 4))
    f, y = torch.tensor([[0.0], [2.0], [3.0]]), torch.tensor([0, 0, 1])
    hinge = torch.tensor([1.0 - 3.0, 1.0 - 1.0]).logsumexp(0) + 2
    assert lifted(f, y, 1).item() == pytest.approx(hinge.item() ** 2 / 2)


@pytest.mark.parametrize("labels", [[0, 1, 2], [0, 0, 0], [3]])
def test_nothing_to_compare_is_no_loss(labels):
    f, y = torch.randn(len(labels), 4, requires_grad=True), torch.tensor(labels)
    if len(set(labels)) < 2 or len(set(labels)) == len(labels):
        assert lifted(f, y, 1) == 0
    if len(set(labels)) < 2 and len(labels) == 1:
        assert range_loss(f, y, 1, 2) == 0
    assert range_loss(f, y, 1, 2).isfinite()


def test_an_image_that_stands_twice_has_a_finite_gradient():
    f = torch.tensor([[1.0, 2.0], [1.0, 2.0], [0.0, 1.0], [1.0, 2.0]], requires_grad=True)
    y = torch.tensor([0, 0, 1, 2])
    (range_loss(f, y, 9, 2) + lifted(f, y, 1)).backward()
    assert f.grad.isfinite().all()
