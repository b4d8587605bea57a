"""The memory's read, forward and backward, in one pass over the classes and without a matrix of scores in memory.

Forward (`memory.Retrieval` has the scores l): m_g = max_n l_gn, s_g = Σ_n e^(l_gn - m_g), a_g = Σ_n e^(l_gn - m_g) c_n.
A program takes some rows and a range of classes, tile by tile, online: with m' = max(m, max_n l_gn) and fade
e^(m - m'), s := s·fade + Σ_n e^(l_gn - m') and a := a·fade + Σ_n e^(l_gn - m') c_n. The ranges are merged likewise:
m = max_r m_r, s = Σ_r s_r·e^(m_r - m), a = Σ_r a_r·e^(m_r - m). Without softmax, a_g = Σ_n l_gn c_n alone. In the same
pass of the centroids: their norms, Σ c, and of every eight classes in a row the highest f·c - ‖c‖²/2, which is largest
at the nearest centroid.

Backward, for a block of classes: scores are made again, tile by tile, p_gn = e^(l_gn - m_g) and
dl_gn = p_gn·(da_g·c_n + ds_g); without softmax p = l and dl = da·c. Written are p and dl/‖w‖, as products take them,
and for each class
    db_n = Σ_g dl,  along_n = Σ_g dl·l / ‖w_n‖²
The products dl·W, dlᵀ·q and pᵀ·da are torch's, added to gradients where those stand.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from facelt.head.blocked import RowGradient, accumulate_dtype, add_at, finite, gradient_of
from facelt.head.kernels.tiles import (
    Split,
    Tiles,
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
from facelt.head.memory import Retrieval
from facelt.head.nearest import GROUP
from facelt.head.products import Products, add_product, operand, rounds

# Numbers of what a program has read so far, rows x D, which it holds in registers; fewer where no matrix unit serves.
HELD, HELD_EXACT = 2**14, 2**13


@triton.jit
def read_forward(
    f, weight, bias, centroids, scale, chosen, place, norm, top, total, read, row_sum, highest, G, D, N, span, groups,
    OF_CENTROIDS: tl.constexpr, SOFTMAX: tl.constexpr, GROUP: tl.constexpr,
    LOW: tl.constexpr, SUM: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr,
    TG: tl.constexpr, TN: tl.constexpr, TD: tl.constexpr, ALL_D: tl.constexpr,
):  # fmt: skip
    """Program (rows, range of classes). Writes top and total, ranges x G; read, ranges x G x D; norm, k; row_sum,
    ranges x D; and highest, G x groups."""
    split = tl.program_id(1)
    g = tl.program_id(0) * TG + tl.arange(0, TG)
    in_g = g < G
    d = tl.arange(0, ALL_D)
    m_g = tl.full((TG,), float("-inf"), SUM)
    s_g = tl.zeros((TG,), SUM)
    a_gD = tl.zeros((TG, ALL_D), SUM)
    sum_D = tl.zeros((ALL_D,), SUM)
    for start in range(split * span, tl.minimum((split + 1) * span, N), TN):
        n = start + tl.arange(0, TN)
        in_n = n < N
        rows = rows_of(chosen, n, in_n)
        near_gn = tl.zeros((TG, TN), SUM)
        l_gn = tl.zeros((TG, TN), SUM)
        squares_n = tl.zeros((TN,), SUM)
        for first in range(0, D, TD):
            f_gd = piece(f, g, in_g, first, D, SUM, TD)
            c_nd = piece(centroids, rows, in_n, first, D, SUM, TD)
            near_gn += multiply(f_gd, tl.trans(c_nd), LOW, SUM, PRECISION, WIDE)
            squares_n += tl.sum(c_nd * c_nd, 1)
            if not OF_CENTROIDS:
                w_nd = piece(weight, rows, in_n, first, D, SUM, TD)
                l_gn += multiply(f_gd, tl.trans(w_nd), LOW, SUM, PRECISION, WIDE)
        tl.store(norm + rows, tl.sqrt(squares_n), mask=in_n & (tl.program_id(0) == 0))
        gain_gn = tl.where(in_n[None, :], near_gn - 0.5 * squares_n[None, :], float("-inf"))
        highest_gt = tl.max(tl.reshape(gain_gn, (TG, TN // GROUP, GROUP)), 2)
        t = start // GROUP + tl.arange(0, TN // GROUP)
        at_gt = g[:, None].to(tl.int64) * groups + t[None, :]
        tl.store(highest + at_gt, highest_gt, mask=in_g[:, None] & (t < groups)[None, :])
        if OF_CENTROIDS:
            l_gn = near_gn * inverse_of(squares_n)[None, :]
        else:
            l_gn = biased(l_gn, bias, rows, in_n)
        if scale is not None:
            l_gn *= tl.load(scale + g, mask=in_g, other=0.0)[:, None]
        taken = in_g[:, None] & in_n[None, :]
        if place is not None:
            taken = taken & (n[None, :] != tl.load(place + g, mask=in_g, other=-1)[:, None])
        if SOFTMAX:
            l_gn = tl.where(taken, l_gn, float("-inf"))
            new_g = tl.maximum(m_g, tl.max(l_gn, 1))
            # Where nothing was seen but a class that is left out, a reference that is finite.
            reference_g = tl.maximum(new_g, -3.0e38)
            fade_g = tl.exp(m_g - reference_g)
            p_gn = tl.exp(l_gn - reference_g[:, None])
            s_g = s_g * fade_g + tl.sum(p_gn, 1)
            a_gD = a_gD * fade_g[:, None]
            m_g = new_g
        else:
            p_gn = tl.where(taken, l_gn, 0.0)
        c_nD = piece(centroids, rows, in_n, 0, D, SUM, ALL_D)
        sum_D += tl.sum(c_nD, 0)
        a_gD += multiply(p_gn, c_nD, LOW, SUM, PRECISION, WIDE)
    tl.store(top + split * G + g, m_g, mask=in_g)
    tl.store(total + split * G + g, s_g, mask=in_g)
    at_gD = (split * G + g)[:, None].to(tl.int64) * D + d[None, :]
    tl.store(read + at_gD, a_gD, mask=in_g[:, None] & (d < D)[None, :])
    tl.store(row_sum + split * D + d, sum_D, mask=(d < D) & (tl.program_id(0) == 0))


@triton.jit
def read_backward(
    f, weight, bias, centroids, inverse_norm, scale, chosen, place, reference, dtotal, dread,
    dl, p, dbias, along, G, D, N, begin, width, SOFTMAX: tl.constexpr,
    LOW: tl.constexpr, SUM: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr,
    TG: tl.constexpr, TN: tl.constexpr, TD: tl.constexpr,
):  # fmt: skip
    """Program (classes) of the block of `width` places from `begin`. Writes dl and p, G x width, and sums, width."""
    at = tl.program_id(0) * TN + tl.arange(0, TN)
    n = begin + at
    in_n = at < width
    rows = rows_of(chosen, n, in_n)
    if inverse_norm is not None:
        inverse_n = tl.load(inverse_norm + rows, mask=in_n, other=0.0)
    dbias_n = tl.zeros((TN,), SUM)
    along_n = tl.zeros((TN,), SUM)
    for row in range(0, G, TG):
        g = row + tl.arange(0, TG)
        in_g = g < G
        l_gn = tl.zeros((TG, TN), SUM)
        dl_gn = tl.zeros((TG, TN), SUM)
        for first in range(0, D, TD):
            f_gd = piece(f, g, in_g, first, D, SUM, TD)
            w_nd = piece(weight, rows, in_n, first, D, SUM, TD)
            l_gn += multiply(f_gd, tl.trans(w_nd), LOW, SUM, PRECISION, WIDE)
            da_gd = piece(dread, g, in_g, first, D, SUM, TD)
            c_nd = piece(centroids, rows, in_n, first, D, SUM, TD)
            dl_gn += multiply(da_gd, tl.trans(c_nd), LOW, SUM, PRECISION, WIDE)
        if inverse_norm is not None:
            l_gn *= inverse_n[None, :]
        l_gn = biased(l_gn, bias, rows, in_n)
        if scale is not None:
            l_gn *= tl.load(scale + g, mask=in_g, other=0.0)[:, None]
        inside = in_g[:, None] & in_n[None, :]
        taken = inside
        if place is not None:
            taken = taken & (n[None, :] != tl.load(place + g, mask=in_g, other=-1)[:, None])
        if SOFTMAX:
            reference_g = tl.load(reference + g, mask=in_g, other=0.0)
            p_gn = tl.exp(tl.where(taken, l_gn, float("-inf")) - reference_g[:, None])
            dl_gn = tl.where(taken, p_gn * (dl_gn + tl.load(dtotal + g, mask=in_g, other=0.0)[:, None]), 0.0)
        else:
            p_gn = tl.where(taken, l_gn, 0.0)
            dl_gn = tl.where(taken, dl_gn, 0.0)
        at_gn = g[:, None].to(tl.int64) * width + at[None, :]
        if p is not None:
            tl.store(p + at_gn, rounded(p_gn, LOW, WIDE).to(p.dtype.element_ty), mask=inside)
        dbias_n += tl.sum(dl_gn, 0)
        if inverse_norm is not None:
            along_n += tl.sum(dl_gn * l_gn, 0)
            dl_gn *= inverse_n[None, :]
        tl.store(dl + at_gn, rounded(dl_gn, LOW, WIDE).to(dl.dtype.element_ty), mask=inside)
    if dbias is not None:
        tl.store(dbias + at, dbias_n, mask=in_n)
    if along is not None:
        tl.store(along + at, along_n * inverse_n * inverse_n, mask=in_n)


def _forward_tiles(f_GD: Tensor, low: Products) -> tuple[Tiles, int]:
    """Tiles, and all of D as a program holds it."""
    all_D = triton.next_power_of_2(max(f_GD.shape[1], 16))
    tiles, (held, TN) = tiles_for(f_GD), (HELD, 32) if rounds(low) else (HELD_EXACT, 16)
    return tiles._replace(TG=min(tiles.TG, max(16, held // all_D)), TN=TN), all_D


class FusedRead(torch.autograd.Function):
    """This rank's part of the read: m (G; no gradient), s (G) and a (G x D), as the blocked read gives them.

    q_GD: the query, whose scores `how` makes of f, the direct features. weight_kD is that of the keys, once more:
    autograd must see what learns. Fills in the census of `how`.
    """

    @staticmethod
    def forward(ctx, q_GD: Tensor, weight_kD: Tensor, centroids_kD: Tensor, how: Retrieval) -> Any:
        census, blocks = how.census, how.census.blocks
        (G, D), dtype = q_GD.shape, accumulate_dtype(q_GD)
        f, place_G = whole(census.f_GD), place_of_pairs(blocks, G)
        tiles, all_D = _forward_tiles(f, how.low)
        split = Split.of(len(blocks), G, tiles)
        top_SG, sum_SG = (f.new_empty(split.count, G, dtype=dtype) for _ in range(2))
        a_SGD, sum_SD = f.new_empty(split.count, G, D, dtype=dtype), f.new_empty(split.count, D, dtype=dtype)
        highest_GT = f.new_empty(G, triton.cdiv(len(blocks), GROUP), dtype=dtype)
        made: dict[str, Any] = {
            "OF_CENTROIDS": how.of_centroids,
            "SOFTMAX": how.softmax,
            "GROUP": GROUP,
            "ALL_D": all_D,
        }
        read_forward[(triton.cdiv(G, tiles.TG), split.count)](
            f, whole(weight_kD), whole(how.keys.bias_k), whole(centroids_kD), whole(how.scale_G1),
            blocks.chosen, place_G, census.norm_k, top_SG, sum_SG, a_SGD, sum_SD, highest_GT,
            G, D, len(blocks), split.span, highest_GT.shape[1],
            **settings(f, how.low, tiles), **made,
        )  # fmt: skip
        if how.keys.inverse_norm_k is not None:
            torch.reciprocal(census.norm_k.clamp(min=1e-12), out=how.keys.inverse_norm_k)
        census.sum_D.copy_(sum_SD.sum(0))
        torch.mul(census.norm_k.square(), -0.5, out=census.minus_k)
        census.nearest.add_groups(highest_GT)
        m_G, s_G, a_GD = (part.sum(0) for part in (top_SG.new_zeros(1, G), sum_SG, a_SGD))
        if how.softmax:
            m_G = top_SG.amax(0)
            fade_SG = torch.exp(top_SG - finite(m_G))
            s_G, a_GD = (sum_SG * fade_SG).sum(0), torch.einsum("sg,sgd->gd", fade_SG, a_SGD)
        ctx.save_for_backward(q_GD, f, m_G, place_G)
        ctx.how, ctx.centroids = how, centroids_kD
        ctx.mark_non_differentiable(m_G)
        return m_G, s_G, a_GD

    @staticmethod
    def backward(ctx, _m: Tensor, ds_G: Tensor, da_GD: Tensor) -> Any:
        how, blocks, low = ctx.how, ctx.how.census.blocks, ctx.how.low
        q_GD, f, m_G, place_G = ctx.saved_tensors
        _, wants_weight, wants_centroids = ctx.needs_input_grad[:3]
        keys, (G, D), tiles = how.keys, f.shape, tiles_for(f)
        # Where keys and centroids are one, the keys' gradient comes first in each block.
        weight = RowGradient(keys.weight_kD, blocks) if wants_weight else None
        centroids = RowGradient(ctx.centroids, blocks) if wants_centroids else None
        bias_k = keys.bias_k if keys.bias_k is not None and keys.bias_k.requires_grad else None
        q_low, da_low, dq_GD = operand(q_GD, low), operand(da_GD, low), torch.zeros_like(da_GD)
        made: dict[str, Any] = {"SOFTMAX": how.softmax}
        for start, rows in blocks:
            width = blocks.width(start)
            dl_Gb = f.new_empty(G, width, dtype=stored_dtype(f, low))
            p_Gb = torch.empty_like(dl_Gb) if centroids is not None else None
            dbias_b = None if bias_k is None else ds_G.new_empty(width)
            along_b = ds_G.new_empty(width) if weight is not None and keys.inverse_norm_k is not None else None
            read_backward[(triton.cdiv(width, tiles.TN),)](
                f, whole(keys.weight_kD), whole(keys.bias_k), whole(ctx.centroids), keys.inverse_norm_k,
                whole(how.scale_G1), blocks.chosen, place_G, finite(m_G), ds_G.contiguous(), da_GD.contiguous(),
                dl_Gb, p_Gb, dbias_b, along_b, G, D, len(blocks), start, width,
                **settings(f, low, tiles), **made,
            )  # fmt: skip
            if bias_k is not None and dbias_b is not None:
                add_at(gradient_of(bias_k), rows, dbias_b)
            add_product(dq_GD, dl_Gb, keys.weight_kD[rows], low)
            if weight is not None:
                weight.add(rows, dl_Gb.T, q_low, along_b)
            if centroids is not None and p_Gb is not None:
                centroids.add(rows, p_Gb.T, da_low)
        return dq_GD, None, None, None
