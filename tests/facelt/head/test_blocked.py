"""Blocks, pairs and gradients in place, against plain autograd in float64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from facelt.head.blocked import (
    BlockMatrix,
    ClassBlocks,
    Keys,
    Pairs,
    RowGradient,
    Towards,
    Within,
    block_for,
    gradient_at,
    gradient_of,
    inverse_norms,
    release_gradients,
    take_rows,
)

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
    images = torch.tensor(data.draw(st.permutations(range(G)))[: len(columns)])
    blocks = ClassBlocks(K, torch.float32, chosen, Pairs(images, columns), block)
    place_G1, parts, seen = blocks.pair_places(G), [], torch.zeros(G, 1)
    scores = torch.arange(1.0, G * len(chosen) + 1).view(G, -1)
    for start, rows in blocks:
        part, within = scores[:, start : start + block].clone(), Within.of(place_G1, start, len(rows))
        seen = torch.where(within.here_G1, within.exchange(part, -1.0), seen)
        parts.append(part)
    changed = torch.cat(parts, 1)
    assert {(int(g), int(chosen[at])) for g, at in (changed == -1).nonzero()} == set(
        zip(images.tolist(), columns.tolist(), strict=True)
    )
    assert torch.equal(torch.where(changed == -1, seen, changed), scores)


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
            blocks = ClassBlocks(K, torch.float64, None if isinstance(rows, slice) else rows)
            gradient = RowGradient(weight, blocks)
            gradient.gradient_kD.mul_(not gradient.fresh)
            keys.learn(got.clone(), dl.clone(), rows, Towards(x.detach(), torch.float64, dx, gradient))
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


@torch.no_grad()
def test_rows_of_a_gradient_that_were_written_are_zero_in_the_next_step_and_the_others_still_are():
    parameter = torch.nn.Parameter(torch.randn(K, D))
    gradient_of(parameter).fill_(7)
    memory = parameter.grad.data_ptr()
    for rows in ([1, 4], [4, 5], [0]):  # after a gradient of all rows, and after each other
        release_gradients([parameter])
        want = torch.zeros(K, D)
        for index in (torch.tensor(rows), torch.tensor([2, 2])):
            gradient_at(parameter, index).index_add_(0, index, torch.ones(len(index), D))
            want.index_add_(0, index, torch.ones(len(index), D))
        assert torch.equal(parameter.grad, want)
        assert parameter.grad.data_ptr() == memory
    gradient_of(parameter).fill_(7)  # one who may write anywhere
    release_gradients([parameter])
    assert torch.equal(gradient_at(parameter, torch.tensor([3])), torch.zeros(K, D))


@torch.no_grad()
@pytest.mark.parametrize("less", [None, torch.arange(float(K))])
def test_a_gradient_is_written_where_there_is_none_and_added_to_where_there_is_one(less):
    parameter = torch.nn.Parameter(torch.randn(K, D))
    left, right, blocks = torch.randn(K, G), torch.randn(G, D), ClassBlocks(K, torch.float32, block=4)
    once = left @ right - (0 if less is None else less[:, None] * parameter.detach())
    memory = None
    for _ in range(2):  # steps: the second begins in memory that holds the first's gradient
        for times in (1, 2):  # micro-batches
            gradient = RowGradient(parameter, blocks)
            for _, rows in blocks:
                gradient.add(rows, left[rows], right, None if less is None else less[rows])
            torch.testing.assert_close(parameter.grad, times * once)
        memory = memory or parameter.grad.data_ptr()
        assert parameter.grad.data_ptr() == memory
        release_gradients([parameter])
        assert parameter.grad is None
    assert torch.equal(gradient_of(parameter), torch.zeros(K, D))


def test_blocks_and_kept_scores_take_the_same_memory_again():
    x = torch.randn(G, D)
    blocks = ClassBlocks(K, torch.float32, block=4, kept_bytes=G * K * 4)
    scores = BlockMatrix.of_scores(blocks, x)
    assert scores.whole
    assert [scores.at(start).shape for start, _ in blocks] == [(G, 4), (G, 4), (G, 3)]
    for start, _ in blocks:
        scores.at(start).fill_(start)
    assert [scores.at(start).unique().item() for start, _ in blocks] == [0, 4, 8]
    scores.give_back()
    assert BlockMatrix.of_scores(blocks, x).at(0).data_ptr() == scores.at(0).data_ptr()
    assert not BlockMatrix.of_scores(ClassBlocks(K, torch.float32, block=4, kept_bytes=G * K * 4 - 1), x).whole


def test_blocks_are_smaller_beside_more_rows():
    assert [block_for(torch.empty(G, 1)) for G in (64, 128, 256, 10**6)] == [4096, 2048, 1024, 256]
