"""Images a second of facelt's pipeline against DALI's own RecordIO reader, with the same operators.

Both decode, mirror half of the images, normalise, and hand over torch tensors of images and labels, from one set of
112 x 112 JPEGs with header and identity records (DALI's reader, which would take those for images, is given an index
without them). Both run on, taking turns of a few batches, so that what else the machine does touches both alike.

    python tests/bench/pipeline.py --images 8000 --turns 40 --threads 2
"""

import argparse
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.plugin.pytorch import DALIClassificationIterator
from PIL import Image
from tqdm import tqdm

from facelt.config import AugmentConfig
from facelt.images.dali import Decoding, ImagePipeline
from facelt.images.feed import RankPlan
from facelt.images.sampling import UniformSampler
from recordio_tools.dataset import DatasetWriter, RecordDataset
from recordio_tools.format.index import format_index

SIZE, CLASSES, SEED = 112, 50, 0
TURN = 12  # batches
FLIP_ONLY = AugmentConfig(crop=1, flip=0.5, jitter=0, grey=0)


def write_set(folder: Path, count: int) -> RecordDataset:
    """Smooth colours with grain, in the size of an aligned face's JPEG (4 to 5 KB)."""
    rng = np.random.default_rng(SEED)
    with DatasetWriter(folder, CLASSES, (SIZE, SIZE)) as writer:
        for i in tqdm(range(count), desc="writing JPEGs", unit="image", delay=2):
            coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize(
                (SIZE, SIZE), Image.BICUBIC
            )
            grain = rng.normal(0, 5, (SIZE, SIZE, 1))
            jpeg = BytesIO()
            pixels = np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(jpeg, "JPEG", quality=90)
            writer.add(jpeg.getvalue(), i * CLASSES // count)
    return RecordDataset(folder)


def dali_reader(dataset: RecordDataset, batch: int, threads: int) -> Callable[[], int]:
    """The next batches of fn.readers.mxnet under DALI's own iterator."""
    images_only = dataset.folder / "images.idx"
    images_only.write_bytes(format_index(dataset.keys, dataset.offsets))

    @pipeline_def(batch_size=batch, num_threads=threads, device_id=None, prefetch_queue_depth=2)
    def graph():
        encoded, labels = fn.readers.mxnet(
            path=[str(dataset.rec_path)], index_path=[str(images_only)], random_shuffle=True, name="reader"
        )
        images = fn.decoders.image(encoded, output_type=types.RGB)
        images = fn.crop_mirror_normalize(
            images,
            dtype=types.FLOAT,
            output_layout="CHW",
            mean=[127.5] * 3,
            std=[127.5] * 3,
            mirror=fn.random.coin_flip(probability=0.5),
        )
        return images, labels

    batches = iter(DALIClassificationIterator(graph(), size=-1))

    def turn() -> int:
        seen = 0
        for (out,) in islice(batches, TURN):
            images, labels = out["data"], out["label"].squeeze(-1).long()
            assert len(images) == len(labels)
            seen += len(images)
        return seen

    return turn


def facelt_pipeline(dataset: RecordDataset, batch: int, threads: int) -> Callable[[], int]:
    """The next batches of ImagePipeline."""
    sampler = UniformSampler(dataset.labels, batch, SEED)
    batches = iter(
        ImagePipeline(
            dataset,
            RankPlan(
                sampler=sampler,
                labels=dataset.labels,
                seed=SEED,
                rank=0,
                ranks=1,
                micro_batches=1,
                first_step=0,
                steps=10**9,
            ),
            Decoding(SIZE, batch, torch.device("cpu"), threads),
            FLIP_ONLY,
        )
    )

    def turn() -> int:
        return sum(len(images) for images in islice(batches, TURN))

    return turn


def measure(turn: Callable[[], int]) -> np.ndarray:
    """Seconds, seconds of processor, and images of one turn."""
    wall, work = time.perf_counter(), time.process_time()
    seen = turn()
    return np.array([time.perf_counter() - wall, time.process_time() - work, seen])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--threads", type=int, default=min(8, os.cpu_count() or 1))
    args = parser.parse_args()
    warnings.filterwarnings("ignore", module="nvidia.dali")
    with tempfile.TemporaryDirectory() as folder:
        dataset = write_set(Path(folder) / "set", args.images)
        arms = [make(dataset, args.batch, args.threads) for make in (dali_reader, facelt_pipeline)]
        for turn in arms:
            turn()
        turns = tqdm(range(args.turns), desc="alternating", unit="turn", delay=2)
        seconds, work, seen = np.array([[measure(turn) for turn in arms] for _ in turns]).transpose(2, 1, 0)
    print(
        f"{args.images} JPEGs of {dataset.heads.image_bytes.mean():.0f} bytes, batches of {args.batch}, "
        f"{args.threads} threads on the CPU, {args.turns} turns of {TURN} batches each"
    )
    for name, arm in (("fn.readers.mxnet", 0), ("facelt.images.dali", 1)):
        rate, cost = seen[arm].sum() / seconds[arm].sum(), work[arm].sum() / seen[arm].sum()
        print(f"{name:17} {rate:7,.0f} images/s  {cost * 1e6:4.0f} µs of processor an image")
    ratios = seconds[0] / seconds[1]
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    print(f"ratio of rates {middle:.2f} (quartiles {low:.2f} to {high:.2f}); wanted: 0.9 or more")


if __name__ == "__main__":
    main()
