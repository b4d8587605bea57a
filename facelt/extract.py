"""Extract: features of a data folder, from a checkpoint, an ONNX recogniser or the bare pixels, to a feature set.

    python -m facelt.extract --checkpoint RUN --data DATA --output FEATURES --embedding direct
    python -m facelt.extract --onnx recogniser.onnx --data DATA --output FEATURES
    deepspeed --module facelt.extract --checkpoint RUN --data DATA --output FEATURES      (the same, on all GPUs)

A feature set is a folder: features.npy (N x D, float32), labels.npy (N, int64), names.txt (where the data has names of
identities), meta.json (what made it).
"""

import argparse
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from facelt import checkpoint, comms
from facelt.config import FaceltConfig
from facelt.embedding import EMBEDDINGS
from facelt.inference import each_batch
from facelt.mistakes import one_line
from facelt.model import Embedder, MetaHead
from facelt.partition import Partition
from recordio_tools.dataset import RecordDataset

# Images B x 3 x H x W in [-1, 1] -> features B x D.
Recogniser = Callable[[Tensor], Tensor]


def main(argv: list[str] | None = None) -> int:
    args = arguments().parse_args(argv)
    with one_line("facelt.extract"):
        device = comms.start()
        output = Path(args.output)
        if output.exists() and not args.force:
            raise ValueError(f"--output {output} exists; give another folder, or --force to replace it")
        dataset = RecordDataset(args.data)
        recogniser, image_size, facts = make_recogniser(args, device)
        facts |= {"data": str(args.data), "images": len(dataset), "flip": args.flip}
        if args.flip:
            recogniser = with_flip(recogniser)
        with one_line("facelt.extract", every_rank=True):
            write_features(output, recogniser, image_size, dataset, facts, args, device)
        comms.stop()
    return 0


def make_recogniser(args: argparse.Namespace, device: torch.device) -> tuple[Recogniser, int, dict[str, Any]]:
    """The function that the arguments ask for, the image size it takes, and facts for meta.json."""
    if args.onnx:
        return from_onnx(args.onnx, args.mean, args.std, args.channels)
    if args.pixels:
        return from_pixels, args.pixels, {"recogniser": "pixels", "size": args.pixels}
    return from_checkpoint(args.checkpoint, args.embedding, device)


def from_checkpoint(path: str, embedding: str, device: torch.device) -> tuple[Recogniser, int, dict[str, Any]]:
    """An embedding of a trained network; the class memory stays sharded over the ranks.

    Raises ValueError when the checkpoint is of stage plain and the embedding is not the direct feature.
    """
    folder = checkpoint.find(path)
    state = checkpoint.read_state(folder)
    config = FaceltConfig.model_validate(state["config"])
    meta = state["stage"] == "meta"
    if embedding != "direct" and not meta:
        raise ValueError(f"--embedding {embedding}: {folder} is of stage plain, which has only direct; give a meta run")
    embedder = Embedder(config, meta)
    embedder.load_state_dict(checkpoint.read_weights(folder))
    embedder.to(device).eval()
    facts = {"recogniser": "checkpoint", "checkpoint": str(folder), "embedding": embedding, "step": state["step"]}
    if embedding == "direct":
        return lambda images_B3HW: embedder(images_B3HW)[0], config.image_size, facts
    partition = Partition(state["num_classes"], comms.rank(), comms.world_size())
    head = MetaHead(config, partition)
    head.load_state_dict(checkpoint.read_rows(folder, partition, with_moments=False))
    head.to(device).eval()

    def embed(images_B3HW: Tensor) -> Tensor:
        direct_BD, concept_BD = embedder(images_B3HW)
        return head.embeddings(direct_BD, concept_BD, comms.gather(direct_BD))[embedding]

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
    if len(shape) != 4 or shape[1] != 3:
        raise ValueError(f"--onnx {path}: its input is {shape}; expected N x 3 x H x W images")
    size = shape[2] if isinstance(shape[2], int) else 112

    def recognise(images_B3HW: Tensor) -> Tensor:
        pixels = (images_B3HW.cpu() * 127.5 + 127.5 - mean) / std
        pixels = pixels.flip(1) if channels == "bgr" else pixels
        if shape[0] == 1:
            rows = [session.run(None, {entry.name: pixels[i : i + 1].numpy()})[0] for i in range(len(pixels))]
            return torch.from_numpy(np.concatenate(rows)).flatten(1)
        return torch.from_numpy(session.run(None, {entry.name: pixels.numpy()})[0]).flatten(1)

    facts = {"recogniser": "onnx", "model": str(path), "mean": mean, "std": std, "channels": channels}
    return recognise, size, facts


