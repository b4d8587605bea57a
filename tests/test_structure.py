"""Who may know whom, read from the imports themselves."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("recordio_tools", "facelt", "megaface_eval")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

# The rooms of each package, from the ground: a module imports from its own room and from rooms before it in this list.
# "." are the doors: the package's own modules that the list does not name.
ROOMS = {
    "facelt": [
        "errors", "recipes", "config", "knobs", "parallel", "network", "network.weights", "images", "head",
        "run_folder", "training.ending", "training", "features", "open_world", "open_world.readings",
        "open_world.report", "validation", "figures", ".",
    ],
    "megaface_eval": [
        "errors", "processes", "strict_json", "features", "search", "protocols", "formats", "settings", "loading",
        "evaluate", "report", ".",
    ],
    "recordio_tools": [
        "errors", "command_line", "atomic", "plot_style", "page", "format", "writer", "dataset", "look", "rewrite",
        "check", "sources", "align", "cli", ".",
    ],
}  # fmt: skip
# What the evaluator may take from recordio_tools; all else passes through files.
COMMON = tuple(
    f"recordio_tools.{name}."
    for name in ("errors", "command_line", "atomic", "plot_style", "page", "sources.attributes", "sources.bins")
)
# The only modules that may name a library.
HOMES = {
    "torch.distributed": {"facelt/parallel/group.py", "facelt/parallel/collectives.py", "megaface_eval/processes.py"},
    "deepspeed": {"facelt/training/engine.py", "facelt/training/deepspeed_internals.py"},
    "nvidia.dali": {"facelt/images/dali.py"},
    "onnxruntime": {
        "facelt/features/exporting.py",
        "facelt/features/onnx_file.py",
        "recordio_tools/align/onnx_detectors.py",
    },
    "onnx": {"facelt/network/weights/onnx_graph.py", "facelt/features/onnx_file.py"},
    "scipy": {"facelt/open_world/readings/openmax.py", "megaface_eval/protocols/metrics.py"},
    "faiss": {"megaface_eval/search/faiss_scan.py"},
    "timm": {"facelt/network/timm_network.py"},
    "triton": {f"facelt/head/kernels/{name}.py" for name in ("cross_entropy", "read", "tiles")},
    "mxnet": set(),
    # Of weights for the name of what it refuses to load, never to load it.
    "pickle": {"recordio_tools/sources/bins.py", "facelt/network/weights/files.py"},
}


def imports(path: Path) -> set[str]:
    """Dotted names that a module imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def dotted(path: Path) -> str:
    """The module's name."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room(name: str) -> str:
    """The room of a module or of something in it: the longest entry of ROOMS that its name begins with."""
    package, _, rest = name.partition(".")
    fits = [entry for entry in ROOMS[package] if f"{rest}.".startswith(f"{entry}.")]
    return max(fits, key=len, default=".")


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_packages_know_only_what_they_may(path):
    package = path.relative_to(ROOT).parts[0]
    strangers = {
        "recordio_tools": {"facelt", "megaface_eval"},
        "facelt": {"megaface_eval"},
        "megaface_eval": {"facelt"},
    }
    assert not {name.split(".")[0] for name in imports(path)} & strangers[package]


@pytest.mark.parametrize("path", [p for p in SOURCES if "megaface_eval" in p.parts], ids=lambda p: p.name)
def test_the_evaluator_takes_only_common_ground_from_recordio_tools(path):
    """What exists once for all packages: outputs whole or not at all, one parser, readers of packs and attributes."""
    taken = {name for name in imports(path) if name.startswith("recordio_tools")}
    assert all(name.startswith(COMMON) for name in taken), taken


@pytest.mark.parametrize("library", HOMES)
def test_a_library_is_named_only_at_its_home(library):
    named = {
        str(path.relative_to(ROOT))
        for path in SOURCES
        if any(name == library or name.startswith(library + ".") for name in imports(path))
    }
    assert named <= HOMES[library]


def leaves_encoding_to_the_locale(call: ast.Call) -> bool:
    """Whether a call reads or writes text and does not say in which encoding."""
    of = call.func.value if isinstance(call.func, ast.Attribute) else None
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name not in ("open", "read_text", "write_text", "fdopen", "TextIOWrapper"):
        return False
    if isinstance(of, ast.Name) and (of.id, name) in {("os", "open"), ("Image", "open")}:
        return False
    binary = any(isinstance(one, ast.Constant) and "b" in str(one.value) for one in call.args if name == "open")
    return not binary and "encoding" not in {keyword.arg for keyword in call.keywords}


@pytest.mark.parametrize(
    "text, leaves",
    [
        ("open(p)", True),
        ("open(p, 'a')", True),
        ("(a / b).write_text(t)", True),
        ("p.open('rb')", False),
        ("p.read_text(encoding='utf-8')", False),
        ("Image.open(p)", False),
    ],
)
def test_a_text_without_its_encoding_is_seen(text, leaves):
    assert leaves_encoding_to_the_locale(ast.parse(text, mode="eval").body) is leaves


@pytest.mark.parametrize("path", [*SOURCES, ROOT / "docs" / "knobs.py"], ids=lambda p: str(p.relative_to(ROOT)))
def test_text_is_utf_8_whatever_the_locale(path):
    calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
    assert not [f"line {call.lineno}" for call in calls if leaves_encoding_to_the_locale(call)]


def test_recordio_tools_needs_no_torch():
    """But for MTCNN, which `align` loads where no other detector is given."""
    for path in (ROOT / "recordio_tools").rglob("*.py"):
        strangers = {"mxnet", "cv2", "tensorflow", "mtcnn"}
        strangers |= set() if path.match("align/mtcnn.py") else {"torch", "torchvision"}
        assert not {name.split(".")[0] for name in imports(path)} & strangers
    doors = {name for path in (ROOT / "recordio_tools").rglob("*.py") for name in top_imports(path)}
    assert not any(name.startswith("recordio_tools.align.mtcnn.") for name in doors)


def top_imports(path: Path) -> set[str]:
    """Dotted names that are imported as the module is loaded."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_import_runs_back_up(path):
    package = path.relative_to(ROOT).parts[0]
    order = ROOMS[package]
    own = order.index(room(dotted(path)))
    for name in imports(path):
        if name.split(".")[0] == package and name != package:
            assert order.index(room(name)) <= own, f"{dotted(path)} imports {name}, which is above it"


