"""``kernels`` as operators of PyTorch: what ``torch.compile`` puts into a graph instead of tracing a launch.

Eager calls pass them by: an operator's dispatch costs the host as much as a launch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from latune.ops import kernels

_INPUTS = "Tensor q, Tensor k, Tensor v, Tensor? slopes, float scale"


# With their schemas written out: how annotations are read has changed from version to version of PyTorch.
@torch.library.custom_op(
    "latune::forward", mutates_args=(), schema=f"({_INPUTS}, Tensor? initial_state, bool final_state) -> Tensor[]"
)
def forward(
    q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None, scale: float, initial_state: Tensor | None, final_state: bool
) -> list[Tensor]:
    """As ``kernels.forward``."""
    return _laid_out(kernels.forward(q, k, v, slopes, scale, initial_state, final_state), (v,))


@forward.register_fake
def _(q, k, v, slopes, scale, initial_state, final_state):  # type: ignore[no-untyped-def]
    return [torch.empty_like(v), *([_state(q, v)] if final_state else [])]


@torch.library.custom_op(
    "latune::backward",
    mutates_args=(),
    schema=f"({_INPUTS}, Tensor do, Tensor? initial_state, Tensor? dfinal_state) -> Tensor[]",
)
def backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    slopes: Tensor | None,
    scale: float,
    do: Tensor,
    initial_state: Tensor | None,
    dfinal_state: Tensor | None,
) -> list[Tensor]:
    """As ``kernels.backward``."""
    return _laid_out(kernels.backward(q, k, v, slopes, scale, do, initial_state, dfinal_state), (q, k, v))


@backward.register_fake
def _(q, k, v, slopes, scale, do, initial_state, dfinal_state):  # type: ignore[no-untyped-def]
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
