from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
import torch
from click.testing import CliRunner, Result

from latune.cli.main import cli


@pytest.fixture(scope="module", autouse=True)
def one_compiler() -> Iterator[None]:
    """Processes of pytest keep the cores busy, and a compiler takes seconds to come up; beside a GPU there are more cores."""
    with pytest.MonkeyPatch.context() as patch:
        if not torch.cuda.is_available():
            patch.setattr(os, "sched_getaffinity", lambda _: {0})
        yield


@pytest.fixture
def run(monkeypatch) -> Callable[..., Result]:
    """Runs a command as on a machine without a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return lambda *arguments: CliRunner().invoke(cli, arguments)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """The user's cache root, empty."""
    monkeypatch.setenv("LATUNE_CACHE_DIR", str(tmp_path / "latune"))
    return tmp_path / "latune"
