from __future__ import annotations

from collections.abc import Callable

import pytest
from entries import valid_entry

from latune.cache.entry import Entry
from latune.config import Config
from latune.plan import FORMS, Plan, Step
from latune.problem import Problem

CODE = "a" * 64


def make_plan(direction: str = "fwd", block_n: int = 64, form: int = 0, algorithm: str = "sequential") -> Plan:
    config = Config.of(
        algorithm, choices={"state": "transposed"}, constexprs={"BLOCK_N": block_n}, num_warps=8, options={"maxnreg": 168}
    )
    return Plan(tuple(Step(kernel=name, config=config) for name in FORMS[direction][form]))


def make_problem(**changes: object) -> Problem:
    fields = {"direction": "fwd", "decay": "constant", "dtype": "bf16", "batch": 2, "num_heads": 16, "seqlen": 4096}
    return Problem(**{**fields, "head_dim_k": 128, "head_dim_v": 128, **changes})  # type: ignore[arg-type]


def make_entry(problem: Problem | None = None, **changes: object) -> Entry:
    """A valid entry for the bucket of ``problem``; ``changes`` replace its fields."""
    problem = problem or make_problem()
    fields = {"plan": make_plan(problem.direction), "alternates": (make_plan(problem.direction, block_n=32),)}
    return valid_entry(problem, **{**fields, "template_sha256": CODE, **changes})  # type: ignore[arg-type]


@pytest.fixture
def entry_of() -> Callable[..., Entry]:
    return make_entry


@pytest.fixture
def plan_of() -> Callable[..., Plan]:
    return make_plan


@pytest.fixture
def problem_of() -> Callable[..., Problem]:
    return make_problem
