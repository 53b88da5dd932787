"""What a search, or a transfer, of one problem starts from."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from latune.cache.resolve import starting_plans
from latune.cache.store import read_cache
from latune.codegen.render import plan_sha256
from latune.gpu import Gpu
from latune.plan import Plan
from latune.problem import Problem

# Winners of neighbouring buckets that are tried early; when nothing is searched they are all that is tried.
_STARTS = 6


def starts_of(problem: Problem, gpu: Gpu, folders: Sequence[Path] = ()) -> list[Plan]:
    """The likeliest plans for the problem: from cache files in ``folders``, then from those that the dispatcher reads."""
    sources = [[read_cache(gpu, [folder])] for folder in folders]
    found = (starting_plans(problem, gpu, plan_sha256=plan_sha256, caches=caches) for caches in (*sources, None))
    starts: dict[Plan, None] = {}
    for plan in chain.from_iterable(found):
        starts[plan] = None
        if len(starts) == _STARTS:
            break
    return list(starts)
