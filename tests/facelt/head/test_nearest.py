"""The best class of every row, block by block, also where the scores were rounded."""

import pytest
import torch

from facelt.head.blocked import ClassBlocks, Keys
from facelt.head.nearest import Best

K, D, G = 300, 32, 40


def found(products, x: torch.Tensor, keys: Keys, block: int, chosen: torch.Tensor | None = None):
    blocks = ClassBlocks(len(keys.weight_kD), products, chosen, block=block)
    best = Best(x, keys, blocks)
    for start, rows in blocks:
        rounded = (x.bfloat16() @ keys.weight_kD[rows].bfloat16().T).float()  # coarser than any product here
        best.visit(start, keys.finish(rounded if best.rounds else x @ keys.weight_kD[rows].T, rows))
    return best.result()


@pytest.mark.parametrize("block", [7, 64, 1000])
@pytest.mark.parametrize("chosen", [None, torch.arange(K)[torch.arange(K) % 5 > 0]])
def test_rounding_loses_no_best_class(block, chosen):
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(K, D, generator=generator) / D**0.5
    weight[1::2] = weight[::2] + 1e-3 * torch.randn(K // 2, D, generator=generator)  # twins that bfloat16 takes for one
    x = torch.randn(G, D, generator=generator)
    keys = Keys(weight, torch.randn(K, generator=generator) * 1e-3, None)
    scores = x @ weight.T + keys.bias_k
    taking = torch.arange(K) if chosen is None else chosen
    want, at = scores[:, taking].max(1)
    coarse = ((x.bfloat16() @ weight.bfloat16().T).float() + keys.bias_k)[:, taking].argmax(1)
    assert not torch.equal(taking[coarse], taking[at]), "the case must be one that rounding gets wrong"
    for products in (torch.float32, torch.bfloat16):
        best, index = found(products, x, keys, block, chosen)
        assert torch.equal(index, taking[at])
        torch.testing.assert_close(best, want)


@pytest.mark.parametrize("products", [torch.float32, torch.bfloat16, "tf32"])
@pytest.mark.parametrize("block", [5, 64])
def test_of_equals_the_lowest_and_of_what_is_no_number_any(products, block):
    weight = torch.ones(20, D)
    weight[7] = weight[13] = 2
    x = torch.ones(3, D)
    x[1] = torch.nan
    _, index = found(products, x, Keys(weight, None, None), block)
    assert index[[0, 2]].tolist() == [7, 7]
    assert 0 <= index[1] < 20
    empty = found(products, x, Keys(weight, None, None), block, torch.zeros(0, dtype=torch.int64))
    assert empty[0].tolist() == [-torch.inf] * 3
