"""What is said of an image against the equations in float64."""

import numpy as np
import pytest
import torch
from by_hand import see_by_hand
from torch.nn.functional import cosine_similarity

from facelt.figures.explanation import explain
from facelt.figures.opened import OpenedRun, SomeImages

AT = 13


def test_of_a_meta_run(opened, meta_run, dataset):
    found = explain(opened, SomeImages(dataset, np.array([AT])), dataset, 3)
    want = see_by_hand(meta_run, dataset)
    order = want.distances[AT].argsort().tolist()[:3]
    assert [one.label for one in found.nearest] == order
    for one in (*found.nearest, found.best, *found.memory.read_most):
        k, c = one.label, want.centroids[one.label]
        assert one.name == f"person-{k}"
        assert one.images.tolist() == np.flatnonzero(dataset.labels == k).tolist()
        assert one.distance == pytest.approx(want.distances[AT, k].item(), rel=1e-3)
        assert one.direct == pytest.approx(cosine_similarity(want.direct[AT], c, dim=0).item(), abs=1e-4)
        assert one.infused == pytest.approx(cosine_similarity(want.infused[AT], c, dim=0).item(), abs=1e-4)
        assert one.read == pytest.approx(want.o[AT, k].item(), abs=1e-4)
        assert one.probability == pytest.approx(want.probabilities[AT, k].item(), abs=1e-4)
    assert found.best.label == want.probabilities[AT].argmax()
    assert found.memory.reach == pytest.approx(found.nearest[0].distance, rel=1e-5)
    assert [one.label for one in found.memory.read_most] == want.o[AT].argsort(descending=True).tolist()[:3]
    assert found.memory.usual_N == pytest.approx(want.reach.numpy(), rel=1e-3)
    assert found.memory.selector_D == pytest.approx(want.e[AT].abs().numpy(), abs=1e-4)
    vectors = (want.direct, want.memory, want.e * want.memory, want.infused, want.meta)
    assert list(found.memory.norms.values()) == pytest.approx([x[AT].norm().item() for x in vectors], rel=1e-3)
    assert found.norm == pytest.approx(want.direct[AT].norm().item(), rel=1e-4)
    assert found.spatial_HW == pytest.approx(want.spatial[AT].numpy(), abs=1e-4)
    assert found.share == pytest.approx(want.share[AT].item(), rel=1e-3)


def test_of_a_plain_run_what_needs_no_memory(meta_run, dataset):
    opened = OpenedRun.of(meta_run / "plain", torch.device("cpu"))
    found = explain(opened, SomeImages(dataset, np.array([AT])), dataset, 99)
    want = see_by_hand(meta_run / "plain", dataset).probabilities[AT]
    assert [one.label for one in found.nearest] == want.argsort(descending=True).tolist()
    assert [one.probability for one in found.nearest] == pytest.approx(want.sort(descending=True).values, abs=1e-4)
    assert found.memory is None
    assert found.share is None
    assert found.nearest[0].distance is None
