"""The order of the rooms, and what tracked files may hold. Each check is shown to fail, too."""

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A room imports from the rows above its own, never from a neighbour in its row. "kmtl" is the
# file kmtl/__init__.py; to import it from inside means to import all that it brings.
ROWS = (
    ("version",),
    ("backend", "ops"),
    ("regularizers", "losses", "metrics", "weighting", "data", "datasets"),
    ("layers", "grouping"),
    ("models",),
    ("callbacks",),
    ("auxiliary",),
    ("analysis",),
    ("kmtl", "testing"),
    ("export",),
    ("demo", "training"),
    ("cli",),
)
ROW_OF = {room: row for row, rooms in enumerate(ROWS) for room in rooms}

# The same inside of the large rooms. A room's own name stands for its __init__.py.
EXPORT_ROWS = (
    ("files", "compare", "indices"),
    ("samples",),
    ("folding", "flatbuffers"),
    ("runtime",),
    ("quantization",),
    ("edgetpu",),
    ("quantization_aware",),
    ("litert",),
    ("benchmarking", "on_device", "targets", "tfmot"),
    ("reporting",),
    ("tuning",),
    ("export",),
)
TRAINING_ROWS = (
    ("causes", "results"),
    ("configuration",),
    ("readers",),
    ("loading",),
    ("building",),
    ("checking", "writing"),
    ("run",),
    ("training",),
)
ROW_WITHIN = {
    room: {name: row for row, names in enumerate(rows) for name in names}
    for room, rows in (("export", EXPORT_ROWS), ("training", TRAINING_ROWS))
}

# All of Keras that the other rooms need is public and the same on every backend.
BACKEND_PACKAGES = ("tensorflow", "jax", "keras.src")
BACKEND_ROOMS = ("backend", "data", "export", "demo", "training", "cli")

# Not needed for training, slow to import, or not installed everywhere.
NOT_FOR_TRAINING = (
    "kmtl.export",
    "ai_edge_litert",
    "ai_edge_quantizer",
    "jinja2",
    "matplotlib",
    "sklearn",
    "tensorflow_model_optimization",
)


def source_files(root: Path) -> dict[str, Path]:
    """Dotted module name -> file, for kmtl/ and for export/, which is imported as kmtl.export."""
    files = {}
    for folder, name in (("kmtl", "kmtl"), ("export", "kmtl.export")):
        for path in sorted((root / folder).rglob("*.py")):
            parts = path.relative_to(root / folder).with_suffix("").parts
            files[".".join((name, *parts)).removesuffix(".__init__")] = path
    return files


def room_of(module: str) -> str:
    """`kmtl.layers.cross_stitch` -> `layers`; names defined in kmtl/__init__.py -> `kmtl`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ROW_OF else "kmtl"


def imported_names(module: str, path: Path) -> Iterator[str]:
    """Every dotted name that a file imports, also inside functions."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                parents = package.split(".")
                source = ".".join([*parents[: len(parents) - node.level + 1], *source.split(".")])
            yield from (f"{source.rstrip('.')}.{alias.name}" for alias in node.names)


def own_imports(root: Path) -> Iterator[tuple[str, str, str]]:
    """(module, its room, room that it imports), wherever one room imports another."""
    for module, path in source_files(root).items():
        for name in imported_names(module, path):
            rooms = room_of(module), room_of(name)
            if name.split(".")[0] == "kmtl" and rooms[0] != rooms[1]:
                yield module, *rooms


def inner_room_of(module: str) -> str:
    """`kmtl.export.runtime.verify` -> `runtime`; names of export/__init__.py -> `export`."""
    parts = module.split(".")
    return parts[2] if len(parts) > 2 and parts[2] in ROW_WITHIN[parts[1]] else parts[1]


def backward_arrows_within(root: Path, room: str) -> list[str]:
    """Imports inside of a room that run against its rows, and parts that they do not place."""
    row_of, found = ROW_WITHIN[room], []
    for module, path in source_files(root).items():
        if room_of(module) != room:
            continue
        inner = inner_room_of(module)
        if inner == room and module != f"kmtl.{room}":
            found.append(f"{module} is in no row")
        for name in imported_names(module, path):
            if room_of(name) == room and (other := inner_room_of(name)) != inner:
                if row_of[other] >= row_of[inner]:
                    found.append(f"{module} imports {other}")
    return found


