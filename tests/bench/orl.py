"""Which square of ORL's pictures a recogniser takes best: errors among all 40 people by box and by what pads it.

python tests/bench/orl.py RECOGNISER [RECOGNISER …]        runs, .onnx or .safetensors files

All pairs of the 400 pictures, 1,800 of one person and 78,000 of two, by cosine. Where `align` finds the landmarks comes
first (medians of 160 pictures): the square in which they lie as in ArcFace's template, in least squares.
"""

import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from facelt.recogniser import Recogniser
from megaface_eval.protocols.verification import equal_error_rate
from recordio_tools.align.mtcnn import Mtcnn
from recordio_tools.sources import orl
from recordio_tools.sources.orl import Box
from recordio_tools.sources.warp import TEMPLATE_52

SIZE = 112
BOXES = (
    (0, 12, 92, 104),  # brow to chin, nothing padded
    (0, 0, 92, 92),
    (0, 20, 92, 112),
    (-10, 0, 102, 112),  # all of the picture's height: what `orl` writes
    (-5, 5, 94, 104),  # as the template has it
    (-5, -3, 94, 96),
    (-5, 13, 94, 112),
    (-5, 21, 94, 120),
    (4, 14, 85, 95),
    (-16, -6, 105, 115),
)
PEOPLE = np.repeat(np.arange(orl.PEOPLE), orl.IMAGES)
MARGIN, SCALE = 100, 3  # pixels around a picture, and its enlargement, for the detector


def pictures(numbers: range = range(orl.IMAGES)) -> list[Path]:
    """The files of these pictures of each person."""
    return [orl.orl_folder() / f"s{1 + p}" / f"{1 + n}.pgm" for p in range(orl.PEOPLE) for n in numbers]


def template_square() -> tuple[np.ndarray, float]:
    """Left and upper, and the side, of the square in which the landmarks of ORL's pictures lie as in the template."""
    detector, points = Mtcnn(0.8), []
    for picture in pictures(range(0, orl.IMAGES, 3)):
        with Image.open(picture) as image:
            large = image.convert("RGB").resize((SCALE * image.width, SCALE * image.height), Image.Resampling.LANCZOS)
        (faces,) = detector.detect([np.pad(np.array(large), ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)), "edge")])
        points += [(faces.points_n52[0] - MARGIN) / SCALE] if len(faces.scores_n) else []
    median_52 = np.median(points, axis=0)
    own, wanted = median_52 - median_52.mean(0), TEMPLATE_52 - TEMPLATE_52.mean(0)
    scale = (own * wanted).sum() / (own * own).sum()
    return median_52.mean(0) - TEMPLATE_52.mean(0) / scale, SIZE / scale


def errors(recogniser: Recogniser, box: Box, pad: orl.Pad) -> tuple[float, float, float]:
    """EER, share rejected at one false match in 1,000, and share of images whose nearest other is someone else."""
    faces = [Image.open(BytesIO(orl.face(picture, SIZE, box, pad))) for picture in pictures()]
    rows_ND = recogniser.features(faces).astype(np.float64)
    cosine, same = rows_ND @ rows_ND.T, PEOPLE[:, None] == PEOPLE
    upper = np.triu(np.ones_like(same), 1)
    mated, strange = cosine[upper & same], -np.sort(-cosine[upper & ~same])
    missed = (mated <= strange[len(strange) // 1000]).mean()
    np.fill_diagonal(cosine, -2)
    return equal_error_rate(mated, strange) or 0.0, missed, (PEOPLE[cosine.argmax(1)] != PEOPLE).mean()


def main() -> None:
    """A line for the template, and a table for each recogniser."""
    torch.set_num_threads(1)
    start, side = template_square()
    print(f"the template's square: {start.round(1).tolist()} to {(start + side).round(1).tolist()}, side {side:.1f}")
    for path in sys.argv[1:]:
        recogniser = Recogniser.load(Path(path))
        print(f"{path}\n| box | padded with | EER, % | missed at 10⁻³, % | rank-1 wrong, % |")
        print("| --- | --- | --: | --: | --: |")
        for box in BOXES:
            pads = ("edge", "reflect", "constant") if box == orl.FACE_BOX else ("edge",)
            for pad in pads:
                print(f"| {box} | {pad} | {' | '.join(f'{100 * e:.2f}' for e in errors(recogniser, box, pad))} |")


if __name__ == "__main__":
    main()
