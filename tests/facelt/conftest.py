"""Makes `ranks` importable from tests and from the processes they spawn; one thread each, for all run side by side."""

import os
import sys
from pathlib import Path

import torch

HERE = str(Path(__file__).parent)
sys.path.insert(0, HERE)
os.environ["PYTHONPATH"] = os.pathsep.join([HERE, *filter(None, [os.environ.get("PYTHONPATH")])])
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
