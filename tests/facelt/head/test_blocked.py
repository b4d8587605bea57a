"""Blocks, pairs and gradients in place, against plain autograd in float64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from facelt.head.blocked import ClassBlocks, Keys, Pairs, gradient_of, inverse_norms, take_rows

G, D, K = 5, 4, 11


@given(st.integers(1, 50), st.integers(1, 60), st.one_of(st.none(), st.sets(st.integers(0, 49))))
def test_blocks_visit_every_class_that_takes_part_once_and_in_order(k, block, chosen):
    chosen = None if chosen is None else torch.tensor(sorted(c for c in chosen if c < k), dtype=torch.int64)
    visited, place = [], 0
    for start, rows in ClassBlocks(k, torch.float32, chosen, block=block):
        assert start == place
        classes = torch.arange(k)[rows].tolist()
        assert 1 <= len(classes) <= block
        visited += classes
        place += len(classes)
    assert visited == (list(range(k)) if chosen is None else chosen.tolist())


@given(st.integers(1, 7), st.data())
def test_every_pair_is_in_one_block_at_its_place(block, data):
    chosen = torch.tensor(sorted(data.draw(st.sets(st.integers(0, K - 1), min_size=1))))
    columns = torch.tensor(data.draw(st.lists(st.sampled_from(chosen.tolist()), min_size=1, max_size=G)))
    blocks = ClassBlocks(K, torch.float32, chosen, Pairs(torch.arange(len(columns)), columns), block)
    found = {}
    for start, rows in blocks:
        here, (image, place) = blocks.pairs_within(start, len(rows))
        found |= dict(zip(here.tolist(), zip(image.tolist(), rows[place].tolist(), strict=True), strict=True))
    assert found == {i: (i, int(column)) for i, column in enumerate(columns)}


@pytest.mark.parametrize("rows", [slice(2, 7), torch.tensor([0, 3, 9])])
@pytest.mark.parametrize("kind", ["plain", "bias", "cosine"])
def test_scores_and_their_gradient(rows, kind):
    torch.manual_seed(0)
    weight, bias = (torch.nn.Parameter(torch.randn(*s, dtype=torch.float64)) for s in ((K, D), (K,)))
    x, dl = torch.randn(G, D, dtype=torch.float64, requires_grad=True), None
    keys = Keys(weight, bias if kind == "bias" else None, inverse_norms(weight) if kind == "cosine" else None)
    wanted = x @ (weight / weight.norm(dim=1, keepdim=True) if kind == "cosine" else weight)[rows].T
    wanted = wanted + bias[rows] if kind == "bias" else wanted
    with torch.no_grad():
        got = keys.scores(x, rows)
    torch.testing.assert_close(got, wanted.detach())
    dl = torch.randn_like(got)
    want = torch.autograd.grad((wanted * dl).sum(), [x, weight, bias], allow_unused=True)
    dx = torch.zeros_like(x)
    with torch.no_grad():
        for _ in range(2):  # it adds to what is there
            keys.learn(x.detach(), got, dl.clone(), rows, True, dx)
    torch.testing.assert_close(dx, 2 * want[0])
    torch.testing.assert_close(weight.grad, 2 * want[1])
    if kind == "bias":
        torch.testing.assert_close(bias.grad, 2 * want[2])


def test_taken_rows_give_their_gradient_to_those_rows_into_the_same_memory():
    parameter = torch.nn.Parameter(torch.randn(K, D))
    buffer = gradient_of(parameter)
    index = torch.tensor([3, 3, 8])
    (take_rows(parameter, index) * torch.tensor([1.0, 10.0, 100.0])[:, None]).sum().backward()
    want = torch.zeros(K, D)
    want[3], want[8] = 11, 100
    torch.testing.assert_close(parameter.grad, want)
    assert parameter.grad.data_ptr() == buffer.data_ptr()
    assert not take_rows(parameter.detach(), index).requires_grad
