"""ODIN (Liang et al., ICLR 2018): the highest softmax at a high temperature, of an image moved to raise it.

B: images of this rank, G: of all ranks, S: side of the images.
"""

from dataclasses import replace

import torch
from torch import Tensor

from facelt.features.recognisers import Recognised, Recogniser
from facelt.open_world.readings.reading import ByPrototypes
from facelt.open_world.scoring import Prototypes
from facelt.parallel import collectives


def with_odin(recogniser: Recogniser, classifier: ByPrototypes, temperature: float, epsilon: float) -> Recogniser:
    """The recogniser with a column `odin` beside its features, B, float64: high for known images.

    x̃ = x + ε·sign(∂ log p_max(x; T) / ∂x), and odin = p_max(x̃; T): equations 1 and 2. Two passes forward and one
    back for an image. All ranks must embed alike.

    Args:
        recogniser: of a run, with the embeddings that its classifier takes.
        classifier: of the same run.
        temperature: T, by which the logits are divided.
        epsilon: of pixels from 0 to 1, as in the authors' code, whatever the network's own scale.
    """
    prototypes = softened(classifier.prototypes, temperature)
    std = torch.tensor(recogniser.std)

    def query(images_B3SS: Tensor) -> tuple[Tensor, Recognised]:
        output = recogniser.embed(images_B3SS)
        v = dict(zip(recogniser.embeddings, output.features, strict=True))
        return classifier.query(v) / temperature, output

    def embed(images_B3SS: Tensor) -> Recognised:
        with torch.enable_grad():
            pixels_B3SS = images_B3SS.detach().clone().requires_grad_()
            x_BD, output = query(pixels_B3SS)
            x_GD = collectives.gather(x_BD.detach().contiguous())
            rise_BD = collectives.scatter_sum(prototypes.rise(x_GD, prototypes.best(x_GD)))
            (slope_B3SS,) = torch.autograd.grad(x_BD, pixels_B3SS, rise_BD.to(x_BD.dtype))
        step_3 = epsilon * 255 / std.to(images_B3SS)
        moved_BD, _ = query(images_B3SS + step_3[:, None, None] * slope_B3SS.sign())
        moved_GD = collectives.gather(moved_BD.contiguous())
        odin_B = collectives.own_rows(prototypes.best(moved_GD).probabilities_G)
        columns = {name: column.detach() for name, column in output.columns.items()}
        return Recognised([rows.detach() for rows in output.features], {**columns, "odin": odin_B})

    return replace(recogniser, embed=embed)


def softened(prototypes: Prototypes, temperature: float) -> Prototypes:
    """Prototypes for a query that is divided by a temperature: the bias is divided too."""
    return prototypes if prototypes.bias_k is None else replace(prototypes, bias_k=prototypes.bias_k / temperature)
