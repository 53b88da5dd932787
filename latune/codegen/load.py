"""Problem + plan -> imported module. Generated files live under the user's cache root and are rendered once."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import torch
from triton.runtime.jit import JITFunction

from latune import paths
from latune.codegen.templates import code_sha256, generator_sha256, intact_sha256
from latune.errors import warn_once
from latune.files import replace_text
from latune.plan import Plan
from latune.problem import Bucket, Problem

if TYPE_CHECKING:
    from latune.codegen.render import Source


def load_plan(problem: Problem, plan: Plan) -> ModuleType:
    """The module that serves ``problem``'s bucket by ``plan``; rendered only when no earlier process has.

    Raises:
        RenderError: the plan cannot be rendered for this problem.
    """
    path, _ = _generated(problem.bucket(), plan)
    return _import_once(path)


def generated_sha256(bucket: Bucket, plan: Plan) -> str:
    """What ``render.plan_sha256`` gives, from the file that ``load_plan`` imports: rendered when no earlier process has.

    Raises:
        RenderError: the plan cannot be rendered for this bucket.
    """
    _, sha256 = _generated(bucket, plan)
    return sha256


def _generated(bucket: Bucket, plan: Plan) -> tuple[Path, str]:
    """The file and the digest of its code; one that is not as it was written is written again."""
    stand_in = bucket.problem()

    def text() -> str:
        # A problem met before needs no template engine: `import latune` stays free of jinja2.
        from latune.codegen.render import render

        return render(stand_in, plan).text

    path = _file(f"{stand_in} {stand_in.bucket()} {plan.digest} {generator_sha256()}", text)
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if sha256 := intact_sha256(path.read_text(encoding="utf-8")):
            return path, sha256
    made = text()
    return _write_or_own(path, made), code_sha256(made)


def load(source: Source) -> ModuleType:
    """The module of ``source``, a fresh one at each call. Triton reads a kernel's text from its file."""
    return _import(_file(source.text, lambda: source.text))


Counters = Callable[[torch.device, int], torch.Tensor]
"""What gives a generated module's launches the counters that they meet at."""

COUNTERS = "_counters"
"""Its name in a module that has such launches."""


def with_kernels(
    function: Callable[..., Any], stand_in: Callable[[JITFunction], object], counters: Callable[[Counters], Counters]
) -> Callable[..., Any]:
    """A generated module's host function over ``stand_in(kernel)`` in the place of each kernel.

    The module keeps its own: other threads may run it meanwhile.

    Args:
        counters: makes of the module's counters what stands in their place.
    """
    assert isinstance(function, FunctionType), f"expected a generated module's function, got {function!r}"
    names = {name: stand_in(x) if isinstance(x, JITFunction) else x for name, x in function.__globals__.items()}
    if COUNTERS in names:
        names[COUNTERS] = counters(names[COUNTERS])
    return FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)


def _file(identity: str, text: Callable[[], str]) -> Path:
    """The file of that identity, written when it is not there; in a folder of this process when the cache root is closed."""
    name = f"latune_{hashlib.sha256(identity.encode()).hexdigest()[:20]}.py"
    path = paths.generated() / name
    with contextlib.suppress(OSError):
        if path.is_file():
            return path
    return _write_or_own(path, text())


def _write_or_own(path: Path, text: str) -> Path:
    try:
        return _write(path, text)
    except OSError:
        own = _write(paths.of_this_process() / path.name, text)
    remedy = "set LATUNE_CACHE_DIR to a folder you can write to"
    warn_once(f"latune: cannot write to {paths.generated()}, so modules are generated anew: {remedy}", stacklevel=5)
    return own


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, text)
    return path


@functools.cache
def _import_once(path: Path) -> ModuleType:
    """For the life of the process: CUDA graphs go on using the counters that a module gave to the calls that they captured."""
    return _import(path)


def _import(path: Path) -> ModuleType:
    """Imports one generated file without entering it into ``sys.modules``.

    Triton takes a kernel for another where it begins at another line. Plans share kernels, at whatever line: all begin at the
    first one here, so that what one plan has had compiled serves the next. With
    Triton 3.6, line numbers in a profile are then a kernel's own.
    """
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot import generated module {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for kernel in vars(module).values():
        if isinstance(kernel, JITFunction):
            kernel.starting_line_number = 1
    return module
