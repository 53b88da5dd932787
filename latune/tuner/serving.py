"""The plan that serves a problem today: what one of the other direction is tuned beside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from latune.cache.resolve import resolve
from latune.cache.store import read_cache
from latune.codegen.load import generated_sha256
from latune.gpu import Gpu
from latune.plan import Plan
from latune.problem import Problem


def serving_plan(problem: Problem, gpu: Gpu, folders: Sequence[Path] = ()) -> Plan:
    """What the dispatcher would run.

    Args:
        folders: cache files here come before those that the dispatcher reads, if they hold the very bucket.
    """
    own = read_cache(gpu, folders).entries.get(problem.bucket()) if folders else None
    if own is not None and own.is_current(generated_sha256):
        return own.plan
    return resolve(problem.padded(), gpu, plan_sha256=generated_sha256).plan


def plan_ahead(problem: Problem, gpu: Gpu, folders: Sequence[Path] = ()) -> Plan | None:
    """The forward plan that a backward plan runs behind; None of a forward problem.

    Args:
        folders: as in ``serving_plan``.
    """
    return serving_plan(replace(problem, direction="fwd"), gpu, folders) if problem.direction == "bwd" else None
