"""Plans that keep checkpoints, forward states of every few rows, and plans that are given them in place of making their own.

Checkpoints are [B * H, cdiv(N, rows), D * E] in the inputs' dtype, each state as its maker holds it, [D, E] or transposed:
whoever reads them is told which. ``rows`` are two chunks of the plan that reads them.
"""

from __future__ import annotations

from dataclasses import replace

from latune.codegen.partition import Partition
from latune.config import Config
from latune.plan import Plan
from latune.problem import Problem


def keeping_checkpoints(forward: Plan, backward: Plan, problem: Problem) -> Plan | None:
    """The forward plan that returns those that ``backward`` reads as well; None where it has no state at their rows.

    Args:
        problem: of either direction.
    """
    keeper, reader = _partition(forward, problem), _partition(backward, problem)
    if keeper.stateless or reader.checkpoint_rows % keeper.block_n:
        return None
    return _kept(forward, keeper.step.config.with_constexprs(CHECKPOINT_ROWS=reader.checkpoint_rows))


def keeping_own_checkpoints(backward: Plan) -> Plan:
    """The plan that reads checkpoints and returns them as well, last."""
    (step,) = backward.steps
    return _kept(backward, step.config)


def given_checkpoints(backward: Plan, kept: Plan, problem: Problem) -> Plan | None:
    """The backward plan that starts from those that ``kept`` returned; None where it returns none, or of other rows."""
    keeper, reader = _partition(kept, problem), _partition(backward, problem)
    choices = dict(keeper.step.config.choices)
    if choices.get("checkpoints") != "kept" or keeper.checkpoint_rows != reader.checkpoint_rows:
        return None
    config = reader.step.config.with_choices(checkpoints="given", given_layout=choices["state_layout"])
    return backward.with_steps([replace(reader.step, config=config)])


def _partition(plan: Plan, problem: Problem) -> Partition:
    (step,) = plan.steps
    return Partition(problem=problem, step=step)


def _kept(plan: Plan, config: Config) -> Plan:
    (step,) = plan.steps
    return plan.with_steps([replace(step, config=config.with_choices(checkpoints="kept"))])
