"""Train: stage plain, memory from class means, stage meta; run again it takes up where it stopped.

deepspeed facelt/train.py --deepspeed_config jobs/ds.json --data DATA --output RUN
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import deepspeed
import torch

from facelt import checkpoint, comms, stage
from facelt.config import FaceltConfig, StageConfig, load
from facelt.engine import Engine
from facelt.mistakes import one_line
from facelt.model import Embedder, MetaHead, PlainHead
from facelt.partition import Partition
from facelt.schedule import learning_rate, total_steps
from facelt.telemetry import StopRequest, Telemetry, say
from recordio_tools.dataset import RecordDataset


def main(argv: list[str] | None = None) -> int:
    args = arguments().parse_args(argv)
    with one_line("facelt.train"):
        device = comms.start()  # before all that can be refused: the launcher ends rank 0 when another rank is quicker
        ds, config = load(args.deepspeed_config, [*args.set, *([f"backbone.init={args.init}"] if args.init else [])])
        data, output = args.data or config.data, args.output or config.output
        for name, value in (("data", data), ("output", output)):
            if value is None:
                raise ValueError(f"no --{name} given; expected a folder: give --{name} DIR, or set facelt.{name}")
        dataset = RecordDataset(data)
        partition = Partition(dataset.num_classes, comms.rank(), comms.world_size())
        run = Path(output)
        for name in checkpoint.STAGES if args.stage is None else [args.stage]:
            finished = train_stage(name, run, args.start_from, dataset, partition, ds, config, device)
            if not finished:
                break
    return 0


def train_stage(
    name: str,
    run: Path,
    start_from: str | None,
    dataset: RecordDataset,
    partition: Partition,
    ds: dict[str, Any],
    config: FaceltConfig,
    device: torch.device,
) -> bool:
    """Train one stage to its end, from its newest checkpoint if there is one. False when asked to stop before."""
    knobs: StageConfig = getattr(config, name)
    torch.manual_seed(config.seed)
    embedder = Embedder(config, meta=name == "meta").to(device)
    head = (MetaHead if name == "meta" else PlainHead)(config, partition).to(device)
    resumed = checkpoint.latest(run, name)
    state = checkpoint.read_state(resumed) if resumed else {"step": 0, "finished": False}
    if state["finished"]:
        say(f"stage {name}: finished in {resumed}")
        return True
    if resumed:
        embedder.load_state_dict(checkpoint.read_weights(resumed))
    else:
        stage.initialise(name, embedder, head, run, start_from, dataset, config, device)
    for parameter in embedder.backbone.parameters() if knobs.freeze_backbone else ():
        parameter.requires_grad_(False)

    engine = Engine(embedder, head, ds, config.head.memory_weight_decay)
    if resumed:
        engine.load_replicated_moments(checkpoint.read_moments(resumed))
        engine.load_sharded_rows(checkpoint.read_rows(resumed, partition))
        stage.check_same_order(state, engine, config, resumed)
        say(f"stage {name}: taking up {resumed} at step {state['step']}")
    sampler = stage.make_sampler(knobs, dataset, engine.global_batch, config.seed)
    steps = total_steps(knobs, len(dataset), engine.global_batch)
    batches = iter(stage.make_pipeline(dataset, sampler, engine, config, state["step"], steps, device))
    labels = torch.from_numpy(dataset.labels)
    telemetry = Telemetry(run, name, steps, state["step"], engine.global_batch)

    def save(step: int, finished: bool) -> None:
        facts = {"stage": name, "step": step, "finished": finished, "global_batch": engine.global_batch}
        facts["config"] = config.model_dump()
        weights, moments = engine.replicated_weights(), engine.replicated_moments()
        checkpoint.save(run, facts, weights, moments, engine.sharded_rows(), partition)

    stop = StopRequest()
    embedder.train()
    embedder.backbone.train(not knobs.freeze_backbone)
    for step in range(state["step"], steps):
        lr = learning_rate(knobs, engine.base_lr, step, len(dataset), engine.global_batch)
        indices = sampler.indices(step)
        for micro_indices in indices.reshape(engine.accumulation, -1):
            with one_line("facelt.train", every_rank=True):
                images_B3HW, _ = next(batches)
            labels_G = labels[micro_indices].to(device)
            result = engine.forward_backward(images_B3HW.to(device), labels_G)
            engine.step(lr)
        telemetry.advance()
        if step % config.log_every == 0 or step == steps - 1:
            telemetry.log(step, result.parts, result.correct_B, lr)
            if stop.agreed(device) and step < steps - 1:
                save(step + 1, finished=False)
                telemetry.close()
                say(f"stage {name}: stopped at step {step + 1} as asked; run the same command to go on")
                return False
        if (step + 1) % config.checkpoint_every == 0 and step < steps - 1:
            save(step + 1, finished=False)
    save(steps, finished=True)
    telemetry.close()
    return True


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
    comms.stop()
    sys.exit(status)
