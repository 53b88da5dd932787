"""What a forward plan keeps for the backward plan behind it: states of the segments of a cut sequence, or checkpoints."""

from __future__ import annotations

from latune.codegen.checkpoints import given_checkpoints, keeping_checkpoints
from latune.codegen.partition import Partition
from latune.codegen.segment_states import given_states, keeping_states
from latune.plan import Plan
from latune.problem import Problem


def keeping(forward: Plan, backward: Plan, problem: Problem) -> Plan | None:
    """The forward plan that returns as well what ``backward`` can start from; None where it has nothing of that kind.

    Args:
        problem: of either direction.
    """
    return keeping_checkpoints(forward, backward, problem) if backward.reads_checkpoints else keeping_states(forward)


def resuming(backward: Plan, kept: Plan, problem: Problem) -> Plan | None:
    """The backward plan that starts from what ``kept`` returned; None where it has no use for that.

    Args:
        kept: of ``keeping``, perhaps for another backward plan.
        problem: of either direction.
    """
    given = given_checkpoints if backward.reads_checkpoints else given_states
    return given(backward, kept, problem)


def handing_over(forward: Plan, backward: Plan, problem: Problem) -> tuple[Plan, Plan] | None:
    """Both plans as they run one behind the other; None where the first keeps nothing that the second can start from.

    Args:
        problem: of either direction.
    """
    kept = keeping(forward, backward, problem)
    given = None if kept is None else resuming(backward, kept, problem)
    return None if kept is None or given is None else (kept, given)


def layout(kept: Plan, problem: Problem) -> tuple[tuple[int, int, int], str]:
    """Shape and dtype of what ``kept``, of ``keeping``, returns beside its outputs: states of every so many rows of a head.

    Args:
        problem: of either direction.
    """
    (step,) = kept.steps
    partition = Partition(problem=problem, step=step)
    of_checkpoints = dict(step.config.choices).get("checkpoints") == "kept"
    rows = partition.checkpoint_rows if of_checkpoints else partition.segment_rows
    shape = (problem.batch_heads, -(-problem.seqlen // rows), problem.head_dim_k * problem.head_dim_v)
    return shape, problem.dtype if of_checkpoints else "fp32"
