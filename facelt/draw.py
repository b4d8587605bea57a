"""Draw: figures of a run, as PNG, SVG or PDF.

python -m facelt.draw tsne RUN --data TEST --train TRAIN --output tsne.png         (figure 3 of the paper)
python -m facelt.draw neurons RUN --data TRAIN --output neurons.png                (figure 14)
python -m facelt.draw neurons RUN --data TRAIN --image FACE.jpg --output face.png  (figure 7)
python -m facelt.draw averages RUN --data TRAIN --output averages.png              (figure 15)
python -m facelt.draw attention RUN --data TEST --output attention.png             (figure 4)
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from facelt.errors import one_line
from facelt.figures import attention, neurons, projection
from facelt.figures.opened import OpenedRun, PictureFiles, SomeImages, check_training_set, name_of
from facelt.figures.plotting import check_output, write
from facelt.images.one_pass import each_batch
from facelt.open_world.shots import Bounds
from facelt.parallel import group
from recordio_tools.cli.arguments import natural, positive
from recordio_tools.command_line import Parser
from recordio_tools.dataset import RecordDataset
from recordio_tools.look.sheet import spread


def main(argv: list[str] | None = None) -> int:
    """Draw as the command line says; 0 done. Leaves with 2 for a user's mistake."""
    args = arguments().parse_args(argv)
    with one_line("facelt.draw"):
        check_output(args.output, args.force)
        write(args.draw(args, RecordDataset(args.data)), args.output, args.force)
        print(f"wrote {args.output}")
    return 0


def tsne(args: argparse.Namespace, dataset: RecordDataset) -> Figure:
    """Figure 3: features of some people, a panel for each kind of feature."""
    bounds = Bounds(args.many, args.few, args.bounds == "inclusive")
    train = RecordDataset(args.train)
    run = OpenedRun.of(args.run, group.join())
    check_training_set(run, train, args.train, "--train")
    choice = projection.Choice(args.classes, args.images, args.seed)
    counts_K = np.bincount(train.labels, minlength=max(train.num_classes, dataset.num_classes))
    people = choice.of(dataset.labels, counts_K, bounds)
    found = projection.features(args.run, args.panels, SomeImages(dataset, people.images_N), args.batch, run.device)
    compact = {panel: projection.compactness(rows_ND, people) for panel, rows_ND in found.items()}
    maps = {panel: projection.project(rows_ND, args.seed) for panel, rows_ND in found.items()}
    for panel, values in compact.items():
        said = ", ".join(f"{shot} {value:.3f}" for shot, value in values.items() if value is not None)
        print(f"silhouette, {panel}: {said}")
    return projection.draw(maps, compact, people)


def strongest_neurons(args: argparse.Namespace, dataset: RecordDataset) -> Figure:
    """Figure 7 with --image, else figure 14."""
    given = PictureFiles.of(args.image) if args.image else None
    run = OpenedRun.of(args.run, group.join())
    firing = neurons.scan(run, dataset, args.faces, args.batch)
    if given is None:
        return neurons.draw_strongest(dataset, firing, args.top)
    parts = each_batch(lambda images: neurons.infused(run, images), given, run.decoding(1), "the images")
    values_ND = np.concatenate([part.output.cpu().numpy() for part in parts])
    return neurons.draw_for_images(dataset, firing, given, values_ND, args.top)


def averages(args: argparse.Namespace, dataset: RecordDataset) -> Figure:
    """Figure 15."""
    run = OpenedRun.of(args.run, group.join())
    return neurons.draw_averages(dataset, neurons.scan(run, dataset, args.faces, args.batch), args.top)


def attention_maps(args: argparse.Namespace, dataset: RecordDataset) -> Figure:
    """Where attention looks, over images spread evenly over the set."""
    run = OpenedRun.of(args.run, group.join())
    some = SomeImages(dataset, spread(np.arange(len(dataset)), args.images))
    found = attention.maps(run, some, args.batch)
    print(f"what attention adds, of the length of the map: {100 * found.share_N.mean():.2g} % on average")
    return attention.draw(some, [name_of(dataset, label) for label in some.labels.tolist()], found)


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(prog="facelt.draw", description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")

    def add(name: str, draw, text: str) -> argparse.ArgumentParser:
        kind = kinds.add_parser(name, help=text, description=f"{text}.")
        kind.set_defaults(draw=draw)
        kind.add_argument("run", metavar="RUN", help="a run of facelt/train.py, a stage's folder, or a step folder")
        kind.add_argument("--data", required=True, help="data folder whose images are shown")
        kind.add_argument("--output", type=Path, required=True, metavar="FILE", help="NAME.png, .svg or .pdf")
        kind.add_argument("--batch", type=positive, default=64, help="images at a time (default: 64)")
        kind.add_argument("--force", action="store_true", help="replace an existing output")
        return kind

    kind = add("tsne", tsne, "features of some people on a plane, one kind of feature beside another")
    kind.add_argument("--train", required=True, help="data folder that the run was trained on: its counts")
    kind.add_argument(
        "--panels",
        nargs="+",
        choices=projection.PANELS,
        default=["direct", "meta"],
        help="plain is the direct feature of the run's stage plain (default: direct meta)",
    )
    kind.add_argument("--classes", type=positive, default=12, metavar="N", help="people in all (default: 12)")
    kind.add_argument("--images", type=positive, default=40, metavar="N", help="of one of them (default: 40)")
    kind.add_argument("--many", type=natural, default=100, metavar="N", help="training images; default: 100")
    kind.add_argument("--few", type=natural, default=20, metavar="N", help="training images; default: 20")
    kind.add_argument("--bounds", choices=("inclusive", "strict"), default="inclusive", help="as in facelt.evaluate")
    kind.add_argument("--seed", type=natural, default=0, help="draws people and the picture (default: 0)")

    kind = add("neurons", strongest_neurons, "the memory's strongest neurons and the images that fire them")
    kind.add_argument("--image", type=Path, nargs="+", metavar="FILE", help="the strongest of these; default: of DATA")
    kind.add_argument("--top", type=positive, default=3, metavar="N", help="neurons (of an image) (default: 3)")
    kind.add_argument("--faces", type=positive, default=8, metavar="N", help="images of a neuron (default: 8)")

    kind = add("averages", averages, "average faces that fire the memory's strongest neurons least and most")
    kind.add_argument("--top", type=positive, default=3, metavar="N", help="neurons (default: 3)")
    kind.add_argument("--faces", type=positive, default=50, metavar="N", help="images of an average (default: 50)")

    kind = add("attention", attention_maps, "where modulated attention looks")
    kind.add_argument("--images", type=positive, default=8, metavar="N", help="spread over DATA (default: 8)")
    return parser


def command() -> int:
    """What the console command runs."""
    return group.as_process(main)


if __name__ == "__main__":
    sys.exit(command())
