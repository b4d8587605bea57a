"""The meta head's step against the bare matrix products that it cannot avoid, in one run with the same threads.

    python tests/bench/head.py [--only products|memory|classes|ranks] [--batch 128] [--threads 2] [--rounds 5]

Products of G x k x D that no implementation of the released head avoids: forward f·Wᵀ, p·C and f·Cᵀ of the memory and
x·Wᵀ of the classifier; backward da·Cᵀ, dl·W and dlᵀ·f of the memory, dl·W and dlᵀ·x of the classifier: nine. (Two are
done twice by choice: keeping their results would cost G x K.) The preset cosine has ten: retrieval by cosine learns no
keys (no dlᵀ·f) and f·Cᵀ serves both scores and distances (here it is done twice), but its loss on the direct feature
sends twice the rows through the classifier.
"""

import argparse
import gc
import os
import socket
import statistics
import time
from pathlib import Path

import torch
import torch.multiprocessing as mp
from tqdm import tqdm

from facelt.config import FaceltConfig
from facelt.head.heads import MetaHead
from facelt.network.embedder import Embedded
from facelt.parallel import collectives, group
from facelt.parallel.partition import Partition

K, D = 74_500, 512
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def now() -> float:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


class Floor:
    """The bare products, each into memory that is there already."""

    def __init__(self, G: int, dtype: torch.dtype) -> None:
        options = {"dtype": dtype, "device": DEVICE}
        self.f_GD, self.w_KD = torch.randn(G, D, **options), torch.randn(K, D, **options)
        self.out_GK, self.out_GD, self.out_KD = (torch.empty(s, **options) for s in ((G, K), (G, D), (K, D)))

    def seconds(self, preset: str) -> float:
        to_GK, to_GD, to_KD = (4, 3, 2) if preset == "released" else (4, 4, 2)
        start = now()
        for _ in range(to_GK):
            torch.mm(self.f_GD, self.w_KD.T, out=self.out_GK)  # f·Wᵀ, f·Cᵀ, x·Wᵀ, da·Cᵀ
        for _ in range(to_GD):
            torch.mm(self.out_GK, self.w_KD, out=self.out_GD)  # p·C, dl·W of both
        for _ in range(to_KD):
            torch.mm(self.out_GK.T, self.f_GD, out=self.out_KD)  # dlᵀ·f, dlᵀ·x
        return now() - start


