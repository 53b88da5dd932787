"""latune: an autotuner and code generator for Lightning Attention-2, and the operator its cache serves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from latune.config import Config
from latune.ops import slopes
from latune.ops.attention import lightning_attn
from latune.ops.dispatch import resolve
from latune.plan import Plan
from latune.problem import Problem

if TYPE_CHECKING:
    from latune.tuner.tune import tune

__all__ = ["Config", "Plan", "Problem", "lightning_attn", "resolve", "slopes", "tune"]


def __getattr__(name: str) -> object:
    # The tuner needs Optuna, which a model that only runs kernels should not pay for.
    if name == "tune":
        from latune.tuner.tune import tune

        return tune
    raise AttributeError(f"module 'latune' has no attribute {name!r}")
