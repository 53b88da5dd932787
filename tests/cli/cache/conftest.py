from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from entries import valid_entry

from latune.cache.entry import Entry
from latune.cache.resolve import default_plan
from latune.gpu import find_gpu
from latune.problem import Problem

FORWARD = Problem(
    direction="fwd", decay="constant", dtype="bf16", batch=1, num_heads=2, seqlen=256, head_dim_k=64, head_dim_v=64
)


@pytest.fixture
def entry_at() -> Callable[..., Entry]:
    """A valid entry of the default plan at a length; ``changes`` replace its fields."""

    def entry(seqlen: int, direction: str = "fwd", **changes: object) -> Entry:
        problem = replace(FORWARD, seqlen=seqlen, direction=direction)
        return valid_entry(problem, default_plan(problem, find_gpu("a100")), **changes)

    return entry
