"""One shape of ``latune bench``: its inputs, and what is right for each function that a peer may compute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor

from latune import slopes as slopes_of
from latune.codegen.dtypes import TORCH_DTYPES
from latune.ops import reference
from latune.problem import Problem

LINEAR = "lightning attention"
SOFTMAX = "softmax attention"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One shape: inputs, and float64 references (kept in fp32) of o, dq, dk and dv by function; all [B, H, N, width]."""

    q: Tensor
    k: Tensor
    v: Tensor
    do: Tensor
    slopes: Tensor | None
    expected: Mapping[str, Mapping[str, Tensor]]

    @property
    def input_bytes(self) -> int:
        """Of what every pass reads."""
        return self.q.nbytes + self.k.nbytes + self.v.nbytes

    def clone(self) -> Case:
        """The same inputs elsewhere in memory."""
        return replace(self, q=self.q.clone(), k=self.k.clone(), v=self.v.clone(), do=self.do.clone())


def make_case(problem: Problem, device: torch.device, *, seed: int = 0) -> Case:
    """Random inputs, scaled so that outputs are of moderate size, ALiBi's slopes, and the references."""
    generator = torch.Generator(device).manual_seed(seed)

    def normal(features: int, width: int = 1) -> Tensor:
        rows = (problem.batch, problem.num_heads, problem.seqlen, features)
        return torch.randn(rows, generator=generator, device=device).mul_(width**-0.5).to(TORCH_DTYPES[problem.dtype])

    d, e = problem.head_dim_k, problem.head_dim_v
    q, k, v, do = normal(d), normal(d, d), normal(e), normal(e, e)
    slopes = None if problem.decay == "none" else slopes_of.alibi(problem.num_heads).to(device)
    expected = {LINEAR: _linear(q, k, v, do, slopes), SOFTMAX: _softmax(q, k, v, do)}
    return Case(q=q, k=k, v=v, do=do, slopes=slopes, expected=expected)


def _linear(q: Tensor, k: Tensor, v: Tensor, do: Tensor, slopes: Tensor | None) -> dict[str, Tensor]:
    """One batch at a time, so that the float64 of a long sequence fits."""
    expected = _empty(q, v)
    for index in range(len(q)):
        b_q, b_k, b_v, b_do = (tensor[index : index + 1].double() for tensor in (q, k, v, do))
        o, _ = reference.chunked(b_q, b_k, b_v, slopes)
        exact = (o, *reference.gradients(b_q, b_k, b_v, slopes, 1.0, b_do)[:3])
        for whole, part in zip(expected.values(), exact, strict=True):
            whole[index] = part[0]
    return expected


def _softmax(q: Tensor, k: Tensor, v: Tensor, do: Tensor) -> dict[str, Tensor]:
    """One head at a time."""
    expected = _empty(q, v)
    for head in product(range(q.shape[0]), range(q.shape[1])):
        exact = softmax_reference(*(tensor[head].double() for tensor in (q, k, v, do)))
        for whole, part in zip(expected.values(), exact, strict=True):
            whole[head] = part
    return expected


def _empty(q: Tensor, v: Tensor) -> dict[str, Tensor]:
    like = {"o": v, "dq": q, "dk": q, "dv": v}
    return {name: torch.empty_like(tensor, dtype=torch.float32) for name, tensor in like.items()}


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
