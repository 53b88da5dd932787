"""Eleven whole modules, compared literally. ``LATUNE_ACCEPT_GOLDEN=1 pytest tests/codegen/test_golden.py`` rewrites them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from latune.codegen.render import render
from latune.plan import Plan
from latune.problem import Problem

GOLDEN = Path(__file__).parents[1] / "golden"
SHA256 = re.compile(r"^code      [0-9a-f]{64}$", re.MULTILINE)
PLACEHOLDER = f"code      {'0' * 64}"

PlanOf = Callable[..., Plan]
ProblemOf = Callable[..., Problem]
Case = tuple[Problem, Plan]


def forward(problem_of: ProblemOf, plan_of: PlanOf) -> Case:
    choices = {"state_layout": "transposed", "branched": "scores", "loads": "tma"}
    plan = plan_of("o", **choices, BLOCK_N=64, BLOCK_E=128, num_warps=8, num_stages=4)
    return problem_of(batch=4, num_heads=32, seqlen=8192), plan


def forward_by_warps_of_their_own(problem_of: ProblemOf, plan_of: PlanOf) -> Case:
    choices = {"state_layout": "transposed", "branched": "none", "loads": "specialized"}
    plan = plan_of("o", algorithm="split", **choices, BLOCK_N=64, PROGRAMS=128, num_stages=3)
    return problem_of(batch=1, num_heads=8, seqlen=8192, needs_final_state=True), plan


def forward_of_programs_that_wait_for_one_another(problem_of: ProblemOf, plan_of: PlanOf) -> Case:
    choices = {"state_layout": "transposed", "branched": "none", "loads": "specialized"}
    plan = plan_of("o", algorithm="cooperative", **choices, BLOCK_N=64, PROGRAMS=128, num_stages=4)
    return problem_of(batch=1, num_heads=8, seqlen=8192, has_initial_state=True), plan


def forward_fed_by_a_producer(problem_of: ProblemOf, plan_of: PlanOf) -> Case:
    choices = {"state_layout": "transposed", "branched": "none", "loads": "producer"}
    plan = plan_of("o", **choices, BLOCK_N=64, BLOCK_E=128, num_warps=8, num_stages=2)
    return problem_of(batch=4, num_heads=16, head_dim_k=256, head_dim_v=256, needs_final_state=True), plan


def backward_split_and_fused(problem_of: ProblemOf, plan_of: PlanOf) -> Case:
    shape = {"dtype": "fp16", "batch": 1, "seqlen": 32768, "head_dim_k": 64, "head_dim_v": 96}
    problem = problem_of("bwd", **shape, has_initial_state=True, needs_final_state=True)
    dq = plan_of("dq", algorithm="split", decayed="key", BLOCK_E=32, num_stages=3)
    return problem, Plan((*dq.steps, *plan_of("dkdv", num_warps=8).steps))


def backward_three_streams(problem_of: ProblemOf, plan_of: PlanOf) -> Case:
    plans = (
        plan_of("dq", algorithm="scan", decay_mode="factored", decayed=None),
        plan_of("dk", algorithm="scan", state_layout="transposed"),
        plan_of("dv", state_layout="transposed", branched="all", BLOCK_D=32, decayed="key"),
    )
    return problem_of("bwd", seqlen=1024, head_dim_k=80), Plan(tuple(step for plan in plans for step in plan.steps))


def backward_of_chunks_by_themselves(problem_of: ProblemOf, plan_of: PlanOf) -> Case:
    plan = plan_of("dq", "dk", "dv", algorithm="parallel", loads="tma", BLOCK_N=64, BLOCK_E=128, num_stages=3)
    return problem_of("bwd", batch=1, num_heads=8, seqlen=1024), plan.chained()


def backward_side_by_side(problem_of: ProblemOf, plan_of: PlanOf) -> Case:
    choices = {"state_layout": "transposed", "branched": "none", "loads": "specialized"}
    plan = plan_of("dq", "dk_dv", algorithm="split", **choices, BLOCK_N=64, PROGRAMS=128, num_stages=3)
    return problem_of("bwd", batch=1, num_heads=8, seqlen=8192), plan.chained()


def backward_in_one_walk(problem_of: ProblemOf, plan_of: PlanOf) -> Case:
    problem = problem_of("bwd", batch=8, num_heads=32, seqlen=8192, head_dim_k=64, head_dim_v=64)
    return problem, plan_of("dqdkdv", loads="tma", decayed="key", BLOCK_N=64)


def backward_in_one_walk_of_segments(problem_of: ProblemOf, plan_of: PlanOf) -> Case:
    problem = problem_of("bwd", batch=1, num_heads=16, seqlen=16384, head_dim_k=64, head_dim_v=64)
    return problem, plan_of("dqdkdv", algorithm="split", loads="tma", decayed="key", BLOCK_N=64, PROGRAMS=256)


def backward_in_one_walk_by_warps_of_their_own(problem_of: ProblemOf, plan_of: PlanOf) -> Case:
    problem = problem_of("bwd", batch=8, num_heads=32, seqlen=8192, head_dim_k=64, head_dim_v=64, needs_final_state=True)
    handed = {"checkpoints": "given", "given_layout": "transposed"}
    return problem, plan_of("dqdkdv", loads="specialized", decayed="key", BLOCK_N=64, num_stages=3, **handed)


CASES = (
    forward,
    forward_by_warps_of_their_own,
    forward_of_programs_that_wait_for_one_another,
    forward_fed_by_a_producer,
    backward_split_and_fused,
    backward_three_streams,
    backward_of_chunks_by_themselves,
    backward_side_by_side,
    backward_in_one_walk,
    backward_in_one_walk_of_segments,
    backward_in_one_walk_by_warps_of_their_own,
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_golden(case: Callable[[ProblemOf, PlanOf], Case], problem_of: ProblemOf, plan_of: PlanOf) -> None:
    rendered, replaced = SHA256.subn(PLACEHOLDER, render(*case(problem_of, plan_of)).text)
    assert replaced == 1
    path = GOLDEN / f"{case.__name__}.py"
    if os.environ.get("LATUNE_ACCEPT_GOLDEN") == "1":
        path.write_text(rendered, encoding="utf-8")
    assert rendered == path.read_text(encoding="utf-8"), f"{path.name} differs; LATUNE_ACCEPT_GOLDEN=1 accepts the new text"


def test_every_golden_module_has_its_case() -> None:
    assert {path.stem for path in GOLDEN.glob("*.py")} == {case.__name__ for case in CASES}
