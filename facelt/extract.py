"""Extract: features of a data folder, from a checkpoint, an ONNX recogniser or the bare pixels, to a feature set.

    python -m facelt.extract --checkpoint RUN --data DATA --output FEATURES --embedding direct
    python -m facelt.extract --onnx recogniser.onnx --data DATA --output FEATURES
    deepspeed --module facelt.extract --checkpoint RUN --data DATA --output FEATURES      (the same, on all GPUs)

Several embeddings or data folders are written in one go, to FEATURES/<embedding>/<data folder's name>.
A feature set is a folder: features.npy (N x D, float32), labels.npy (N, int64), names.txt (where the data has names of
identities), meta.json (what made it).
"""

import argparse
import json
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from facelt.config import FaceltConfig
from facelt.errors import one_line
from facelt.head.embedding import EMBEDDINGS
from facelt.head.heads import MetaHead
from facelt.images.one_pass import each_batch
from facelt.network.embedder import Embedder
from facelt.parallel import collectives, group
from facelt.parallel.partition import Partition
from facelt.training import checkpoint
from recordio_tools.dataset import RecordDataset

# Images B x 3 x H x W in [-1, 1] -> features B x D, one for each embedding asked for.
Recogniser = Callable[[Tensor], list[Tensor]]


def main(argv: list[str] | None = None) -> int:
    args = arguments().parse_args(argv)
    with one_line("facelt.extract"):
        device = group.start()
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # a launcher's: leave through the clean-up below
        outputs = [output_folders(args, source) for source in args.data]
        every = [folder for folders in outputs for folder in folders]
        if len(set(every)) < len(every):
            raise ValueError("two data folders or embeddings have the same name; extract them one at a time")
        taken = [folder for folder in every if folder.exists()]
        if taken and not args.force:
            raise ValueError(f"--output {taken[0]} exists; give another folder, or --force to replace it")
        recogniser, image_size, facts = make_recogniser(args, device)
        facts["flip"] = args.flip
        if args.flip:
            recogniser = with_flip(recogniser)
        for source, folders in zip(args.data, outputs, strict=True):
            dataset = group.together(RecordDataset, source)
            with one_line("facelt.extract", every_rank=True):
                write_features(folders, recogniser, image_size, dataset, {**facts, "data": source}, args, device)
    return 0


def output_folders(args: argparse.Namespace, source: str) -> list[Path]:
    """Where the features of a data folder go, for each embedding: OUTPUT[/embedding][/data folder's name]."""
    names = args.embedding if len(args.embedding) > 1 else [""]
    return [Path(args.output) / name / (Path(source).resolve().name if len(args.data) > 1 else "") for name in names]


def make_recogniser(args: argparse.Namespace, device: torch.device) -> tuple[Recogniser, int, dict[str, Any]]:
    """The function that the arguments ask for, the image size it takes, and facts for meta.json."""
    if args.memory and args.embedding == ["direct"]:
        raise ValueError(
            f"--memory {args.memory} does not touch the direct feature; give --embedding meta, or leave it out"
        )
    if args.checkpoint:
        return from_checkpoint(args.checkpoint, args.embedding, device, args.memory)
    if args.embedding != ["direct"]:
        raise ValueError(f"--embedding {' '.join(args.embedding)} needs --checkpoint; leave it out")
    if args.onnx:
        return from_onnx(args.onnx, args.mean, args.std, args.channels)
    return from_pixels, args.pixels, {"recogniser": "pixels", "size": args.pixels}


