"""What a softmax over classes needs, forward and backward, without a matrix of scores in memory.

Forward, for row g over the classes n that are not its own, y: m_g = max_n l_gn, s_g = Σ_n e^(l_gn - m_g), and l_gy. A
program takes some rows and a range of classes, tile by tile, m and s online: with m' = max(m, max_n l_gn),
s := s·e^(m - m') + Σ_n e^(l_gn - m'). The ranges are merged likewise: m = max_r m_r, s = Σ_r s_r·e^(m_r - m).

Backward, for a block of classes: scores are made again, tile by tile, and dl_gn = ds_g·e^(l_gn - m_g), or dl_gy = dl
of the own score. Written are dl·factor/‖w‖, as products take it, and sums over rows for what has one number a class:
    db_n = Σ_g dl·factor,  dfactor_n = Σ_g dl·(x·w + b),  along_n = Σ_g dl·(x·ŵ) / ‖w_n‖², ŵ = w/‖w‖
The products dl·W and dlᵀ·x are torch's, added to gradients where those stand.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from facelt.head.blocked import (
    ClassBlocks,
    Keys,
    RowGradient,
    accumulate_dtype,
    add_at,
    finite,
    gradient_of,
)
from facelt.head.kernels.tiles import (
    Split,
    biased,
    inverse_of,
    multiply,
    piece,
    place_of_pairs,
    rounded,
    rows_of,
    settings,
    stored_dtype,
    tiles_for,
    whole,
)
from facelt.head.products import add_product, operand


@triton.jit
def scores_forward(
    x, weight, bias, factor, offset, inverse_norm, chosen, place, top, total, own, G, D, N, span,
    LOW: tl.constexpr, SUM: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr,
    TG: tl.constexpr, TN: tl.constexpr, TD: tl.constexpr,
):  # fmt: skip
    """Program (rows, range of classes). Writes top and total, ranges x G; own, G; and the inverse norms, k."""
    split = tl.program_id(1)
    g = tl.program_id(0) * TG + tl.arange(0, TG)
    in_g = g < G
    place_g = tl.load(place + g, mask=in_g, other=-1)
    m_g = tl.full((TG,), float("-inf"), SUM)
    s_g = tl.zeros((TG,), SUM)
    for start in range(split * span, tl.minimum((split + 1) * span, N), TN):
        n = start + tl.arange(0, TN)
        in_n = n < N
        rows = rows_of(chosen, n, in_n)
        l_gn = tl.zeros((TG, TN), SUM)
        squares_n = tl.zeros((TN,), SUM)
        for first in range(0, D, TD):
            x_gd = piece(x, g, in_g, first, D, SUM, TD)
            w_nd = piece(weight, rows, in_n, first, D, SUM, TD)
            l_gn += multiply(x_gd, tl.trans(w_nd), LOW, SUM, PRECISION, WIDE)
            squares_n += tl.sum(w_nd * w_nd, 1)
        if inverse_norm is not None:
            inverse_n = inverse_of(squares_n)
            l_gn *= inverse_n[None, :]
            tl.store(inverse_norm + rows, inverse_n, mask=in_n & (tl.program_id(0) == 0))
        l_gn = biased(l_gn, bias, rows, in_n)
        if factor is not None:
            l_gn *= tl.load(factor + rows, mask=in_n, other=0.0)[None, :]
        l_gn = biased(l_gn, offset, rows, in_n)
        is_own = n[None, :] == place_g[:, None]
        here_g = in_g & (place_g >= start) & (place_g < start + TN)
        tl.store(own + g, tl.sum(tl.where(is_own, l_gn, 0.0), 1), mask=here_g)
        l_gn = tl.where(is_own | (n >= N)[None, :], float("-inf"), l_gn)
        new_g = tl.maximum(m_g, tl.max(l_gn, 1))
        # Where nothing was seen but the own class, a reference that is finite.
        reference_g = tl.maximum(new_g, -3.0e38)
        s_g = s_g * tl.exp(m_g - reference_g) + tl.sum(tl.exp(l_gn - reference_g[:, None]), 1)
        m_g = new_g
    tl.store(top + split * G + g, m_g, mask=in_g)
    tl.store(total + split * G + g, s_g, mask=in_g)


@triton.jit
def scores_backward(
    x, weight, bias, factor, offset, inverse_norm, chosen, place, reference, dtotal, down,
    dl, dbias, dfactor, along, G, D, N, begin, width,
    LOW: tl.constexpr, SUM: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr,
    TG: tl.constexpr, TN: tl.constexpr, TD: tl.constexpr,
):  # fmt: skip
    """Program (classes) of the block of `width` places from `begin`. Writes dl, G x width, and sums, width each."""
    at = tl.program_id(0) * TN + tl.arange(0, TN)
    n = begin + at
    in_n = at < width
    rows = rows_of(chosen, n, in_n)
    if inverse_norm is not None:
        inverse_n = tl.load(inverse_norm + rows, mask=in_n, other=0.0)
    if factor is not None:
        factor_n = tl.load(factor + rows, mask=in_n, other=0.0)
    dbias_n = tl.zeros((TN,), SUM)
    dfactor_n = tl.zeros((TN,), SUM)
    along_n = tl.zeros((TN,), SUM)
    for row in range(0, G, TG):
        g = row + tl.arange(0, TG)
        in_g = g < G
        l_gn = tl.zeros((TG, TN), SUM)
        for first in range(0, D, TD):
            x_gd = piece(x, g, in_g, first, D, SUM, TD)
            w_nd = piece(weight, rows, in_n, first, D, SUM, TD)
            l_gn += multiply(x_gd, tl.trans(w_nd), LOW, SUM, PRECISION, WIDE)
        if inverse_norm is not None:
            l_gn *= inverse_n[None, :]
        cos_gn = l_gn
        l_gn = biased(l_gn, bias, rows, in_n)
        bare_gn = l_gn
        if factor is not None:
            l_gn *= factor_n[None, :]
        l_gn = biased(l_gn, offset, rows, in_n)
        place_g = tl.load(place + g, mask=in_g, other=-1)
        inside = in_g[:, None] & in_n[None, :]
        is_own = inside & (n[None, :] == place_g[:, None])
        # An own score above the others' top would overflow; its gradient takes that place.
        l_gn = tl.where(inside & (is_own == 0), l_gn, float("-inf"))
        reference_g = tl.load(reference + g, mask=in_g, other=0.0)
        dl_gn = tl.exp(l_gn - reference_g[:, None]) * tl.load(dtotal + g, mask=in_g, other=0.0)[:, None]
        dl_gn = tl.where(is_own, tl.load(down + g, mask=in_g, other=0.0)[:, None], dl_gn)
        if factor is not None:
            dfactor_n += tl.sum(dl_gn * bare_gn, 0)
            dl_gn *= factor_n[None, :]
        dbias_n += tl.sum(dl_gn, 0)
        if inverse_norm is not None:
            along_n += tl.sum(dl_gn * cos_gn, 0)
            dl_gn *= inverse_n[None, :]
        tl.store(
            dl + g[:, None].to(tl.int64) * width + at[None, :],
            rounded(dl_gn, LOW, WIDE).to(dl.dtype.element_ty),
            mask=inside,
        )
    if dbias is not None:
        tl.store(dbias + at, dbias_n, mask=in_n)
    if dfactor is not None:
        tl.store(dfactor + at, dfactor_n, mask=in_n)
    if along is not None:
        tl.store(along + at, along_n * inverse_n * inverse_n, mask=in_n)


class FusedScores(torch.autograd.Function):
    """What `classifier.softmax_scores` needs: top_G, sum_G and own of `Scores`. The pairs of `blocks` are own classes.

    weight_kD is that of `keys`, once more: autograd must see what learns. Inverse norms of `keys` are filled in here.
    """

    @staticmethod
    def forward(ctx, x_GD: Tensor, weight_kD: Tensor, keys: Keys, blocks: ClassBlocks) -> Any:
        assert blocks.pairs is not None
        G, dtype = len(x_GD), accumulate_dtype(x_GD)
        x, tiles = whole(x_GD), tiles_for(x_GD)
        split = Split.of(len(blocks), G, tiles)
        place_G = place_of_pairs(blocks, G)
        top_SG, sum_SG = (x.new_empty(split.count, G, dtype=dtype) for _ in range(2))
        own_G = x.new_zeros(G, dtype=dtype)
        scores_forward[(triton.cdiv(G, tiles.TG), split.count)](
            x, whole(weight_kD), whole(keys.bias_k), whole(keys.factor_k), whole(keys.offset_k), keys.inverse_norm_k,
            blocks.chosen, place_G, top_SG, sum_SG, own_G, G, x.shape[1], len(blocks), split.span,
            **settings(x, blocks.products, tiles),
        )  # fmt: skip
        top_G = top_SG.amax(0)
        sum_G = (sum_SG * torch.exp(top_SG - finite(top_G))).sum(0)
        ctx.save_for_backward(x, top_G, place_G)
        ctx.keys, ctx.blocks = keys, blocks
        ctx.mark_non_differentiable(top_G)
        return top_G, sum_G, own_G[blocks.pairs.rows]

    @staticmethod
    def backward(ctx, _top: Tensor, dsum_G: Tensor, down: Tensor) -> Any:
        keys, blocks, low = ctx.keys, ctx.blocks, ctx.blocks.products
        x, top_G, place_G = ctx.saved_tensors
        (G, D), tiles = x.shape, tiles_for(x)
        down_G = down.new_zeros(G).index_copy_(0, blocks.pairs.rows, down)
        weight = RowGradient(keys.weight_kD, blocks) if ctx.needs_input_grad[1] else None
        learn = [t is not None and t.requires_grad for t in (keys.bias_k, keys.factor_k)]
        learn.append(weight is not None and keys.inverse_norm_k is not None)
        x_low, dx_GD = operand(x, low), torch.zeros_like(x, dtype=dsum_G.dtype)
        for start, rows in blocks:
            width = blocks.width(start)
            dl_Gb = x.new_empty(G, width, dtype=stored_dtype(x, low))
            dbias_b, dfactor_b, along_b = (dsum_G.new_empty(width) if wanted else None for wanted in learn)
            scores_backward[(triton.cdiv(width, tiles.TN),)](
                x, whole(keys.weight_kD), whole(keys.bias_k), whole(keys.factor_k), whole(keys.offset_k),
                keys.inverse_norm_k, blocks.chosen, place_G, finite(top_G), dsum_G.contiguous(), down_G,
                dl_Gb, dbias_b, dfactor_b, along_b, G, D, len(blocks), start, width,
                **settings(x, low, tiles),
            )  # fmt: skip
            for parameter, sums_b in ((keys.bias_k, dbias_b), (keys.factor_k, dfactor_b)):
                if sums_b is not None:
                    add_at(gradient_of(parameter), rows, sums_b)
            add_product(dx_GD, dl_Gb, keys.weight_kD[rows], low)
            if weight is not None:
                weight.add(rows, dl_Gb.T, x_low, along_b)
        return dx_GD, None, None, None
