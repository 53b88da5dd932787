from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from click.testing import CliRunner, Result

from latune.cli.main import cli
from latune.codegen.build import Build, build
from latune.tuner import standby
from latune.tuner.builders import ParallelBuilder
from latune.tuner.jobs import Compile

_COMPILE = ParallelBuilder._compile
# Python 3.11 fails now and then where two threads make syntax trees, as Triton does (python/cpython#106905).
_one_at_a_time = threading.Lock()


def _compile_here(_: ParallelBuilder, job: Compile) -> Build:
    with _one_at_a_time:
        return build(job.problem, job.plan, job.gpu)


@pytest.fixture(scope="module", autouse=True)
def no_compiler_processes() -> Iterator[None]:
    """Without a GPU commands compile in pytest's process: one of its own, which other tests start, takes seconds to come up."""
    with pytest.MonkeyPatch.context() as patch:
        if not torch.cuda.is_available():
            patch.setattr(ParallelBuilder, "_compile", _compile_here)
        yield


@pytest.fixture
def compiler_processes(monkeypatch) -> None:
    """After all."""
    monkeypatch.setattr(ParallelBuilder, "_compile", _COMPILE)


@pytest.fixture
def run(monkeypatch) -> Callable[..., Result]:
    """Runs a command as on a machine without a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(standby, "_may_have_a_gpu", lambda: False)
    return lambda *arguments: CliRunner().invoke(cli, arguments)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """The user's cache root, empty."""
    monkeypatch.setenv("LATUNE_CACHE_DIR", str(tmp_path / "latune"))
    return tmp_path / "latune"
