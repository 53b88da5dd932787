"""The plan that serves a problem today, what one of the other direction is tuned beside, and whether the two go together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from latune import paths
from latune.cache.resolve import resolve
from latune.cache.store import read_entries
from latune.codegen.kept import handing_over
from latune.codegen.load import generated_sha256
from latune.gpu import Gpu
from latune.plan import Plan
from latune.problem import Problem


def serving_plan(problem: Problem, gpu: Gpu, folders: Sequence[Path] = ()) -> Plan:
    """What the dispatcher would run if it read the cache files in ``folders`` before its own."""
    roots = [*folders, paths.user_cache(), paths.shipped_cache()]
    exact = read_entries(gpu, roots).get(problem.bucket(), ()) if folders else ()
    for entry in exact:
        if entry.is_current(generated_sha256):
            return entry.plan
    return resolve(problem.padded(), gpu, plan_sha256=generated_sha256).plan


def hands_over(problem: Problem, gpu: Gpu, folders: Sequence[Path] = ()) -> bool:
    """Whether the forward plan that serves the problem leaves to the one that serves backward what that starts from.

    Args:
        problem: of either direction.
        folders: as in ``serving_plan``.
    """
    forward, backward = (serving_plan(replace(problem, direction=direction), gpu, folders) for direction in ("fwd", "bwd"))
    return handing_over(forward, backward, problem.padded()) is not None
