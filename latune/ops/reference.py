"""Lightning attention in plain PyTorch: differentiable, on any device, in float64 when asked.

With l = exp(-s) for each head:

    S_t = l S_{t-1} + k_t v_t^T        o_t = scale * q_t^T S_t        (the current token is not decayed)

Shapes, everywhere in this module:

    q, k             [B, H, N, D]
    v, o, do         [B, H, N, E]
    slopes           [H] or [H, 1, 1], finite, s >= 0; None means no decay
    states           [B, H, D, E]: S, and the gradient of S

All arithmetic is in q's dtype, or in fp32 where that is wider. Outputs come back in the dtype of the tensor they
mirror (o in q's), states in the dtype of the arithmetic. Every exponent is <= 0, so a decay may underflow to zero
and never overflows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _in_its_own_dtype(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Keeps ``torch.autocast`` out: it would round what this module computes exactly."""

    @functools.wraps(function)
    def exact(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        q = args[0]
        assert isinstance(q, Tensor), "q comes first"
        with torch.autocast(q.device.type, enabled=False):
            return function(*args, **kwargs)

    return exact


@_in_its_own_dtype
def recurrence(
    q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None = None, *, scale: float = 1.0, initial_state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The definition, one token at a time; N >= 1.

    Returns:
        o and the final state.
    """
    kept = torch.exp(-_slopes(slopes, q))
    state = _state(initial_state, q, v)
    outputs = []
    for t in range(q.shape[2]):
        token = slice(t, t + 1)
        b_q, b_k, b_v = _rows(token, q, k, v)
        state = kept * state + b_k.mT @ b_v
        outputs.append((scale * (b_q @ state)).to(q.dtype))
    return torch.cat(outputs, dim=2), state


def quadratic(
    q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None = None, *, scale: float = 1.0, initial_state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """o = scale * (Q K^T . M) V with M_ij = l^(i-j) for i >= j: one chunk spans the sequence. O(N^2) memory.

    Returns:
        o and the final state.
    """
    return chunked(q, k, v, slopes, scale=scale, initial_state=initial_state, chunk=max(q.shape[2], 1))


@_in_its_own_dtype
def chunked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    slopes: Tensor | None = None,
    *,
    scale: float = 1.0,
    initial_state: Tensor | None = None,
    chunk: int = 64,
) -> tuple[Tensor, Tensor]:
    """The chunked form: products within a chunk, a state between chunks.

    Args:
        chunk: rows of a chunk; the result does not depend on it.

    Returns:
        o and the final state.

    Raises:
        ValueError: ``chunk`` is below 1.
    """
    spans = _spans(q.shape[2], chunk)
    decay = _Decay.of(slopes, q, chunk)
    state = _state(initial_state, q, v)
    outputs = []
    for rows in spans:
        part = decay.first(rows.stop - rows.start)
        b_q, b_k, b_v = _rows(rows, q, k, v)
        o_intra = (b_q @ b_k.mT * part.within) @ b_v
        o_inter = part.from_start * (b_q @ state)
        outputs.append((scale * (o_intra + o_inter)).to(q.dtype))
        state = part.whole * state + (part.to_end * b_k).mT @ b_v
    return torch.cat(outputs, dim=2), state


@_in_its_own_dtype
def gradients(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    slopes: Tensor | None,
    scale: float,
    do: Tensor,
    initial_state: Tensor | None = None,
    dfinal_state: Tensor | None = None,
    chunk: int = 64,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The gradients of ``chunked`` by their own recurrences, with no graph: one state is alive at a time.

    R_t is the loss's gradient with respect to S_t, and includes the final state's gradient:

        R_t = l R_{t+1} + scale q_t do_t^T        R_{N-1} = dfinal_state + scale q_{N-1} do_{N-1}^T
        dq_t = scale S_t do_t    dk_t = R_t v_t    dv_t = R_t^T k_t    dinitial_state = l R_0

    Args:
        do: gradient of o.
        dfinal_state: gradient of the final state; None means zero.
        chunk: rows of a chunk; the result does not depend on it.

    Returns:
        dq, dk, dv, and dinitial_state (None without an initial state).

    Raises:
        ValueError: ``chunk`` is below 1.
    """
    with torch.no_grad():
        spans = _spans(q.shape[2], chunk)
        decay = _Decay.of(slopes, q, chunk)
        dq = _query_gradient(q, k, v, decay, spans, scale, do, initial_state)
        dk, dv, dstate = _key_value_gradients(q, k, v, decay, spans, scale, do, dfinal_state)
    return dq, dk, dv, None if initial_state is None else dstate


def _query_gradient(
    q: Tensor, k: Tensor, v: Tensor, decay: _Decay, spans: list[slice], scale: float, do: Tensor, initial_state: Tensor | None
) -> Tensor:
    """dq = LA(do, v, k): the forward recurrence with its roles permuted."""
    dq = torch.empty_like(q)
    state = _state(initial_state, q, v)
    for rows in spans:
        part = decay.first(rows.stop - rows.start)
        b_k, b_v, b_do = _rows(rows, k, v, do)
        intra = (b_do @ b_v.mT * part.within) @ b_k
        dq[:, :, rows] = scale * (intra + part.from_start * (b_do @ state.mT))
        state = part.whole * state + (part.to_end * b_k).mT @ b_v
    return dq


def _key_value_gradients(
    q: Tensor, k: Tensor, v: Tensor, decay: _Decay, spans: list[slice], scale: float, do: Tensor, dfinal_state: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """dk = RLA(v, do, q), dv = RLA(k, q, do), and the gradient of the state before the first token.

    ``dstate`` is the gradient of the state that leaves the chunk at hand: l times the next chunk's first R.
    """
    dk, dv = torch.empty_like(k), torch.empty_like(v)
    dstate = _state(dfinal_state, q, v)
    for rows in reversed(spans):
        part = decay.first(rows.stop - rows.start)
        b_q, b_k, b_v, b_do = _rows(rows, q, k, v, do)
        dscores = scale * (b_do @ b_v.mT) * part.within
        scores = scale * (b_q @ b_k.mT) * part.within
        dk[:, :, rows] = dscores.mT @ b_q + part.to_end * (b_v @ dstate.mT)
        dv[:, :, rows] = scores.mT @ b_do + part.to_end * (b_k @ dstate)
        dstate = part.whole * dstate + scale * (part.from_start * b_q).mT @ b_do
    return dk, dv, dstate


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decay:
    """The powers of l that a chunk of C rows needs, i and j counted from its first row.

    Attributes:
        powers: l^0 .. l^C, [H, C + 1, 1].
        within: l^(i-j) for i >= j, else 0, [H, C, C].
    """

    powers: Tensor
    within: Tensor

    @classmethod
    def of(cls, slopes: Tensor | None, q: Tensor, chunk: int) -> _Decay:
        length = min(chunk, q.shape[2])
        exponents = torch.arange(length + 1, device=q.device, dtype=_compute_dtype(q))
        powers = torch.exp(-_slopes(slopes, q) * exponents[:, None])
        index = torch.arange(length, device=q.device)
        distance = (index[:, None] - index).clamp(min=0)
        return cls(powers=powers, within=powers[:, distance, 0].tril())

    def first(self, length: int) -> _Decay:
        """The decay of a shorter chunk."""
        return _Decay(powers=self.powers[:, : length + 1], within=self.within[:, :length, :length])

    @property
    def from_start(self) -> Tensor:
        """l^(i+1), [H, C, 1]: from the state before the chunk to row i."""
        return self.powers[:, 1:]

    @property
    def to_end(self) -> Tensor:
        """l^(C-1-j), [H, C, 1]: from row j to the state after the chunk."""
        return self.powers[:, :-1].flip(1)

    @property
    def whole(self) -> Tensor:
        """l^C, [H, 1, 1]."""
        return self.powers[:, -1:]


def _compute_dtype(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _spans(seqlen: int, chunk: int) -> list[slice]:
    """Consecutive rows, ``chunk`` at a time; one empty span when there is no row at all."""
    if chunk < 1:
        raise ValueError(f"expected chunk >= 1, got {chunk}")
    return [slice(start, min(start + chunk, seqlen)) for start in range(0, max(seqlen, 1), chunk)]


def _rows(rows: slice, *tensors: Tensor) -> Iterator[Tensor]:
    """Those rows of every tensor, in the dtype of the arithmetic."""
    return (tensor[:, :, rows].to(_compute_dtype(tensor)) for tensor in tensors)


def _slopes(slopes: Tensor | None, q: Tensor) -> Tensor:
    """[H, 1, 1] in the dtype of the arithmetic, on q's device."""
    if slopes is None:
        return torch.zeros(q.shape[1], 1, 1, device=q.device, dtype=_compute_dtype(q))
    return slopes.reshape(q.shape[1], 1, 1).to(q.device, _compute_dtype(q))


def _state(state: Tensor | None, q: Tensor, v: Tensor) -> Tensor:
    """[B, H, D, E] in the dtype of the arithmetic: the given state, else zeros."""
    if state is None:
        return torch.zeros(*q.shape[:2], q.shape[3], v.shape[3], device=q.device, dtype=_compute_dtype(q))
    return state.to(_compute_dtype(q))
