"""Makes `sets`, the plain twin of the format, importable from the tests and from processes they spawn."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("untimed", deadline=None)  # timing never decides
settings.load_profile("untimed")

HERE = str(Path(__file__).parent)
sys.path.insert(0, HERE)
os.environ["PYTHONPATH"] = os.pathsep.join([HERE, *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.fixture(scope="session")
def mxnet():
    """The real mxnet 1.9.1, the judge of the format."""
    import numpy

    numpy.bool = bool  # gone since numpy 1.24; this mxnet still names it
    return pytest.importorskip("mxnet")
