"""The shape of the package: which room imports from which, how long things are, and what `import lmmjax` loads."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "lmmjax"
FILES = sorted(PACKAGE.rglob("*.py"))

# From the top: a room imports only from rooms before it (a room that is a folder also from itself).
ROOMS = """
    errors files precision cache
    core.namespace core.linalg core.covariance core.correlation core.residual core.design core.plan core.matrices
    core.products core.crossprod
    core.executables core.compile core.blocks core.onefactor core.criterion core.optimize core.lbfgs core.start
    core.information core.freedom core.blockwise core.rectify core.implicit core.penalised core.profiling core.estimate
    core.groups core.lanes core.levels core.spectral core.crossed core.processes core.chunks core.batch
    core.designs core.effects core.simulate core.gibbs core
    formula datasets tables certificate guard inference.df predict fit models refitting inference diagnostics bayes
    study plots
""".split()
FOLDERS = {"formula", "datasets", "inference", "diagnostics", "bayes", "study", "plots"}
NEVER_IN_CORE = {"pandas", "patsy", "numpyro", "matplotlib", "arviz", "narwhals", "polars"}
NEVER_AT_START = ("numpyro", "optax", "scipy.stats", "arviz", "matplotlib")
LONGEST_FUNCTION, LONGEST_MODULE = 80, 400


def module_name(path: Path) -> str:
    """The dotted name of a file of the package."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path) for path in FILES}


def room_of(module: str) -> str | None:
    """The room a module of the package belongs to; None where the list has no such room."""
    name = module.removeprefix("lmmjax.")
    if name in ROOMS:
        return name
    folder = name.split(".")[0]
    return folder if folder in FOLDERS else None


def imported(source: str, module: str, is_package: bool = False) -> Iterator[tuple[str, int]]:
    """Every module that a source text imports, wherever the statement stands, with its line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _base(node, module, is_package)
            submodules = (f"{base}.{alias.name}" for alias in node.names)
            targets = {name if name in MODULES else base for name in submodules}
            yield from ((target, node.lineno) for target in sorted(targets))


def _base(node: ast.ImportFrom, module: str, is_package: bool) -> str:
    if not node.level:
        return node.module or ""
    parents = module.split(".")
    kept = parents[: len(parents) - node.level + is_package]
    return ".".join([*kept, *([node.module] if node.module else [])])


def complaints(source: str, module: str, is_package: bool = False) -> list[str]:
    """What is wrong with the imports of one module."""
    room = room_of(module)
    if room is None:
        return [f"{module} is in no room: give it a place in ROOMS (and in DESIGN, section 2)"]
    found = []
    for target, line in imported(source, module, is_package):
        if target.split(".")[0] == "lmmjax":
            above = room_of(target)
            inside = above == room and room in FOLDERS
            if above is None or not (inside or ROOMS.index(above) < ROOMS.index(room)):
                found.append(f"{module}:{line} imports {target}, which is not above it")
        elif room.startswith("core") and target.split(".")[0] in NEVER_IN_CORE:
            found.append(f"{module}:{line} imports {target}: core knows arrays only")
    return found


@pytest.mark.parametrize("path", [p for p in FILES if p != PACKAGE / "__init__.py"], ids=module_name)
def test_imports_go_one_way(path):
    wrong = complaints(path.read_text(encoding="utf-8"), module_name(path), path.name == "__init__.py")
    assert not wrong, "\n".join(wrong)


def test_no_module_imports_itself_in_a_circle():
    graph = {
        module_name(path): {
            target
            for target, _ in imported(path.read_text(encoding="utf-8"), module_name(path), path.name == "__init__.py")
            if target in MODULES
        }
        for path in FILES
        if path != PACKAGE / "__init__.py"
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


@pytest.mark.parametrize(
    ("module", "source", "part"),
    [
        ("lmmjax.core.design", "from lmmjax.core import criterion", "imports lmmjax.core"),
        ("lmmjax.core.design", "from .blocks import factorise", "imports lmmjax.core.blocks"),
        ("lmmjax.core.design", "def f():\n    import pandas as pd", "core knows arrays only"),
        ("lmmjax.formula.parse", "import lmmjax", "imports lmmjax, which is not above it"),
        ("lmmjax.tables", "from lmmjax.fit import Fit", "imports lmmjax.fit"),
        ("lmmjax.helpers", "", "is in no room"),
    ],
)
def test_the_reader_of_imports_sees(module, source, part):
    (complaint,) = complaints(source, module)
    assert part in complaint


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("lmmjax.core.design", "from lmmjax import errors\nimport jax"),
        ("lmmjax.formula.schema", "from lmmjax.formula import parse\nfrom .parse import tree"),
        ("lmmjax.predict", "from lmmjax.inference.df import satterthwaite"),
    ],
)
def test_the_reader_of_imports_lets_pass(module, source):
    assert complaints(source, module) == []


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_nothing_is_too_long(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= LONGEST_MODULE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= LONGEST_FUNCTION, f"{module_name(path)}.{node.name} has {lines} lines"


def test_import_is_light():
    if not (PACKAGE / "__init__.py").exists():
        pytest.skip(reason="lmmjax/__init__.py is not written yet")
    code = f"import sys, lmmjax; print([name for name in {NEVER_AT_START} if name in sys.modules])"
    output = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=PACKAGE.parent)
    assert output.strip() == "[]"


def test_first_fit_is_light():
    """What it would import takes as long as the fit."""
    fit = "lmmjax.lmer('Yield ~ 1 + (1 | Batch)', lmmjax.datasets.load('Dyestuff')).summary()"
    heavy = (*NEVER_AT_START, "scipy.linalg", "scipy.sparse", "scipy.special")
    code = f"import sys, lmmjax; {fit}; print([name for name in {heavy} if name in sys.modules])"
    output = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=PACKAGE.parent)
    assert output.strip() == "[]"
