"""Train: stage plain, then stage meta, or stage memory with preset facelt; run again it resumes where it stopped.

deepspeed facelt/train.py --deepspeed_config jobs/ds.json --data DATA --output RUN
"""

import argparse
import json
import os
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from facelt.parallel import heartbeat
from facelt.training.ending import stopping, unheard

if __name__ == "__main__" or Path(sys.argv[0]).name == "facelt-train":
    unheard.allow()
    heartbeat.begin("facelt.train")
    stopping.listen()  # the imports below take seconds, in which a signal is heard already

import torch

from facelt import knobs, recipes
from facelt.config import STAGES, StageName, load
from facelt.errors import UserError, one_line
from facelt.features.card import CARD, make_card
from facelt.parallel import group
from facelt.parallel.partition import Partition
from facelt.run_folder import checkpoint
from facelt.run_folder.lock import Lock
from facelt.training import start, wandb_log
from facelt.training.ending.stopping import StopRequest
from facelt.training.optimizer import split
from facelt.training.run import Run
from facelt.training.trainer import Trainer
from facelt.validation.validator import Validator
from recordio_tools.atomic import check_usable, output_file
from recordio_tools.command_line import Parser
from recordio_tools.dataset import RecordDataset


def main(argv: list[str] | None = None) -> int:
    """Train as the command line says; 0 finished, or stopped as asked. Leaves with 2 for a user's mistake."""
    args = arguments().parse_args(argv)
    with one_line("facelt.train"):
        if args.num_gpus is not None:
            raise UserError("--num_gpus is for facelt-train, which starts the ranks; give that, or deepspeed, torchrun")
    with (
        stopping.listening() as stop,
        heartbeat.kept("facelt.train") as beat,
        one_line("facelt.train"),
        ExitStack() as held,
    ):
        run = make_run(args, stop, held)
        stages = run.config.stages if args.stage is None else (args.stage,)
        split(run.ds)  # refuses an optimizer that cannot be, before the folder is made
        for stage in stages:
            start.check(run, stage)
        beat.keep_in(run.folder / "heartbeat", group.world_size(), group.barrier)
        for stage in stages:
            if not Trainer(run, stage, args.start_from).train():
                break
            group.on_rank_0(write_card, run, stage)
        else:
            group.say(closing(run, stages[-1]))
        stop.finished()
        group.barrier()  # a rank that ends before the others is not gone
    return 0


def closing(run: Run, stage: StageName) -> str:
    """The last line of a training that came to its end: its checkpoint, the best one, and the command that is next."""
    newest, best = checkpoint.latest(run.folder, stage), checkpoint.best(run.folder, stage)
    line, asked = f"trained: {newest}", run.folder
    if best is not None and best.folder == newest:
        line += f", the best by {best.figure}, {100 * best.value:.2f} %"
    elif best is not None:
        line += f"; best by {best.figure}, {100 * best.value:.2f} %: {best.folder}"
        asked = run.folder / stage / checkpoint.BEST
    stages = run.config.stages
    if stage in stages[:-1]:
        return f"{line}; next: the same command with --stage {stages[stages.index(stage) + 1]}"
    if run.config.validation.known:
        train = f"--checkpoint {asked} --train {run.dataset.folder} --data TEST --output REPORT"
        return f"{line}; next: python -m facelt.evaluate {train}"
    return f"{line}; next: python -m facelt.extract --checkpoint {asked} --data DATA --output FEATURES"


def write_card(run: Run, stage: StageName) -> None:
    """The model card of a stage's newest checkpoint beside its checkpoints; a warning where it cannot be written."""
    folder, newest = run.folder / stage, checkpoint.latest(run.folder, stage)
    assert newest is not None, "the stage has just saved it"
    try:
        text = make_card(newest, str(folder), [])
        with output_file(folder / CARD, force=True) as card:
            card.write_text(text, encoding="utf-8")
    except UserError as error:
        group.say(f"warning: no model card: {error}")


