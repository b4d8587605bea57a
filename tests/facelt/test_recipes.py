"""A recipe is found by name; a file that exists comes first."""

from pathlib import Path

import pytest

from facelt import recipes
from recordio_tools.errors import UserError

ROOT = Path(__file__).parents[2]


def test_every_recipe_has_a_name():
    assert {recipes.find(name) for name in recipes.RECIPES} == set((ROOT / "jobs").glob("*.json"))
    assert recipes.find("ms1m.json") == recipes.find("ms1m") == ROOT / "jobs" / "ds.json"


def test_an_existing_file_comes_before_a_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("demo").write_text("{}")
    assert recipes.find("demo") == Path("demo")
    assert recipes.find("demo.json") == ROOT / "jobs" / "demo.json"


@pytest.mark.parametrize("name", [None, "x" * 300, "none.json", "demo.toml", ".json", ".", "jobs/demo"])
def test_an_unknown_recipe_is_answered_with_the_known_ones(name):
    with pytest.raises(UserError, match=r"--deepspeed_config.*expected a DeepSpeed JSON, or a recipe: ms1m, demo$"):
        recipes.find(name)
