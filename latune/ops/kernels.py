"""One direction of the operator on CUDA tensors: replayed where the same call was made before, else made and recorded.

tensors -> problem -> decision -> launches. No checks, no autograd. Shapes, dtypes and devices are those of
``lightning_attn``; head dims are multiples of ``problem.HEAD_DIM_STEP``, states fp32.
"""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import torch
from torch import Tensor

from latune.codegen.dtypes import TORCH_DTYPES
from latune.ops import handover, memo
from latune.ops.context import ensure_context
from latune.ops.direct import UnsupportedError
from latune.ops.dispatch import LAUNCH_ERRORS, Decision, collect_frames, decide
from latune.ops.memo import Memo, Serve, signature
from latune.ops.recording import Recording, Tensors
from latune.ops.replay import Replay, is_aligned
from latune.problem import Problem

_DTYPE_NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}
_Given = tuple[Tensor | None, ...]
Sizes = tuple[int, int, int, int, int]
"""B, H, N, D, E."""


def forward(
    q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None, scale: float, initial_state: Tensor | None, final_state: bool
) -> Tensors:
    """(o,), or (o, final_state) where that is wanted."""
    given = (q, k, v, slopes, initial_state)
    return _forward(scale, given, final_state, signature(given, final_state))


def _forward(scale: float, given: _Given, final_state: bool, key: memo.Signature) -> Tensors:
    if (serve := memo.FORWARD.calls.get(key)) and (outputs := serve(scale, *given)):
        return outputs
    problem, readable = _read(given, final_state)
    return _run(decide(problem, given[0].device.index), scale, given, readable, memo.FORWARD, key)


def _read(given: _Given, final_state: bool) -> tuple[Problem, _Given]:
    """The forward problem, and its tensors as host functions take them."""
    q, k, v, slopes, initial_state = given
    problem = _problem("fwd", q, v, slopes, initial_state, final_state)
    return problem, (*_signed(q, k, v), _flat(slopes), _contiguous(initial_state))


class Known(NamedTuple):
    """A forward call whose like was made before: its signature, and what serves it when nothing is kept."""

    key: memo.Signature
    serve: Serve


class Kept(NamedTuple):
    """What a forward pass leaves to its backward pass: the states of its segments, or checkpoints, and what made them."""

    states: Tensor
    maker: Decision


def forward_keeping(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    slopes: Tensor | None,
    scale: float,
    initial_state: Tensor | None,
    final_state: bool,
    known: Known | None = None,
) -> tuple[Tensors, Kept | None]:
    """As ``forward``, with what the backward pass can start from, where there is anything of that kind.

    Args:
        known: of ``known_forward``.
    """
    given = (q, k, v, slopes, initial_state)
    key = known.key if known else signature(given, final_state)
    calls = memo.KEEPING.calls
    serve = calls.get(key)
    if isinstance(serve, Replay) and (outputs := serve(scale, *given)):
        return outputs[:-1], Kept(outputs[-1], serve.decision)
    if serve is not memo.keeps_nothing:
        problem, readable = _read(given, final_state)
        decision = handover.keeper(problem, q.device.index)
        if decision and (outputs := _attempt(decision, scale, given, readable, memo.KEEPING, key)):
            memo.note_kept(key, outputs[-1])
            return outputs[:-1], Kept(outputs[-1], decision)
        memo.KEEPING.put(calls, key, memo.keeps_nothing)
    return _forward(scale, given, final_state, key), None


def backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    slopes: Tensor | None,
    scale: float,
    do: Tensor,
    initial_state: Tensor | None,
    dfinal_state: Tensor | None,
    kept: Kept | None = None,
) -> Tensors:
    """(dq, dk, dv), and dinitial_state where there is an initial state.

    Args:
        kept: of ``forward_keeping``.
    """
    states, maker = kept or (None, None)
    given = (q, k, v, slopes, do, initial_state, dfinal_state, states)
    key = signature(given, maker)
    if (serve := memo.BACKWARD.calls.get(key)) and (outputs := serve(scale, *given)):
        return outputs
    problem = _problem("bwd", q, v, slopes, initial_state, dfinal_state is not None)
    readable = (*_signed(q, k, v), _flat(slopes), *_signed(do), _contiguous(initial_state), _contiguous(dfinal_state), states)
    if maker is None:
        return _run(handover.alone(problem, q.device.index), scale, given, readable, memo.BACKWARD, key)
    resumed = handover.resumer(problem, q.device.index, maker)
    if resumed and (outputs := _attempt(resumed, scale, given, readable, memo.BACKWARD, key)):
        return outputs
    # A plan has given way to another since, so that what is to be kept has to be asked anew.
    memo.KEEPING.forget()
    return backward(q, k, v, slopes, scale, do, initial_state, dfinal_state)


