"""The plan that serves a problem today: what one of the other direction is tuned beside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from latune import paths
from latune.cache.resolve import resolve
from latune.cache.store import read_entries
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
