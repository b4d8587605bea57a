"""Photographs aligned a second on one core: drawn faces in scenes of 1,024 pixels, from file to aligned face.

python tests/bench/align.py [PICTURES]
"""

import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from recordio_tools.align.aligning import align_folder
from recordio_tools.align.mtcnn import Mtcnn
from recordio_tools.sources.synthetic import Drawing, draw_jpegs


def main() -> None:
    """One line."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 64
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "photos" / "somebody"
        folder.mkdir(parents=True)
        random = np.random.default_rng(0)
        for number, jpeg in enumerate(draw_jpegs(Drawing(0, 320, 0.0), np.arange(count), np.zeros(count, np.int64))):
            noise = random.integers(0, 255, (96, 128, 3)).astype(np.uint8)
            scene = Image.fromarray(noise).resize((1024, 768), Image.Resampling.BICUBIC)
            scene.paste(Image.open(BytesIO(jpeg)), tuple(random.integers(0, (704, 448)).tolist()))
            scene.save(folder / f"{number}.jpg", quality=92)
        detector = Mtcnn(0.9)
        clock, processor = time.perf_counter(), time.process_time()
        report = align_folder(folder.parent, Path(place) / "out", detector)
        clock, processor = time.perf_counter() - clock, time.process_time() - processor
    print(
        f"{count} pictures of 1024x768, {report.faces} faces: {count / clock:.1f} a second by the clock, "
        f"{count / processor:.1f} a second of processor"
    )


if __name__ == "__main__":
    main()
