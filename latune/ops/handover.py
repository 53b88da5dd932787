"""What a forward pass leaves to its backward pass: states of the segments of a cut sequence, or checkpoints."""

from __future__ import annotations

from dataclasses import replace

from latune.codegen.checkpoints import given_checkpoints, keeping_checkpoints, reads_checkpoints
from latune.codegen.partition import Partition
from latune.plan import Plan, Step
from latune.problem import Problem

# Those that cut every head alike.
_ALGORITHMS = ("split", "scan")


def keeping(forward: Plan, backward: Plan, problem: Problem) -> Plan | None:
    """The forward plan that returns as well what ``backward`` can start from; None where it has nothing of that kind.

    Args:
        problem: of either direction.
    """
    if reads_checkpoints(backward):
        return keeping_checkpoints(forward, backward, problem)
    (step,) = forward.steps
    if step.config.algorithm not in _ALGORITHMS:
        return None
    return Plan((replace(step, config=step.config.with_choices(segment_states="kept")),))


def resuming(backward: Plan, kept: Plan, problem: Problem) -> Plan | None:
    """The backward plan that starts from what ``kept`` returned; None where it has no use for that.

    Args:
        kept: of ``keeping``, perhaps for another backward plan.
        problem: of either direction.
    """
    if reads_checkpoints(backward):
        return given_checkpoints(backward, kept, problem)
    (keeper,) = kept.steps
    if not any(_is_cut_alike(step, keeper, problem) for step in backward.steps):
        return None
    return Plan(tuple(_given(step, keeper) if step.kernel == "dq" else step for step in backward.steps))


def _is_cut_alike(step: Step, keeper: Step, problem: Problem) -> bool:
    if step.kernel != "dq" or step.config.algorithm not in _ALGORITHMS:
        return False
    if "segment_states" not in dict(keeper.config.choices):
        return False
    rows = [Partition(problem=problem, step=one).segment_rows for one in (step, keeper)]
    return rows[0] == rows[1] < problem.seqlen


def _given(step: Step, keeper: Step) -> Step:
    """dq from the states as they were left: summed by a scan or not, in the layout of their maker."""
    layout = dict(keeper.config.choices)["state_layout"]
    config = step.config.with_choices(segment_states="given", given_layout=layout)
    return replace(step, config=replace(config, algorithm=keeper.config.algorithm))
