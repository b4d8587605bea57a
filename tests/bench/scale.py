"""The head at a million and ten million classes over four gloo ranks: memory, bytes on the wire, resume at two ranks.

    python tests/bench/scale.py [--classes 1000000 --dimension 128] [--folder DIR]

Without --classes first 1M classes of 128 numbers, then 10M of 16. One thread a rank; about 8 GB of memory and 4 GB of
disk. Prints, each with its target:

    memory of a rank in a step, above what it had before its head, against three matrices with gradients and momentum
        (9·k·D·4 bytes), vectors of k and one block (scores are not kept)
    bytes that a rank hands to collectives, against the formula, at K and at 10,000 classes, plain, with two
        micro-batches, and with a tenth of the classes
    class rows and momentum, saved at four ranks and read at two: every bit of them, and the next step's loss
"""

import argparse
import json
import os
import socket
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from torch import Tensor

from facelt.config import FaceltConfig
from facelt.head.heads import MetaHead
from facelt.network.embedder import Embedded
from facelt.parallel import collectives, group
from facelt.parallel.partition import Partition
from facelt.run_folder import checkpoint
from facelt.run_folder.checkpoint import CheckpointState

SIZES = ((1_000_000, 128), (10_000_000, 16))
RANKS, FEWER, G = 4, 2, 96
FEW = 10_000
SGD = {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}
MATRICES = 9  # centroids, hallucinator and classifier, with gradients and momentum
VECTORS = 7  # bias with its gradient and momentum; norms, halves of squares, inverse norms of memory and classifier
LABELS: dict[str, dict[str, Any]] = {
    "plain": {},
    "two micro-batches": {"accumulate": 2},
    "a tenth of the classes": {"rate": 0.1},
}


def sent(G: int, D: int, ranks: int, accumulate: int = 1) -> int:
    """Bytes that a rank hands to collectives in a step of preset `released`, in float32 (docs/scale.md).

    G: images of all ranks in a micro-batch. The same whatever the number of classes and how many take part.
    """
    B = G // ranks
    gathered = B * D + B * D + B * (2 * D + 1)
    scattered = G * (2 * D + 1) + G * D + G * D
    reduced = 2 * G + G + 3 * G + G + 1
    return accumulate * 4 * (gathered + scattered + reduced) * (ranks > 1)


class Trained:
    """A released head of this rank with SGD's momentum, and batches that are the same at any number of ranks."""

    def __init__(self, classes: int, D: int, rate: float = 1.0) -> None:
        self.D, self.done = D, 0
        self.config = FaceltConfig.model_validate(
            {"embedding_size": D, "score_budget_mb": 0, "meta": {"sample_rate": rate}}
        )
        self.partition = Partition(classes, group.rank(), group.world_size())
        self.head = MetaHead(self.config, self.partition)
        for number, parameter in enumerate(self.head.memory.parameters()):
            parameter.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(1000 * number + group.rank()))
        self.learned = [(n, p) for n, p in self.head.named_parameters() if p.requires_grad]
        self.sgd = torch.optim.SGD([p for _, p in self.learned], **SGD, fused=True)

    def step(self, accumulate: int = 1) -> float:
        """One step of the optimizer; the loss."""
        B, total = G // group.world_size(), 0.0
        for _ in range(accumulate):
            drawn = torch.Generator().manual_seed(self.done)
            f_GD, e_GD = (torch.randn(G, self.D, generator=drawn) for _ in range(2))
            y_G = torch.randint(0, self.partition.num_classes, (G,), generator=drawn)
            mine = slice(group.rank() * B, (group.rank() + 1) * B)
            embedded = Embedded(f_GD[mine].requires_grad_(), e_GD[mine].tanh().requires_grad_())
            loss = self.head(embedded, y_G, self.done).loss / accumulate
            loss.backward()
            total += loss.item()
        self.sgd.step()
        self.head.after_step(True)
        self.done += 1
        return total

    def rows(self) -> dict[str, Tensor]:
        """Class rows of weights and momentum, as a checkpoint names them."""
        rows = {name: p.detach() for name, p in self.head.named_parameters()}
        return rows | {f"{n}.momentum_buffer": self.sgd.state[p]["momentum_buffer"] for n, p in self.learned}

    def save(self, run: Path) -> None:
        state = CheckpointState(
            stage="meta",
            step=self.done,
            finished=False,
            global_batch=G,
            config=self.config,
            num_classes=self.partition.num_classes,
            starts=self.partition.starts(),
        )
        checkpoint.save(run, state, weights={"none": torch.zeros(1)}, moments={}, rows=self.rows())

    def load(self, run: Path) -> None:
        folder = checkpoint.find(run)
        self.done = checkpoint.read_state(folder).step
        rows = checkpoint.read_rows(folder, self.partition)
        for name, parameter in self.head.named_parameters():
            parameter.data.copy_(rows.pop(name))
        for name, parameter in self.learned:
            self.sgd.state[parameter]["momentum_buffer"] = rows.pop(f"{name}.momentum_buffer").clone()

    def fingerprint(self) -> int:
        """Of every bit of all ranks' rows and of which class each belongs to: additive, so alike at any ranks."""
        total = torch.zeros(1, dtype=torch.int64)
        for name, rows in sorted(self.rows().items()):
            bits = rows.reshape(len(rows), -1).view(torch.int32)
            columns = torch.arange(1, bits.shape[1] + 1) * (1 + sum(name.encode()))
            for start in range(0, len(bits), FEW):
                part = bits[start : start + FEW].long()
                at = torch.arange(len(part)) + (self.partition.start + start + 1)
                total += ((part * columns).sum(1) * at).sum()
        return int(collectives.all_sum(total))


