"""The tower stands: imports go upwards only, in no circle, and `import latune` stays light."""

from __future__ import annotations

import ast
import graphlib
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "latune"

# Top to bottom. The package's own __init__ ("latune") gathers the public names: only the command line is below it.
FLOORS = (
    ("latune.errors", "latune.files", "latune.paths"),
    ("latune.problem", "latune.config", "latune.plan", "latune.gpu", "latune.measurement"),
    ("latune.codegen",),
    ("latune.cache",),
    ("latune.ops",),
    ("latune.tuner",),
    ("latune",),
    ("latune.cli", "latune.__main__"),
)
HEAVY = ("optuna", "click", "yaml", "jinja2", "pydantic", "filelock", "rich")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_sources() -> dict[str, str]:
    paths = sorted(path for path in PACKAGE.rglob("*.py") if "_data" not in path.parts)
    return {module_name(path): path.read_text(encoding="utf-8") for path in paths}


def floor(module: str) -> int:
    first_two = ".".join(module.split(".")[:2])
    for number, names in enumerate(FLOORS):
        if first_two in names:
            return number
    raise AssertionError(f"{module} is on no floor: add it to FLOORS, at its place in the design")


def imported(module: str, source: str, modules: Iterable[str]) -> Iterator[str]:
    """Every module of latune that ``source`` imports, anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        for target in _targets(node, module, set(modules)):
            if target.split(".")[0] == "latune":
                yield target


def _targets(node: ast.AST, module: str, modules: set[str]) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = _base(node, module, modules)
        names = [f"{base}.{alias.name}" for alias in node.names]
        return [name if name in modules else base for name in names]
    return _named_in_a_call(node)


def _base(node: ast.ImportFrom, module: str, modules: set[str]) -> str:
    if not node.level:
        return node.module or ""
    is_package = any(name.startswith(f"{module}.") for name in modules)
    parts = module.split(".")
    package = parts[: len(parts) - node.level + is_package]
    return ".".join([*package, node.module] if node.module else package)


def _named_in_a_call(node: ast.AST) -> list[str]:
    """``importlib.import_module("latune.x")`` and ``__import__("latune.x")``."""
    if not isinstance(node, ast.Call) or not node.args or not isinstance(node.args[0], ast.Constant):
        return []
    function = getattr(node.func, "attr", getattr(node.func, "id", ""))
    return [str(node.args[0].value)] if function in ("import_module", "__import__") else []


def breaches(sources: Mapping[str, str]) -> list[str]:
    found = []
    for module, source in sources.items():
        for target in imported(module, source, sources):
            if floor(target) > floor(module):
                found.append(f"{module} imports {target}, which is below it")
            elif module.startswith("latune.tuner") and _inside(target, "latune.ops") and target != "latune.ops.reference":
                found.append(f"{module} imports {target}: of ops, the tuner may import the reference alone")
    return found


def _inside(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def cycle(sources: Mapping[str, str]) -> list[str]:
    """The modules of one circle of imports, the first again at the end; empty when there is none."""
    graph = {module: set(imported(module, source, sources)) - {module} for module, source in sources.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def loaded_by(modules: list[str], heavy: tuple[str, ...]) -> dict[str, list[str]]:
    """For each module, imported one after another in one fresh process: which of ``heavy`` are loaded by then."""
    code = (
        "import importlib, json, sys\n"
        "modules, heavy = json.loads(sys.argv[1])\n"
        "report = {}\n"
        "for module in modules:\n"
        "    importlib.import_module(module)\n"
        "    report[module] = [name for name in heavy if name in sys.modules]\n"
        "print(json.dumps(report))\n"
    )
    command = [sys.executable, "-c", code, json.dumps([modules, heavy])]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


def test_the_walk_sees_the_package() -> None:
    modules = set(package_sources())
    assert {"latune", "latune.errors", "latune.problem", "latune.plan", "latune.ops.reference"} <= modules
    for folder in ("codegen", "cache", "ops", "tuner", "cli"):
        assert any(module.startswith(f"latune.{folder}.") for module in modules), folder


def test_imports_go_upwards_only() -> None:
    assert breaches(package_sources()) == []


def test_there_is_no_circle_of_imports() -> None:
    assert cycle(package_sources()) == []


def test_import_latune_and_the_dispatch_path_are_light() -> None:
    folders = ("latune.ops", "latune.cache")
    modules = ["latune", *(module for module in package_sources() if any(_inside(module, folder) for folder in folders))]
    assert {"latune.ops.reference", "latune.ops.slopes"} <= set(modules)
    assert any(module.startswith("latune.cache.") for module in modules)
    assert loaded_by(modules, HEAVY) == {module: [] for module in modules}


def test_what_only_looks_at_caches_need_not_wait_for_pytorch() -> None:
    modules = ["latune", *(module for module in package_sources() if _inside(module, "latune.cache"))]
    assert loaded_by(modules, ("torch", "triton")) == {module: [] for module in modules}


def test_the_options_of_tune_are_read_and_its_processes_begun_without_pytorch() -> None:
    heavy = ("torch", "triton", "optuna", "jinja2", "pydantic")
    assert loaded_by(["latune.cli.tune"], heavy) == {"latune.cli.tune": []}


def test_the_loader_reports_what_is_loaded() -> None:
    assert loaded_by(["json", "colorsys"], ("colorsys", "optuna")) == {"json": [], "colorsys": ["colorsys"]}


SYNTHETIC = {"latune": "", "latune.errors": "", "latune.paths": "", "latune.ops": "", "latune.ops.reference": ""}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("latune.errors", "import latune.problem"),
        ("latune.problem", "from latune.codegen.space import load_space"),
        ("latune.codegen.space", "from latune import cache"),
        ("latune.cache.store", "def read():\n    from latune.tuner import tune"),
        ("latune.cache.store", "from ..ops import dispatch"),
        ("latune.ops.dispatch", "import importlib\nimportlib.import_module('latune.tuner.tune')"),
        ("latune.tuner.verify", "from latune.ops.dispatch import dispatch"),
        ("latune.tuner.verify", "from latune.ops import slopes"),
        ("latune.tuner.verify", "import latune.ops"),
        ("latune.tuner.tune", "from latune import Problem"),
        ("latune", "from latune.cli.main import main"),
        ("latune.paths", "try:\n    import latune.gpu\nexcept ImportError:\n    pass"),
    ],
)
def test_a_breach_is_found(module: str, source: str) -> None:
    others = {"latune.cache": "", "latune.cache.entry": "", "latune.ops.slopes": "", "latune.ops.dispatch": ""}
    found = breaches({**SYNTHETIC, **others, module: source})
    assert len(found) == 1
    assert found[0].startswith(f"{module} imports latune")


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("latune.plan", "from latune.problem import Problem\nfrom latune.errors import LatuneError"),
        ("latune.tuner.verify", "from latune.ops import reference"),
        ("latune.tuner.verify", "from latune.ops.reference import chunked"),
        ("latune.ops.dispatch", "from .reference import chunked\nfrom .. import paths"),
        ("latune", "from latune.ops import reference\ndef tune():\n    from latune.tuner.tune import tune"),
        ("latune.cli.tune", "import latune\nfrom latune.tuner.search import search\nimport click, torch"),
    ],
)
def test_what_is_allowed_passes(module: str, source: str) -> None:
    assert breaches({**SYNTHETIC, module: source}) == []


def test_a_circle_is_found_even_in_function_bodies() -> None:
    circle = {"latune.config": "import latune.plan", "latune.plan": "def f():\n    from latune import config"}
    assert set(cycle({**SYNTHETIC, **circle})) == set(circle)
    assert cycle({**SYNTHETIC, "latune.plan": "import latune.errors"}) == []


def test_a_module_on_no_floor_is_refused() -> None:
    with pytest.raises(AssertionError, match="misc is on no floor"):
        breaches({**SYNTHETIC, "latune.problem": "import latune.misc"})


def test_every_module_is_on_a_floor() -> None:
    for module in package_sources():
        floor(module)
