"""The best class of every row, found while classes are visited in blocks; no loop waits for the device.

G: rows, b: classes of a block, C: candidates of a row, T: groups of classes.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from facelt.head.blocked import ClassBlocks, Keys, accumulate_dtype
from facelt.head.products import rounds

# Of scores whose operands were rounded, the groups with the highest are scored again, class by class, without rounding.
GROUP, GROUPS = 8, 4
# Rows that are scored again at once.
PART = 32


class Best:
    """The highest score of each row, and its class; of equals the lowest.

    x_GD, keys: what is scored. blocks: of what is visited, every block once.
    """

    def __init__(self, x_GD: Tensor, keys: Keys, blocks: ClassBlocks) -> None:
        self.x_GD, self.keys, self.blocks = x_GD, keys, blocks
        self.rounds = rounds(blocks.products) and x_GD.dtype != torch.float64
        self.best_G = x_GD.new_full((len(x_GD),), -torch.inf, dtype=accumulate_dtype(x_GD))
        self.place_G = torch.zeros(len(x_GD), dtype=torch.int64, device=x_GD.device)
        self._groups: list[tuple[Tensor, Tensor]] = []

    def visit(self, start: int, l_Gb: Tensor) -> None:
        """Scores of the block that starts at this place."""
        if self.rounds:
            self._groups.append(self._grouped(start, l_Gb))
            return
        top_G, at_G = l_Gb.max(1)
        higher_G = top_G > self.best_G
        self.best_G = torch.where(higher_G, top_G, self.best_G)
        self.place_G = torch.where(higher_G, at_G + start, self.place_G)

    def add_groups(self, top_GT: Tensor) -> None:
        """The highest score of every GROUP places in a row, of all that is visited, in the place of visits."""
        if not len(self.blocks):
            return
        place = torch.arange(GROUP * top_GT.shape[1], device=top_GT.device).view(-1, GROUP)
        self._groups.append((top_GT, torch.where(place < len(self.blocks), place, -1)))

    def result(self) -> tuple[Tensor, Tensor]:
        """The highest score (-inf where no class takes part) and its local class number. G each."""
        if self._groups:
            self._score_again()
        chosen = self.blocks.chosen
        return self.best_G, self.place_G if chosen is None or not len(chosen) else chosen[self.place_G]

    def _grouped(self, start: int, l_Gb: Tensor) -> tuple[Tensor, Tensor]:
        """The highest score of each group of a block, G x T, and the places of its classes, T x GROUP (-1: none).

        The classes of a group lie T apart, so that what is compared lies side by side.
        """
        G, b = l_Gb.shape
        T = -(-b // GROUP)
        place = torch.arange(GROUP * T, device=l_Gb.device).view(GROUP, T).T
        filled_Gb = l_Gb if b == GROUP * T else pad(l_Gb, (0, GROUP * T - b), value=-torch.inf)
        return filled_Gb.view(G, GROUP, T).amax(1), torch.where(place < b, place + start, -1)

    def _score_again(self) -> None:
        tops, places = zip(*self._groups, strict=True)
        top_GT, chosen = torch.cat(tops, 1), self.blocks.chosen
        # Without rounding the highest is in the first of the highest groups.
        group_GM = top_GT.topk(min(GROUPS, top_GT.shape[1])).indices if self.rounds else top_GT.argmax(1, keepdim=True)
        places_GC = torch.cat(places)[group_GM].flatten(1)
        best, found = [], []
        for x_PD, places_PC in zip(self.x_GD.split(PART), places_GC.split(PART), strict=True):
            held_PC = places_PC.clamp(min=0)
            l_PC = self.keys.scores_of(x_PD, held_PC if chosen is None else chosen[held_PC])
            l_PC = l_PC.masked_fill(places_PC < 0, -torch.inf)
            best_P = l_PC.amax(1)
            first_P = torch.where(l_PC == best_P[:, None], places_PC, len(self.blocks)).amin(1)
            best.append(best_P)
            found.append(first_P.clamp_(0, len(self.blocks) - 1))  # what is not a number is found nowhere
        self.best_G, self.place_G = torch.cat(best), torch.cat(found)
