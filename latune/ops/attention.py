"""``lightning_attn``: the operator a model calls."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import once_differentiable
from torch.nn import Parameter
from torch.nn.functional import pad

from latune.ops import kernels, memo, opaque, reference
from latune.ops.checks import check_arguments, check_scale, check_tangents
from latune.ops.kernels import Known
from latune.ops.recording import Tensors
from latune.problem import HEAD_DIM_STEP

_WITH_MEMORY = (Tensor, Parameter)
# Among the arguments of ``_LightningAttention``: k, v and initial_state.
_OF_THE_STATE = (1, 2, 5)


def lightning_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    slopes: Tensor | None = None,
    *,
    scale: float = 1.0,
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Causal linear attention with exponential decay (Lightning Attention-2, arXiv:2401.04658).

        o_t = scale * q_t^T S_t        S_t = exp(-s) S_{t-1} + k_t v_t^T

    The current token is not decayed. Differentiable in q, k, v and initial_state. On CUDA tensors it runs the kernels
    that the cache holds for this GPU; on CPU tensors the PyTorch reference.

    Args:
        q: [B, H, N, D], bf16, fp16 or fp32 (fp64 too on the CPU). Any strides; a last stride other than 1 costs a copy.
            1 <= D <= 256; a D that is no multiple of 16 is padded with zeros, at the cost of a copy.
        k: [B, H, N, D], q's dtype and device.
        v: [B, H, N, E], likewise; E as D.
        slopes: s, fp32, [H] or [H, 1, 1]; finite and s >= 0 (the log decay is -s), or None for no decay. Constant: no
            gradient. Its values are checked on CPU tensors only, since reading them from a GPU would synchronise it.
        scale: a number, finite in fp32 and not 0; constant: no gradient.
        initial_state: S_{-1}, [B, H, D, E], floating point; used in fp32 (with fp64 q, as it is).
        return_final_state: also return S_{N-1}.
        cu_seqlens: must be None; packed sequences are not supported.

    Returns:
        o [B, H, N, E] in q's dtype, in v's order of dimensions; with ``return_final_state`` also the final state, [B, H, D, E]
        in fp32 (fp64 for fp64). A NaN or an infinity in a token reaches its head's outputs from the start of that token's chunk
        on (at most 128 rows earlier), though not surely where the head's decay since is below 2^-64; never another head's.

    Raises:
        ValueError: an argument has a wrong shape, dtype, device or value; the message says what was expected, what
            came and what to do.
    """
    check_scale(scale)
    return_final_state = bool(return_final_state)
    try:
        known = _known(q, k, v, slopes, initial_state, return_final_state, cu_seqlens)
    except AttributeError:
        # Of what is no tensor, which this names.
        check_arguments(q, k, v, slopes, initial_state=initial_state, cu_seqlens=cu_seqlens)
        raise
    if known:
        outputs = _attend(q, k, v, slopes, float(scale), initial_state, return_final_state, known)
        return outputs if return_final_state else outputs[0]
    check_arguments(q, k, v, slopes, initial_state=initial_state, cu_seqlens=cu_seqlens)
    if initial_state is not None and q.dtype != torch.float64:
        initial_state = initial_state.to(torch.float32)
    if not q.is_cuda:
        o, final_state = reference.chunked(q, k, v, slopes, scale=scale, initial_state=initial_state)
        outputs = _laid_out_like(v, o), final_state
    else:
        check_tangents(q, k, v, initial_state)
        outputs = _padded(q, k, v, slopes, float(scale), initial_state, return_final_state)
    return outputs if return_final_state else outputs[0]


def _known(
    q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None, initial_state: Tensor | None, final: bool, cu_seqlens: Tensor | None
) -> Known | None:
    """What is known of a call whose like came as far as the kernels before, and so has nothing left to check or to prepare."""
    if torch.compiler.is_compiling() or not q.is_cuda or cu_seqlens is not None or forward_ad._current_level >= 0:
        return None
    if _is_watched() or (slopes is not None and slopes.requires_grad):
        return None
    return kernels.known_forward(q, k, v, slopes, initial_state, final)


