"""MTCNN: a cascade of three small nets that find faces and five landmarks, in torch, batched over pictures.

Zhang et al., Joint Face Detection and Alignment Using Multitask Cascaded Convolutional Networks, 2016. P-Net looks at
every cell of a pyramid of scales, R-Net and O-Net at crops of what the net before let pass; only O-Net knows landmarks.
"""

# B pictures or crops, H × W pixels, n boxes.

from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional
from torchvision.ops import roi_align

from recordio_tools.align.faces import Faces, no_faces, suppress
from recordio_tools.align.mtcnn_weights import read_weights

CELL, STRIDE = 12, 2  # of P-Net, pixels of a scale
SCALE_STEP = 0.709  # from one scale of the pyramid to the next, √½
PROPOSE, REFINE = 0.6, 0.7  # scores that pass P-Net and R-Net
MIN_FACE = 40  # pixels, the side of the smallest face that is looked for
LOOKS = 4  # more at each face that is found, for its landmarks
VIEW = 2.5  # sides of what O-Net sees then, in distances from eye to eye, or from eyes to mouth where that is longer
MIRRORED = [1, 0, 2, 4, 3]  # landmarks that change places in a mirror
MOST_CROPS = 1024  # that go through a net at once

Weights = dict[str, torch.Tensor]


def load_net(net: str, dtype: torch.dtype = torch.float32) -> Weights:
    """A net's weights as torch has them: kernels (outputs, inputs, height, width), dense layers (outputs, inputs)."""
    weights = {}
    for name, array in read_weights(net).items():
        tensor = torch.from_numpy(array).to(dtype)
        if name.endswith(".kernel"):
            tensor = tensor.permute(3, 2, 0, 1) if tensor.ndim == 4 else tensor.T
        weights[name] = tensor.contiguous()
    return weights


def _conv(x: torch.Tensor, net: Weights, layer: str) -> torch.Tensor:
    return functional.prelu(functional.conv2d(x, net[f"{layer}.kernel"], net[f"{layer}.bias"]), net[f"{layer}.slope"])


def _dense(x: torch.Tensor, net: Weights) -> torch.Tensor:
    """The hidden dense layer, over features in the order width, height, channels."""
    flat = x.permute(0, 3, 2, 1).flatten(1)
    return functional.prelu(functional.linear(flat, net["dense.kernel"], net["dense.bias"]), net["dense.slope"])


def _linear(x: torch.Tensor, net: Weights, layer: str) -> torch.Tensor:
    return functional.linear(x, net[f"{layer}.kernel"], net[f"{layer}.bias"])


def p_net(images_B3HW: torch.Tensor, net: Weights) -> tuple[torch.Tensor, torch.Tensor]:
    """Offsets (B, 4, h, w) and scores (B, h, w) of every cell of normalised images."""
    x = functional.max_pool2d(_conv(images_B3HW, net, "conv1"), 2, 2, ceil_mode=True)
    x = _conv(_conv(x, net, "conv2"), net, "conv3")
    box = functional.conv2d(x, net["box.kernel"], net["box.bias"])
    return box, functional.conv2d(x, net["face.kernel"], net["face.bias"]).softmax(1)[:, 1]


def r_net(crops_B3HW: torch.Tensor, net: Weights) -> tuple[torch.Tensor, torch.Tensor]:
    """Offsets (B, 4) and scores (B,) of normalised crops of 24×24 pixels."""
    x = functional.max_pool2d(_conv(crops_B3HW, net, "conv1"), 3, 2, ceil_mode=True)
    x = functional.max_pool2d(_conv(x, net, "conv2"), 3, 2)
    x = _dense(_conv(x, net, "conv3"), net)
    return _linear(x, net, "box"), _linear(x, net, "face").softmax(1)[:, 1]


