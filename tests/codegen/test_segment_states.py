"""Which plans keep the states of their segments, and which are given them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from latune.codegen.segment_states import given_states, keeping_states
from latune.plan import Plan
from latune.problem import Problem

PlanOf = Callable[..., Plan]
ProblemOf = Callable[..., Problem]

# Of 6 heads of 300 rows, four segments each.
SIX_HEADS = {"num_heads": 3, "seqlen": 300, "head_dim_k": 64, "head_dim_v": 64}
CUT = {"algorithm": "split", "PROGRAMS": 24}


def kept_of(forward: Plan) -> Plan:
    kept = keeping_states(forward)
    assert kept is not None
    return kept


def backward(plan_of: PlanOf, **changes: str | int) -> Plan:
    return Plan((*plan_of("dq", **{**CUT, **changes}).steps, *plan_of("dkdv").steps))


def test_a_forward_plan_in_segments_keeps_their_states_and_no_other(plan_of: PlanOf) -> None:
    forward = plan_of("o", **CUT)
    assert kept_of(forward).steps[0].config == forward.steps[0].config.with_choices(segment_states="kept")
    balanced, alike = (plan_of("o", **{**CUT, "algorithm": algorithm}) for algorithm in ("balanced", "cooperative"))
    assert keeping_states(balanced) == kept_of(alike)
    assert keeping_states(plan_of("o")) is None
    assert keeping_states(plan_of("o", algorithm="remainder", PROGRAMS=4)) is None


@pytest.mark.parametrize("algorithm", ["split", "scan", "cooperative", "balanced"])
@pytest.mark.parametrize("layout", ["plain", "transposed"])
def test_dq_is_told_how_the_states_lie_and_whether_they_are_sums_and_comes_last(
    problem_of: ProblemOf, plan_of: PlanOf, layout: str, algorithm: str
) -> None:
    kept, behind = kept_of(plan_of("o", **{**CUT, "algorithm": algorithm}, state_layout=layout)), backward(plan_of)
    plan = given_states(behind, kept, problem_of(**SIX_HEADS))
    assert plan is not None
    dkdv, dq = plan.steps
    choices = {"segment_states": "given", "given_layout": layout, "state_layout": "plain"}
    made = "cooperative" if algorithm == "balanced" else algorithm
    assert dq.config.algorithm == made and choices.items() <= dict(dq.config.choices).items()
    assert dkdv == behind.steps[1]


@pytest.mark.parametrize(
    "dq",
    [
        {"PROGRAMS": 12},
        {"algorithm": "sequential"},
        # Four segments like the other, of 96 rows where those have 80.
        {"BLOCK_N": 16},
    ],
    ids=str,
)
def test_states_of_other_segments_are_of_no_use(problem_of: ProblemOf, plan_of: PlanOf, dq: dict) -> None:
    kept = kept_of(plan_of("o", **CUT))
    assert given_states(backward(plan_of, **dq), kept, problem_of(**SIX_HEADS)) is None


@pytest.mark.parametrize("one_segment", [{"seqlen": 32}, {"batch": 8}], ids=str)
def test_a_sequence_of_one_segment_has_no_states_to_keep(problem_of: ProblemOf, plan_of: PlanOf, one_segment: dict) -> None:
    problem = problem_of(**{**SIX_HEADS, **one_segment})
    assert given_states(backward(plan_of), kept_of(plan_of("o", **CUT)), problem) is None
