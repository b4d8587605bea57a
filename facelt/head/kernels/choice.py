"""Whether a head's loops over classes run as torch's products in blocks or as Triton's kernels: knob `head.kernels`.

The kernels were proved in Triton's interpreter and compiled for an H100; no card has run them yet. So a card is asked
as a run starts: they are used where they agree with torch's products and, unless the knob insists, are as fast.
"""

from dataclasses import replace

import torch

from facelt.errors import UserError
from facelt.head.blocked import Kernels
from facelt.head.heads import Head
from facelt.head.kernels import self_check
from facelt.head.kernels.self_check import TORCH, Problem
from facelt.parallel import group

# Of a timing, at most: more tells no more.
TIMED_CLASSES = 2**15


def load() -> Kernels | None:
    """Triton's kernels; None where triton is not installed, as beside torch for a CPU."""
    try:
        from facelt.head.kernels.cross_entropy import FusedScores
        from facelt.head.kernels.read import FusedRead
    except ImportError:
        return None
    return Kernels(FusedScores.apply, FusedRead.apply)


def interpreted() -> bool:
    """Whether Triton runs in its interpreter, on tensors of the CPU (TRITON_INTERPRET=1)."""
    from facelt.head.kernels import tiles

    return tiles.interpreted()


def choose(knob: str, device: torch.device, problem: Problem) -> Kernels | None:
    """What serves a head in training; None: torch's products. The same on all ranks, which must all ask.

    knob: `head.kernels`. problem: as large as a step of this rank. On CUDA one line says which it is, and why.
    Raises UserError where "triton" is asked for and cannot run.
    """
    on_cuda = device.type == "cuda"
    if knob == "torch" or (knob == "auto" and not on_cuda):
        return None
    kernels = load()
    if kernels is None:
        if knob == "auto":
            return None
        raise UserError('"head.kernels": "triton", and triton is not installed: install it, or take "auto" or "torch"')
    if not on_cuda and not interpreted():
        raise UserError(
            '"head.kernels": "triton" on a CPU, where its kernels run in Triton\'s interpreter alone: set '
            'TRITON_INTERPRET=1 to try a few classes, or take "auto" or "torch"'
        )
    if (found := group.first_error(self_check.fault(kernels, device, problem))) is not None:
        group.say(f"warning: head.kernels: torch's products in the place of Triton's kernels: {found}")
        return None
    return _faster(kernels, device, problem, insist=knob == "triton") if on_cuda else kernels


def serve(head: Head, knob: str, device: torch.device, rows: int) -> None:
    """Let kernels serve a head, as `choose` has it. rows: of all ranks, in a step."""
    k, D = head.classifier.weight.shape
    memory = getattr(head, "memory", None)
    cosine = (head.classifier.kind if memory is None else memory.retrieval) == "cosine"
    head.serve_by(choose(knob, device, Problem(rows, k, D, head.products or torch.float32, cosine)))


def _faster(kernels: Kernels, device: torch.device, problem: Problem, insist: bool) -> Kernels:
    """Of the two for each operation the faster, by the rank where the kernels do worst. insist: the kernels anyway."""
    timed = replace(problem, k=min(problem.k, TIMED_CLASSES))
    ours, torchs = (self_check.seconds(each, timed, device) for each in (kernels, TORCH))
    every = group.gather([own / other for own, other in zip(ours, torchs, strict=True)])
    ratios = [max(of_ranks) for of_ranks in zip(*every, strict=True)]
    taken = [insist or ratio <= 1 for ratio in ratios]
    said = [
        f"{name} by {'triton' if take else 'torch'}, Triton's kernels taking {ratio:.2f} x the time of torch's products"
        for name, take, ratio in zip(Kernels._fields, taken, ratios, strict=True)
    ]
    group.say(f"head.kernels: {'; '.join(said)}")
    return Kernels(*(own if take else other for take, own, other in zip(taken, kernels, TORCH, strict=True)))
