"""How each peer of ``latune bench`` is loaded; everything that is not its own work is done here, before it is timed."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from latune.cli.benchmark.case import Case
from latune.ops import reference
from latune.ops.attention import lightning_attn

Operator = Callable[[Tensor, Tensor, Tensor], Tensor]
"""q, k, v -> o, all in the peer's layout."""

Load = Callable[[Case], Operator]
"""Imports a peer and prepares it for the case's shape and slopes."""

# From 17 on a sigmoid is 1 in fp32; its logarithm, -4e-18 here, adds up to nothing over any sequence.
_SATURATED = 40.0
_MLSTM_CHUNK = 128
_MAX_INT32 = 2**31 - 1


def latune_itself(case: Case) -> Operator:
    return lambda q, k, v: lightning_attn(q, k, v, case.slopes)  # type: ignore[return-value]


def fla_chunk(case: Case) -> Operator:
    chunk_simple_gla = _simple_gla().chunk_simple_gla
    g_gamma = _log_decay(case)
    return lambda q, k, v: chunk_simple_gla(q, k, v, g_gamma=g_gamma, scale=1.0)[0]


def fla_fused_chunk(case: Case) -> Operator:
    fused_chunk_simple_gla = _simple_gla().fused_chunk_simple_gla
    _check_offset(max(case.q[1:].numel(), case.v[1:].numel()))
    g_gamma = _log_decay(case)
    return lambda q, k, v: fused_chunk_simple_gla(q, k, v, g_gamma=g_gamma, scale=1.0)[0]


def _simple_gla() -> ModuleType:
    """fla's operators, autotuned in this very run: the choices of earlier ones are on disk, perhaps made on a busy GPU."""
    os.environ.setdefault("FLA_CACHE_RESULTS", "0")
    from fla.ops import simple_gla

    return simple_gla


def _log_decay(case: Case) -> Tensor | None:
    return None if case.slopes is None else -case.slopes


def mlstm(case: Case) -> Operator:
    """The mLSTM with sigmoid input gate, without its normaliser: S_t = sigmoid(f_t) S_(t-1) + sigmoid(i_t) k_t v_t^T.

    It reads o_t = D^-0.5 q_t^T S_t: q comes in times ``mlstm_query_factor``, and the input gate takes off what that is too
    much. Its gates' gradients are part of its backward pass.
    """
    from mlstm_kernels.torch.chunkwise.triton_xl_chunk_siging import mlstm_siging_chunkwise__xl_chunk

    _check_offset(_mlstm_largest_offset(case))
    i, f = mlstm_gates(case.q, case.slopes)
    # Its gates are compiled for the first few shapes of a process and then run eagerly: each shape starts afresh.
    torch.compiler.reset()
    return lambda q, k, v: mlstm_siging_chunkwise__xl_chunk(q, k, v, i, f, normalize=False, chunk_size=_MLSTM_CHUNK)


def mlstm_query_factor(head_dim: int) -> float:
    """The power of two at or above D^0.5, so that the product with q is exact."""
    return 2.0 ** math.ceil(math.log2(head_dim) / 2)


def mlstm_gates(q: Tensor, slopes: Tensor | None) -> tuple[Tensor, Tensor]:
    """Preactivations of the input and the forget gate, fp32 [B, H, N], whose sigmoids are D^0.5 / factor and exp(-slope)."""
    batch, num_heads, seqlen, head_dim = q.shape
    share = torch.tensor(head_dim**0.5 / mlstm_query_factor(head_dim), dtype=torch.float64, device=q.device)
    s = torch.zeros(num_heads, device=q.device) if slopes is None else slopes
    shape = (batch, num_heads, seqlen)
    i, f = _logit(share.log()).expand(shape), _logit(-s.double())[:, None].expand(shape)
    return i.float().contiguous(), f.float().contiguous()


def _logit(log_probability: Tensor) -> Tensor:
    """log(p / (1 - p)) from log p, at most ``_SATURATED``."""
    return (log_probability - (-log_probability.expm1()).log()).clamp(max=_SATURATED)


def _mlstm_largest_offset(case: Case) -> int:
    """Of the last head, in elements: into its chunks' states, kept in one tensor, or into the inputs."""
    batch, num_heads, seqlen, head_dim_k = case.q.shape
    head_dim_v = case.v.shape[-1]
    chunks = seqlen // _MLSTM_CHUNK + 1
    return (batch * num_heads - 1) * max(chunks * head_dim_k * head_dim_v, seqlen * max(head_dim_k, head_dim_v))


def _check_offset(elements: int) -> None:
    """Whether a peer's 32-bit offsets reach; where they overflow, an illegal access spoils the whole process.

    Raises:
        ValueError: they do not.
    """
    if elements > _MAX_INT32:
        raise ValueError(f"its 32-bit offsets would have to reach {elements} elements: too large a shape for it")


def lightning_attn_package(case: Case) -> Operator:
    from lightning_attn.ops import lightning_attn_func

    s = None if case.slopes is None else case.slopes.reshape(-1, 1, 1)
    return lambda q, k, v: lightning_attn_func(q, k, v, s)


def pytorch_chunked(case: Case) -> Operator:
    return lambda q, k, v: reference.chunked(q, k, v, case.slopes)[0]


def pytorch_quadratic(case: Case) -> Operator:
    return lambda q, k, v: reference.quadratic(q, k, v, case.slopes)[0]


def sdpa(backend: SDPBackend) -> Load:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(q, k, v, is_causal=True)

    return lambda _: attend
