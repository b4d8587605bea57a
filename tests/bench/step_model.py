"""What a step of the head should take: counted products, bytes, operators and collectives, times what a machine does.

    python tests/bench/step_model.py [--only validate|tables|crossing] [--rounds 5]

`validate` predicts six steps from this machine's rates, which are measured between the steps, and compares; `tables`
prints docs/scale.md's tables for 1, 8 and 64 H100s. One thread, processor time.

G: images of all ranks, D: embedding size, K: classes, k = K/R: classes of a rank, R: ranks, n: blocks of a rank.
"""

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from tqdm import tqdm

from facelt.head.blocked import CELLS_CPU, CELLS_CUDA, block_for
from tests.bench.head import Step, meta

# What is larger than this does not stay in a core's cache.
CACHE = 2 << 20
PRODUCTS = ("mm", "addmm", "addmm_")
EXPONENTIALS = ("exp", "exp_")
# They do not read what they write into.
OVERWRITING = ("copy_", "zero_", "fill_")
PLACING = ("index_add_", "scatter_", "index_copy_", "index_put_", "gather")
# They make no pass over their tensor.
VIEWS = (
    "view", "_unsafe_view", "slice", "t", "transpose", "detach", "unsqueeze", "select", "alias", "as_strided", "expand",
    "split", "unbind", "squeeze", "empty", "empty_like", "new_empty", "new_empty_strided", "empty_strided", "permute",
    "tensor_split", "split_with_sizes",
)  # fmt: skip


@dataclass
class Counts:
    """Of a step on one rank. flops: of matrix products. cached, streamed: bytes that passes read and write, of blocks
    and of what is larger. exponentials: numbers. operators: called, views included; launches: those of a GPU."""

    flops: float = 0
    cached: float = 0
    streamed: float = 0
    exponentials: float = 0
    operators: float = 0
    launches: float = 0


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.counts = Counts()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        name, counts = function.overloadpacket.__name__, self.counts
        counts.operators += 1
        counts.launches += name not in VIEWS
        tensors = _tensors(args[1:] if name in OVERWRITING else args)
        if name in PRODUCTS:
            left, right = [a for a in args if isinstance(a, Tensor)][-2:]
            counts.flops += 2 * left.shape[0] * left.shape[1] * right.shape[1]
        elif name in EXPONENTIALS:
            counts.exponentials += tensors[0].numel()
        elif name == "_fused_sgd_":
            params, grads, moments = args[:3]
            for tensor in (*params, *params, *grads, *moments, *moments):  # parameters and moments are written too
                self._pass(tensor)
        elif name in PLACING:  # they touch what they are given, not all that they are given it for
            for tensor in (_tensors(args[1:])[-1], *_tensors([out] if name == "gather" else [])):
                self._pass(tensor)
        elif name == "index" or name.startswith("new_"):
            self._pass(out)
        elif name not in VIEWS:
            for tensor in [*tensors, *_tensors([out])]:
                self._pass(tensor)
        return out

    def _pass(self, tensor: Tensor) -> None:
        size = tensor.numel() * tensor.element_size()
        if tensor.untyped_storage().nbytes() > CACHE:
            self.counts.streamed += size
        else:
            self.counts.cached += size


def _tensors(values) -> list[Tensor]:
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += [item for item in value if isinstance(item, Tensor)]
    return found


def count(step: Step) -> Counts:
    """One step, counted; another must have gone before, which makes gradients and moments."""
    with _Counting() as counting:
        step.run()
    return counting.counts


def seconds_of(function: Callable[[], object], least: float = 0.05) -> float:
    """Processor seconds of one call, over as many as take `least`."""
    function()
    calls, start = 0, time.process_time()
    while (taken := time.process_time() - start) < least:
        function()
        calls += 1
    return taken / calls


