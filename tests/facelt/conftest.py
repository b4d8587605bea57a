"""Makes `ranks` importable from tests and from the processes they spawn; one thread each, for all run side by side."""

import os
import sys
from pathlib import Path

import torch

HERE = str(Path(__file__).parent)
sys.path.insert(0, HERE)
os.environ["PYTHONPATH"] = os.pathsep.join([HERE, *filter(None, [os.environ.get("PYTHONPATH")])])
os.environ["OMP_NUM_THREADS"] = "1"
if not torch.cuda.is_available():  # without a card, Triton's kernels run in its interpreter, if told before any import
    os.environ["TRITON_INTERPRET"] = "1"
torch.set_num_threads(1)
