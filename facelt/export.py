"""Export: a trained recogniser as a file that others can use, checked against its checkpoint; and its model card.

    python -m facelt.export RUN --onnx recogniser.onnx --card README.md --report REPORT
    python -m facelt.export RUN --onnx recogniser.onnx --embedding meta      (its memory is inside)
    python -m facelt.export RUN --onnx recogniser.onnx --identify            (stage memory: who it is, and the cosine)
    python -m facelt.export RUN --onnx small.onnx --int8
    python -m facelt.export RUN --safetensors recogniser.safetensors

The ONNX file takes `images` (N x 3 x S x S, RGB 0 … 255, or normalised with --pixels outside) and gives `features`
(N x D); with a memory `reachability` (N), or `identity` and `cosine` (N). Before a file takes its place, it answers
drawn faces (or images of --data) and noise as the checkpoint does, to 1e-4 of a feature's length.
"""

import argparse
import sys
from io import BytesIO
from pathlib import Path

from facelt.training.ending import stopping

if __name__ == "__main__" or Path(sys.argv[0]).name == "facelt-export":
    stopping.leave_in_one_line("facelt.export")  # the imports below take seconds, in which a signal is heard already

import numpy as np
import torch
from PIL import Image

from facelt.errors import UserError, one_line
from facelt.features import exporting
from facelt.features.card import make_card
from facelt.features.portable import from_run
from facelt.features.recognisers import from_checkpoint
from facelt.head.meta_embedding import EMBEDDINGS
from facelt.parallel import group
from facelt.run_folder import checkpoint
from recordio_tools.atomic import check_writable, output_file
from recordio_tools.command_line import Parser
from recordio_tools.dataset import RecordDataset
from recordio_tools.sources.synthetic import SIZES, Drawing, draw_jpegs

PICTURES = 16  # that a file is tried with, beside as many of noise


def main(argv: list[str] | None = None) -> int:
    """Export as the command line says; 0 done. Leaves with 2 for a user's mistake."""
    args = arguments().parse_args(argv)
    with one_line("facelt.export"):
        check(args)
        folder = checkpoint.find(args.run)
        # Whatever is wrong is said before the first file is made.
        example = str(args.onnx or args.safetensors or args.run)
        card = make_card(folder, example, args.report) if args.card is not None else ""
        if args.onnx is not None or args.safetensors is not None:
            write_files(args, folder)
        if args.card is not None:
            with output_file(args.card, force=args.force) as draft:
                draft.write_text(card, encoding="utf-8")
            group.say(f"{args.card}: the model card")
        if args.onnx is not None:
            group.say(f"next: python -m facelt.extract --onnx {args.onnx} --data DATA --output FEATURES")
    return 0


def check(args: argparse.Namespace) -> None:
    """Raise UserError for arguments that do not fit together, and for outputs that cannot be."""
    outputs = [path for path in (args.onnx, args.safetensors, args.card) if path is not None]
    if not outputs:
        raise UserError("nothing to write; give --onnx FILE, --safetensors FILE or --card FILE")
    if len({path.resolve() for path in outputs}) < len(outputs):
        raise UserError("two outputs have the same name; give each its own")
    if args.safetensors is not None and args.safetensors.suffix != ".safetensors":
        raise UserError(f"--safetensors {args.safetensors}: expected a name that ends in .safetensors; give one")
    if args.onnx is None and (args.int8 or args.pixels is not None):
        raise UserError(f"{'--int8' if args.int8 else '--pixels'} is of --onnx; give that, or leave it out")
    if args.report and args.card is None:
        raise UserError("--report is of --card; give that, or leave it out")
    if args.identify and args.embedding != "direct":
        raise UserError(f"--identify with --embedding {args.embedding}: a run has the one or the other; leave one out")
    for path in outputs:
        check_writable(path, force=args.force, folder=False)
    if args.onnx is not None:
        exporting.require()


def write_files(args: argparse.Namespace, folder: Path) -> None:
    """Write what the arguments name, each tried first."""
    device = torch.device("cpu")
    network = from_run(folder, args.embedding, args.identify, inside=False)
    recogniser = from_checkpoint(folder, (args.embedding,), device, exact=True)
    trial = exporting.Trial.of(recogniser, pictures(args.data, network.facts.image_size), network)
    if args.safetensors is not None:
        group.say(exporting.write_safetensors(network, args.safetensors, trial, args.force))
    if args.onnx is not None:
        if args.pixels != "outside":
            network = from_run(folder, args.embedding, args.identify, inside=True)
        group.say(exporting.write_onnx(network, args.onnx, trial, int8=args.int8, force=args.force))


def pictures(data: str | None, size: int) -> list[Image.Image]:
    """Images of a data folder, evenly spread; without one, drawn faces."""
    if data is None:
        drawing = Drawing(size=min(max(size, SIZES.start), SIZES.stop - 1), zoom=1.6)
        jpegs = draw_jpegs(drawing, np.arange(PICTURES), np.zeros(PICTURES, np.int64))
        return [Image.open(BytesIO(jpeg)) for jpeg in jpegs]
    dataset = RecordDataset(data)
    chosen = np.unique(np.linspace(0, len(dataset) - 1, PICTURES).astype(np.int64))
    try:
        return [Image.open(BytesIO(dataset.jpeg(i).tobytes())).convert("RGB") for i in chosen.tolist()]
    except OSError as error:
        raise UserError(
            f"--data {data}: an image does not decode ({error}); give another set, or leave it out"
        ) from None


def arguments() -> Parser:
    """The command line."""
    parser = Parser(prog="facelt.export", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="a run of facelt/train.py, a stage's folder, or a step folder")
    parser.add_argument("--onnx", type=Path, metavar="FILE", help="write an ONNX model")
    parser.add_argument("--safetensors", type=Path, metavar="FILE", help="write tensors and what they are of")
    parser.add_argument("--card", type=Path, metavar="FILE", help="write the model card, such as README.md")
    parser.add_argument(
        "--report", type=Path, nargs="+", default=[], help="reports of facelt.evaluate or megaface_eval for the card"
    )
    parser.add_argument("--embedding", choices=EMBEDDINGS, default="direct", help="default: direct")
    parser.add_argument("--identify", action="store_true", help="the memory of stage memory inside: class and cosine")
    parser.add_argument(
        "--pixels", choices=("inside", "outside"), help="where pixels are normalised (default: inside the ONNX graph)"
    )
    parser.add_argument("--int8", action="store_true", help="convolutions and linear layers as INT8; its cost is said")
    parser.add_argument("--data", help="a data folder whose images the files are tried with (default: drawn faces)")
    parser.add_argument("--force", action="store_true", help="replace existing files")
    return parser


def command() -> int:
    """What the console command runs."""
    return group.as_process(main)


if __name__ == "__main__":
    sys.exit(command())
