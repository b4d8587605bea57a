"""Presets, and each piece of the preset `cosine` alone, on drawn identities at equal images seen.

    python tests/bench/presets.py [--seeds 3] [--epochs 4] [--arms released facelt …] [--folder FOLDER]

For each seed: one plain stage on a long tail of drawn people; from it, every arm for as many images again. Then rank-1
of strangers: the share of probes whose nearest other image, among probes and distractors, shows the same person. And
known people: top-1 on other images of the training people, by the classifier and by the memory, with the AUROC of the
cosine, or of the highest softmax, that tells them from the test strangers.
Arms that begin with "…" change one piece of the arm above them without one. Defaults are chosen on the validation
people; test people are others again. Mean and spread (half the range) over seeds.
"control" is the meta-embedding with the memory's mean in place of the memory: what survives it is not memory.
A FOLDER keeps what is done: run again with the same one, it takes up where it stopped.
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from facelt import evaluate, extract, train
from facelt.config import PRESETS
from recordio_tools.__main__ import main as recordio

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a small network gains nothing from more

SETS = {  # identities, images, first identity
    "train": (300, 5000, 0),
    "validation": (100, 600, 100_000),
    "test": (100, 600, 200_000),
    "distractors": (500, 500, 300_000),
    "known": (300, 3000, 0),  # other images of the training people
}
STRANGERS = ("validation", "test", "distractors")
COSINE = PRESETS["cosine"]


def without(*names: str, sampler: str = "uniform", **instead: object) -> dict:
    """The preset cosine without its loss on the direct feature, and some of its pieces as released, or otherwise."""
    left = {"direct_weight", *names}
    head = {name: value for name, value in COSINE.items() if name not in left} | instead
    return {"preset": "released", "head": head, "meta": {"sampler": sampler}}


ARMS: dict[str, dict] = {
    "plain again": {},
    "plain class by class": {"plain": {"sampler": "class_aware"}},
    "released": {"preset": "released"},
    "released, clipped at 1": {"preset": "released", "clipping": 1.0},
    "paper": {"preset": "paper"},
    "paper, clipped at 1": {"preset": "paper", "clipping": 1.0},
    "cosine": {"preset": "cosine"},
    "cosine without its direct loss": without(),
    "  class by class": without(sampler="class_aware"),
    "  classifier from nothing": without("classifier_start"),
    "  hallucinator": without("retrieval"),
    "  own class never masked": without("mask_own"),
    "  selector as released": without("selector"),
    "  centroids as released": without("centroid_update"),
    "  cosface 0.2, scale 32": without(margin="cosface", margin_size=0.2, scale=32),
    "facelt": {"preset": "facelt"},
    "  margin 0.3 for all": {"preset": "facelt", "memory_head": {"margin": 0.3, "margin_power": 0}},
    "  without a margin": {"preset": "facelt", "memory_head": {"margin": 0}},
    "  half the prior": {"preset": "facelt", "memory_head": {"prior": 0.5}},
}


def stage_of(block: dict) -> str:
    """The stage that an arm trains from the common start."""
    if "preset" not in block:
        return "plain"
    return "memory" if block["preset"] == "facelt" else "meta"


def draw(folder: Path) -> None:
    """The four sets."""
    for name, (identities, images, first) in SETS.items():
        tail = ["--tail", "zipf", "--min-images", "4", "--max-images", "80"] if name == "train" else []
        shape = ["--identities", str(identities), "--images", str(images), "--first-identity", str(first)]
        shape += ["--first-image", "1000"] if name == "known" else []
        target = folder / name
        if not target.exists():
            assert recordio(["synth", str(target), *shape, "--size", "64", "--zoom", "1.6", *tail]) in (0, None)


def configuration(seed: int, block: dict, epochs: int) -> dict:
    block, stage = dict(block), {"epochs": epochs, "decay_every": epochs * 3 / 4}
    clipping = {"gradient_clipping": block.pop("clipping")} if "clipping" in block else {}
    return {
        "train_batch_size": 64,
        "optimizer": {"type": "SGD", "params": {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}},
        "steps_per_print": 10**9,
        **clipping,
        "facelt": {
            "seed": seed,
            "image_size": 64,
            "embedding_size": 64,
            "backbone": {"name": "resnet10", "width": 16, "neck": "batch_norm"},
            "checkpoint_every": 10**6,
            **block,
            **{name: {**stage, **block.get(name, {})} for name in ("plain", "meta", "memory")},
        },
    }


def run(arm: str, seed: int, folder: Path, epochs: int) -> dict[str, float]:
    """Of an arm, in %: rank-1, "validation direct" … "test control", and "classifier all" … "memory AUROC"."""
    out = folder / f"epochs-{epochs}" / f"seed-{seed}" / arm.strip().replace(" ", "-").replace(",", "")
    if (out / "result.json").exists():
        return json.loads((out / "result.json").read_text())
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    plain, stage = out.parent / "start", stage_of(ARMS[arm])
    train_stage("plain", plain, configuration(seed, {}, epochs), folder)
    block = {"seed": seed + 1000, **ARMS[arm]} if stage == "plain" else ARMS[arm]  # other orders of the same images
    train_stage(stage, out, configuration(seed, block, epochs), folder, plain)
    result: dict[str, Any] = {**known_people(out, folder)}
    for memory in ("", "mean") if stage == "meta" else ("",):
        names = ["meta"] if memory else ["direct", "meta"] if stage == "meta" else ["direct"]
        sets = [str(folder / name) for name in STRANGERS]
        arguments = ["--checkpoint", str(out), "--data", *sets, "--output", str(out / "f"), "--embedding", *names]
        assert extract.main([*arguments, "--force", *(["--memory", memory] if memory else [])]) == 0
        for name in names:
            where = out / "f" / name if len(names) > 1 else out / "f"
            for probes in ("validation", "test"):
                result[f"{probes} {'control' if memory else name}"] = rank_1(where / probes, where / "distractors")
    shutil.rmtree(out / "f")
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    result["health"] = {k: lines[-1][k] for k in ("memory_drift", "selector", "memory_share") if k in lines[-1]}
    (out / "result.json").write_text(json.dumps(result))
    return result


def train_stage(stage: str, out: Path, configuration: dict, folder: Path, start: Path | None = None) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "ds.json").write_text(json.dumps(configuration))
    arguments = ["--deepspeed_config", str(out / "ds.json"), "--data", str(folder / "train"), "--output", str(out)]
    assert train.main([*arguments, "--stage", stage, *(["--start-from", str(start)] if start else [])]) == 0


BUCKETS = {"all": "all", "many": "many", "medium": "medium", "few": "few"}


def known_people(out: Path, folder: Path) -> dict[str, float]:
    """Closed set and strangers of an arm, by its classifier and by its memory, in %."""
    sets = ["--train", str(folder / "train"), "--data", str(folder / "known"), "--open", str(folder / "test")]
    bounds = ["--many", "20", "--few", "6", "--draws", "1"]
    arguments = ["--checkpoint", str(out), *sets, *bounds, "--output", str(out / "report"), "--force"]
    assert evaluate.main(arguments) == 0
    report = json.loads((out / "report" / "report.json").read_text())
    signals = {"classifier": "max softmax by classifier", "memory": "cosine to the nearest centroid"}
    auroc = {d["signal"]: d["auroc"]["value"] for d in report["detection"]}
    result = {}
    for reading in report["readings"]:
        for bucket, column in BUCKETS.items():
            result[f"{reading['name']} {bucket}"] = 100 * reading["closed"][column]["value"]
        result[f"{reading['name']} AUROC"] = 100 * auroc[signals[reading["name"]]]
    return result


def rank_1(probes: Path, distractors: Path) -> float:
    """Percentage of probes whose most similar other image is of the same person."""
    load = lambda folder: np.load(folder / "features.npy")  # noqa: E731
    p, d = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (load(probes), load(distractors)))
    labels = np.load(probes / "labels.npy")
    among = p @ p.T
    np.fill_diagonal(among, -np.inf)
    best = among.argmax(1)
    return 100 * float(((labels[best] == labels) & (among.max(1) > (p @ d.T).max(1))).mean())


RANK_1 = ("validation direct", "validation meta", "test direct", "test meta", "test control")
KNOWN = tuple(f"{name} {column}" for name in ("classifier", "memory") for column in (*BUCKETS, "AUROC"))


def table(results: dict[str, list[dict]], columns: tuple[str, ...]) -> str:
    lines = ["| arm | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    for arm, runs in results.items():
        cells = []
        for column in columns:
            values = [r[column] for r in runs if column in r]
            spread = (max(values) - min(values)) / 2 if values else 0
            cells.append(f"{statistics.mean(values):.1f} ± {spread:.1f}" if values else "–")
        lines.append(f"| {arm.replace('  ', '… ')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4, help="of either stage (default: 4)")
    parser.add_argument("--arms", nargs="+", choices=[a.strip() for a in ARMS], metavar="ARM", help=", ".join(ARMS))
    parser.add_argument("--folder", type=Path, help="where to keep what is done (default: nowhere)")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = args.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        arms = [arm for arm in ARMS if args.arms is None or arm.strip() in args.arms]
        log = stack.enter_context((folder / "log.txt").open("a"))
        bar = tqdm(total=args.seeds * len(arms), unit="run")
        with contextlib.redirect_stderr(log), contextlib.redirect_stdout(log):
            draw(folder)
        results: dict[str, list[dict]] = {arm: [] for arm in arms}
        for seed in range(args.seeds):
            for arm in arms:
                with contextlib.redirect_stderr(log), contextlib.redirect_stdout(log):
                    results[arm].append(run(arm, seed, folder, args.epochs))
                bar.update()
        bar.close()
        budget = f"{args.seeds} seeds, {args.epochs} + {args.epochs} epochs of {SETS['train'][1]:,} images"
        print(f"rank-1 of strangers, %, {budget}")
        print(table(results, RANK_1))
        print(f"\nknown people: top-1 and AUROC of strangers, %, {budget}")
        print(table(results, KNOWN))


if __name__ == "__main__":
    main()