class Machine:
    """Rates of this machine, measured now: of products as a step has them, in blocks, rows and scores in memory."""

    def __init__(self, K: int, G: int, D: int) -> None:
        self.G, self.D = G, D
        b = min(block_for(torch.empty(G, D)), K)
        self.rows, self.changes = torch.randn(K, D).split(b), torch.empty(K, D).split(b)
        self.scores = torch.randn(G * K).split(G * b)
        self.x_GD, self.work, self.sum_GD = torch.randn(G, D), torch.randn(G * b), torch.randn(G, D)
        self.block, self.large = torch.randn(CELLS_CPU), torch.randn(16 * CACHE)
        self.block_out, self.large_out = self.block.clone(), self.large.clone()
        self.tiny = meta(64, 8, 8)
        self.tiny.run()
        self.tiny_operators = count(self.tiny).operators

    def _products(self) -> None:
        """The nine of a released step, each over all rows, which come from memory: four to G x k, two of them kept,
        three to G x D, two to k x D."""
        for number in range(9):
            for w, change, scores in zip(self.rows, self.changes, self.scores, strict=True):
                kept, work = (cells[: len(scores)].view(self.G, -1) for cells in (scores, self.work))
                if number < 4:
                    torch.mm(self.x_GD, w.T, out=kept if number % 2 else work)
                elif number < 7:
                    torch.addmm(self.sum_GD, work, w, out=self.sum_GD, beta=1e-30)
                else:
                    torch.mm(work.T, self.x_GD, out=change)

    def measure(self) -> "Rates":
        """Passes: a sum of two into the first. Operators: those of a step so small that nothing else costs."""
        products = self._products
        flops = 9 * 2 * self.G * self.D * sum(len(w) for w in self.rows)
        return Rates(
            products=flops / seconds_of(products),
            cached=12 * len(self.block) / seconds_of(lambda: self.block_out.add_(self.block)),
            streamed=12 * len(self.large) / seconds_of(lambda: self.large_out.add_(self.large)),
            exponentials=len(self.block) / seconds_of(lambda: torch.exp(self.block, out=self.block_out)),
            operator=seconds_of(self.tiny.run) / self.tiny_operators,
        )


class Rates(NamedTuple):
    """products: flop/s. cached, streamed: bytes/s. exponentials: numbers/s. operator: of one, with Python."""

    products: float
    cached: float
    streamed: float
    exponentials: float
    operator: float

    def seconds(self, counts: Counts) -> float:
        """A sum: nothing overlaps."""
        return (
            counts.flops / self.products
            + counts.cached / self.cached
            + counts.streamed / self.streamed
            + counts.exponentials / self.exponentials
            + counts.operators * self.operator
        )


CASES = (
    (8_000, 64, 256), (30_000, 64, 128), (20_000, 128, 512), (74_500, 32, 256), (50_000, 256, 128), (16_000, 256, 512),
)  # fmt: skip
TOLERANCE = 0.25


def validate(rounds: int) -> float:
    """Six steps predicted and measured, by turns, the best of each: other work slows either. The largest error."""
    errors = []
    for K, G, D in CASES:
        step, machine = meta(K, D, G), Machine(K, G, D)
        step.run()
        counts = count(step)
        rates, measured = [], []
        for _ in tqdm(range(rounds), desc=f"K {K:,}, G {G}, D {D}", leave=False):
            rates.append(machine.measure())
            measured.append(step.seconds())
        predicted, best = min(r.seconds(counts) for r in rates), min(measured)
        errors.append(predicted / best - 1)
        print(
            f"K {K:7,}, G {G:4}, D {D:4}: predicted {predicted * 1e3:7.1f} ms, measured {best * 1e3:7.1f} ms, "
            f"{100 * errors[-1]:+5.1f} % (target ±{100 * TOLERANCE:.0f} %)",
            flush=True,
        )
    worst = max(errors, key=abs)
    print(f"largest error {100 * worst:+.1f} %")
    return worst


class Formula(NamedTuple):
    """Of a step with preset `released`. passes_Gk, passes_kD: how often it reads or writes G x k and k x D numbers.
    exponentials: passes of those over G x k.
    launches: of a step, and of each block."""

    products: int = 9
    passes_Gk: float = 0
    passes_kD: float = 0
    exponentials: int = 4
    launches: float = 0
    launches_block: float = 0


