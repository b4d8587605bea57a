"""The head's step against the bare matrix products that it cannot avoid, in one run with the same threads.

    python tests/bench/head.py [--only products|partial_fc|memory|classes|ranks] [--threads 2] [--rounds 5]

Products of G x k x D that no implementation of the released head avoids: forward f·Wᵀ, p·C and f·Cᵀ of the memory and
x·Wᵀ of the classifier; backward da·Cᵀ, dl·W and dlᵀ·f of the memory, dl·W and dlᵀ·x of the classifier: nine. The preset
cosine has ten: retrieval by cosine learns no keys (no dlᵀ·f) and f·Cᵀ serves both scores and distances, but its loss on
the direct feature sends twice the rows through the classifier. A step is forward, backward and update; beside it stands
that without the update, which is no product.

On a CPU seconds are those of processor, of all threads, so that other work beside it counts less; --clock wall takes
the clock's. With more than one thread, processor time counts threads that wait for each other too.
"""

import argparse
import gc
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.multiprocessing as mp
from torch import Tensor
from torch.nn.functional import linear, normalize
from tqdm import tqdm

from facelt.config import FaceltConfig
from facelt.head.heads import Head, MetaHead, PlainHead
from facelt.head.kernels import choice
from facelt.network.embedder import Embedded
from facelt.parallel import collectives, group
from facelt.parallel.partition import Partition

K, D = 74_500, 512
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


# As large as a training run sees them: presets whose step is measured, and how many bare products it may be of.
TARGETS = {("released", "float32"): 1.2, ("cosine", "float32"): 1.25, ("released", "bfloat16"): 1.6}
BARE = {"released": "nine", "cosine": "ten"}

# Allocators: glibc's as it comes, which gives large pieces back to the system and takes them anew, and one that keeps.
KEEPING = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "17179869184"}


class Clock:
    """What seconds are: of the processor, or the clock's."""

    wall = DEVICE.type == "cuda"


def now() -> float:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() if Clock.wall else time.process_time()


class Floor:
    """The bare products, each into memory that is there already."""

    def __init__(self, K: int, G: int, dtype: torch.dtype) -> None:
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


