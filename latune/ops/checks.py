"""Argument checks of ``lightning_attn``: shapes, dtypes and devices; values only where that costs no synchronisation."""

from __future__ import annotations

from numbers import Real

import torch
from torch import Tensor
from torch.autograd import forward_ad

from latune.codegen.dtypes import TORCH_DTYPES
from latune.problem import MAX_HEAD_DIM

_CUDA_DTYPES = tuple(TORCH_DTYPES.values())
_CPU_DTYPES = (*_CUDA_DTYPES, torch.float64)
_MOST_SCALE = torch.finfo(torch.float32).max


def check_scale(scale: float) -> None:
    """Raises ValueError for a scale that is no number, not finite in fp32, or 0."""
    # The abstract class takes 0.7 us to ask. A traced graph may have a symbol in its place.
    if not isinstance(scale, (float, int)) and not isinstance(scale, Real) and not torch.compiler.is_compiling():
        remedy = (
            "it is a constant without a gradient: pass scale.item()" if isinstance(scale, Tensor) else "leave it out for 1.0"
        )
        raise ValueError(f"scale: expected a number, got {_kind(scale)}; {remedy}")
    if not (-_MOST_SCALE <= scale <= _MOST_SCALE and scale != 0):
        raise ValueError(f"scale: expected a number other than 0 that is finite in fp32, got {scale}")


def check_arguments(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    slopes: Tensor | None,
    *,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> None:
    """Raises ValueError for the first argument that is wrong; see ``lightning_attn`` for what is right."""
    if cu_seqlens is not None:
        raise ValueError(
            f"cu_seqlens: expected None, got {_kind(cu_seqlens)}; packed sequences are not supported, call once a sequence"
        )
    _check_qkv(q, k, v)
    if slopes is not None:
        _check_slopes(slopes, q)
    if initial_state is not None:
        _check_state(initial_state, q, v)


def check_tangents(*tensors: Tensor | None) -> None:
    """Raises ValueError for a tensor that forward-mode AD has a tangent for: no kernel makes those of outputs."""
    if torch.compiler.is_compiling():
        return
    if any(x is not None and forward_ad.unpack_dual(x).tangent is not None for x in tensors):
        raise ValueError(
            "lightning_attn: expected tensors without tangents on cuda, got some of forward-mode AD; call it on the CPU"
        )


def _kind(x: object) -> str:
    return "a tensor" if isinstance(x, Tensor) else repr(x) if isinstance(x, (str, complex)) else type(x).__name__


def _check_dense(name: str, x: object) -> None:
    if not isinstance(x, Tensor):
        raise ValueError(f"{name}: expected a tensor, got {_kind(x)}; convert it with torch.as_tensor")
    if x.is_nested or x.layout != torch.strided:
        what = "a nested tensor" if x.is_nested else f"one of layout {x.layout}"
        raise ValueError(f"{name}: expected a dense tensor, got {what}; pad it, or call once a sequence")


def _check_qkv(q: Tensor, k: Tensor, v: Tensor) -> None:
    for name, x in (("q", q), ("k", k), ("v", v)):
        _check_dense(name, x)
        if x.dim() != 4:
            raise ValueError(f"{name}: expected 4 dimensions [B, H, N, width], got shape {list(x.shape)}; reshape it")
    if k.shape != q.shape:
        raise ValueError(f"k: expected q's shape {list(q.shape)}, got {list(k.shape)}; q and k share B, H, N and D")
    if v.shape[:3] != q.shape[:3]:
        raise ValueError(f"v: expected [B, H, N] of {list(q.shape[:3])} as in q, got shape {list(v.shape)}")
    for name, x in (("k", k), ("v", v)):
        _check_like_q(name, x, q)
    known = _CUDA_DTYPES if q.is_cuda else _CPU_DTYPES
    if q.dtype not in known:
        raise ValueError(
            f"q: expected dtype {', '.join(map(str, known))} on {q.device.type}, got {q.dtype}; convert q, k and v"
        )
    if q.device.type not in ("cuda", "cpu"):
        raise ValueError(f"q: expected a cuda or cpu tensor, got one on {q.device}; move q, k and v")
    if q.shape[2] < 1:
        raise ValueError(f"q: expected at least one token (N >= 1), got shape {list(q.shape)}")
    for name, x in (("q", q), ("v", v)):
        if not 1 <= x.shape[3] <= MAX_HEAD_DIM:
            remedy = "split the head or project it down" if x.shape[3] else "reshape it to [B, H, N, width]"
            raise ValueError(f"{name}: expected a head dim of 1 to {MAX_HEAD_DIM}, got {x.shape[3]}; {remedy}")


def _check_like_q(name: str, x: Tensor, q: Tensor) -> None:
    if x.dtype != q.dtype:
        raise ValueError(f"{name}: expected q's dtype {q.dtype}, got {x.dtype}; convert one of them: autocast does not here")
    if x.device != q.device:
        raise ValueError(f"{name}: expected q's device {q.device}, got {x.device}; move one of them")


def _check_slopes(slopes: Tensor, q: Tensor) -> None:
    _check_dense("slopes", slopes)
    heads = q.shape[1]
    if slopes.shape not in ((heads,), (heads, 1, 1)):
        turned = "; q looks like [B, N, H, D]: pass q, k and v as x.transpose(1, 2)" if slopes.numel() == q.shape[2] else ""
        wanted = f"[{heads}] or [{heads}, 1, 1], one a head of q"
        raise ValueError(f"slopes: expected shape {wanted}, got {list(slopes.shape)}{turned}")
    if slopes.dtype != torch.float32:
        remedy = "keep them out of model.to(dtype), since what is rounded stays so, or convert with slopes.float()"
        raise ValueError(f"slopes: expected dtype torch.float32, got {slopes.dtype}; {remedy}")
    if slopes.device != q.device:
        raise ValueError(f"slopes: expected q's device {q.device}, got {slopes.device}; move it once, outside the model's loop")
    if slopes.requires_grad and torch.is_grad_enabled():
        raise ValueError("slopes: expected a constant, got a tensor that requires grad; pass slopes.detach()")
    # A traced graph has no values to look at.
    if slopes.is_cuda or torch.compiler.is_compiling():
        return
    wrong = (~slopes.isfinite()).flatten().nonzero()
    if len(wrong):
        head = int(wrong[0])
        raise ValueError(
            f"slopes: expected finite values, got {slopes.flatten()[head]} for head {head}; no decay is 0, or None"
        )
    if not bool((slopes >= 0).all()):
        raise ValueError(
            f"slopes: expected values >= 0, got {slopes.min().item():g} to {slopes.max().item():g}; "
            "the state decays by exp(-slope): pass the negated log decay"
        )


def _check_state(initial_state: Tensor, q: Tensor, v: Tensor) -> None:
    _check_dense("initial_state", initial_state)
    shape = (*q.shape[:2], q.shape[3], v.shape[3])
    if initial_state.shape != shape:
        raise ValueError(f"initial_state: expected shape [B, H, D, E] = {list(shape)}, got {list(initial_state.shape)}")
    if not initial_state.is_floating_point():
        raise ValueError(f"initial_state: expected a floating-point dtype, got {initial_state.dtype}; use torch.float32")
    if initial_state.device != q.device:
        raise ValueError(f"initial_state: expected q's device {q.device}, got {initial_state.device}; move it")
