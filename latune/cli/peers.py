"""What ``latune bench`` sets latune beside: PyTorch, and packages that compute the same function, where installed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from latune.ops import reference
from latune.ops.attention import lightning_attn

Operator = Callable[[Tensor, Tensor, Tensor], Tensor]
"""q, k, v -> o, all in the peer's layout."""

LINEAR = "lightning attention"
SOFTMAX = "softmax attention"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One implementation.

    Attributes:
        name: as the table has it.
        function: what it computes, ``LINEAR`` or (another function, for comparison of speed alone) ``SOFTMAX``.
        layout: of the tensors it works on without copies: ``BHND`` or ``BNHD``.
        load: imports it and prepares it for slopes [H] or None; what it returns is timed.
        package: whose version tells what was timed.
    """

    name: str
    function: str
    layout: str
    load: Callable[[Tensor | None], Operator]
    package: str

    @property
    def version(self) -> str | None:
        try:
            return version(self.package)
        except PackageNotFoundError:
            return None

    def arrange(self, tensor: Tensor) -> Tensor:
        """A [B, H, N, width] tensor in the peer's layout, contiguous."""
        return tensor if self.layout == "BHND" else tensor.transpose(1, 2).contiguous()

    def restore(self, tensor: Tensor) -> Tensor:
        """The inverse of ``arrange``, as a view."""
        return tensor if self.layout == "BHND" else tensor.transpose(1, 2)


def _latune(slopes: Tensor | None) -> Operator:
    return lambda q, k, v: lightning_attn(q, k, v, slopes)  # type: ignore[return-value]


def _fla(slopes: Tensor | None) -> Operator:
    from fla.ops.simple_gla import chunk_simple_gla

    g_gamma = None if slopes is None else -slopes
    return lambda q, k, v: chunk_simple_gla(q, k, v, g_gamma=g_gamma, scale=1.0)[0]


def _lightning_attn(slopes: Tensor | None) -> Operator:
    from lightning_attn.ops import lightning_attn_func

    s = None if slopes is None else slopes.reshape(-1, 1, 1)
    return lambda q, k, v: lightning_attn_func(q, k, v, s)


def _chunked(slopes: Tensor | None) -> Operator:
    return lambda q, k, v: reference.chunked(q, k, v, slopes)[0]


def _quadratic(slopes: Tensor | None) -> Operator:
    return lambda q, k, v: reference.quadratic(q, k, v, slopes)[0]


def _sdpa(backend: SDPBackend) -> Callable[[Tensor | None], Operator]:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(q, k, v, is_causal=True)

    return lambda _: attend


# The hungriest last: what runs out of memory has cost no one else theirs.
PEERS: Sequence[Peer] = (
    Peer(name="latune", function=LINEAR, layout="BHND", load=_latune, package="latune"),
    Peer(name="fla chunk_simple_gla", function=LINEAR, layout="BNHD", load=_fla, package="fla-core"),
    Peer(name="lightning_attn", function=LINEAR, layout="BHND", load=_lightning_attn, package="lightning-attn"),
    Peer(name="SDPA flash", function=SOFTMAX, layout="BHND", load=_sdpa(SDPBackend.FLASH_ATTENTION), package="torch"),
    Peer(name="SDPA cuDNN", function=SOFTMAX, layout="BHND", load=_sdpa(SDPBackend.CUDNN_ATTENTION), package="torch"),
    Peer(name="PyTorch chunked", function=LINEAR, layout="BHND", load=_chunked, package="torch"),
    Peer(name="PyTorch quadratic", function=LINEAR, layout="BHND", load=_quadratic, package="torch"),
)


def softmax_reference(q: Tensor, k: Tensor, v: Tensor, do: Tensor, rows: int = 1024) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Causal softmax attention of scale D^-0.5 and its gradients, some rows at a time.

    Args:
        q: [N, D] of one head, as k; v and do [N, E]. Float64.
        rows: of the score matrix that are alive at once; the result does not depend on it.

    Returns:
        o, dq, dk, dv.
    """
    scale = q.shape[-1] ** -0.5
    o, dq, dk, dv = torch.empty_like(v), torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for start in range(0, len(q), rows):
        part, seen = slice(start, start + rows), slice(min(start + rows, len(q)))
        hidden = torch.ones(len(q[part]), seen.stop, dtype=torch.bool, device=q.device).triu(start + 1)
        weights = (scale * q[part] @ k[seen].mT).masked_fill(hidden, -torch.inf).softmax(-1)
        o[part] = weights @ v[seen]
        dweights = do[part] @ v[seen].mT
        dscores = weights * (dweights - (do[part] * o[part]).sum(-1, keepdim=True))
        dq[part] = scale * dscores @ k[seen]
        dk[seen] += scale * dscores.mT @ q[part]
        dv[seen] += weights.mT @ do[part]
    return o, dq, dk, dv