def known_forward(
    q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None, initial_state: Tensor | None, final_state: bool
) -> Known | None:
    """What is known of a call when ``forward``, or ``forward_keeping``, was called with its like before."""
    key = signature((q, k, v, slopes, initial_state), final_state)
    serve = memo.FORWARD.calls.get(key) or (memo.plainly if key in memo.KEEPING.calls else None)
    return Known(key, serve) if serve else None


def problem_of(
    direction: str, dtype: torch.dtype, sizes: Sizes, decays: bool, has_initial_state: bool, needs_final_state: bool
) -> Problem:
    """The problem of a call."""
    batch, num_heads, seqlen, head_dim_k, head_dim_v = sizes
    return Problem(
        direction=direction,
        decay="constant" if decays else "none",
        dtype=_DTYPE_NAMES[dtype],
        batch=batch,
        num_heads=num_heads,
        seqlen=seqlen,
        head_dim_k=head_dim_k,
        head_dim_v=head_dim_v,
        has_initial_state=has_initial_state,
        needs_final_state=needs_final_state,
    )


def _problem(direction: str, q: Tensor, v: Tensor, slopes: Tensor | None, initial_state: Tensor | None, final: bool) -> Problem:
    return problem_of(direction, q.dtype, (*q.shape, v.shape[3]), slopes is not None, initial_state is not None, final)


def _signed(*tensors: Tensor) -> tuple[Tensor, ...]:
    """With their own values in memory, not the negated ones."""
    return tuple(x.resolve_neg() for x in tensors)


def _flat(slopes: Tensor | None) -> Tensor | None:
    return None if slopes is None else slopes.resolve_neg().reshape(-1).contiguous()


def _contiguous(state: Tensor | None) -> Tensor | None:
    return None if state is None else state.resolve_neg().contiguous()


def _attempt(
    decision: Decision, scale: float, given: _Given, readable: _Given, known: Memo, key: memo.Signature
) -> Tensors | None:
    """As ``_run``; None where the decision's plan does not launch: to give way is up to the plan that it is a variant of."""
    if decision.refused:
        return None
    try:
        return _run(decision, scale, given, readable, known, key)
    except LAUNCH_ERRORS as error:
        if not decision.refused:
            raise
        decision.say_refused(error)
    collect_frames()
    return None


def _run(decision: Decision, scale: float, given: _Given, readable: _Given, known: Memo, key: memo.Signature) -> Tensors:
    """Runs the decision on q's device; Triton launches on the current one, which need not be q's.

    Args:
        readable: ``given`` as host functions take it.
    """
    calls = known.calls
    q, k, v, slopes, *rest = readable
    arguments = [x for x in (q, k, v, slopes, scale, *rest) if x is not None]
    with _current(q.device):
        ensure_context(q.device.index)
        if calls.get(key) is memo.not_yet and is_aligned(given):
            outputs, recording = decision.record(*arguments)
            known.put(calls, key, _serve(recording, given, readable, decision))
        else:
            outputs = decision(*arguments)
            if key not in calls:
                known.put(calls, key, memo.not_yet)
    return outputs


def _current(device: torch.device) -> contextlib.AbstractContextManager[object]:
    return contextlib.nullcontext() if device.index == torch.cuda.current_device() else torch.cuda.device(device.index)


def _serve(recording: Recording | None, given: _Given, readable: _Given, decision: Decision) -> Serve:
    copied = any(x is not None and x.data_ptr() != y.data_ptr() for x, y in zip(given, readable, strict=True))
    if recording is None or copied:
        return memo.plainly
    try:
        return Replay(recording, given[0].device, decision)
    except UnsupportedError:
        return memo.plainly
