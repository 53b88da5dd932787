"""Forward states of every few rows, from which one reverse walk computes all gradients: who reads, keeps and is given them.

A plan that reads them makes them itself unless it is given those that another plan has kept.
"""

from __future__ import annotations

from dataclasses import replace

from latune.codegen.partition import Partition
from latune.config import Config
from latune.plan import Plan, Step
from latune.problem import Problem


def reads_checkpoints(plan: Plan) -> bool:
    return any(kernel.reads_checkpoints for kernel in plan.kernels)


def keeping_checkpoints(forward: Plan, backward: Plan, problem: Problem) -> Plan | None:
    """The forward plan that returns those that ``backward`` reads as well; None where its chunks do not meet their rows.

    Args:
        problem: of either direction.
    """
    (keeper,), (reader,) = (tuple(Partition(problem=problem, step=step) for step in plan.steps) for plan in (forward, backward))
    if reader.checkpoint_rows % keeper.block_n:
        return None
    return _kept(keeper.step, keeper.step.config.with_constexprs(CHECKPOINT_ROWS=reader.checkpoint_rows))


def keeping_own_checkpoints(backward: Plan) -> Plan:
    """The plan that reads checkpoints and returns them as well, last."""
    (step,) = backward.steps
    return _kept(step, step.config)


def given_checkpoints(backward: Plan, kept: Plan, problem: Problem) -> Plan | None:
    """The backward plan that starts from those that ``kept`` returned; None where it returns none, or of other rows."""
    (step,), (keeper,) = backward.steps, kept.steps
    rows = [Partition(problem=problem, step=one).checkpoint_rows for one in (step, keeper)]
    if dict(keeper.config.choices).get("checkpoints") != "kept" or rows[0] != rows[1]:
        return None
    layout = dict(keeper.config.choices)["state_layout"]
    return Plan((replace(step, config=step.config.with_choices(checkpoints="given", given_layout=layout)),))


def _kept(step: Step, config: Config) -> Plan:
    return Plan((replace(step, config=config.with_choices(checkpoints="kept")),))