class Subject:
    """A head with its optimizer and a batch, on this rank."""

    def __init__(self, classes: int, size: int, G: int, preset: str = "released", products: str = "float32") -> None:
        torch.manual_seed(0)
        config = FaceltConfig.model_validate({"embedding_size": size, "preset": preset, "products": products})
        self.head = MetaHead(config, Partition(classes, group.rank(), group.world_size())).to(DEVICE)
        for parameter in self.head.memory.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
        learned = [p for p in self.head.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(learned, lr=0.01, momentum=0.9, weight_decay=5e-4, fused=True)
        B = G // group.world_size()
        self.f = torch.randn(B, size, device=DEVICE, requires_grad=True)
        self.e = torch.tanh(torch.randn(B, size, device=DEVICE)).requires_grad_()
        self.t = torch.full((1,), 16.0, device=DEVICE, requires_grad=True)
        self.y = torch.randint(0, classes, (G,), generator=torch.Generator().manual_seed(1)).to(DEVICE)

    def seconds(self) -> float:
        """Of one forward, backward and update."""
        start = now()
        self.head(Embedded(self.f, self.e, self.t), self.y).loss.backward()
        self.optimizer.step()
        self.head.after_step(True)
        self.optimizer.zero_grad(set_to_none=False)
        return now() - start


def products(args: argparse.Namespace) -> None:
    """Time against the floor, for presets and precisions."""
    print(f"K = {K:,}, D = {D}, G = {args.batch}, {DEVICE.type}, {torch.get_num_threads()} threads")
    steps = {}
    for preset, kind in (("released", "float32"), ("cosine", "float32"), ("released", "bfloat16")):
        floor, subject = Floor(args.batch, getattr(torch, kind)), Subject(K, D, args.batch, preset, kind)
        subject.seconds()
        pairs = [(subject.seconds(), floor.seconds(preset)) for _ in tqdm(range(args.rounds), desc=f"{preset} {kind}")]
        steps[preset, kind] = statistics.median(ours for ours, _ in pairs)
        ratio = statistics.median(ours / bare for ours, bare in pairs)
        bare = "nine" if preset == "released" else "ten"
        limit = 1.5 if kind == "float32" else 2.0
        print(
            f"{preset:8} {kind:8} {steps[preset, kind]:6.2f} s a step, {ratio:.2f} x its {bare} bare {kind} products "
            f"(target {limit})"
        )
        del floor, subject
        gc.collect()
    share = steps["released", "bfloat16"] / steps["released", "float32"]
    print(f"bfloat16 / float32: {share:.2f} (target below 1)")


def memory(args: argparse.Namespace) -> None:
    """Peak above parameters, gradients and momentum, at two sizes."""
    for classes in (K, 4 * K):
        subject = Subject(classes, D if classes == K else D // 4, args.batch)
        for parameter in subject.head.parameters():
            parameter.grad = torch.zeros_like(parameter)
            subject.optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        if DEVICE.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            subject.seconds()
            extra = torch.cuda.max_memory_allocated() - before
        else:
            before = resident("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
            subject.seconds()
            extra = resident("VmHWM") - before
        whole = args.batch * classes * 4
        print(
            f"peak above parameters, gradients, momentum at K = {classes:,}: {extra / 2**20:.0f} MB (target 256; "
            f"one batch x classes matrix would be {whole / 2**20:.0f} MB)"
        )
        del subject
        gc.collect()


def resident(name: str) -> int:
    """Bytes of a line of /proc/self/status."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def classes(args: argparse.Namespace) -> None:
    """Time for each class from 10 thousand to a million, at D = 256."""
    each = {}
    for count in tqdm((10_000, 100_000, 1_000_000), desc="classes"):
        subject = Subject(count, 256, args.batch)
        subject.seconds()
        each[count] = statistics.median(subject.seconds() for _ in range(args.rounds)) / count
        del subject
        gc.collect()
    low = min(each.values())
    for count, seconds in each.items():
        print(f"K = {count:9,}, D = 256: {seconds * 1e6:.2f} µs a class, {seconds / low:.2f} x the least (target 1.2)")
    print(f"largest process: {resident('VmHWM') / 1e9:.1f} GB (target 12)")


def ranks(args: argparse.Namespace) -> None:
    """One rank with one thread against two, at one global batch; and what crosses the network."""
    seconds = {}
    for world in (1, 2):
        with mp.get_context("spawn").Manager() as manager, socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
            probe.close()
            answers = manager.dict()
            mp.spawn(one_rank, (world, port, args.batch, args.rounds, answers), nprocs=world)
            seconds[world], few, many = answers[0]
    print(f"two ranks of one thread / one rank of one thread: {seconds[2] / seconds[1]:.2f} (target 0.6)")
    print(f"collectives of a step: {few[0]}; sent by a rank: {few[1]:,} bytes at K = {K:,}, {many[1]:,} at {10 * K:,}")


def one_rank(rank: int, world: int, port: int, G: int, rounds: int, answers: dict) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    group.join()
    subject = Subject(K, D, G)
    subject.seconds()
    times = []
    for _ in range(rounds):
        group.barrier()
        times.append(subject.seconds())
    sent = []
    for count in (K, 10 * K):
        small = Subject(count, 32, G)
        collectives.traffic.reset()
        small.seconds()
        sent.append((collectives.traffic.calls, collectives.traffic.bytes))
    if rank == 0:
        answers[0] = (statistics.median(times), *sent)
    group.leave()


PARTS = {"products": products, "memory": memory, "classes": classes, "ranks": ranks}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for name in [args.only] if args.only else PARTS:
        PARTS[name](args)


if __name__ == "__main__":
    main()
