"""The shipped search spaces, and problems and values to ask them about."""

from __future__ import annotations

from latune.codegen.space import load_space
from latune.config import Config
from latune.gpu import find_gpu
from latune.plan import Kernel
from latune.problem import Problem

H200, A100, L4, B200 = map(find_gpu, ("h200", "a100", "l4", "b200"))
SPACES = {name: load_space(name) for name in ("stream", "dkdv", "dqdkdv")}


def problem_for(kernel: Kernel, **fields: object) -> Problem:
    shape = {"decay": "constant", "dtype": "bf16", "batch": 4, "num_heads": 32, "seqlen": 8192}
    head_dims = {"head_dim_k": 128, "head_dim_v": 128}
    return Problem(direction=kernel.direction, **{**shape, **head_dims, **fields})  # type: ignore[arg-type]


def changed(config: Config, **values: object) -> dict[str, object]:
    return {**config.values(), **values}