def make_run(args: argparse.Namespace, stop: StopRequest, held: ExitStack) -> Run:
    """Join the ranks and open what the arguments name. Raises UserError for what is missing or does not fit.

    stop: what the run hears. held: lets go of the lock on the output.
    """
    init = [f"backbone.init={json.dumps(args.init)}"] if args.init else []
    recipe = recipes.find(args.deepspeed_config)
    ds, config = load(recipe, [*args.set, *init])
    data, output = args.data or config.data, args.output or config.output
    if data is None or output is None:
        name = "data" if data is None else "output"
        raise UserError(f"no --{name} given; expected a folder: give --{name} DIR, or set facelt.{name}")
    if config.telemetry.wandb:
        wandb_log.need_library()
    heartbeat.allow(config.stall_minutes)
    choose_kernels(config.deterministic)
    device = group.join(config.ddp_timeout / 60)
    if str(recipe) != args.deepspeed_config:
        group.say(f"--deepspeed_config {args.deepspeed_config}: the recipe {recipe}")
    dataset = group.together(RecordDataset, data)
    stages = config.stages if args.stage is None else (args.stage,)
    validator = Validator.of(config, dataset, stages, device)
    group.on_rank_0(check_usable, output)  # now, not at the first checkpoint
    group.on_rank_0(lambda: held.callback(Lock(Path(output)).release))
    start.recover(Path(output), config, STAGES if args.stage is None else (args.stage,))
    config = group.together(start.take_pixels, config, Path(output), args.start_from)
    partition = Partition(dataset.num_classes, group.rank(), group.world_size())
    return Run(
        config=config,
        ds=ds,
        dataset=dataset,
        partition=partition,
        device=device,
        folder=Path(output),
        stop=stop,
        allowed=frozenset(args.allow_change),
        measure=None if validator is None else replace(validator, config=config),
    )


def choose_kernels(deterministic: bool) -> None:
    """On CUDA: kernels that give the same numbers every time, or those of cuDNN that are fastest at these sizes."""
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # asked for by cuBLAS; read when CUDA starts
        torch.use_deterministic_algorithms(True, warn_only=True)


class HelpKnobs(argparse.Action):
    """Lists the knobs and ends the command."""

    def __init__(self, option_strings: list[str], dest: str, help: str) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Print them."""
        print(knobs.listing())
        parser.exit()


def arguments() -> Parser:
    """The command line."""
    parser = Parser(prog="facelt/train.py", description=__doc__)
    parser.add_argument("--deepspeed_config", metavar="JSON", help="DeepSpeed's configuration with a block facelt")
    parser.add_argument("--data", help="folder with train.rec, train.idx and property (default: facelt.data)")
    parser.add_argument("--output", help="folder of the run: checkpoints, TensorBoard, metrics.jsonl")
    parser.add_argument(
        "--stage", choices=STAGES, help="one stage alone (default: plain, then meta or, with preset facelt, memory)"
    )
    parser.add_argument("--init", help="weights to begin with, of torchvision, insightface, AdaFace, timm or in ONNX")
    parser.add_argument("--start-from", metavar="RUN", help="start from the plain stage of another run")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help='a knob of the "facelt" block, or ds.KEY'
    )
    parser.add_argument(
        "--allow-change",
        action="append",
        default=[],
        choices=start.ALLOWABLE,
        metavar="KEY",
        help=f"resume although this is another than before (may be repeated): {', '.join(start.ALLOWABLE)}",
    )
    parser.add_argument("--help-knobs", action=HelpKnobs, help="list every knob with its default and meaning, and exit")
    # What DeepSpeed's launcher and its users add.
    parser.add_argument(
        "--num_gpus", metavar="N", help="ranks to start on this machine (facelt-train alone; with --master_port PORT)"
    )
    parser.add_argument("--local_rank", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--deepspeed", action="store_true", help=argparse.SUPPRESS)
    return parser


def command() -> int:
    """What the console command runs."""
    return group.as_process(main)


if __name__ == "__main__":
    sys.exit(command())
