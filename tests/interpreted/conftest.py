"""Generated kernels under Triton's interpreter, which has to be chosen before triton is imported.

A process of its own runs this folder: ``TRITON_INTERPRET=1 pytest tests/interpreted``; any other skips it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("TRITON_INTERPRET") == "1":
        return
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="needs TRITON_INTERPRET=1 in the environment"))