def unknown_rooms(root: Path) -> list[str]:
    """Folders and files of kmtl/ that ROWS does not place."""
    rooms = {(*name.split("."), "kmtl")[1] for name in source_files(root)}
    return sorted(rooms - ROW_OF.keys())


def backward_arrows(root: Path) -> list[str]:
    """Imports that run against ROWS."""
    return [
        f"{module} imports {target}"
        for module, room, target in own_imports(root)
        if ROW_OF[target] >= ROW_OF[room]
    ]


def backend_imports(root: Path) -> list[str]:
    """Imports of one backend, or of Keras's private parts, in rooms that run on all backends."""
    return [
        f"{module} imports {name}"
        for module, path in source_files(root).items()
        if room_of(module) not in BACKEND_ROOMS
        for name in imported_names(module, path)
        if f"{name}.".startswith(tuple(f"{package}." for package in BACKEND_PACKAGES))
    ]


def foreign_imports_of_testing(root: Path) -> list[str]:
    """What kmtl/testing.py imports besides the standard library, Keras, NumPy and kmtl.ops."""
    names = imported_names("kmtl.testing", root / "kmtl" / "testing.py")
    allowed = {"keras", "numpy", *sys.stdlib_module_names}
    return [
        name
        for name in names
        if name.split(".")[0] not in allowed and not f"{name}.".startswith("kmtl.ops.")
    ]


def faults_of_all(package: ModuleType) -> list[str]:
    """Names in `__all__` that do not exist, or the lack of an `__all__`."""
    if not hasattr(package, "__all__"):
        return [f"{package.__name__} has no __all__"]
    missing = [name for name in package.__all__ if not hasattr(package, name)]
    return [f"{package.__name__}.{name} does not exist" for name in missing]


