"""The meta head's step against the bare matrix products that it cannot avoid, in one run with the same threads.

    python tests/bench/head.py [--classes 74500] [--size 512] [--batch 128] [--threads 2] [--rounds 5]

Products of G x k x D that no implementation avoids: forward f·Wᵀ, p·C and f·Cᵀ of the memory and x·Wᵀ of the
classifier; backward da·Cᵀ, dl·W and dlᵀ·f of the memory, dl·W and dlᵀ·x of the classifier: nine. (Two of them are done
twice by choice: keeping their results would cost G x K.)
"""

import argparse
import statistics
import time

import torch

from facelt.config import FaceltConfig
from facelt.embedder import Embedded
from facelt.model import MetaHead
from facelt.partition import Partition

PRODUCTS = 9


def floor(f: torch.Tensor, w: torch.Tensor, out_GK: torch.Tensor, out_KD: torch.Tensor) -> float:
    """Seconds of the nine products: four to G x K, two of them and one more back to G x D, two to K x D."""
    start = time.perf_counter()
    for _ in range(4):
        torch.mm(f, w.T, out=out_GK)  # f·Wᵀ, f·Cᵀ, x·Wᵀ, da·Cᵀ
    for _ in range(3):
        out_GK @ w  # p·C, dl·W, dl·W
    for _ in range(2):
        torch.mm(out_GK.T, f, out=out_KD)  # dlᵀ·f, dlᵀ·x
    return time.perf_counter() - start


def step(head: MetaHead, optimizer: torch.optim.Optimizer, f: torch.Tensor, e: torch.Tensor, y: torch.Tensor) -> float:
    """Seconds of one forward, backward and update."""
    start = time.perf_counter()
    head(Embedded(f, e), y).loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=74_500)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    K, D, G = args.classes, args.size, args.batch
    head = MetaHead(FaceltConfig(embedding_size=D), Partition(K))
    for parameter in head.memory.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, fused=True)
    f = torch.randn(G, D, requires_grad=True)
    e = torch.tanh(torch.randn(G, D)).requires_grad_()
    y = torch.randint(0, K, (G,))
    w, out_GK, out_KD = torch.randn(K, D), torch.empty(G, K), torch.empty(K, D)
    ratios, steps = [], []
    step(head, optimizer, f, e, y)
    for _ in range(args.rounds):
        bare = floor(f.detach(), w, out_GK, out_KD)
        ours = step(head, optimizer, f, e, y)
        steps.append(ours)
        ratios.append(ours / bare)
    what = f"meta head, K = {K:,}, D = {D}, G = {G}, float32, {args.threads} threads"
    print(f"{what}: {statistics.median(steps):.2f} s a step")
    print(f"step / {PRODUCTS} bare products: {statistics.median(ratios):.2f} (median of {args.rounds}; target 1.5)")


if __name__ == "__main__":
    main()
