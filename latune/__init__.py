"""latune: an autotuner and code generator for Lightning Attention-2, and the operator its cache serves."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from latune.config import Config
from latune.plan import Plan
from latune.problem import Problem

if TYPE_CHECKING:
    from latune.ops import slopes
    from latune.ops.attention import lightning_attn
    from latune.ops.dispatch import resolve
    from latune.tuner.tune import tune

__all__ = ["Config", "Plan", "Problem", "lightning_attn", "resolve", "slopes", "tune"]

# Imported when first asked for: PyTorch takes seconds, which what only reads caches or generates code should not pay for, and
# the tuner needs Optuna, which a model that only runs kernels should not.
_MODULES = {
    "lightning_attn": "latune.ops.attention",
    "resolve": "latune.ops.dispatch",
    "slopes": "latune.ops.slopes",
    "tune": "latune.tuner.tune",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'latune' has no attribute {name!r}")
    module = import_module(_MODULES[name])
    found = globals()[name] = module if name == "slopes" else getattr(module, name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