def from_checkpoint(
    path: str, embeddings: list[str], device: torch.device, control: str | None = None
) -> tuple[Recogniser, int, dict[str, Any]]:
    """Embeddings of a trained network; the class memory stays sharded over the ranks.

    control: "mean" reads the mean of the memory for every image. Raises ValueError when
    the checkpoint is of stage plain and more than the direct feature is asked for.
    """
    folder = checkpoint.find(path)
    state = checkpoint.read_state(folder)
    if "config" not in state:
        raise ValueError(f"{folder}: its state.json has no config; expected a checkpoint of facelt/train.py")
    config = FaceltConfig.model_validate(state["config"])
    meta = state["stage"] == "meta"
    if embeddings != ["direct"] and not meta:
        asked = " ".join(embeddings)
        raise ValueError(f"--embedding {asked}: {folder} is of stage plain, which has only direct; give a meta run")
    embedder = Embedder(config, meta)
    embedder.load_state_dict(group.together(checkpoint.read_weights, folder))
    embedder.to(device).eval()
    facts = {"recogniser": "checkpoint", "checkpoint": str(folder), "step": state["step"]}
    if control:
        facts["memory"] = control
    if embeddings == ["direct"]:
        return lambda images_B3HW: [embedder(images_B3HW)[0]], config.image_size, facts
    partition = Partition(state["num_classes"], group.rank(), group.world_size())
    head = MetaHead(config, partition, control)
    rows = group.together(checkpoint.read_rows, folder, partition, False)
    head.load_state_dict({name: rows[name] for name in head.state_dict()})
    head.to(device).eval()

    def embed(images_B3HW: Tensor) -> list[Tensor]:
        embedded = embedder(images_B3HW)
        every = head.embeddings(embedded, collectives.gather(embedded.direct_BD))
        return [every[name] for name in embeddings]

    return embed, config.image_size, facts


def from_onnx(path: str, mean: float, std: float, channels: str) -> tuple[Recogniser, int, dict[str, Any]]:
    """Any recogniser in ONNX with one image input, N x 3 x H x H, and the features as its first output.

    mean, std: of the 0 … 255 pixels it expects. channels: "rgb" or "bgr".
    """
    try:
        import onnxruntime
    except ImportError:
        raise ValueError("--onnx needs onnxruntime: pip install 'facelt[onnx]'") from None
    if not Path(path).is_file():
        raise ValueError(f"--onnx {path}: no such file; give a recogniser in ONNX")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(path, options, providers=onnxruntime.get_available_providers())
    except Exception as error:  # onnxruntime's own types share no base but Exception
        raise ValueError(f"--onnx {path}: onnxruntime cannot load it ({error}); give a valid ONNX file") from None
    entry = session.get_inputs()[0]
    shape = entry.shape
    fixed = [n for n in shape if isinstance(n, int)]
    if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3] or (fixed and fixed[0] == shape[0] != 1):
        raise ValueError(f"--onnx {path}: its input is {shape}; expected N x 3 x H x H images, with N free or 1")
    size = shape[2] if isinstance(shape[2], int) else 112

    def recognise(images_B3HW: Tensor) -> list[Tensor]:
        pixels = (images_B3HW.cpu() * 127.5 + 127.5 - mean) / std
        pixels = pixels.flip(1) if channels == "bgr" else pixels
        if shape[0] == 1:
            rows = [session.run(None, {entry.name: pixels[i : i + 1].numpy()})[0] for i in range(len(pixels))]
            return [torch.from_numpy(np.concatenate(rows)).flatten(1)]
        return [torch.from_numpy(session.run(None, {entry.name: pixels.numpy()})[0]).flatten(1)]

    facts = {"recogniser": "onnx", "model": str(path), "mean": mean, "std": std, "channels": channels}
    return recognise, size, facts


