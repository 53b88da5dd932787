from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from click.testing import CliRunner, Result

from latune.cli.main import cli


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
