"""Extract: features of a data folder, from a checkpoint, an ONNX recogniser or the bare pixels, to a feature set.

    python -m facelt.extract --checkpoint RUN --data DATA --output FEATURES --embedding direct
    python -m facelt.extract --onnx recogniser.onnx --data DATA --output FEATURES
    deepspeed --module facelt.extract --checkpoint RUN --data DATA --output FEATURES      (the same, on all GPUs)
    python -m facelt.extract --checkpoint RUN --memory-set CENTROIDS      (the memory itself, a row a class)

Several embeddings or data folders are written in one go, to FEATURES/<embedding>/<data folder's name>.
A feature set is a folder: features.npy (N x D, float32; float16 with --half), labels.npy (N, int64), names.txt and
paths.txt (where the data has them), meta.json (what made it), norm.npy and, of a meta run, reachability.npy (N each).
Interrupted, the same command goes on where it stopped.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from facelt.training.ending import stopping

if __name__ == "__main__" or Path(sys.argv[0]).name == "facelt-extract":
    # The imports below take seconds, in which a signal is heard already.
    stopping.leave_in_one_line("facelt.extract", stopping.GOES_ON)

import torch

from facelt.errors import UserError, one_line
from facelt.features import draft
from facelt.features.feature_set import write_features, write_memory
from facelt.features.onnx_file import OnnxPixels, from_onnx
from facelt.features.recognisers import Recogniser, from_checkpoint, from_pixels, memory_of, with_flip
from facelt.head.meta_embedding import EMBEDDINGS
from facelt.images.fingerprint import fingerprint
from facelt.parallel import group
from facelt.run_folder import checkpoint
from facelt.run_folder.hashes import measure
from recordio_tools.atomic import check_writable
from recordio_tools.cli.arguments import positive
from recordio_tools.command_line import Parser
from recordio_tools.dataset import RecordDataset


def main(argv: list[str] | None = None) -> int:
    """Extract as the command line says; 0 done. Leaves with 2 for a user's mistake."""
    args = arguments().parse_args(argv)
    with one_line("facelt.extract"):
        memory_alone = args.memory_set is not None and args.data is None and args.output is None
        if not memory_alone and None in (args.data, args.output):
            missing = "--data" if args.data is None else "--output"
            raise UserError(f"{missing} is missing; give --data and --output, or --memory-set OUT alone for the memory")
        device = group.join()
        stopping.leave_in_one_line("facelt.extract", stopping.GOES_ON)
        sources = args.data or []
        outputs = [output_folders(args, source) for source in sources]
        every = [folder for folders in outputs for folder in folders]
        if len(set(every)) < len(every):
            raise UserError("two data folders or embeddings have the same name; extract them one at a time")
        if args.memory_set is not None:
            if args.memory_set.resolve() in [folder.resolve() for folder in every]:
                raise UserError(f"--memory-set {args.memory_set} is an output too; give it another name")
            group.on_rank_0(check_writable, args.memory_set, force=args.force, folder=True)
        datasets = [group.together(RecordDataset, source) for source in sources]
        if args.checkpoint is not None:
            args.checkpoint = checkpoint.find(args.checkpoint)
        plans = make_plans(args, datasets, device)
        left = to_write(args, outputs, plans)
        if args.memory_set is not None:
            extract_memory(args)
        if memory_alone:
            return 0
        recogniser = make_recogniser(args, device)
        decoding = recogniser.decoding(args.batch, device, args.threads)
        for i in left:
            with one_line("facelt.extract", every_rank=True):
                drafts = [*zip(outputs[i], plans[i], strict=True)]
                how = {"half": args.half, "force": args.force}
                write_features(drafts, recogniser, datasets[i], decoding, sources[i], **how)
        say_next(outputs)
    return 0


def make_plans(args: argparse.Namespace, datasets: list[RecordDataset], device: torch.device) -> list[list[draft.Plan]]:
    """All that the features of each data folder and embedding depend on; made on rank 0, for all ranks."""
    plans: list[list[draft.Plan]] = []

    def make() -> None:
        weights = [args.onnx, f"{args.onnx}.data"] if args.onnx else []
        if args.checkpoint is not None:
            weights = [args.checkpoint / checkpoint.STATE, args.checkpoint / checkpoint.MODEL]
        hashes = [measure(Path(path)).xxh3 for path in weights if Path(path).is_file()]
        given = {name: getattr(args, name) for name in ("pixels", "memory", "flip", "half", "batch", *ONNX_ALONE)}
        options = {f"--{name.replace('_', '-')}": value for name, value in given.items()}
        how = {"recogniser": " ".join(hashes), **options, "number of ranks": group.world_size(), "device": device.type}
        for of in map(fingerprint, datasets):
            how = {**how, "data": f"{of.images} images {of.labels} {of.records} {of.sample}"}
            plans.append([{**how, "--embedding": embedding} for embedding in args.embedding])

    group.on_rank_0(make)
    return group.share(plans)


def to_write(args: argparse.Namespace, outputs: list[list[Path]], plans: list[list[draft.Plan]]) -> list[int]:
    """Which data folders are still to be extracted: not those whose features this very command has written already.

    With --force those too, unless the command was interrupted. Raises UserError for an output that cannot be written.
    """
    left: list[int] = []

    def find() -> None:
        begun = any(draft.home(folder).exists() for folders in outputs for folder in folders)
        for i, folders in enumerate(outputs):
            if (begun or not args.force) and all(map(draft.is_made, folders, plans[i])):
                group.say(f"{', '.join(map(str, folders))}: made by this command already; left as it is")
                continue
            for folder, plan in zip(folders, plans[i], strict=True):
                draft.check_output(folder, plan, args.force)
            left.append(i)

    group.on_rank_0(find)
    return group.share(left)


