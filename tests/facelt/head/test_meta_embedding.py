"""The meta-embedding by hand, and finite where its formulas are not."""

import pytest
import torch

from facelt.head import meta_embedding


def test_equations_2_to_4_and_6_by_hand():
    direct = torch.tensor([[3.0, 4.0]])
    nearest = torch.tensor([[0.0, 0.0]])
    memory, concept = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.5, 0.25]])
    reach = meta_embedding.reach(direct, nearest)
    assert reach.item() == pytest.approx(5)
    infused = meta_embedding.infuse(direct, concept, memory)
    torch.testing.assert_close(infused, torch.tensor([[3.5, 3.5]]))
    torch.testing.assert_close(meta_embedding.calibrate(infused, reach, 10), torch.tensor([[7.0, 7.0]]))
    torch.testing.assert_close(meta_embedding.squash(direct, "released"), direct / 6)
    torch.testing.assert_close(meta_embedding.squash(direct, "paper"), direct / 5 * 25 / 26)


@pytest.mark.parametrize("form", ["released", "paper"])
def test_a_feature_on_its_centroid_and_a_zero_vector_are_finite(form):
    direct = torch.tensor([[1.0, 2.0], [0.0, 0.0]], requires_grad=True)
    reach = meta_embedding.reach(direct, torch.tensor([[1.0, 2.0], [0.0, 0.0]]))
    v = meta_embedding.squash(meta_embedding.calibrate(direct, reach, 10), form)
    v.sum().backward()
    assert v.isfinite().all()
    assert direct.grad.isfinite().all()
    assert (v.norm(dim=1) < 1 + 1e-6).all()
