"""Composers on an H200, and what is asked of the plans that they make."""

from __future__ import annotations

from latune.config import Config
from latune.gpu import find_gpu
from latune.plan import KERNELS, Plan
from latune.problem import Problem
from latune.tuner.compose import Composer, all_spaces

SPACES = all_spaces()
GPU = find_gpu("h200")


def composer(direction: str, d: int = 128, e: int = 128) -> Composer:
    problem = Problem(
        direction=direction, decay="constant", dtype="bf16", batch=4, num_heads=32, seqlen=2048, head_dim_k=d, head_dim_v=e
    )
    return Composer(problem=problem, gpu=GPU, spaces=SPACES)


def kernels(plan: Plan) -> tuple[str, ...]:
    return tuple(step.kernel for step in plan.steps)


def default(composed: Composer, name: str) -> Config:
    return composed.space(name).default(composed.problem, GPU, KERNELS[name])