class Step:
    """A head with its optimizer and a batch, on this rank. kernels: the knob, of all heads."""

    kernels = "torch"

    def __init__(self, head: Head, size: int, G: int) -> None:
        torch.manual_seed(0)
        self.head = head.to(DEVICE)
        choice.serve(self.head, self.kernels, DEVICE, G)
        learned = [p for p in head.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(learned, lr=0.01, momentum=0.9, weight_decay=5e-4, fused=True)
        B = G // group.world_size()
        f, e = (torch.randn(B, size, device=DEVICE) for _ in range(2))
        t = torch.full((1,), 16.0, device=DEVICE, requires_grad=True)
        self.embedded = Embedded(f.requires_grad_(), torch.tanh(e).requires_grad_(), t)
        classes = head.partition.num_classes
        self.y = torch.randint(0, classes, (G,), generator=torch.Generator().manual_seed(1)).to(DEVICE)

    def run(self) -> tuple[float, float]:
        """Seconds of forward and backward, and of those and the update."""
        start = now()
        self.head(self.embedded, self.y).loss.backward()
        done = now()
        self.optimizer.step()
        self.head.after_step(True)
        self.optimizer.zero_grad(set_to_none=False)
        return done - start, now() - start

    def seconds(self) -> float:
        return self.run()[1]


def meta(classes: int, size: int, G: int, preset: str = "released", products: str = "float32") -> Step:
    """The step of a meta head."""
    torch.manual_seed(0)
    config = FaceltConfig.model_validate({"embedding_size": size, "preset": preset, "products": products})
    head = MetaHead(config, Partition(classes, group.rank(), group.world_size()))
    for parameter in head.memory.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return Step(head, size, G)


class _DistCrossEntropy(torch.autograd.Function):
    """Softmax and cross-entropy in the memory of the logits, as insightface has it."""

    @staticmethod
    def forward(ctx, logits_GK: Tensor, y_G1: Tensor) -> Tensor:
        logits_GK.sub_(logits_GK.amax(1, keepdim=True)).exp_()
        logits_GK.div_(logits_GK.sum(1, keepdim=True))
        ctx.save_for_backward(logits_GK, y_G1)
        return logits_GK.gather(1, y_G1).clamp_min_(1e-30).log_().mean() * -1

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        p_GK, y_G1 = ctx.saved_tensors
        p_GK -= torch.zeros_like(p_GK).scatter_(1, y_G1, 1)
        return p_GK.div_(len(p_GK)) * grad.item(), None


class PartialFC(torch.nn.Module):
    """insightface's PartialFC_V2 with its ArcFace: all classes sampled, one rank. Its three products are ours."""

    def __init__(self, classes: int, size: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.normal(0, 0.01, (classes, size)))

    def forward(self, f_GD: Tensor, y_G1: Tensor, scale: float, margin: float) -> Tensor:
        logits_GK = linear(normalize(f_GD), normalize(self.weight)).clamp(-1, 1)
        own_G1 = logits_GK.gather(1, y_G1)
        with torch.no_grad():
            logits_GK.arccos_()
            logits_GK.scatter_add_(1, y_G1, torch.full_like(own_G1, margin))
            logits_GK.cos_()
        return _DistCrossEntropy.apply(logits_GK * scale, y_G1)


class PartialFCStep:
    """A step of the twin, with a batch."""

    def __init__(self, classes: int, size: int, G: int) -> None:
        torch.manual_seed(0)
        self.head = PartialFC(classes, size).to(DEVICE)
        self.optimizer = torch.optim.SGD(self.head.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, fused=True)
        self.f_GD = torch.randn(G, size, device=DEVICE, requires_grad=True)
        self.y_G1 = torch.randint(0, classes, (G, 1), generator=torch.Generator().manual_seed(1)).to(DEVICE)

    def seconds(self) -> float:
        """Of one forward, backward and update."""
        start = now()
        self.head(self.f_GD, self.y_G1, 64, 0.5).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return now() - start


def products(args: argparse.Namespace) -> None:
    """Time against the floor, for presets and precisions."""
    steps = {}
    for (preset, kind), target in TARGETS.items():
        floor = Floor(args.classes, args.batch, getattr(torch, kind))
        step = meta(args.classes, D, args.batch, preset, kind)
        step.run(), floor.seconds(preset)
        bar = tqdm(range(args.rounds), desc=f"{preset} {kind}")
        rounds = [(*step.run(), floor.seconds(preset)) for _ in bar]
        steps[preset, kind] = statistics.median(whole for _, whole, _ in rounds)
        ratio = statistics.median(whole / bare for _, whole, bare in rounds)
        alone = statistics.median(passes / bare for passes, _, bare in rounds)
        print(
            f"{preset:8} {kind:8} {steps[preset, kind]:6.2f} s a step, {ratio:.2f} x its {BARE[preset]} bare {kind} "
            f"products (target {target}), {alone:.2f} x without the update"
        )
        del floor, step
        gc.collect()
    share = steps["released", "bfloat16"] / steps["released", "float32"]
    print(f"bfloat16 / float32: {share:.2f} (target below 1)")


def partial_fc(args: argparse.Namespace) -> None:
    """Plain ArcFace against the same of PartialFC."""
    knobs = {"classifier": "cosine", "scale": 64, "margin": "arcface", "margin_size": 0.5}
    head = PlainHead(FaceltConfig.model_validate({"embedding_size": D, "plain_head": knobs}), Partition(args.classes))
    ours, theirs = Step(head, D, args.batch), PartialFCStep(args.classes, D, args.batch)
    ours.seconds(), theirs.seconds()
    rounds = [(ours.seconds(), theirs.seconds()) for _ in tqdm(range(args.rounds), desc="plain ArcFace")]
    for name, seconds in zip(("plain ArcFace", "PartialFC"), zip(*rounds, strict=True), strict=True):
        print(f"{name}: {statistics.median(seconds):.2f} s a step")
    ratio = statistics.median(own / other for own, other in rounds)
    print(f"plain ArcFace / PartialFC: {ratio:.2f} (target 0.85 at the allocator that is best for PartialFC)")


def memory(args: argparse.Namespace) -> None:
    """Peak above parameters, gradients and momentum, at two sizes, each in a process of its own."""
    for preset in BARE:
        for classes in (K, 4 * K):
            process = mp.get_context("spawn").Process(target=peak, args=(preset, classes, args.batch, args.threads))
            process.start()
            process.join()


def peak(preset: str, classes: int, G: int, threads: int) -> None:
    torch.set_num_threads(threads)
    step = meta(classes, D if classes == K else D // 4, G, preset)
    for parameter in step.head.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.empty_like(parameter).fill_(0)
            step.optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).fill_(0)
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step.run()
        extra = torch.cuda.max_memory_allocated() - before
    else:
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        step.run()
        extra = resident("VmHWM") - before
    print(
        f"{preset}: peak above parameters, gradients, momentum at K = {classes:,}: {extra / 2**20:.0f} MB (target 256; "
        f"one batch x classes matrix is {G * classes * 4 / 2**20:.0f} MB)"
    )


def resident(name: str) -> int:
    """Bytes of a line of /proc/self/status."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def classes(args: argparse.Namespace) -> None:
    """Time for each class from 10 thousand to a million, at D = 256."""
    each = {}
    for count in tqdm((10_000, 100_000, 1_000_000), desc="classes"):
        step = meta(count, 256, args.batch)
        step.seconds()
        each[count] = statistics.median(step.seconds() for _ in range(args.rounds)) / count
        del step
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
    step = meta(K, D, G)
    step.seconds()
    times = []
    for _ in range(rounds):
        group.barrier()
        times.append(step.seconds())
    sent = []
    for count in (K, 10 * K):
        small = meta(count, 32, G)
        collectives.traffic.reset()
        small.seconds()
        sent.append((collectives.traffic.calls, collectives.traffic.bytes))
    if rank == 0:
        answers[0] = (statistics.median(times), *sent)
    group.leave()


PARTS = {"products": products, "partial_fc": partial_fc, "memory": memory, "classes": classes, "ranks": ranks}

TIMED = ("products", "partial_fc")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--classes", type=int, default=K, help="of the parts that are timed against products, twins")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=("processor", "wall"), default="processor")
    parser.add_argument("--allocator", choices=("both", "default", "keeping"), default="both")
    parser.add_argument("--kernels", choices=("torch", "triton", "auto"), default="torch", help="as head.kernels")
    args = parser.parse_args()
    Step.kernels = args.kernels
    torch.set_num_threads(args.threads)
    Clock.wall = Clock.wall or args.clock == "wall"
    for name in [args.only] if args.only else PARTS:
        if name in TIMED and args.allocator == "both" and DEVICE.type == "cpu":
            for kind, environment in (("default", {}), ("keeping", KEEPING)):
                command = [sys.executable, *sys.argv, "--only", name, "--allocator", kind]
                subprocess.run(command, env=os.environ | environment, check=True)
        else:
            print(f"K = {args.classes:,}, D = {D}, G = {args.batch}, {DEVICE.type}, {args.threads} threads,")
            print(f"kernels: {args.kernels},")
            print(f"{args.clock} time, allocator {args.allocator}")
            PARTS[name](args)


if __name__ == "__main__":
    main()
