"""What a search, or a transfer, of one problem starts from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from latune.cache.resolve import starting_plans
from latune.codegen.render import plan_sha256
from latune.gpu import Gpu
from latune.plan import Plan
from latune.problem import Problem

# Winners of neighbouring buckets that are tried early; when nothing is searched they are all that is tried.
_STARTS = 6


def starts_of(problem: Problem, gpu: Gpu, folders: Sequence[Path] = ()) -> list[Plan]:
    """The likeliest plans for the problem, from cache files in ``folders`` and those that the dispatcher reads."""
    starts: dict[Plan, None] = {}
    for plan in starting_plans(problem, gpu, plan_sha256=plan_sha256, folders=folders):
        starts[plan] = None
        if len(starts) == _STARTS:
            break
    return list(starts)
