from __future__ import annotations

from collections.abc import Callable

import pytest

from latune.cache.entry import TOOLCHAIN, Entry, Resources
from latune.config import Config
from latune.measurement import Measurement
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
    samples = 0 if changes.get("evidence") == "static" else 40
    fields = {
        "bucket": problem.bucket(),
        "batch": problem.batch,
        "num_heads": problem.num_heads,
        "seqlen": problem.seqlen,
        "plan": make_plan(problem.direction),
        "alternates": (make_plan(problem.direction, block_n=32),),
        "measurement": Measurement(
            outcome="ok", median_ms=0.3, ci_low_ms=0.29, ci_high_ms=0.31, samples=samples, errors=(("o", 0.002),)
        ),
        "evidence": "measured",
        "resources": (Resources(name="o", registers=168, spill_bytes=0, shared_bytes=98304, num_warps=8),),
        "roof_ms": 0.25,
        "toolchain": dict.fromkeys(TOOLCHAIN, "1.0"),
        "template_sha256": CODE,
        "tuned_at": "2026-01-31T12:00:00Z",
        "study": "study",
    }
    return Entry(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.fixture
def entry_of() -> Callable[..., Entry]:
    return make_entry


@pytest.fixture
def plan_of() -> Callable[..., Plan]:
    return make_plan


@pytest.fixture
def problem_of() -> Callable[..., Problem]:
    return make_problem
