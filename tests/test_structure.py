"""Who may know whom, read from the imports themselves."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("recordio_tools", "facelt", "megaface_eval")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

# The floors of facelt, from the ground: a module imports only modules of the floors below its own.
FLOORS = [
    {"partition", "head_config", "mistakes", "blocks"},
    {"config", "comms"},
    {"schedule", "batch_norm", "attention", "embedding", "margins", "negatives", "sampling", "pipeline", "sgd"},
    {"memory", "classifier", "losses", "class_means", "backbone"},
    {"embedder", "inference"},
    {"model"},
    {"engine", "health", "checkpoint", "telemetry"},
    {"stage"},
    {"train", "extract"},
]
# The only modules that may name a library.
HOMES = {
    "torch.distributed": {"facelt/comms.py", "facelt/checkpoint.py", "megaface_eval/ranks.py"},
    "deepspeed": {"facelt/engine.py", "facelt/train.py"},
    "nvidia.dali": {"facelt/pipeline.py"},
    "onnxruntime": {"facelt/extract.py"},
    "faiss": {"megaface_eval/scan.py"},
    "mxnet": set(),
    "pickle": {"recordio_tools/bins.py", "megaface_eval/packs.py"},
}


def imports(path: Path) -> set[str]:
    """Dotted names that a module imports; relative ones are made absolute."""
    names = set()
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_packages_know_only_what_they_may(path):
    package = path.relative_to(ROOT).parts[0]
    strangers = {"recordio_tools": {"facelt", "megaface_eval"}, "facelt": {"megaface_eval"}}
    strangers["megaface_eval"] = {"facelt", "recordio_tools"}
    assert not {name.split(".")[0] for name in imports(path)} & strangers[package]


@pytest.mark.parametrize("library", HOMES)
def test_a_library_is_named_only_at_its_home(library):
    named = {
        str(path.relative_to(ROOT))
        for path in SOURCES
        if any(name == library or name.startswith(library + ".") for name in imports(path))
    }
    assert named <= HOMES[library]


def test_recordio_tools_needs_no_torch():
    for path in (ROOT / "recordio_tools").rglob("*.py"):
        assert not {name.split(".")[0] for name in imports(path)} & {"torch", "mxnet", "cv2"}


def test_facelt_imports_downwards_only():
    floor = {name: level for level, names in enumerate(FLOORS) for name in names}
    modules = {path.stem for path in (ROOT / "facelt").glob("*.py")} - {"__init__"}
    assert modules == set(floor), "a new module needs its floor in FLOORS"
    for name in modules:
        for imported in imports(ROOT / "facelt" / f"{name}.py"):
            parts = imported.split(".")
            if parts[0] == "facelt" and len(parts) > 1 and parts[1] in floor:
                assert floor[parts[1]] < floor[name], f"{name} imports {parts[1]}, which is not below it"


def test_no_module_of_facelt_shadows_another_when_its_folder_is_on_the_path():
    """The launcher puts facelt/ first on sys.path when it runs facelt/train.py."""
    modules = {path.stem for path in (ROOT / "facelt").glob("*.py")} - {"__init__"}
    assert not modules & set(sys.stdlib_module_names)
    site = Path(pytest.__file__).parents[1]
    installed = {p.stem for p in site.glob("*.py")} | {p.name for p in site.iterdir() if (p / "__init__.py").exists()}
    assert not modules & installed


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_are_short_and_say_what_they_are(path):
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), "a module begins with what it is"
    assert text.count("\n") <= 280


def test_the_readme_names_every_module():
    readme = (ROOT / "README.md").read_text()
    missing = [path.name for path in SOURCES if path.name != "__init__.py" and f" {path.name} " not in readme]
    assert not missing
