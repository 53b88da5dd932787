"""``kernels`` as operators of PyTorch: what ``torch.compile`` puts into a graph instead of tracing a launch.

Eager calls pass them by: an operator's dispatch costs the host as much as a launch. What a forward pass leaves to its backward
pass has to have its place in the graph, and so is decided as that is traced: by the plans of then, for sizes that stand fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from latune.ops import handover, kernels
from latune.ops.dispatch import Decision
from latune.ops.kernels import Known
from latune.ops.recording import Tensors

_INPUTS = "Tensor q, Tensor k, Tensor v, Tensor? slopes, float scale"

_makers: dict[str, Decision] = {}
"""By its name in graphs, what made states."""

_failed: set[str] = set()
"""Names under which a forward pass has returned states that nothing made: for good, since it may be long until its backward."""


class Kept(NamedTuple):
    """As ``kernels.Kept``; ``maker`` is the name of what made the states."""

    states: Tensor
    maker: str


def forward(
    q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None, scale: float, initial_state: Tensor | None, final_state: bool
) -> Tensors:
    """As ``kernels.forward``."""
    return tuple(_forward(q, k, v, slopes, scale, initial_state, final_state))


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
    """As ``kernels.forward_keeping``, of which nothing is known."""
    from latune.ops import traced

    place = traced.place(q, v, slopes, initial_state, final_state)
    if place is None:
        return forward(q, k, v, slopes, scale, initial_state, final_state), None
    maker, shape, dtype = place.maker, place.shape, place.dtype  # by name: PyTorch 2.11 traces no unpacking of a constant
    *outputs, states = _forward_keeping(q, k, v, slopes, scale, initial_state, final_state, maker, shape, dtype)
    return tuple(outputs), Kept(states, maker)


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
    """As ``kernels.backward``.

    Args:
        kept: of ``forward_keeping``; of an eager forward pass it is of no use.
    """
    states, maker = kept or (None, None)
    if not isinstance(maker, str):
        states = maker = None
    return tuple(_backward(q, k, v, slopes, scale, do, initial_state, dfinal_state, states, maker))


# With their schemas written out: how annotations are read has changed from version to version of PyTorch.
@torch.library.custom_op(
    "latune::forward", mutates_args=(), schema=f"({_INPUTS}, Tensor? initial_state, bool final_state) -> Tensor[]"
)
def _forward(
    q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None, scale: float, initial_state: Tensor | None, final_state: bool
) -> list[Tensor]:
    return _laid_out(kernels.forward(q, k, v, slopes, scale, initial_state, final_state), (v,))


@_forward.register_fake
def _(q, k, v, slopes, scale, initial_state, final_state):  # type: ignore[no-untyped-def]
    return [torch.empty_like(v), *([_state(q, v)] if final_state else [])]


@torch.library.custom_op(
    "latune::forward_keeping",
    mutates_args=(),
    schema=f"({_INPUTS}, Tensor? initial_state, bool final_state, str maker, SymInt[] shape, ScalarType dtype) -> Tensor[]",
)
def _forward_keeping(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    slopes: Tensor | None,
    scale: float,
    initial_state: Tensor | None,
    final_state: bool,
    maker: str,
    shape: Sequence[int],
    dtype: torch.dtype,
) -> list[Tensor]:
    """The states come last; NaN where ``maker`` has given way since: from then on ``_backward`` reads none of its name."""
    outputs, kept = kernels.forward_keeping(q, k, v, slopes, scale, initial_state, final_state)
    if kept and (_makers.get(maker) is kept.maker or handover.name_of(kept.maker, q.device.index) == maker):
        _makers[maker] = kept.maker
        states = kept.states
    else:
        _failed.add(maker)
        states = q.new_full(shape, torch.nan, dtype=dtype)
    return [*_laid_out(outputs, (v,)), states]


@_forward_keeping.register_fake
def _(q, k, v, slopes, scale, initial_state, final_state, maker, shape, dtype):  # type: ignore[no-untyped-def]
    return [torch.empty_like(v), *([_state(q, v)] if final_state else []), q.new_empty(shape, dtype=dtype)]


@torch.library.custom_op(
    "latune::backward",
    mutates_args=(),
    schema=f"({_INPUTS}, Tensor do, Tensor? initial_state, Tensor? dfinal_state, Tensor? states, str? maker) -> Tensor[]",
)
def _backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    slopes: Tensor | None,
    scale: float,
    do: Tensor,
    initial_state: Tensor | None,
    dfinal_state: Tensor | None,
    states: Tensor | None,
    maker: str | None,
) -> list[Tensor]:
    decision = None if maker is None or maker in _failed else _makers.get(maker)
    kept = None if states is None or decision is None else kernels.Kept(states, decision)
    return _laid_out(kernels.backward(q, k, v, slopes, scale, do, initial_state, dfinal_state, kept), (q, k, v))


@_backward.register_fake
def _(q, k, v, slopes, scale, do, initial_state, dfinal_state, states, maker):  # type: ignore[no-untyped-def]
    return [*map(torch.empty_like, (q, k, v)), *([] if initial_state is None else [_state(q, v)])]


def _state(q: Tensor, v: Tensor) -> Tensor:
    return q.new_empty((*q.shape[:2], q.shape[3], v.shape[3]), dtype=torch.float32)


def _laid_out(outputs: Sequence[Tensor], like: Sequence[Tensor]) -> list[Tensor]:
    """The outputs with the strides a traced graph counts on; kernels that had to copy an input may have chosen others."""
    wanted = [torch.empty_like(tensor, device="meta").stride() for tensor in like]
    first = [
        output
        if output.stride() == stride
        else torch.empty_strided(output.shape, stride, dtype=output.dtype, device=output.device).copy_(output)
        for output, stride in zip(outputs, wanted, strict=False)
    ]
    return [*first, *outputs[len(first) :]]
