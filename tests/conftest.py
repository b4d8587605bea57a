"""What tests of several folders share."""

import copy
import os
import sys
from pathlib import Path

import pytest

# Not this folder itself: beside it, tests/facelt would pass for the package.
HERE = str(Path(__file__).parent / "common")
sys.path.insert(0, HERE)
os.environ["PYTHONPATH"] = os.pathsep.join([HERE, *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.fixture
def tiny_recipe() -> dict:
    """A DeepSpeed JSON as a dict, free to change: `tiny.TINY`."""
    from tiny import TINY

    return copy.deepcopy(TINY)
