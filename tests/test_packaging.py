"""What is built and installed: everything that is needed and nothing else, usable from any folder."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("facelt", "megaface_eval", "recordio_tools")
COMMANDS = (
    "facelt-train",
    "facelt-extract",
    "facelt-export",
    "facelt-evaluate",
    "facelt-explain",
    "facelt-draw",
    "facelt-fairness",
    "facelt-sweep",
    "facelt-status",
    "megaface-eval",
    "recordio-tools",
)
TEMPLATES = [
    "facelt/features/card.md.jinja",
    "facelt/figures/page.html.jinja",
    "facelt/open_world/report/report.html.jinja",
    *(f"megaface_eval/report/{name}.html.jinja" for name in ("report", "hits", "sheet")),
    *(f"recordio_tools/page/{name}" for name in ("base.html.jinja", "parts.html.jinja", "script.js", "style.css")),
]
RECIPES = [f"facelt/jobs/{path.name}" for path in (ROOT / "jobs").glob("*.json")]
OFFLINE = {**os.environ, "PIP_NO_INDEX": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}


def run(*words: object, folder: Path, **more: str) -> subprocess.CompletedProcess:
    environment = {**OFFLINE, **more}
    return subprocess.run([*map(str, words)], cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def clean_copy(tmp_path_factory) -> Path:
    """The project's own files, without what a checkout gathers: data, runs, caches, builds."""
    copy = tmp_path_factory.mktemp("packaging") / "source"
    for name in (*PACKAGES, "docs", "jobs", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy(path, copy)
    return copy


@pytest.fixture(scope="module")
def sdist(clean_copy) -> Path:
    build = "import setuptools.build_meta as b, sys; b.build_sdist(sys.argv[1])"
    done = run(sys.executable, "-c", build, clean_copy.parent, folder=clean_copy)
    assert done.returncode == 0, done.stderr
    return next(clean_copy.parent.glob("facelt-*.tar.gz"))


@pytest.fixture(scope="module")
def wheel(sdist) -> Path:
    """Built from the source distribution, so that both hold what it takes."""
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", sdist.parent]
    done = run(*pip, sdist, folder=sdist.parent)
    assert done.returncode == 0, done.stderr
    return next(sdist.parent.glob("facelt-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-compile", "--target", folder]
    done = run(*pip, wheel, folder=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_wheel_holds_the_packages_and_what_they_read_and_nothing_else(wheel):
    sources = {str(path.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    markers = {f"{package}/py.typed" for package in PACKAGES}
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        points = ConfigParser(delimiters="=")
        points.read_string(archive.read(next(n for n in names if n.endswith("entry_points.txt"))).decode())
    found = {name for name in names if ".dist-info/" not in name}
    assert found == sources | markers | {*RECIPES, *TEMPLATES}
    assert set(points["console_scripts"]) == set(COMMANDS)


def test_the_source_distribution_holds_what_its_tests_and_its_demo_need(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"Makefile", "README.md", "LICENSE", "pyproject.toml", "jobs/demo.sh", "jobs/train.sbatch"}
    assert wanted <= names
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("*.py")} <= names


@pytest.mark.parametrize("command", COMMANDS)
def test_installed_commands_answer_from_any_folder(command, installed, tmp_path):
    done = run(installed / "bin" / command, "--help", folder=tmp_path, PYTHONPATH=str(installed))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")


def test_an_installed_command_finds_a_recipe_by_its_name_and_says_which(installed, tmp_path):
    command = [installed / "bin" / "facelt-train", "--deepspeed_config", "ms1m"]
    options = ["--data", tmp_path / "none", "--output", tmp_path / "run"]
    done = run(*command, *options, folder=tmp_path, PYTHONPATH=str(installed))
    assert done.returncode == 2
    said = [line for line in done.stderr.splitlines() if "ms1m" in line or "error:" in line]
    assert said[0] == f"--deepspeed_config ms1m: the recipe {installed / 'facelt' / 'jobs' / 'ds.json'}"
    assert "none" in said[1]
