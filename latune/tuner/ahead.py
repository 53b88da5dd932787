"""The forward plan that a backward plan runs behind."""

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


def plan_ahead(problem: Problem, gpu: Gpu, folders: Sequence[Path] = ()) -> Plan | None:
    """What serves the forward pass of a backward problem; None of a forward problem.

    Args:
        folders: cache files here come before those that the dispatcher reads, if they hold the very bucket.
    """
    if problem.direction == "fwd":
        return None
    forward = replace(problem, direction="fwd")
    own = read_cache(gpu, folders).entries.get(forward.bucket()) if folders else None
    if own is not None and own.is_current(generated_sha256):
        return own.plan
    return resolve(forward.padded(), gpu, plan_sha256=generated_sha256).plan
