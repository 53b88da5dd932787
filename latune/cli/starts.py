"""What a search, or a transfer, of one problem starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from latune.cache.resolve import starting_plans
from latune.codegen.render import plan_sha256
from latune.gpu import Gpu
from latune.plan import KERNELS, Plan
from latune.problem import Problem
from latune.tuner.serving import serving_plan

# Winners of neighbouring buckets that are tried early; when nothing is searched all that is tried comes of them and of dq.
_STARTS = 6


def starts_of(problem: Problem, gpu: Gpu, folders: Sequence[Path] = ()) -> list[Plan]:
    """The likeliest plans for the problem, from cache files in ``folders`` and those that the dispatcher reads.

    Of a forward problem, also what computes dq there: the same operator with its roles permuted.
    """
    starts: dict[Plan, None] = {}
    for plan in starting_plans(problem, gpu, plan_sha256=plan_sha256, folders=folders):
        starts[plan] = None
        if len(starts) == _STARTS:
            break
    return list(starts | dict.fromkeys(_as_dq(problem, gpu, folders)))


def _as_dq(problem: Problem, gpu: Gpu, folders: Sequence[Path]) -> list[Plan]:
    """The forward plan by the config of dq; none where dq is of other widths, or one of several gradients in a walk."""
    if problem.direction == "bwd" or KERNELS["dq"].dims(problem) != KERNELS["o"].dims(problem):
        return []
    backward = serving_plan(replace(problem, direction="bwd"), gpu, folders)
    return [Plan((replace(step, kernel="o"),)) for step in backward.steps if step.kernel == "dq"]
