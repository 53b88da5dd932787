"""What a forward pass leaves to its backward pass: states of the segments of a cut sequence, or checkpoints."""

from __future__ import annotations

from dataclasses import replace

from latune.codegen.kept import keeping, resuming
from latune.ops.dispatch import Decision, decide
from latune.plan import Plan
from latune.problem import Problem


def keeper(problem: Problem, device_index: int) -> Decision | None:
    """What runs the forward pass and keeps what the backward pass starts from; None where there is nothing of that kind."""
    plan = _keeping_plan(problem, device_index)
    if plan is None or _resuming(replace(problem, direction="bwd"), device_index, problem, plan) is None:
        return None
    return decide(problem, device_index, plan)


def resumer(problem: Problem, device_index: int, maker: Decision) -> Decision | None:
    """What runs the backward pass from what ``maker`` kept; None where what is at hand may be of another maker.

    That is so once a plan has given way to another: a forward pass may have been run again since, as checkpointing does.
    """
    plan = _keeping_plan(maker.problem, device_index)
    is_current = plan == maker.plan and decide(maker.problem, device_index, plan) is maker
    return _resuming(problem, device_index, maker.problem, maker.plan) if is_current else None


def alone(problem: Problem, device_index: int) -> Decision:
    """What runs the backward pass from its inputs alone; a plan that has to make the checkpoints it reads is no winner."""
    decision = decide(problem, device_index)
    return decide(problem, device_index, alone=True) if decision.plan.reads_checkpoints else decision


def name_of(maker: Decision, device_index: int) -> str:
    """What a traced graph calls a decision of ``keeper``: of the same plan, bucket and device it is the same in any process."""
    return f"{maker.plan.digest} {maker.problem.bucket()} on {device_index}"


def _keeping_plan(problem: Problem, device_index: int) -> Plan | None:
    forward, backward = (decide(replace(problem, direction=one), device_index).plan for one in ("fwd", "bwd"))
    return keeping(forward, backward, problem)


def _resuming(problem: Problem, device_index: int, ahead: Problem, kept: Plan) -> Decision | None:
    """The backward plan that ``kept`` served ``ahead`` for, as it runs ``problem``; None if of no use, or not launched.

    Flags that differ do not matter: a final state whose gradient is not there leaves backward without that flag.
    """
    backward = decide(replace(ahead, direction="bwd"), device_index).plan
    plan = resuming(backward, kept, problem)
    decision = None if plan is None else decide(problem, device_index, plan)
    return None if decision is None or decision.refused else decision