def _padded(
    q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None, scale: float, initial_state: Tensor | None, final: bool
) -> Tensors:
    """``_attend`` on head dims that are multiples of 16; others gain columns of zeros, which add nothing."""
    if q.shape[0] == 0 or q.shape[1] == 0:
        return reference.chunked(q, k, v, slopes, scale=scale, initial_state=initial_state)
    extra_k, extra_v = -q.shape[-1] % HEAD_DIM_STEP, -v.shape[-1] % HEAD_DIM_STEP
    if not extra_k and not extra_v:
        return _attend(q, k, v, slopes, scale, initial_state, final)
    if initial_state is not None:
        initial_state = pad(initial_state, (0, extra_v, 0, extra_k))
    if extra_k:
        q, k = pad(q, (0, extra_k)), pad(k, (0, extra_k))
    if extra_v:
        v = pad(v, (0, extra_v))
    o, *final_state = _attend(q, k, v, slopes, scale, initial_state, final)
    width_k, width_v = q.shape[-1] - extra_k, v.shape[-1] - extra_v
    return o[..., :width_v], *(state[..., :width_k, :width_v] for state in final_state)


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    slopes: Tensor | None,
    scale: float,
    initial_state: Tensor | None,
    final: bool,
    known: Known | None = None,
) -> Tensors:
    """(o,), or (o, final_state) where that is wanted."""
    learns = (
        q.requires_grad or k.requires_grad or v.requires_grad or (initial_state is not None and initial_state.requires_grad)
    )
    if learns and torch.is_grad_enabled():
        return _LightningAttention.apply(q, k, v, slopes, scale, initial_state, final, known)
    return _forward(q, k, v, slopes, scale, initial_state, final, known)


class _LightningAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, slopes, scale, initial_state, final, known):  # type: ignore[no-untyped-def]
        passes = kernels if known else _passes(q, k, v, slopes, initial_state)
        outputs, kept = passes.forward_keeping(q, k, v, slopes, scale, initial_state, final, known)
        if kept is None and passes is kernels:
            key = known.key if known else memo.signature((q, k, v, slopes, initial_state), final)
            kept = memo.stand_in(key, q), None
        states, ctx.maker = kept or (None, None)
        if final and not any(ctx.needs_input_grad[index] for index in _OF_THE_STATE):
            ctx.mark_non_differentiable(outputs[1])
        ctx.save_for_backward(q, k, v, slopes, initial_state, states)
        ctx.scale = scale
        ctx.set_materialize_grads(False)
        return outputs

    @staticmethod
    def backward(ctx, *gradients):  # type: ignore[no-untyped-def]
        # In the usual backward pass nothing is recorded, and so nothing has to say that it cannot be differentiated again.
        run = once_differentiable(_backward) if torch.is_grad_enabled() else _backward
        return run(ctx, *gradients)


def _backward(ctx, do, dfinal_state=None):  # type: ignore[no-untyped-def]
    q, k, v, slopes, initial_state, states = ctx.saved_tensors
    if do is None and dfinal_state is None:
        return (None,) * 8
    do = torch.zeros_like(v) if do is None else do
    # States that an operator has made are known by its name.
    passes = opaque if isinstance(ctx.maker, str) else _passes(q, k, v, slopes, initial_state, do, dfinal_state)
    kept = None if ctx.maker is None else passes.Kept(states, ctx.maker)
    dq, dk, dv, *dstate = passes.backward(q, k, v, slopes, ctx.scale, do, initial_state, dfinal_state, kept)
    return dq, dk, dv, None, None, (dstate[0] if dstate else None), None, None


def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    slopes: Tensor | None,
    scale: float,
    initial_state: Tensor | None,
    final: bool,
    known: Known | None = None,
) -> Tensors:
    served = known and known.serve(scale, q, k, v, slopes, initial_state)
    return served or _passes(q, k, v, slopes, initial_state).forward(q, k, v, slopes, scale, initial_state, final)


def _passes(*tensors: Tensor | None) -> ModuleType:
    """The launches themselves; for a graph that is being traced, where what is called is watched, and for subclasses of
    Tensor, which need have no memory of their own, operators that PyTorch makes tensors with some for.
    """
    if torch.compiler.is_compiling() or _is_watched():
        return opaque
    return kernels if all(x is None or type(x) in _WITH_MEMORY for x in tensors) else opaque


def _is_watched() -> bool:
    """Whether a dispatch mode (of ``make_fx``, of selective checkpointing) or a transform of ``torch.func`` sees operators.

    Such a transform's tensors may be of class Tensor and have no memory.
    """
    return torch._C._len_torch_dispatch_stack() > 0 or torch._C._functorch.peek_interpreter_stack() is not None


def _laid_out_like(v: Tensor, o: Tensor) -> Tensor:
    """o in v's order of dimensions, as kernels write it."""
    wanted = torch.empty_like(v)
    return o if o.stride() == wanted.stride() else wanted.copy_(o)