def o_net(crops_B3HW: torch.Tensor, net: Weights) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Offsets (B, 4), scores (B,) and landmarks (B, 10: five x, five y, in sides of the crop) of crops of 48×48."""
    x = functional.max_pool2d(_conv(crops_B3HW, net, "conv1"), 3, 2, ceil_mode=True)
    x = functional.max_pool2d(_conv(x, net, "conv2"), 3, 2)
    x = functional.max_pool2d(_conv(x, net, "conv3"), 2, 2, ceil_mode=True)
    x = _dense(_conv(x, net, "conv4"), net)
    return _linear(x, net, "box"), _linear(x, net, "face").softmax(1)[:, 1], _linear(x, net, "points")


class Mtcnn:
    """The cascade: faces of `min_face` pixels or more, with a score of `threshold` or more."""

    def __init__(self, threshold: float, min_face: int = MIN_FACE):
        self.threshold, self.min_face = threshold, min_face
        self.p, self.r, self.o = (load_net(net) for net in ("pnet", "rnet", "onet"))

    @torch.inference_mode()
    def detect(self, pictures: list[np.ndarray]) -> list[Faces]:
        """Faces of each picture (uint8[H, W, 3], RGB), by score."""
        images = [((torch.tensor(p).permute(2, 0, 1).float() - 127.5) / 128)[None] for p in pictures]
        boxes = self._propose(images)
        crops = _crop(images, boxes, 24)
        offsets, scores = _in_parts(lambda part: r_net(part, self.r), crops)
        parts = _per_picture(boxes, offsets, scores)
        boxes = [_refined(own, part) for own, part in zip(boxes, parts, strict=True)]
        crops = _crop(images, boxes, 48)
        offsets, scores, points = _in_parts(lambda part: o_net(part, self.o), crops)
        parts = _per_picture(boxes, offsets, scores, points)
        faces = [_faces(own, part, self.threshold) for own, part in zip(boxes, parts, strict=True)]
        for _ in range(LOOKS):
            faces = self._look_again(images, faces)
        return faces

    def _look_again(self, images: list[torch.Tensor], faces: list[Faces]) -> list[Faces]:
        """The same faces with the landmarks that O-Net sees where they are upright, centred and of one size.

        What the cascade's boxes happen to cut moves landmarks by several percent of the eye distance; this view does
        not depend on them. Each face is seen as it is and in the mirror, and the mean of both is taken.
        """
        frames = [_frames(own.points_n52) for own in faces]
        views = [_view(image, a_n, b_n) for image, (a_n, b_n) in zip(images, frames, strict=True)]
        if not sum(map(len, views)):
            return faces
        crops = torch.cat(views)
        points, mirrored = (
            _in_parts(lambda part: o_net(part, self.o), seen)[2].reshape(-1, 2, 5).swapaxes(1, 2)
            for seen in (crops, crops.flip(3))
        )
        mirrored = mirrored[:, MIRRORED] * (-1, 1) + (1, 0)
        seen = _per_picture([own.points_n52 for own in faces], (points + mirrored) / 2)
        looked = []
        for own, (a_n, b_n), (unit,) in zip(faces, frames, seen, strict=True):
            z = a_n[:, None] * (unit @ [1, 1j] - 0.5 - 0.5j) + b_n[:, None]
            looked.append(own._replace(points_n52=np.stack([z.real, z.imag], axis=2)))
        return looked

    def _propose(self, images: list[torch.Tensor]) -> list[np.ndarray]:
        """Square boxes (n, 4) of each picture that pass P-Net; pictures of one size go through it together."""
        proposals: list[np.ndarray] = [np.zeros((0, 4))] * len(images)
        sizes: dict[tuple[int, int], list[int]] = {}
        for row, image in enumerate(images):
            sizes.setdefault((image.shape[2], image.shape[3]), []).append(row)
        for (height, width), rows in sizes.items():
            together = torch.cat([images[row] for row in rows])
            found: list[list[np.ndarray]] = [[] for _ in rows]
            scale = CELL / self.min_face
            while min(height, width) * scale >= CELL:
                for row, boxes in enumerate(self._at_scale(together, scale)):
                    found[row].append(boxes)
                scale *= SCALE_STEP
            for row, parts in zip(rows, found, strict=True):
                boxes_n5 = np.concatenate(parts) if parts else np.zeros((0, 5))
                proposals[row] = _square(boxes_n5[suppress(boxes_n5[:, :4], boxes_n5[:, 4], 0.7), :4])
        return proposals

    def _at_scale(self, images_B3HW: torch.Tensor, scale: float) -> list[np.ndarray]:
        """Boxes and scores (n, 5) of each picture at one scale of the pyramid."""
        height, width = (max(CELL, round(side * scale)) for side in images_B3HW.shape[2:])
        small = functional.interpolate(images_B3HW, (height, width), mode="area")
        offsets_B4hw, scores_Bhw = (output.double().numpy() for output in p_net(small, self.p))
        stretch = np.array([images_B3HW.shape[3] / width, images_B3HW.shape[2] / height] * 2)
        found = []
        for offsets_4hw, scores_hw in zip(offsets_B4hw, scores_Bhw, strict=True):
            y, x = np.nonzero(scores_hw > PROPOSE)
            corners = np.stack([x, y, x, y], 1) * STRIDE + np.array([0, 0, CELL, CELL])
            boxes = (corners + offsets_4hw[:, y, x].T * CELL) * stretch
            scores = scores_hw[y, x]
            kept = suppress(boxes, scores, 0.5)
            found.append(np.column_stack([boxes[kept], scores[kept]]))
        return found


def _frames(points_n52: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Complex (a, b) of each face: a·z + b takes a unit square about 0 to the upright square about the face."""
    z = points_n52 @ np.array([1, 1j])
    eyes, mouth = z[:, :2].mean(axis=1), z[:, 3:].mean(axis=1)
    across, down = z[:, 1] - z[:, 0], (mouth - eyes) / 1j
    direction = across / np.maximum(abs(across), 1e-9) + down / np.maximum(abs(down), 1e-9)
    side = VIEW * np.maximum(np.maximum(abs(across), abs(down)), 1)
    return side * direction / np.maximum(abs(direction), 1e-9), (eyes + mouth) / 2


