"""How fast `synth` draws, encodes and writes, against Pillow encoding the same pictures to JPEG and nothing else.

    python tests/bench/synth.py [--images 6000]

Prints images per second by the clock and by processor time (what idle cores would give), and the ratio of processor
time to the floor: the JPEG encoder alone, in the same processes and the same run.
"""

import argparse
import io
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from PIL import Image

from recordio_tools.dataset import RecordDataset
from recordio_tools.sources.faces.camera import encode
from recordio_tools.sources.synthetic import image_counts, write_synthetic


def encoding_seconds(files: list[bytes]) -> float:
    """Seconds that Pillow takes to encode these pictures at quality 75."""
    pictures = [Image.open(io.BytesIO(file)).convert("RGB") for file in files]
    begin = time.process_time()
    for picture in pictures:
        encode(picture, 75)
    return time.process_time() - begin


def processor_seconds() -> float:
    """Processor time of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=6000)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    counts = image_counts(max(args.images // 20, 1), args.images)
    with tempfile.TemporaryDirectory() as folder:
        begin, used = time.perf_counter(), processor_seconds()
        write_synthetic(Path(folder) / "set", counts, size=args.size, workers=args.workers)
        wall, used = time.perf_counter() - begin, processor_seconds() - used
        dataset = RecordDataset(Path(folder) / "set")
        files = [bytes(dataset.jpeg(i)) for i in range(len(dataset))]
    with ProcessPoolExecutor(args.workers) as pool:
        floor = sum(pool.map(encoding_seconds, [files[k :: 4 * args.workers] for k in range(4 * args.workers)]))
    drawing, encoding = used / args.images, floor / args.images
    print(f"synth {args.size}×{args.size}, {args.workers} processes: {args.images / wall:,.0f} images/s by the clock")
    print(f"{drawing * 1e3:.2f} ms of processor time an image: {args.workers / drawing:,.0f} images/s on idle cores")
    print(f"JPEG encoding alone: {encoding * 1e3:.2f} ms an image; synth takes {drawing / encoding:.1f} times as long")


if __name__ == "__main__":
    main()
