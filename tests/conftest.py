"""What all tests share: caches of their own, never the user's, and no GPU tests where there is no GPU."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import tempfile

import pytest

from latune import paths


def _take_own_caches() -> None:
    """One temporary folder a run; the processes of pytest-xdist inherit their controller's."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    folder = tempfile.mkdtemp(prefix="latune-tests-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["LATUNE_CACHE_DIR"] = os.path.join(folder, "latune")
    os.environ["TRITON_CACHE_DIR"] = os.path.join(folder, "triton")


_take_own_caches()
gc.set_threshold(100_000, 50, 100)


@pytest.fixture(autouse=True)
def nothing_shipped(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shipped results change with every tuning run; a test that is about them reads their folder in the checkout."""
    monkeypatch.setattr(paths, "shipped_cache", lambda: tmp_path_factory.getbasetemp() / "nothing-shipped")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Here: the controller of pytest-xdist, for which its processes wait, collects nothing and has no use for PyTorch.
    import torch

    if "PYTEST_XDIST_WORKER" in os.environ:
        # The processes share the cores; each with a thread for every core would be several times slower.
        torch.set_num_threads(1)
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))


def pytest_collection_finish() -> None:
    """What imports and collection have left lives as long as the process: to look for garbage among it took long."""
    gc.freeze()
