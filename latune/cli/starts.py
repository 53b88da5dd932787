"""What a search, or a transfer, of one problem starts from."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, islice
from pathlib import Path

from latune.cache.resolve import starting_plans
from latune.cache.store import read_cache
from latune.codegen.templates import template_sha256
from latune.gpu import Gpu
from latune.plan import Plan
from latune.problem import Problem

# Winners of neighbouring buckets that are tried early; when nothing is searched they are all that is tried.
_STARTS = 6


def starts_of(problem: Problem, gpu: Gpu, folders: Sequence[Path] = ()) -> list[Plan]:
    """The likeliest plans for the problem: from cache files in ``folders``, then from those that the dispatcher reads."""
    sha = template_sha256()
    sources = [[read_cache(gpu, [folder], template_sha256=sha)] for folder in folders]
    found = (starting_plans(problem, gpu, template_sha256=sha, caches=caches) for caches in (*sources, None))
    return list(islice(dict.fromkeys(chain.from_iterable(found)), _STARTS))
