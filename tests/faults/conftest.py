"""Makes `injector`, and what tests of facelt share, importable here and in the processes that are forked."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
PATHS = [str(HERE), str(HERE.parent / "facelt"), str(HERE.parents[1])]
sys.path[:0] = PATHS[:2]
os.environ["PYTHONPATH"] = os.pathsep.join([*PATHS, *filter(None, [os.environ.get("PYTHONPATH")])])