def say_next(outputs: list[list[Path]]) -> None:
    """The last line: what was written, and the command that comes next. outputs: of each data folder, by embedding."""
    probes, *others = (folders[0] for folders in outputs)
    distractors = others[0] if others else "DISTRACTORS"
    written = ", ".join(str(folder) for folders in outputs for folder in folders)
    command = (
        f"python -m megaface_eval.run --probes {probes} --distractors {distractors} --gallery SIZE --output REPORT"
    )
    group.say(f"features in {written}; next: {command}")


def extract_memory(args: argparse.Namespace) -> None:
    """Write the memory of a run as a feature set."""
    if args.checkpoint is None:
        raise UserError("--memory-set needs --checkpoint, a meta run; leave it out")

    def write() -> None:
        centroids_KD, facts = memory_of(args.checkpoint)
        write_memory(args.memory_set, centroids_KD.numpy(), facts)

    group.on_rank_0(write)


def output_folders(args: argparse.Namespace, source: str) -> list[Path]:
    """Where the features of a data folder go, for each embedding: OUTPUT[/embedding][/data folder's name]."""
    names = args.embedding if len(args.embedding) > 1 else [""]
    return [Path(args.output) / name / (Path(source).resolve().name if len(args.data) > 1 else "") for name in names]


def make_recogniser(args: argparse.Namespace, device: torch.device) -> Recogniser:
    """The recogniser that the arguments ask for. Raises UserError for what does not fit together."""
    embeddings = tuple(args.embedding)
    if args.onnx is None and (given := [name for name in ONNX_ALONE if getattr(args, name) is not None]):
        option = f"--{given[0].replace('_', '-')}"
        raise UserError(f"{option} is of ONNX models, whose pixels and outputs facelt cannot know; leave it out")
    if args.memory and embeddings == ("direct",):
        raise UserError(
            f"--memory {args.memory} does not touch the direct feature; give --embedding meta, or leave it out"
        )
    if args.checkpoint is None and embeddings != ("direct",):
        raise UserError(f"--embedding {' '.join(embeddings)} needs --checkpoint; leave it out")
    if args.checkpoint is not None:
        recogniser = from_checkpoint(args.checkpoint, embeddings, device, args.memory)
    elif args.onnx is not None:
        recogniser = group.together(from_onnx, args.onnx, pixels_of(args), args.output_name, device)
    else:
        recogniser = from_pixels(args.pixels)
    recogniser = replace(recogniser, facts={**recogniser.facts, "flip": args.flip})
    return with_flip(recogniser) if args.flip else recogniser


ONNX_ALONE = ("mean", "std", "channels", "output_name")


def pixels_of(args: argparse.Namespace) -> OnnxPixels:
    """What the arguments say of the pixels that an ONNX model expects."""
    mean, std = (None if values is None else tuple(values) for values in (args.mean, args.std))
    return OnnxPixels(mean, std, args.channels or "rgb")


def arguments() -> Parser:
    """The command line."""
    parser = Parser(prog="facelt.extract", description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", help="a run of facelt/train.py, a stage of it, RUN/best, or a step folder")
    source.add_argument("--onnx", help="any recogniser in ONNX")
    source.add_argument("--pixels", type=positive, metavar="SIZE", help="no recogniser: grey pixels at SIZE x SIZE")
    parser.add_argument("--data", nargs="+", help="folders with train.rec, train.idx and property")
    parser.add_argument("--output", help="folder of the feature set to write")
    parser.add_argument(
        "--memory-set", type=Path, metavar="OUT", help="write the memory of a meta run as a feature set"
    )
    parser.add_argument("--embedding", nargs="+", choices=EMBEDDINGS, default=["direct"], help="default: direct")
    parser.add_argument(
        "--memory",
        choices=["mean"],
        help="a control: every image reads the mean of the memory; what survives is not it",
    )
    parser.add_argument("--flip", action="store_true", help="add the normalised features of the mirrored image")
    parser.add_argument("--batch", type=positive, default=64, help="images a step of each rank (default: 64)")
    parser.add_argument("--threads", type=positive, default=2, help="decoding threads of each rank (default: 2)")
    parser.add_argument("--half", action="store_true", help="keep the features as float16, in half the space")
    numbers = "of the pixels an ONNX model expects, one or three for R, G, B (default: as its graph tells, or 127.5)"
    parser.add_argument("--mean", type=float, nargs="+", metavar="X", help=numbers)
    parser.add_argument("--std", type=float, nargs="+", metavar="X", help=numbers)
    parser.add_argument("--channels", choices=("rgb", "bgr"), help="order an ONNX model expects (default: rgb)")
    parser.add_argument("--output-name", metavar="NAME", help="output of an ONNX model (default: the one of N x D)")
    parser.add_argument("--force", action="store_true", help="replace an existing output")
    parser.add_argument("--local_rank", type=int, default=0, help=argparse.SUPPRESS)
    return parser


def command() -> int:
    """What the console command runs."""
    return group.as_process(main)


if __name__ == "__main__":
    sys.exit(command())
