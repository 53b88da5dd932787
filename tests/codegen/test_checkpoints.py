"""Which plans read, keep and are given checkpoints, and what they then take and return."""

from __future__ import annotations

import ast
from collections.abc import Callable

import pytest

from latune.codegen.checkpoints import given_checkpoints, keeping_checkpoints, keeping_own_checkpoints
from latune.codegen.render import render
from latune.plan import Plan
from latune.problem import Problem

PlanOf = Callable[..., Plan]
ProblemOf = Callable[..., Problem]


def host(problem: Problem, plan: Plan) -> tuple[list[str], str]:
    """The host function's arguments and what it returns."""
    function = ast.parse(render(problem, plan).text).body[-1]
    assert isinstance(function, ast.FunctionDef)
    return [argument.arg for argument in function.args.args], ast.unparse(function.body[-1])


def test_one_walk_reads_checkpoints_and_two_launches_do_not(plan_of: PlanOf) -> None:
    assert plan_of("dqdkdv").reads_checkpoints
    assert not any(plan.reads_checkpoints for plan in (plan_of("dq", "dkdv"), plan_of("dq"), plan_of("o")))


@pytest.mark.parametrize(("ahead", "behind", "kept"), [(32, 32, True), (64, 32, True), (128, 32, False), (16, 64, True)])
def test_forward_keeps_what_its_chunks_come_by(
    problem_of: ProblemOf, plan_of: PlanOf, ahead: int, behind: int, kept: bool
) -> None:
    forward, backward = plan_of("o", BLOCK_N=ahead), plan_of("dqdkdv", BLOCK_N=behind)
    plan = keeping_checkpoints(forward, backward, problem_of())
    assert (plan is not None) == kept
    if plan is not None:
        arguments, returned = host(problem_of(), plan)
        assert (arguments, returned) == (["q", "k", "v", "slopes", "scale"], "return (o, checkpoints)")
        assert dict(plan.steps[0].config.constexprs)["CHECKPOINT_ROWS"] == 2 * behind


def test_a_plan_by_itself_is_given_its_own(problem_of: ProblemOf, plan_of: PlanOf) -> None:
    problem, plan = problem_of("bwd", has_initial_state=True), plan_of("dqdkdv")
    kept = keeping_own_checkpoints(plan)
    given = given_checkpoints(plan, kept, problem)
    assert given is not None
    assert host(problem, kept)[1] == "return (dq, dk, dv, dinitial_state, checkpoints)"
    arguments, returned = host(problem, given)
    assert arguments[-1] == "checkpoints" and returned == "return (dq, dk, dv, dinitial_state)"
    assert "dqdkdv_checkpoints_kernel" in render(problem, kept).text
    text = render(problem, given).text
    assert "dqdkdv_checkpoints_kernel" not in text and "Not read: the checkpoints have it." in text


def test_those_of_other_rows_or_of_no_keeper_are_refused(problem_of: ProblemOf, plan_of: PlanOf) -> None:
    walk, longer = plan_of("dqdkdv"), plan_of("dqdkdv", BLOCK_N=64)
    assert given_checkpoints(longer, keeping_own_checkpoints(walk), problem_of("bwd")) is None
    assert given_checkpoints(walk, plan_of("o"), problem_of("bwd")) is None
