"""The training step of a network at 112 x 112, plain and with each switch of the "backbone" block, in one run.

    python tests/bench/backbone.py [--name resnet50] [--batch 8] [--rounds 3] [--threads 2] [--device cpu|cuda]

The ways take turns in every round, so that a busy machine slows them alike; a row is the median over the rounds.
Time: forward, backward and nothing else, as a ratio to plain float32. Memory: the highest sum of tensors alive in one
step (on CPU from torch's profiler, so without the libraries' own scratch space), above what was there before it.
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler reports on itself otherwise

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

from facelt.network import backbone, iresnet, resnet

WAYS: dict[str, tuple[dict[str, bool], torch.dtype | None]] = {
    "plain": ({}, None),
    "channels_last": ({"channels_last": True}, None),
    "checkpointing": ({"checkpointing": True}, None),
    "compile": ({"compile": True}, None),
    "bfloat16": ({}, torch.bfloat16),
    "bfloat16, channels_last": ({"channels_last": True}, torch.bfloat16),
}
OFF = {"compile": False, "channels_last": False, "checkpointing": False}


def step(net: nn.Module, images_B3HW: Tensor, dtype: torch.dtype | None) -> float:
    """Seconds of one forward and backward pass."""
    net.zero_grad(set_to_none=False)
    start = time.perf_counter()
    with torch.autocast(images_B3HW.device.type, dtype=dtype, enabled=dtype is not None):
        map_BCHW = net(images_B3HW)
    map_BCHW.float().square().mean().backward()
    if images_B3HW.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak(net: nn.Module, images_B3HW: Tensor, dtype: torch.dtype | None) -> int:
    """Bytes of tensors alive at the worst moment of a step, above those before it."""
    if images_B3HW.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(net, images_B3HW, dtype)
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step(net, images_B3HW, dtype)
    alive = highest = 0
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        alive += event.nbytes()
        highest = max(highest, alive)
    return highest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", choices=[*resnet.DEPTHS, *iresnet.DEPTHS, "mobilefacenet"], default="resnet50")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    images_B3HW = torch.randn(args.batch, 3, 112, 112, device=args.device)
    nets, firsts = {}, {}
    for way, (switches, dtype) in (bar := tqdm(WAYS.items(), unit="way", leave=False)):
        bar.set_description(f"first step, {way}")
        net = backbone.build(args.name, 64, "imagenet", "synchronised").to(args.device).train()
        backbone.switch(net, **OFF | switches)
        firsts[way] = step(net, images_B3HW, dtype)
        nets[way] = net
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in tqdm(range(args.rounds), unit="round", leave=False):
        for way, (_, dtype) in WAYS.items():
            seconds[way].append(step(nets[way], images_B3HW, dtype))
    print(f"{args.name}, {args.batch} images of 112 x 112, {args.device}, {args.threads} threads, {args.rounds} rounds")
    print(f"{'':26}{'step':>9}{'of plain':>10}{'peak memory':>13}{'of plain':>10}{'first step':>12}")
    plain_seconds, plain_bytes = statistics.median(seconds["plain"]), None
    for way, (_, dtype) in WAYS.items():
        median, memory = statistics.median(seconds[way]), peak(nets[way], images_B3HW, dtype)
        plain_bytes = plain_bytes or memory
        times = f"{median:>7.2f} s{median / plain_seconds:>9.2f}x"
        print(f"{way:26}{times}{memory / 2**20:>10.0f} MB{memory / plain_bytes:>9.2f}x{firsts[way]:>10.1f} s")


if __name__ == "__main__":
    main()