def formula(G: int = 32, D: int = 64, k: int = 16_384) -> Formula:
    """Counted at sizes that tell the parts apart: twice G, twice D and half the block change one part each."""

    def counted(G: int, D: int, block: int) -> Counts:
        step = meta(k, D, G)
        step.head.memory.block = step.head.classifier.block = block
        step.run()
        return count(step)

    base, rows, half = counted(G, D, k), counted(2 * G, D, k), counted(G, D, k // 2)
    total, doubled = base.cached + base.streamed, rows.cached + rows.streamed
    passes_Gk = (doubled - total) / (4 * G * k)
    return Formula(
        products=round(base.flops / (2 * G * k * D)),
        passes_Gk=round(passes_Gk, 1),
        passes_kD=round((total - 4 * G * k * passes_Gk) / (4 * k * D), 1),
        exponentials=round(base.exponentials / (G * k)),
        launches=2 * base.launches - half.launches,
        launches_block=half.launches - base.launches,
    )


def messages(G: int, D: int, R: int) -> list[tuple[str, float]]:
    """Collectives of a released step: kind, and numbers that a rank hands in (docs/architecture.md)."""
    B = G // R
    return [
        ("gather", B * D), ("reduce", 2 * G), ("reduce", G), ("scatter", G * (2 * D + 1)), ("gather", B * D),
        ("reduce", 3 * G), ("reduce", G), ("reduce", 1),
        ("scatter", G * D), ("gather", B * (2 * D + 1)), ("scatter", G * D),
    ]  # fmt: skip


def crossing(D: int = 512) -> float:
    """The ranks from which a row for each, 6·R·G numbers, would be more than features and gradients, 8·G·D."""
    return 8 * D / 6


class Cluster(NamedTuple):
    """A GPU and its links. Data sheets of the H100 SXM (dense, without sparsity) and of ConnectX-7; the shares of them
    that are reached, the launch of a kernel, and the latencies are assumed."""

    flops: float = 989.4e12 * 0.6
    memory: float = 3.35e12 * 0.8
    launch: float = 5e-6
    bytes: float = 80e9
    nvlink: float = 450e9 * 0.8
    network: float = 50e9 * 0.8
    latency: float = 20e-6
    latency_network: float = 50e-6

    def exchange(self, G: int, D: int, R: int) -> float:
        """Seconds in collectives, by rings: gather and scatter move (R-1)/R of the whole, a reduction twice that."""
        if R == 1:
            return 0.0
        link, latency = (self.nvlink, self.latency) if R <= 8 else (self.network, self.latency_network)
        whole = {"gather": R, "scatter": 1, "reduce": 2}
        return sum(latency + 4 * n * whole[kind] * (R - 1) / R / link for kind, n in messages(G, D, R))


def tables(images: int = 128, D: int = 512) -> None:
    """Markdown: a step of the head with products in bfloat16, `images` of each GPU."""
    gpu, counted = Cluster(), formula()
    print(counted)
    print("| classes | GPUs | memory, GB | products, ms | passes, ms | launches, ms | collectives, ms | sum, ms |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for K in (74_500, 1_000_000, 10_000_000):
        for R in (1, 8, 64):
            G, k = images * R, math.ceil(K / R)
            memory = 9 * k * D * 4
            if memory > gpu.bytes:
                print(f"| {K:,} | {R} | {memory / 1e9:.1f} | does not fit | | | | |")
                continue
            blocks = math.ceil(k / max(CELLS_CUDA // G // 64 * 64, 256))
            products = counted.products * 2 * G * k * D / gpu.flops
            numbers = (counted.passes_Gk + 2 * counted.exponentials) * G * k + counted.passes_kD * k * D
            passes = 4 * numbers / gpu.memory
            launches = gpu.launch * (counted.launches + counted.launches_block * blocks)
            parts = [products, passes, launches, gpu.exchange(G, D, R)]
            cells = [f"{1e3 * part:.2f}" for part in (*parts, sum(parts))]
            print(f"| {K:,} | {R} | {memory / 1e9:.1f} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("validate", "tables", "crossing"))
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.only in (None, "validate"):
        validate(args.rounds)
    if args.only in (None, "tables"):
        tables()
    if args.only in (None, "crossing"):
        print(f"a row per rank would overtake all else at {crossing():.0f} ranks (D = 512)")


if __name__ == "__main__":
    main()
