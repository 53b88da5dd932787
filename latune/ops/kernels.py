"""One direction of the operator on CUDA tensors: replayed where the same call was made before, else made and recorded.

tensors -> problem -> decision -> launches. No checks, no autograd. Shapes, dtypes and devices are those of
``lightning_attn``; head dims are multiples of ``problem.HEAD_DIM_STEP``, states fp32.
"""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

from latune.codegen.dtypes import TORCH_DTYPES
from latune.ops import memo
from latune.ops.context import ensure_context
from latune.ops.direct import UnsupportedError
from latune.ops.dispatch import decide
from latune.ops.memo import Memo, Serve, signature
from latune.ops.recording import Recording, Tensors
from latune.ops.replay import Replay, is_aligned
from latune.problem import Problem

_DTYPE_NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}
_Given = tuple[Tensor | None, ...]


def forward(
    q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None, scale: float, initial_state: Tensor | None, final_state: bool
) -> Tensors:
    """(o,), or (o, final_state) where that is wanted."""
    given = (q, k, v, slopes, initial_state)
    key = signature(given, final_state)
    if (serve := memo.FORWARD.calls.get(key)) and (outputs := serve(scale, *given)):
        return outputs
    problem = _problem("fwd", q, v, slopes, initial_state, final_state)
    readable = (q, k, v, _flat(slopes), _contiguous(initial_state))
    return _run(problem, scale, given, readable, memo.FORWARD, key)


def backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    slopes: Tensor | None,
    scale: float,
    do: Tensor,
    initial_state: Tensor | None,
    dfinal_state: Tensor | None,
) -> Tensors:
    """(dq, dk, dv), and dinitial_state where there is an initial state."""
    given = (q, k, v, slopes, do, initial_state, dfinal_state)
    key = signature(given)
    if (serve := memo.BACKWARD.calls.get(key)) and (outputs := serve(scale, *given)):
        return outputs
    problem = _problem("bwd", q, v, slopes, initial_state, dfinal_state is not None)
    readable = (q, k, v, _flat(slopes), do, _contiguous(initial_state), _contiguous(dfinal_state))
    return _run(problem, scale, given, readable, memo.BACKWARD, key)


def known_forward(
    q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None, initial_state: Tensor | None, final_state: bool
) -> Serve | None:
    """What serves ``forward`` of these when it was called with their like before."""
    return memo.FORWARD.calls.get(signature((q, k, v, slopes, initial_state), final_state))


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


def _flat(slopes: Tensor | None) -> Tensor | None:
    return None if slopes is None else slopes.reshape(-1).contiguous()


def _contiguous(state: Tensor | None) -> Tensor | None:
    return None if state is None else state.contiguous()


def _run(problem: Problem, scale: float, given: _Given, readable: _Given, known: Memo, key: memo.Signature) -> Tensors:
    """Runs the decision on q's device; Triton launches on the current one, which need not be q's.

    Args:
        readable: ``given`` as host functions take it.
    """
    calls = known.calls
    q, k, v, slopes, *rest = readable
    decision = decide(problem, q.device.index)
    arguments = [x for x in (q, k, v, slopes, scale, *rest) if x is not None]
    with _current(q.device):
        ensure_context(q.device.index)
        if calls.get(key) is memo.not_yet and is_aligned(given):
            outputs, recording = decision.record(*arguments)
            known.put(calls, key, _serve(recording, given, readable))
        else:
            outputs = decision(*arguments)
            if key not in calls:
                known.put(calls, key, memo.not_yet)
    return outputs


def _current(device: torch.device) -> contextlib.AbstractContextManager[object]:
    return contextlib.nullcontext() if device.index == torch.cuda.current_device() else torch.cuda.device(device.index)


def _serve(recording: Recording | None, given: _Given, readable: _Given) -> Serve:
    copied = any(x is not None and x.data_ptr() != y.data_ptr() for x, y in zip(given, readable, strict=True))
    if recording is None or copied:
        return memo.plainly
    try:
        return Replay(recording, given[0].device)
    except UnsupportedError:
        return memo.plainly
