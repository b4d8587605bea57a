"""How classes are shared among programs; every kernel compiles for a card, and fits it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis.strategies import integers

tiles = pytest.importorskip("facelt.head.kernels.tiles", exc_type=ImportError)

HERE = Path(__file__).parents[2]
# Of shared memory, that a program on an H100 may have.
MOST = 227 * 1024


@given(places=integers(0, 10_000), G=integers(1, 3000))
def test_ranges_hold_every_class_once_and_keep_the_card_busy(places, G):
    held = tiles.Tiles(64, 32, 32)
    split = tiles.Split.of(places, G, held)
    assert split.count >= 1
    assert split.count * split.span >= places
    assert (split.count - 1) * split.span < max(places, 1)
    assert split.span % held.TN == 0
    assert split.count * -(-G // held.TG) <= max(tiles.PROGRAMS, -(-G // held.TG))


def test_tiles_are_powers_of_two_that_matrix_units_take():
    for G, D in ((1, 1), (17, 8), (1000, 512)):
        for side in tiles.tiles_for(torch.empty(G, D)):
            assert side >= 16
            assert side & (side - 1) == 0


def test_every_kernel_compiles_for_a_card_and_fits_it(tmp_path):
    """With operands in bfloat16, for time's sake; the script does all."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, str(HERE / "compile_kernels.py"), "bfloat16"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    shared = [int(line.split()[2]) for line in done.stdout.splitlines()]
    assert len(shared) >= 10
    assert max(shared) <= MOST
