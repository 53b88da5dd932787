"""One direction of the operator on CUDA tensors: tensors -> problem -> decision -> launches. No checks, no autograd.

Shapes, dtypes and devices are those of ``lightning_attn``; head dims are multiples of ``problem.HEAD_DIM_STEP``, slopes
are [H] and contiguous, states fp32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from latune.codegen.dtypes import TORCH_DTYPES
from latune.ops.dispatch import decide
from latune.problem import Problem

_DTYPE_NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}


def forward(
    q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None, scale: float, initial_state: Tensor | None, final_state: bool
) -> tuple[Tensor, ...]:
    """(o,), or (o, final_state) where that is wanted."""
    problem = _problem("fwd", q, v, slopes, initial_state, final_state)
    return _run(problem, q, k, v, slopes, scale, *_contiguous(initial_state))


def backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    slopes: Tensor | None,
    scale: float,
    do: Tensor,
    initial_state: Tensor | None,
    dfinal_state: Tensor | None,
) -> tuple[Tensor, ...]:
    """(dq, dk, dv), and dinitial_state where there is an initial state."""
    problem = _problem("bwd", q, v, slopes, initial_state, dfinal_state is not None)
    return _run(problem, q, k, v, slopes, scale, do, *_contiguous(initial_state, dfinal_state))


def _problem(direction: str, q: Tensor, v: Tensor, slopes: Tensor | None, initial_state: Tensor | None, final: bool) -> Problem:
    return Problem(
        direction=direction,
        decay="none" if slopes is None else "constant",
        dtype=_DTYPE_NAMES[q.dtype],
        batch=q.shape[0],
        num_heads=q.shape[1],
        seqlen=q.shape[2],
        head_dim_k=q.shape[3],
        head_dim_v=v.shape[3],
        has_initial_state=initial_state is not None,
        needs_final_state=final,
    )


def _contiguous(*states: Tensor | None) -> list[Tensor]:
    return [state.contiguous() for state in states if state is not None]


def _run(
    problem: Problem, q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None, scale: float, *rest: Tensor
) -> tuple[Tensor, ...]:
    """Runs the decision on q's device; Triton launches on the current one, which need not be q's."""
    index = q.device.index
    decision = decide(problem, index)
    arguments = (q, k, v, scale, *rest) if slopes is None else (q, k, v, slopes, scale, *rest)
    if index == torch.cuda.current_device():
        return decision(*arguments)
    with torch.cuda.device(index):
        return decision(*arguments)
