"""What the bench of scale says, at small sizes: bytes on the wire by the formula, resume at other ranks, the model."""

from pathlib import Path

import pytest
import torch
from ranks import run_ranks

from tests.bench import scale, step_model

K, D = 103, 8


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("accumulate, rate", [(1, 1.0), (2, 1.0), (1, 0.3), (2, 0.3)])
def test_a_rank_sends_what_the_formula_says_at_any_number_of_classes(ranks, accumulate, rate):
    for classes in (K, 10 * K):
        for measured, formula in run_ranks(ranks, scale.traffic, classes, D, accumulate, rate):
            assert measured == formula
            assert (formula > 0) == (ranks > 1)


def test_the_formula_is_the_sum_of_the_models_messages():
    for G, ranks in ((64, 2), (96, 3)):
        assert scale.sent(G, D, ranks) == 4 * sum(numbers for _, numbers in step_model.messages(G, D, ranks))


def test_every_bit_of_a_checkpoint_of_three_ranks_arrives_at_two(tmp_path: Path):
    saved = run_ranks(3, scale.before, K, D, tmp_path)
    loaded = run_ranks(2, scale.after, K, D, tmp_path)
    assert len({found["fingerprint"] for found in saved + loaded}) == 1
    one, other = (sum(found["loss"] for found in side) for side in (saved, loaded))
    assert other == pytest.approx(one, rel=1e-5)


def fingerprints() -> list[int]:
    trained = scale.Trained(K, D)
    trained.step()
    before = trained.fingerprint()
    trained.head.classifier.weight.data[-1, -1] += 1e-3
    return [before, trained.fingerprint()]


def test_a_fingerprint_tells_one_number_that_changed():
    one, other = run_ranks(1, fingerprints)[0]
    assert one != other


def test_what_a_step_costs_is_counted():
    torch.manual_seed(0)
    step = step_model.meta(2048, 32, 16)
    step.run()
    counts = step_model.count(step)
    assert counts.flops == 9 * 2 * 16 * 2048 * 32
    assert counts.exponentials >= 4 * 16 * 2048
    found = step_model.formula(16, 32, 2048)
    assert found.products == 9
    assert found.exponentials == 4
    assert found.launches_block > 0
    assert step_model.crossing(512) == pytest.approx(682.67, abs=0.01)


def test_a_prediction_is_the_sum_of_its_parts():
    rates = step_model.Rates(products=10, cached=5, streamed=2, exponentials=1, operator=0.5)
    counts = step_model.Counts(flops=20, cached=10, streamed=4, exponentials=3, operators=2, launches=1)
    assert rates.seconds(counts) == 2 + 2 + 2 + 3 + 1
    assert step_model.Cluster().exchange(64, 8, 1) == 0