def run_python(code: str, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


def import_without(module: str, blocked: tuple[str, ...], cwd: Path) -> str:
    """ "" if `module` can be imported where none of `blocked` can, else the error.

    `sys.modules` cannot simply be read afterwards: Keras itself imports scikit-learn and
    Matplotlib where they are installed, and goes without them where they are not.
    """
    code = f"import sys; sys.modules.update(dict.fromkeys({blocked!r})); import {module}"
    result = run_python(code, cwd)
    return result.stderr if result.returncode else ""


def foreign_places(text: str) -> list[str]:
    """Absolute paths that exist on one machine only, and addresses of package registries."""
    folders = r"home|root|work|workspace|Users|mnt|media|srv|scratch|var/folders"
    patterns = (
        rf"(?<![\w.~$}})/-])/(?:{folders})/[\w.-]+",
        r"\b[A-Z]:\\\\?Users\b",
        r"\b(?:[\w-]+\.)*(?:pypi|pythonhosted|anaconda|npmjs|crates)\.(?:org|com|io)\b",
        r"https?://[^\s\"'<>]+/simple\b",
        r"^\s*--(?:extra-)?index-url|^\s*--find-links",
    )
    return [m.group() for p in patterns for m in re.finditer(p, text, re.MULTILINE)]


def texts_for_git(root: Path) -> Iterator[tuple[str, str]]:
    """(name, text) of the files that are tracked or about to be."""
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others"]
    listing = subprocess.run([*command, "--exclude-standard"], cwd=root, capture_output=True)
    listing.check_returncode()
    for name in listing.stdout.decode().split("\0"):
        if (root / name).is_file():
            try:
                yield name, (root / name).read_text(encoding="utf-8")
            except UnicodeDecodeError:  # an image or a model
                continue


def bazel_reach(text: str) -> dict[str, set[str]]:
    """Room -> the rooms that its library in BUILD, whose syntax is Python's, depends on."""
    assignments = [node for node in ast.parse(text).body if isinstance(node, ast.Assign)]
    tables = {node.targets[0].id: node.value for node in assignments}
    direct = ast.literal_eval(tables["ROOMS"])
    # The library "kmtl" has an entry of its own in BUILD: all that its __init__.py may import.
    direct["kmtl"] = [room for room in direct if ROW_OF[room] < ROW_OF["kmtl"]]

    def reach(room):
        return set(direct[room]).union(*(reach(dependency) for dependency in direct[room]))

    return {room: reach(room) for room in direct}


def write_module(root: Path, name: str, text: str) -> Path:
    """`kmtl.layers.a` -> root/kmtl/layers/a.py; returns the root."""
    path = root.joinpath(*name.split(".")).with_suffix(".py")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return root


# The repository as it is.


def test_rooms_are_known():
    assert unknown_rooms(ROOT) == []


def test_imports_run_one_way():
    assert backward_arrows(ROOT) == []


@pytest.mark.parametrize("room", ROW_WITHIN)
def test_imports_run_one_way_within(room):
    assert backward_arrows_within(ROOT, room) == []


def test_backends_are_named_in_few_rooms():
    assert backend_imports(ROOT) == []


def test_testing_needs_only_keras_and_ops():
    assert foreign_imports_of_testing(ROOT) == []


@pytest.mark.parametrize(
    "package", [name for name, path in source_files(ROOT).items() if path.name == "__init__.py"]
)
def test_all_names_exist(package):
    assert faults_of_all(importlib.import_module(package)) == []


def test_kmtl_imports_no_export_and_no_plots():
    assert import_without("kmtl", NOT_FOR_TRAINING, ROOT) == ""


def test_export_has_one_name():
    assert (ROOT / "kmtl" / "export").readlink() == Path("../export")
    assert "ImportError" in run_python("import export", ROOT).stderr
    assert run_python("import kmtl.export", ROOT).returncode == 0


def test_bazel_knows_the_rooms():
    above = {
        room: {other for other in ROW_OF if ROW_OF[other] < row} - {"version", "testing"}
        for room, row in ROW_OF.items()
        if room not in ("version", "testing")
    }
    assert bazel_reach((ROOT / "BUILD").read_text(encoding="utf-8")) == above


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a git checkout")
def test_files_name_no_machine_and_no_registry():
    found = {name: foreign_places(text) for name, text in texts_for_git(ROOT)}
    assert {name: places for name, places in found.items() if places} == {}


# Each check on a small tree that breaks the rule, and on one that keeps it.


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("kmtl.export.runtime.a", "from kmtl.export.litert.b import C"),
        ("kmtl.export.edgetpu.a", "from kmtl.export.targets import b"),
        ("kmtl.export.files", "from kmtl.export import fold"),
        ("kmtl.export.litert.a", "from kmtl.export import fold"),
        ("kmtl.export.stray", ""),
    ],
)
def test_backward_arrows_in_export_are_found(tmp_path, module, line):
    assert len(backward_arrows_within(write_module(tmp_path, module, line), "export")) == 1


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("kmtl.export.litert.a", "from kmtl.export.runtime.verify import verify"),
        ("kmtl.export.litert.a", "from kmtl.export.files import write_together"),
        ("kmtl.export.litert.a", "from kmtl.export.litert.b import C\nimport kmtl.layers"),
    ],
)
def test_forward_arrows_in_export_pass(tmp_path, module, line):
    assert backward_arrows_within(write_module(tmp_path, module, line), "export") == []


@pytest.mark.parametrize(
    ("module", "line", "target"),
    [
        ("kmtl.ops.a", "import kmtl.layers", "layers"),
        ("kmtl.ops.a", "from kmtl import backend", "backend"),
        ("kmtl.losses.a", "from ..metrics import b", "metrics"),
        ("kmtl.layers.__init__", "from kmtl.models.b import C", "models"),
        ("kmtl.layers.a", "from kmtl import MultiTaskModel", "kmtl"),
        ("kmtl.layers.a", "import kmtl", "kmtl"),
        ("kmtl.layers.a", "from kmtl.testing import check_layer", "testing"),
        ("kmtl.models.a", "def f():\n    import kmtl.export", "export"),
        ("kmtl.__init__", "from . import export", "export"),
        ("export.a", "from kmtl.demo import b", "demo"),
        ("kmtl.demo.a", "from ..cli.main import run", "cli"),
    ],
)
def test_backward_arrows_are_found(tmp_path, module, line, target):
    found = backward_arrows(write_module(tmp_path, module, line))
    assert len(found) == 1 and found[0].endswith(f" imports {target}")


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("kmtl.layers.a", "from kmtl.regularizers import b"),
        ("kmtl.layers.a", "from kmtl.layers.b import c"),
        ("kmtl.layers.a", "from . import b"),
        ("kmtl.models.__init__", "from kmtl.version import __version__"),
        ("kmtl.layers.a", "from keras import models"),
        ("export.a", "import kmtl"),
        ("export.a", "from .b import c"),
        ("kmtl.cli.a", "import kmtl.export"),
    ],
)
def test_forward_arrows_are_fine(tmp_path, module, line):
    assert backward_arrows(write_module(tmp_path, module, line)) == []


