"""Train: stage plain, memory from class means, stage meta; run again it takes up where it stopped.

deepspeed facelt/train.py --deepspeed_config jobs/ds.json --data DATA --output RUN
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import deepspeed
import torch

from facelt.config import FaceltConfig, StageConfig, load
from facelt.errors import one_line
from facelt.head import health
from facelt.images.sampling import step_seed
from facelt.parallel import group
from facelt.parallel.partition import Partition
from facelt.training import checkpoint, start
from facelt.training.schedule import learning_rate, total_steps
from facelt.training.telemetry import StopRequest, Telemetry, say
from recordio_tools.dataset import RecordDataset


def main(argv: list[str] | None = None) -> int:
    args = arguments().parse_args(argv)
    with one_line("facelt.train"):
        init = [f"backbone.init={json.dumps(args.init)}"] if args.init else []
        ds, config = load(args.deepspeed_config, [*args.set, *init])
        data, output = args.data or config.data, args.output or config.output
        for name, value in (("data", data), ("output", output)):
            if value is None:
                raise ValueError(f"no --{name} given; expected a folder: give --{name} DIR, or set facelt.{name}")
        device = group.start()
        stop = StopRequest()
        dataset = group.together(RecordDataset, data)
        partition = Partition(dataset.num_classes, group.rank(), group.world_size())
        names = checkpoint.STAGES if args.stage is None else (args.stage,)
        for name in names:
            start.check(name, dataset, partition, ds, config)
        for name in names:
            source = start.find_start(name, Path(output), args.start_from)
            if not train_stage(name, Path(output), source, dataset, partition, ds, config, device, stop):
                break
    return 0


def train_stage(
    name: str,
    run: Path,
    source: Path | None,
    dataset: RecordDataset,
    partition: Partition,
    ds: dict[str, Any],
    config: FaceltConfig,
    device: torch.device,
    stop: StopRequest,
) -> bool:
    """Train one stage to its end, from its newest checkpoint if there is one, else from `source`.

    False when asked to stop before or at its end.
    """
    knobs: StageConfig = getattr(config, name)
    steps = total_steps(knobs, len(dataset), ds["train_batch_size"])
    resumed = group.share(checkpoint.latest(run, name))
    first = 0
    if resumed:
        state = start.check_same_run(resumed, ds, config)
        first = state["step"]
        if first >= steps:
            say(f"stage {name}: finished in {resumed}")
            return not stop.agreed(device)
        say(f"stage {name}: taking up {resumed} at step {first}")
    engine = start.make_engine(name, resumed, source, dataset, partition, ds, config, device)
    sampler = start.make_sampler(knobs, dataset, engine.global_batch, config.seed)
    batches = iter(start.make_pipeline(dataset, sampler, engine, config, first, steps, device))
    labels = torch.from_numpy(dataset.labels)
    telemetry = Telemetry(run, name, steps, first, engine.global_batch)

    def save(step: int) -> None:
        facts = {"stage": name, "step": step, "finished": step == steps, "global_batch": engine.global_batch}
        facts |= {"config": config.model_dump(), "scalars": engine.scalars()}
        weights, moments = engine.replicated_weights(), engine.replicated_moments()
        checkpoint.save(run, facts, weights, moments, engine.sharded_rows(), partition)

    engine.embedder.train()
    engine.embedder.backbone.train(not knobs.freeze_backbone)
    for step in range(first, steps):
        lr = learning_rate(knobs, engine.base_lr, step, len(dataset), engine.global_batch)
        if name == "meta" and start.refreshes(config.head, step):
            start.fill_memory(engine.embedder, engine.head.memory, dataset, config, device)
        for part, micro_indices in enumerate(sampler.indices(step).reshape(engine.accumulation, -1)):
            with one_line("facelt.train", every_rank=True):
                images_B3HW, _ = next(batches)
            labels_G = labels[micro_indices].to(device)
            seed = step_seed(config.seed, step, part)
            result = engine.forward_backward(images_B3HW.to(device), labels_G, seed)
            engine.step(lr)
        telemetry.advance()
        asked = False
        if step % config.log_every == 0 or step == steps - 1:
            figures = {**engine.figures(), **health.measure(engine.head)}
            telemetry.log(step, result.parts, result.correct_B, lr, figures, health.complaints(figures))
            asked = stop.agreed(device)
        if asked or step == steps - 1 or (step + 1) % config.checkpoint_every == 0:
            save(step + 1)
        if asked:
            say(f"stage {name}: stopped at step {step + 1} as asked; run the same command to go on")
            break
    telemetry.close()
    return not asked


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="facelt/train.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", help="folder with train.rec, train.idx and property (default: facelt.data)")
    parser.add_argument("--output", help="folder of the run: checkpoints, TensorBoard, metrics.jsonl")
    parser.add_argument("--stage", choices=checkpoint.STAGES, help="one stage alone (default: plain, then meta)")
    parser.add_argument("--init", help="torchvision state dict of the backbone, such as an ImageNet ResNet-50")
    parser.add_argument("--start-from", metavar="RUN", help="start from the plain stage of another run")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help='a knob of the "facelt" block, or ds.KEY'
    )
    parser.add_argument("--local_rank", type=int, default=0, help=argparse.SUPPRESS)
    parser = deepspeed.add_config_arguments(parser)
    return parser


if __name__ == "__main__":
    status = main()
    group.stop()
    sys.exit(status)
