"""What a compiler process runs: one plan after another, on one core, without a GPU."""

from __future__ import annotations

from collections.abc import Callable

from latune.codegen.build import Build, build, hash_triton
from latune.tuner.cases import small_problems
from latune.tuner.jobs import Compile


def start(_: int) -> Callable[[Compile], Build]:
    """Compiles what will be ranked by a model, or compared."""
    hash_triton()
    return lambda job: build(job.problem, job.plan, job.gpu)


def start_verified(_: int) -> Callable[[Compile], Build]:
    """As ``start``, where what is built will be launched, and verified: some shapes compile otherwise than a problem's own."""
    hash_triton()
    return lambda job: build(job.problem, job.plan, job.gpu, also=small_problems(job.problem), launchers=True)