def from_pixels(images_B3HW: Tensor) -> Tensor:
    """The grey image itself, its mean removed: what a recogniser must beat. B x H·W."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=images_B3HW.device)
    grey_BN = torch.einsum("bchw,c->bhw", images_B3HW, weights).flatten(1)
    return grey_BN - grey_BN.mean(1, keepdim=True)


def with_flip(recogniser: Recogniser) -> Recogniser:
    """The sum of the normalised features of an image and of its mirror image."""
    return lambda images: F.normalize(recogniser(images)) + F.normalize(recogniser(images.flip(3)))


def write_features(
    output: Path,
    recogniser: Recogniser,
    image_size: int,
    dataset: RecordDataset,
    facts: dict[str, Any],
    args: argparse.Namespace,
    device: torch.device,
) -> None:
    """Run the recogniser over the set, all ranks together, into a draft beside the output, then rename it there."""
    draft = output.with_name(f".{output.name}.draft")
    chief, ranks, rank = comms.rank() == 0, comms.world_size(), comms.rank()
    if chief:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
    try:
        features = None
        title = f"features of {Path(args.data).name}"
        for batch in each_batch(recogniser, dataset, image_size, args.batch, device, args.threads, title):
            rows = batch.output.float().cpu().numpy()
            if features is None:
                features = open_features(draft / "features.npy", (len(dataset), rows.shape[1]))
            mine = slice(rank * len(rows), (rank + 1) * len(rows))
            valid = batch.valid_G[mine]
            features[batch.images_G[mine][valid]] = rows[valid]
        assert features is not None
        assert len(features) == len(dataset)
        features.flush()
        comms.barrier()
        if chief:
            np.save(draft / "labels.npy", dataset.labels)
            if dataset.names is not None:
                (draft / "names.txt").write_text("".join(f"{name}\n" for name in dataset.names))
            facts |= {"dimension": features.shape[1], "ranks": ranks}
            (draft / "meta.json").write_text(json.dumps(facts, indent=1) + "\n")
            if output.exists():
                shutil.rmtree(output)
            draft.rename(output)
    except BaseException:
        if chief:
            shutil.rmtree(draft, ignore_errors=True)
        raise
    comms.barrier()


def open_features(path: Path, shape: tuple[int, int]) -> np.memmap:
    """The same float32 .npy file on every rank, mapped for writing."""
    if comms.rank() == 0:
        np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape).flush()
    comms.barrier()
    return np.lib.format.open_memmap(path, mode="r+")


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="facelt.extract", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", help="a run of facelt/train.py, a stage's folder, or one of its step folders")
    source.add_argument("--onnx", help="any recogniser in ONNX")
    source.add_argument("--pixels", type=int, metavar="SIZE", help="no recogniser: grey pixels at SIZE x SIZE")
    parser.add_argument("--data", required=True, help="folder with train.rec, train.idx and property")
    parser.add_argument("--output", required=True, help="folder of the feature set to write")
    parser.add_argument("--embedding", choices=EMBEDDINGS, default="direct", help="default: direct")
    parser.add_argument("--flip", action="store_true", help="add the normalised features of the mirrored image")
    parser.add_argument("--batch", type=int, default=64, help="images a step of each rank (default: 64)")
    parser.add_argument("--threads", type=int, default=2, help="decoding threads of each rank (default: 2)")
    parser.add_argument("--mean", type=float, default=127.5, help="of the pixels an ONNX model expects")
    parser.add_argument("--std", type=float, default=127.5, help="of the pixels an ONNX model expects")
    parser.add_argument("--channels", choices=("rgb", "bgr"), default="rgb", help="order an ONNX model expects")
    parser.add_argument("--force", action="store_true", help="replace an existing output")
    parser.add_argument("--local_rank", type=int, default=0, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