def from_pixels(images_B3HW: Tensor) -> list[Tensor]:
    """The grey image itself, its mean removed: what a recogniser must beat. B x H·W."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=images_B3HW.device)
    grey_BN = torch.einsum("bchw,c->bhw", images_B3HW, weights).flatten(1)
    return [grey_BN - grey_BN.mean(1, keepdim=True)]


def with_flip(recogniser: Recogniser) -> Recogniser:
    """The sum of the normalised features of an image and of its mirror image."""
    return lambda images: [
        F.normalize(one) + F.normalize(other)
        for one, other in zip(recogniser(images), recogniser(images.flip(3)), strict=True)
    ]


def write_features(
    folders: list[Path],
    recogniser: Recogniser,
    image_size: int,
    dataset: RecordDataset,
    facts: dict[str, Any],
    args: argparse.Namespace,
    device: torch.device,
) -> None:
    """Run the recogniser over the set, all ranks together, into drafts beside the outputs, then rename them there."""
    drafts = [folder.with_name(f".{folder.name}.draft") for folder in folders]
    chief = group.rank() == 0
    for draft in drafts if chief else ():
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
    try:
        features: list[np.memmap] = []
        title = f"features of {Path(facts['data']).name}"
        for batch in each_batch(recogniser, dataset, image_size, args.batch, device, args.threads, title):
            # Rank 0 writes for all: pages that several machines map for writing would overwrite each other.
            outputs = [collectives.gather(rows.float().contiguous()) for rows in batch.output]
            if not chief:
                continue
            if not features:
                shapes = [(len(dataset), rows.shape[1]) for rows in outputs]
                features = [open_features(d / "features.npy", s) for d, s in zip(drafts, shapes, strict=True)]
            for matrix, rows in zip(features, outputs, strict=True):
                matrix[batch.images_G[batch.valid_G]] = rows.cpu().numpy()[batch.valid_G]
        for matrix in features:
            matrix.flush()
        for draft, folder, embedding in zip(drafts, folders, args.embedding, strict=True) if chief else ():
            complete(draft, dataset, facts | {"embedding": embedding})
            if folder.exists():
                shutil.rmtree(folder)
            draft.rename(folder)
    except BaseException:
        for draft in drafts if chief else ():
            shutil.rmtree(draft, ignore_errors=True)
        raise
    group.barrier()


def complete(draft: Path, dataset: RecordDataset, facts: dict[str, Any]) -> None:
    """Write what stands beside features.npy."""
    np.save(draft / "labels.npy", dataset.labels)
    if dataset.names is not None:
        (draft / "names.txt").write_text("".join(f"{name}\n" for name in dataset.names))
    facts |= {"images": len(dataset), "dimension": np.load(draft / "features.npy", mmap_mode="r").shape[1]}
    (draft / "meta.json").write_text(json.dumps(facts, indent=1) + "\n")


def open_features(path: Path, shape: tuple[int, int]) -> np.memmap:
    """A float32 .npy file, mapped for writing."""
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)


def count(text: str) -> int:
    """A whole number from 1 on, for the argument parser."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} given, expected a whole number from 1 on")
    return int(text)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="facelt.extract", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", help="a run of facelt/train.py, a stage's folder, or one of its step folders")
    source.add_argument("--onnx", help="any recogniser in ONNX")
    source.add_argument("--pixels", type=count, metavar="SIZE", help="no recogniser: grey pixels at SIZE x SIZE")
    parser.add_argument("--data", required=True, nargs="+", help="folders with train.rec, train.idx and property")
    parser.add_argument("--output", required=True, help="folder of the feature set to write")
    parser.add_argument("--embedding", nargs="+", choices=EMBEDDINGS, default=["direct"], help="default: direct")
    parser.add_argument(
        "--memory",
        choices=["mean"],
        help="a control: every image reads the mean of the memory; what survives is not it",
    )
    parser.add_argument("--flip", action="store_true", help="add the normalised features of the mirrored image")
    parser.add_argument("--batch", type=count, default=64, help="images a step of each rank (default: 64)")
    parser.add_argument("--threads", type=count, default=2, help="decoding threads of each rank (default: 2)")
    parser.add_argument("--mean", type=float, default=127.5, help="of the pixels an ONNX model expects")
    parser.add_argument("--std", type=float, default=127.5, help="of the pixels an ONNX model expects")
    parser.add_argument("--channels", choices=("rgb", "bgr"), default="rgb", help="order an ONNX model expects")
    parser.add_argument("--force", action="store_true", help="replace an existing output")
    parser.add_argument("--local_rank", type=int, default=0, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    status = main()
    group.stop()
    sys.exit(status)