def traffic(classes: int, D: int, accumulate: int = 1, rate: float = 1.0) -> list[int]:
    """Bytes that this rank hands to collectives in a step, and by the formula."""
    trained = Trained(classes, D, rate)
    trained.step(accumulate)
    collectives.traffic.reset()
    trained.step(accumulate)
    return [collectives.traffic.bytes, sent(G, D, group.world_size(), accumulate)]


def resident(name: str) -> int:
    """Bytes of a line of /proc/self/status."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def before(classes: int, D: int, run: Path) -> dict[str, Any]:
    """At four ranks: memory of two steps, then a checkpoint, and what the next step finds."""
    Trained(FEW, D).step()  # what libraries keep
    start = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    trained = Trained(classes, D)
    trained.step(), trained.step()
    k, block = trained.partition.size, 2**18
    expected = 4 * (MATRICES * k * D + VECTORS * k + block)
    found = {"memory": resident("VmHWM") - start, "expected": expected}
    trained.save(run)
    return {**found, "fingerprint": trained.fingerprint(), "loss": trained.step()}


def at_many(classes: int, D: int, run: Path) -> dict[str, Any]:
    """All that is measured at four ranks: `before`, and bytes by what is done and how many classes there are."""
    found = before(classes, D, run)
    found["bytes"] = [
        [f"{name}, K = {count:,}", *traffic(count, D, **how)]
        for name, how in LABELS.items()
        for count in (classes, FEW)
    ]
    return found


def after(classes: int, D: int, run: Path) -> dict[str, Any]:
    """At two ranks: what the checkpoint gives, and what the next step finds."""
    trained = Trained(classes, D)
    trained.load(run)
    return {"fingerprint": trained.fingerprint(), "loss": trained.step()}


def _rank(rank: int, world: int, port: int, function: Any, arguments: tuple, folder: Path) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "DS_ACCELERATOR": "cpu"}
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(1)
    group.join()
    (folder / f"{rank}.json").write_text(json.dumps(function(*arguments)))
    group.leave()


def on_ranks(world: int, function: Any, *arguments: Any) -> list[Any]:
    """What the function returns on each of so many new gloo ranks."""
    with tempfile.TemporaryDirectory() as name, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        mp.spawn(_rank, (world, port, function, arguments, Path(name)), nprocs=world)
        return [json.loads((Path(name) / f"{rank}.json").read_text()) for rank in range(world)]


def report(classes: int, D: int, folder: Path) -> None:
    """Measure and print one size."""
    print(f"K = {classes:,}, D = {D}, {RANKS} ranks, G = {G}", flush=True)
    with tempfile.TemporaryDirectory(dir=folder) as run:
        saved = on_ranks(RANKS, at_many, classes, D, Path(run))
        for name, measured, by_formula in saved[0]["bytes"]:
            print(f"bytes of a rank, {name}: {measured:,}, {measured / by_formula:.6f} x the formula (target 1)")
        worst = max(saved, key=lambda found: found["memory"] / found["expected"])
        print(f"memory of a rank: {worst['memory'] / 1e9:.2f} GB, {worst['memory'] / worst['expected']:.3f} x "
              "matrices, vectors and one block (target 1.1)", flush=True)  # fmt: skip
        loaded = on_ranks(FEWER, after, classes, D, Path(run))
    same = {found["fingerprint"] for found in saved + loaded}
    one, other = (sum(found["loss"] for found in side) for side in (saved, loaded))
    print(f"resumed at {FEWER} ranks: rows and momentum {'equal' if len(same) == 1 else 'DIFFERENT'} (target equal), "
          f"next loss {other / one:.8f} x that at {RANKS} (target 1 to rounding)", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int)
    parser.add_argument("--dimension", type=int, default=SIZES[0][1])
    parser.add_argument("--folder", type=Path, help="where the checkpoint lies for a while (default: the system's)")
    args = parser.parse_args()
    for classes, dimension in [(args.classes, args.dimension)] if args.classes else SIZES:
        report(classes, dimension, args.folder)


if __name__ == "__main__":
    main()