def _view(image_13HW: torch.Tensor, a_n: np.ndarray, b_n: np.ndarray) -> torch.Tensor:
    """The squares of `_frames` as crops of 48×48 pixels, grey outside the picture."""
    cells = (np.arange(48) + 0.5) / 48 - 0.5
    unit = cells[None, :] + 1j * cells[:, None]
    z = a_n[:, None, None] * unit + b_n[:, None, None]
    height, width = image_13HW.shape[2:]
    crops = []
    for a, own in zip(a_n, z, strict=True):
        # Pixels that are larger in the crop than in the picture are averaged: the picture is scaled down first.
        factor = max(1, int(abs(a) / 48))
        small = functional.avg_pool2d(image_13HW, factor, ceil_mode=True) if factor > 1 else image_13HW
        grid = np.stack([2 * (own.real + 0.5) / width - 1, 2 * (own.imag + 0.5) / height - 1], axis=-1)
        grid = torch.from_numpy(grid)[None].float()
        crops.append(functional.grid_sample(small, grid, align_corners=False))
    return torch.cat(crops) if crops else torch.zeros(0, 3, 48, 48)


def _square(boxes_n4: np.ndarray) -> np.ndarray:
    """Boxes about the same centres, as wide as high."""
    centre, side = (boxes_n4[:, :2] + boxes_n4[:, 2:]) / 2, (boxes_n4[:, 2:] - boxes_n4[:, :2]).max(axis=1)
    return np.concatenate([centre - side[:, None] / 2, centre + side[:, None] / 2], axis=1)


def _crop(images: list[torch.Tensor], boxes: list[np.ndarray], size: int) -> torch.Tensor:
    """The boxes of all pictures, scaled to size×size; grey outside the picture."""
    crops = [
        roi_align(image, [torch.from_numpy(own).float()], size, sampling_ratio=2, aligned=True)
        for image, own in zip(images, boxes, strict=True)
    ]
    return torch.cat(crops)


def _in_parts(run: Callable[[torch.Tensor], tuple[torch.Tensor, ...]], crops: torch.Tensor) -> list[np.ndarray]:
    """Outputs of a net for any number of crops, float64."""
    parts = [run(part) for part in crops.split(MOST_CROPS)]
    return [torch.cat(output).double().numpy() for output in zip(*parts, strict=True)]


def _per_picture(boxes: list[np.ndarray], *outputs: np.ndarray) -> list[tuple]:
    """Outputs for the boxes of all pictures, cut into those of each."""
    ends = np.cumsum([len(own) for own in boxes])[:-1]
    return list(zip(*(np.split(output, ends) for output in outputs), strict=True))


def _moved(boxes_n4: np.ndarray, offsets_n4: np.ndarray) -> np.ndarray:
    """Boxes corrected by offsets, which count in their sides."""
    return boxes_n4 + offsets_n4 * np.tile(boxes_n4[:, 2:] - boxes_n4[:, :2], 2)


def _refined(boxes_n4: np.ndarray, outputs: tuple) -> np.ndarray:
    """Square boxes that pass R-Net, by its outputs: offsets and scores."""
    offsets_n4, scores_n = outputs
    good = scores_n > REFINE
    boxes, scores = _moved(boxes_n4[good], offsets_n4[good]), scores_n[good]
    return _square(boxes[suppress(boxes, scores, 0.7)])


def _faces(boxes_n4: np.ndarray, outputs: tuple, threshold: float) -> Faces:
    """Faces that pass O-Net, by its outputs: offsets, scores, landmarks.

    The boxes given count from the corners of pixels, those of faces from centres, as landmarks do.
    """
    offsets_n4, scores_n, points_n10 = outputs
    good = scores_n >= threshold
    if not good.any():
        return no_faces()
    boxes, scores = boxes_n4[good], scores_n[good]
    sides = (boxes[:, 2:] - boxes[:, :2])[:, None, :]
    points = boxes[:, None, :2] + points_n10[good].reshape(-1, 2, 5).swapaxes(1, 2) * sides - 0.5
    moved = _moved(boxes, offsets_n4[good])
    kept = suppress(moved, scores, 0.7, of_smaller=True)
    return Faces(moved[kept] - 0.5, scores[kept], points[kept])