def test_unknown_rooms_are_found(tmp_path):
    write_module(tmp_path, "export.a", "")
    write_module(tmp_path, "kmtl.layers.a", "")
    assert unknown_rooms(write_module(tmp_path, "kmtl.misc.a", "")) == ["misc"]


@pytest.mark.parametrize(
    "line", ["import tensorflow as tf", "from tensorflow import raw_ops", "import jax.numpy",
             "from keras import src", "import keras.src.backend"]
)  # fmt: skip
def test_backend_imports_are_found(tmp_path, line):
    assert len(backend_imports(write_module(tmp_path / "layers", "kmtl.layers.a", line))) == 1
    assert backend_imports(write_module(tmp_path / "backend", "kmtl.backend.a", line)) == []
    assert backend_imports(write_module(tmp_path / "export", "export.a", line)) == []


def test_foreign_imports_of_testing_are_found(tmp_path):
    lines = "import os, keras\nimport numpy as np\nfrom kmtl.ops import a\nfrom kmtl import ops\n"
    assert foreign_imports_of_testing(write_module(tmp_path, "kmtl.testing", lines)) == []
    lines += "import pytest\nfrom kmtl.layers import b\n"
    found = foreign_imports_of_testing(write_module(tmp_path, "kmtl.testing", lines))
    assert found == ["pytest", "kmtl.layers.b"]


def test_faults_of_all_are_found():
    package = ModuleType("room")
    assert faults_of_all(package) == ["room has no __all__"]
    package.__all__ = ["Layer"]
    assert faults_of_all(package) == ["room.Layer does not exist"]
    package.Layer = object
    assert faults_of_all(package) == []


@pytest.mark.parametrize("name", ["kmtl.export", "jinja2"])
def test_unwanted_imports_are_found(tmp_path, name):
    write_module(tmp_path, "kmtl.__init__", "from kmtl import room")
    write_module(tmp_path, "kmtl.export.__init__", "")
    write_module(tmp_path, "kmtl.room", "import json")
    assert import_without("kmtl", NOT_FOR_TRAINING, tmp_path) == ""
    write_module(tmp_path, "kmtl.room", f"import {name}")
    assert f"import of {name} halted" in import_without("kmtl", NOT_FOR_TRAINING, tmp_path)


def test_unguarded_export_is_found(tmp_path):
    write_module(tmp_path, "export.__init__", "")
    assert "ImportError" not in run_python("import export", tmp_path).stderr


def test_bazel_reach_follows_the_table():
    reach = bazel_reach('ROOMS = {"ops": [], "losses": ["ops"], "layers": ["losses"]}')
    assert reach["layers"] == {"losses", "ops"}
    assert reach["kmtl"] == {"losses", "ops", "layers"}


# In pieces, since this file is searched as well.
@pytest.mark.parametrize(
    "pieces",
    [
        ("see /ho", "me/ada/model.tflite"),
        ('"/wor', 'k/kmtl"'),
        ("C:\\Us", "ers\\ada"),
        ("https://py", "pi.org/project/kmtl"),
        ("files.python", "hosted.org"),
        ("https://mirror.example/py/sim", "ple"),
        ("-", "-index-url anything"),
    ],
)
def test_foreign_places_are_found(pieces):
    assert foreign_places("".join(pieces))


@pytest.mark.parametrize(
    "text",
    ["docs/home/index.md", "https://keras.io/home/guides", "/usr/bin/env bash", "../work/notes",
     "$HOME/work/x", "runs/demo/report.html", "~/home/x", "a simple example"],
)  # fmt: skip
def test_ordinary_text_is_fine(text):
    assert foreign_places(text) == []


def test_untracked_files_are_read_and_ignored_ones_not(tmp_path):
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    for name, content in ((".gitignore", b"b.txt"), ("a.txt", b"a"), ("b.txt", b"b")):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "image.png").write_bytes(b"\x89PNG\xff")
    assert dict(texts_for_git(tmp_path)) == {".gitignore": "b.txt", "a.txt": "a"}
