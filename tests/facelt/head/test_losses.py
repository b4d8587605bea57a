"""The losses at one rank against the equations in plain float64, and where they are not smooth."""

import dense
import pytest
import torch

from facelt.head import losses
from facelt.head.losses import focal, log_prior, paper_centroid_loss, released_centroid_loss
from facelt.parallel.partition import Partition

K, G, D = 7, 6, 4


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(2)
    f, c = (torch.randn(n, D, generator=generator, dtype=torch.float64) for n in (G, K))
    return f.requires_grad_(), torch.randint(0, K, (G,), generator=generator), torch.nn.Parameter(c)


@pytest.mark.parametrize("margin", [1.0, 100.0])  # beyond the hinge, and within it
@pytest.mark.parametrize("block", [2, 100])
def test_equation_9_as_printed(margin, block):
    f, y, c = batch()
    loss, hinge = paper_centroid_loss(f, y, c, Partition(K), weight=0.3, margin=margin, block=block)
    want = dense.paper_centroid_loss(f, y, c, 0.3, margin)
    assert loss.item() == pytest.approx(want.item(), rel=1e-12)
    each = [dense.paper_centroid_loss(f[i : i + 1], y[i : i + 1], c, 1, margin) > 0 for i in range(G)]
    assert hinge.tolist() == [bool(active) for active in each]
    gradients = torch.autograd.grad(want, [f, c], allow_unused=True)
    loss.backward()
    for got, expected in zip((f.grad, c.grad), gradients, strict=True):
        torch.testing.assert_close(got, torch.zeros_like(got) if expected is None else expected)


@pytest.mark.parametrize("margin", [1.0, 100.0])
@pytest.mark.parametrize("pull", ["released", "gradient", None])
def test_the_released_loss_and_what_it_does_to_the_centroids(margin, pull):
    f, y, c = batch()
    loss, hinge = released_centroid_loss(f, y, c, Partition(K), weight=0.3, margin=margin, pull=pull)
    want = dense.released_centroid_loss(f, y, c, 0.3, margin)
    assert loss.item() == pytest.approx(want.item(), rel=1e-12)
    assert hinge.tolist() == [margin == 100] * G
    of_features, of_centroids = torch.autograd.grad(want, [f, c])
    loss.backward()
    torch.testing.assert_close(f.grad, of_features)
    if pull is None:
        assert c.grad is None
    elif pull == "gradient":
        torch.testing.assert_close(c.grad, of_centroids)
    else:
        torch.testing.assert_close(c.grad, dense.released_centroid_step(f.detach(), y, c.detach(), 0.3, margin))


def test_a_feature_on_a_centroid_has_a_finite_gradient():
    f, y, c = batch()
    with torch.no_grad():
        f[0] = c[3]
    paper_centroid_loss(f, y, c, Partition(K), weight=1, margin=100).loss.backward()
    assert f.grad.isfinite().all()
    assert c.grad.isfinite().all()


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_loss_by_hand_and_finite_where_nothing_is_missed(gamma):
    p = torch.tensor([0.9, 0.5, 0.01], dtype=torch.float64)
    torch.testing.assert_close(focal(-p.log(), gamma), -((1 - p) ** gamma) * p.log())
    sure = torch.tensor([0.0, -1e-7, 1e-30], requires_grad=True)  # cross-entropy may round below zero
    loss = focal(sure, gamma)
    loss.sum().backward()
    assert loss.abs().max() < 1e-6
    assert sure.grad.isfinite().all()


def test_a_prior_by_hand():
    counts = torch.tensor([1, 2, 5, 8])
    got = torch.cat([log_prior(counts, Partition(4, rank, 3)) for rank in range(3)])
    torch.testing.assert_close(got, torch.log(counts / 16))


def test_squares_are_summed_in_parts_of_as_many_numbers_as_blas_can_count(monkeypatch):
    c = batch()[2].detach()
    whole = losses.moments_of(c)
    monkeypatch.setattr(losses, "DOT_NUMBERS", 5)
    dot, sizes = torch.dot, []
    monkeypatch.setattr(torch, "dot", lambda a, b: sizes.append(len(a)) or dot(a, b))
    parts = losses.moments_of(c)
    assert max(sizes) == 5
    assert sum(sizes) == K * D
    torch.testing.assert_close(parts.squares, whole.squares)
    torch.testing.assert_close(whole.squares, c.square().sum())
    torch.testing.assert_close(whole.sum_D, c.sum(0))
