"""Fixtures of the tuner's tests."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def synthetic() -> ModuleType:
    """``synthetic.py``, which a test also runs as a script."""
    return _load("synthetic")


@pytest.fixture(scope="session")
def fake_builds() -> ModuleType:
    """``fake_builds.py``."""
    return _load("fake_builds")


@pytest.fixture(scope="session")
def fake_compilers() -> ModuleType:
    """``fake_compilers.py``, which compiler processes also import."""
    return _load("fake_compilers")


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without one."""
    monkeypatch.setattr("latune.tuner.target.local_gpu", lambda device_index: None)


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
