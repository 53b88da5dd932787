"""Plans whose passes hand states of segments, or checkpoints, over, and what they are called with."""

from __future__ import annotations

import pytest
import torch

from latune.config import Config
from latune.plan import KERNELS, Plan, Step
from latune.problem import Problem

HEADS, SEQLEN, D, E = 3, 300, 64, 48
PROBLEM = Problem(
    direction="fwd", decay="constant", dtype="bf16", batch=2, num_heads=HEADS, seqlen=SEQLEN, head_dim_k=D, head_dim_v=E
)


def step(
    name: str,
    *,
    algorithm: str = "split",
    layout: str = "plain",
    loads: str = "pointer",
    block_n: int = 32,
    programs: int = 24,
) -> Step:
    choices = {"state_layout": layout, "decay_mode": "matrix", "decayed": "value", "loads": loads}
    if algorithm == "parallel":
        del choices["state_layout"], choices["decayed"]
    constexprs = {"BLOCK_N": block_n, **({} if algorithm in ("sequential", "parallel") else {"PROGRAMS": programs})}
    if KERNELS[name].space == "stream":
        constexprs |= {"BLOCK_D": 64, "BLOCK_E": 64}
    return Step(kernel=name, config=Config.of(algorithm, choices=choices, constexprs=constexprs))


def cooperative(name: str, algorithm: str = "cooperative") -> Step:
    """By programs that wait for one another, for compute capability 9.0."""
    return step(name, algorithm=algorithm, layout="transposed", loads="specialized", block_n=64)


def backward_plan(dq: Step) -> Plan:
    return Plan((dq, step("dkdv", algorithm="sequential")))


WHOLE = Plan((step("o", algorithm="sequential"),))
WALK = Plan((step("dqdkdv", algorithm="sequential"),))
AHEAD = Plan((step("o", layout="transposed"),))
BEHIND = backward_plan(step("dq"))

HANDED_OVER = pytest.mark.parametrize(
    ("ahead", "behind"),
    [
        (AHEAD, BEHIND),
        # Ten chunks make no seven segments, but five of two chunks.
        (Plan((step("o", programs=42),)), backward_plan(step("dq", programs=42))),
        (WHOLE, WALK),
        (WHOLE, Plan((step("dqdkdv", algorithm="sequential", block_n=64),))),
    ],
    ids=["segments", "fewer segments than asked for", "checkpoints", "checkpoints for longer chunks"],
)


def tensors() -> list[torch.Tensor]:
    """q, k, v, slopes."""
    rows = [torch.randn(2, HEADS, SEQLEN, width, dtype=torch.bfloat16) for width in (D, D, E)]
    return [*rows, torch.rand(HEADS)]
