"""Problem + plan -> imported module. Generated files live under the user's cache root and are rendered once."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import tempfile
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from latune import paths
from latune.codegen.templates import template_sha256
from latune.plan import Plan
from latune.problem import Problem

if TYPE_CHECKING:
    from latune.codegen.render import Source


def load_plan(problem: Problem, plan: Plan) -> ModuleType:
    """The module that serves ``problem``'s bucket by ``plan``; rendered only when no earlier process has.

    Raises:
        RenderError: the plan cannot be rendered for this problem.
    """
    stand_in = problem.bucket().problem()
    path = _generated(f"{stand_in} {stand_in.bucket()} {plan.digest} {template_sha256()}")
    if not path.is_file():
        # A problem met before needs no template engine: `import latune` stays free of jinja2.
        from latune.codegen.render import render

        _write(path, render(stand_in, plan).text)
    return _import(path)


def load(source: Source) -> ModuleType:
    """The module of ``source``, a fresh one at each call. Triton reads a kernel's text from its file."""
    path = _generated(source.text)
    if not path.is_file():
        _write(path, source.text)
    return _import(path)


def _generated(identity: str) -> Path:
    return paths.generated() / f"latune_{hashlib.sha256(identity.encode()).hexdigest()[:20]}.py"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, suffix=".partial")
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(text)
    os.replace(partial, path)


def _import(path: Path) -> ModuleType:
    """Imports one generated file without entering it into ``sys.modules``."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot import generated module {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
