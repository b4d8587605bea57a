"""What README and docs/ say holds: links, commands, code, tables of knobs, folders; and the site needs no network."""

import argparse
import importlib
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from facelt.run_folder.checkpoint import CheckpointState
from megaface_eval.report import conventions, schema

ROOT = Path(__file__).parents[1]
README, DOCS = ROOT / "README.md", ROOT / "docs"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]
PACKAGES = ("facelt", "megaface_eval", "recordio_tools")
# Commands whose lines must parse, as they are written, and the module whose `main` reads them.
MODULES = {
    "facelt/train.py": "facelt.train",
    "facelt.train": "facelt.train",
    "facelt-train": "facelt.train",
    "facelt.extract": "facelt.extract",
    "facelt-extract": "facelt.extract",
    "facelt.export": "facelt.export",
    "facelt-export": "facelt.export",
    "facelt.evaluate": "facelt.evaluate",
    "facelt-evaluate": "facelt.evaluate",
    "facelt.explain": "facelt.explain",
    "facelt.draw": "facelt.draw",
    "facelt.sweep": "facelt.sweep",
    "facelt.fairness": "facelt.fairness",
    "megaface_eval.run": "megaface_eval.run",
    "megaface-eval": "megaface_eval.run",
    "megaface_eval.devkit": "megaface_eval.devkit",
    "megaface_eval.packs": "megaface_eval.packs",
    "megaface_eval.ijb": "megaface_eval.ijb",
    "megaface_eval.closed_set": "megaface_eval.closed_set",
    "recordio_tools": "recordio_tools.__main__",
    "recordio-tools": "recordio_tools.__main__",
}


def fences(page: Path) -> list[tuple[str, str]]:
    """Language ("" for none) and text of every fenced block of a page."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def relative(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_and_anchors_resolve(page):
    for target in re.findall(r"\]\(([^)]+)\)", prose(page)):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{relative(page)} links to {target}, which is not there"
        assert not anchor or anchor in anchors(linked), f"{relative(page)} links to {target}, which has no such heading"


def test_every_page_is_reached_from_readme_and_stands_in_the_site():
    linked, listed = README.read_text(encoding="utf-8"), (ROOT / "mkdocs.yml").read_text()
    for page in DOCS.glob("*.md"):
        assert page.name == "README.md" or f"docs/{page.name}" in linked, f"README links to no docs/{page.name}"
        assert re.search(rf"[ -]{page.name}$", listed, re.MULTILINE), f"mkdocs.yml lists no {page.name}"


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_files_that_are_named_exist(page):
    for name in re.findall(r"`([\w./]+/[\w.]+\.(?:py|json|sh|sbatch))`", prose(page)):
        if name.split("/")[0] in (*PACKAGES, "docs", "jobs", "tests", "head", "images", "network", "training"):
            found = (ROOT / name).exists() or (ROOT / "facelt" / name).exists()
            assert found, f"{relative(page)} names {name}, which is not there"


def command_lines(page: Path) -> Iterator[list[str]]:
    """Words of the lines in fences that call one of MODULES, without what launches it: the command, its arguments."""
    for language, text in fences(page):
        for line in text.replace("\\\n", " ").splitlines() if language in ("", "bash", "sh") else ():
            if not re.match(r"(\$ )?(python|deepspeed|facelt-\w+|megaface-eval|recordio-tools) ", line):
                continue
            words = shlex.split(line.removeprefix("$ "), comments=True)
            at = next((i for i, word in enumerate(words) if word in MODULES), None)
            if at is not None:
                yield words[at:]


COMMANDS = [(relative(page), words) for page in PAGES for words in command_lines(page)]


def test_the_pages_hold_commands():
    assert len(COMMANDS) > 20


class Parsed(Exception):
    """Raised once arguments have been read, before anything is done."""


@pytest.mark.parametrize("page, words", COMMANDS, ids=lambda value: value if isinstance(value, str) else value[0])
def test_commands_parse(page, words, monkeypatch, capsys):
    read = argparse.ArgumentParser.parse_args

    def parse_and_stop(self, *args, **options):
        read(self, *args, **options)
        raise Parsed

    main = importlib.import_module(MODULES[words[0]]).main
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    with pytest.raises((Parsed, SystemExit)) as left:
        main(words[1:])
    shown_help = "--help" in words and getattr(left.value, "code", None) == 0
    assert left.type is Parsed or shown_help, f"{page}: {shlex.join(words)}: {capsys.readouterr().err}"


RUNNABLE = [text for page in (README, DOCS / "python.md") for language, text in fences(page) if language == "python"]


@pytest.mark.parametrize("code", RUNNABLE)
def test_the_code_in_readme_and_in_from_python_runs(code, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_readme_is_short():
    text = README.read_text(encoding="utf-8")
    assert 120 <= len(text.splitlines()) <= 180
    assert len(text.encode()) < 15_000


def test_every_folder_stands_in_the_tree_of_readme():
    tree = next(text for _, text in fences(README) if text.startswith("recordio_tools/"))
    above: list[str] = []
    shown = set()
    for indent, name in re.findall(r"^( *)(\w+)/", tree, re.MULTILINE):
        above[len(indent) // 2 :] = [name]
        shown.add("/".join(above))
    folders = {path.parent for package in PACKAGES for path in (ROOT / package).rglob("__init__.py")}
    assert {relative(folder) for folder in folders} <= shown


def test_the_tables_of_knobs_are_current():
    page = DOCS / "training.md"
    text = page.read_text(encoding="utf-8")
    assert runpy.run_path(str(DOCS / "knobs.py"))["renewed"](text) == text, "run: python docs/knobs.py"


def test_every_field_of_checkpoints_and_reports_is_on_its_page():
    page = (DOCS / "formats.md").read_text(encoding="utf-8")
    models: list[type[BaseModel]] = [CheckpointState, schema.Part]
    for model in models:
        models += model.__subclasses__()
        for field in model.model_fields:
            assert f"`{field}`" in page, f"docs/formats.md lacks {field} of {model.__name__}"


def test_conventions_are_quoted_as_reports_word_them():
    page = " ".join((DOCS / "evaluation.md").read_text(encoding="utf-8").split())
    for wordings in (conventions.PROTOCOL, conventions.TIES, conventions.IMPOSTORS):
        for wording in wordings.values():
            assert f'"{wording}"' in page, f"docs/evaluation.md does not quote: {wording}"


def test_make_help_names_every_target():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE).group(1).split()
    said = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [line.split()[1] for line in said.splitlines()] == targets


def test_the_site_builds_and_loads_nothing_from_elsewhere(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 10
    for page in pages:
        outside = re.findall(r"""(?:src|href)=["']?(?:https?:)?//[^"' >]+""", page.read_text(encoding="utf-8"))
        assert not outside, f"{page.name}: {outside}"
