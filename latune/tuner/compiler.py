"""What a compiler process runs: one plan after another, on one core, without a GPU."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from latune.cache.resolve import default_plan
from latune.codegen.build import Build, build, hash_triton
from latune.codegen.launches import record_launches
from latune.codegen.load import load
from latune.codegen.render import render
from latune.gpu import STATIC_GPU, find_gpu
from latune.problem import Problem
from latune.tuner.cases import small_problems
from latune.tuner.jobs import Compile

_ANY = Problem(direction="fwd", decay="constant", dtype="bf16", batch=1, num_heads=1, seqlen=64, head_dim_k=64, head_dim_v=64)


def start(_: int) -> Callable[[Compile], Build]:
    """Compiles what will be ranked by a model, or compared."""
    warm_up()
    return lambda job: build(job.problem, job.plan, job.gpu)


def start_verified(_: int) -> Callable[[Compile], Build]:
    """As ``start``, where what is built will be launched, and verified: some shapes compile otherwise than a problem's own."""
    warm_up()
    return lambda job: build(job.problem, job.plan, job.gpu, also=small_problems(job.problem), launchers=True)


def warm_up() -> None:
    """What the first job would wait for, for seconds: Triton's digest, templates to be parsed, and what PyTorch imports to do
    without storage.
    """
    hash_triton()
    # The first job tells what is in the way.
    with suppress(OSError):
        record_launches(load(render(_ANY, default_plan(_ANY, find_gpu(STATIC_GPU)))), _ANY)