def test_imports_form_no_circle():
    modules = {dotted(path): path for path in SOURCES}
    graph = {}
    for name, path in modules.items():
        found = {other for one in imports(path) for other in (one, one.rpartition(".")[0]) if other in modules}
        graph[name] = {other for other in found if modules[other].name != "__init__.py"} - {name}
    while free := [name for name, needs in graph.items() if not needs & graph.keys()]:
        graph = {name: needs for name, needs in graph.items() if name not in free}
    assert not graph, f"imports form a circle among {sorted(graph)}"


def test_no_name_in_facelt_shadows_another_when_its_folder_is_on_the_path():
    """The launcher puts facelt/ first on sys.path when it runs facelt/train.py."""
    inside = {p.stem for p in (ROOT / "facelt").glob("*.py")} | {p.parent.name for p in ROOT.glob("facelt/*/*.py")}
    inside -= {"__init__"}
    assert not inside & set(sys.stdlib_module_names)
    site = Path(pytest.__file__).parents[1]
    installed = {p.stem for p in site.glob("*.py")} | {p.name for p in site.iterdir() if (p / "__init__.py").exists()}
    assert not inside & installed


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_say_what_they_are(path):
    assert ast.get_docstring(ast.parse(path.read_text())), "a module begins with what it is"


@pytest.mark.parametrize("package", PACKAGES)
def test_folders_say_in_one_sentence_what_lives_there(package):
    for folder in (path.parent for path in (ROOT / package).rglob("__init__.py")):
        text = (folder / "__init__.py").read_text()
        assert len(text.splitlines()) == 1, f"{folder}: its __init__ is one sentence"
        assert (ROOT / "tests" / folder.relative_to(ROOT)).is_dir() or folder.name in ("cli", "faces"), folder
