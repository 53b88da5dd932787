"""Plans that keep the states of their segments, and plans whose dq is given them in place of making its own.

Such a dq is launched last: until then its memory holds the states of the segments of dk and dv.

Segment states are [B * H, segments, D * E] in fp32, as their maker's first pass and scan leave them, each state as its maker
holds it, [D, E] or transposed: whoever reads them is told which.
"""

from __future__ import annotations

from dataclasses import replace

from latune.codegen.partition import Partition
from latune.plan import Plan, Step
from latune.problem import Problem

# Those that cut every head alike, and which of them stands for another that does not.
_ALGORITHMS = ("split", "scan", "cooperative")
_INSTEAD = {"balanced": "cooperative"}


def keeping_states(forward: Plan) -> Plan | None:
    """The forward plan that returns its segments' states as well; None where it has none."""
    step = cut_alike(*forward.steps)
    if step.config.algorithm not in _ALGORITHMS:
        return None
    return forward.with_steps([replace(step, config=step.config.with_choices(segment_states="kept"))])


def given_states(backward: Plan, kept: Plan, problem: Problem) -> Plan | None:
    """The backward plan whose dq starts from those that ``kept`` returned; None where it is cut otherwise, or not at all.

    Args:
        problem: of either direction.
    """
    (keeper,) = kept.steps
    if not any(_is_cut_alike(step, keeper, problem) for step in backward.steps):
        return None
    others = (step for step in backward.steps if step.kernel != "dq")
    return backward.with_steps([*others, *(_given(step, keeper) for step in backward.steps if step.kernel == "dq")])


def states_key(forward: Plan, problem: Problem) -> tuple[str, ...]:
    """All that a backward plan's time depends on of the states that ``forward`` leaves to it; empty where it leaves none.

    Args:
        problem: of either direction.
    """
    step = cut_alike(*forward.steps)
    rows = _segment_rows(step, problem)
    return () if rows is None else (step.config.algorithm, f"{rows}rows", dict(step.config.choices)["state_layout"])


def cut_alike(step: Step) -> Step:
    """With heads cut alike where they are cut by their decay: where another pass takes the states, or there is no decay."""
    return replace(step, config=replace(step.config, algorithm=_INSTEAD.get(step.config.algorithm, step.config.algorithm)))


def _is_cut_alike(step: Step, keeper: Step, problem: Problem) -> bool:
    if step.kernel != "dq" or "segment_states" not in dict(keeper.config.choices):
        return False
    rows = _segment_rows(step, problem)
    return rows is not None and rows == _segment_rows(keeper, problem)


def _segment_rows(step: Step, problem: Problem) -> int | None:
    """Of a step that cuts every head alike; None of others, and where a segment holds all rows."""
    if step.config.algorithm not in _ALGORITHMS:
        return None
    rows = Partition(problem=problem, step=step).segment_rows
    return rows if rows < problem.seqlen else None


def _given(step: Step, keeper: Step) -> Step:
    """dq from the states as they were left: summed by a scan or not, in the layout of their maker."""
    layout = dict(keeper.config.choices)["state_layout"]
    config = step.config.with_choices(segment_states="given", given_layout=layout)
    return replace(step, config=replace(config, algorithm=keeper.config.algorithm))
