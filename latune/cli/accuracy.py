"""How far an output is from its reference."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor


def relative_rms(output: Tensor, expected: Tensor) -> float:
    """||output - expected|| / ||expected|| over all elements, summed in float64 one batch at a time; NaN if any element is."""
    off = sum(_norm_squared(one.float() - other.float()) for one, other in zip(output, expected, strict=True))
    size = sum(_norm_squared(other.float()) for other in expected)
    return (off / size) ** 0.5 if size else float(off > 0)


def worst_head_rms(output: Tensor, expected: Tensor) -> float:
    """The largest ``relative_rms`` of a head, over the batch: heads that forget fast are small, and lost in that of all.

    Args:
        output: [B, H, rows, columns].
        expected: likewise.
    """
    return worst(relative_rms(output[:, head], expected[:, head]) for head in range(output.shape[1]))


def worst(errors: Iterable[float]) -> float:
    """The largest; NaN is worse than any number."""
    return max(errors, key=lambda error: (math.isnan(error), error))


def _norm_squared(part: Tensor) -> float:
    return float(torch.linalg.vector_norm(part, dtype=torch.float64).item()) ** 2
