"""The recipes that come with facelt, so that a command finds them by name wherever it is installed."""

import os
from pathlib import Path

from recordio_tools.errors import UserError

_BENCHMARKS = ("imagenet_lt", "places_lt", "sun_lt", "ms1m_lt")  # the paper's
_LARGE = {"ms1m_8gpu": "ds_8gpu.json", "ms1m_64gpu": "ds_64gpu.json"}  # ms1m at large batches
RECIPES = {"ms1m": "ds.json", "demo": "demo.json", "finetune": "finetune.json", "laptop": "laptop.json"} | _LARGE
RECIPES |= {name: f"{name}.json" for name in _BENCHMARKS}
# In an installed package the recipes lie inside it, in a checkout beside it.
_HERE = Path(__file__).parent
_FOLDERS = (_HERE / "jobs", _HERE.parent / "jobs")


def find(name: str | Path | None) -> Path:
    """The file that --deepspeed_config names: an existing one, else the recipe of that name, with or without .json.

    Raises UserError for anything else.
    """
    if name is None:
        raise UserError(f"no --deepspeed_config given; expected a DeepSpeed JSON, or a recipe: {', '.join(RECIPES)}")
    if os.path.isfile(name):  # unlike Path.is_file, False for a name too long to be
        return Path(name)
    file = RECIPES.get(str(name).removesuffix(".json"))
    if file is None:
        raise UserError(
            f"--deepspeed_config {name}: no such file; expected a DeepSpeed JSON, or a recipe: {', '.join(RECIPES)}"
        )
    return next(folder / file for folder in _FOLDERS if (folder / file).is_file())
