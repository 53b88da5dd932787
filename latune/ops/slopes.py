"""The slopes of known models: s >= 0 with l = exp(-s), one a head.

Every function returns a contiguous fp32 CPU tensor [H], computed in float64. Layers count from 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor


def alibi(num_heads: int, *, layer: int | None = None, num_layers: int | None = None, rule: str = "tnl") -> Tensor:
    """ALiBi slopes, made shallower with depth when a layer is given.

    For H a power of two, s_h = 2^(-8(h+1)/H); else the slopes of the next lower power of two, then every other
    slope of twice that power (ALiBi's rule). ``rule`` names the model family whose layer factor multiplies them,
    for layer l of L:

        tnl         1 - l/(L-1) + 1e-5           TransNormerLLM and lightning-attention (OpenNLPLab); L >= 2
        minimax     the same; 1 + 1e-5 for L = 1   MiniMax as served by vLLM and SGLang
        minimax_hf  1 - l/(L-1+1e-5) + 1e-5      MiniMax in Hugging Face transformers, whose slopes are
                                                 (2^(-8/H))^(h+1) for every H, with or without a layer
        bailing     1 - (l-1)/(L-1) + 1e-5       Bailing / Ling, which store -s as a log decay; L >= 2

    Args:
        num_heads: H, of the whole model: slice the result for tensor parallelism.
        layer: l, 0 <= l < num_layers; None leaves the factor out.
        num_layers: L; given together with ``layer`` or not at all.
        rule: one of the names above.

    Raises:
        ValueError: an argument is out of range, ``layer`` comes without ``num_layers``, or the rule is unknown.
    """
    _check_heads(num_heads)
    if rule not in _LAYER_FACTORS:
        raise ValueError(f"alibi: expected rule to be one of {', '.join(_LAYER_FACTORS)}, got {rule!r}")
    slopes = _geometric(num_heads) if rule == "minimax_hf" else _alibi(num_heads)
    factor = 1.0
    if layer is not None or num_layers is not None:
        _check_layer(layer, num_layers)
        factor = _LAYER_FACTORS[rule](layer, num_layers)  # type: ignore[arg-type]
    return _tensor(slope * factor for slope in slopes)


def retnet(num_heads: int) -> Tensor:
    """RetNet: l = 1 - 2^(-5-h), hence s = -log(1 - 2^(-5-h)) for head h.

    Raises:
        ValueError: ``num_heads`` is below 1.
    """
    _check_heads(num_heads)
    return _tensor(-math.log1p(-(2.0 ** (-5 - head))) for head in range(num_heads))


def fla_lightning(num_heads: int, *, layer: int, num_layers: int) -> Tensor:
    """flash-linear-attention's ``lightning_attn``: s = (8/H) h (1 - l/L); head 0 does not decay.

    Args:
        num_heads: H.
        layer: l, 0 <= l < num_layers.
        num_layers: L.

    Raises:
        ValueError: an argument is out of range.
    """
    _check_heads(num_heads)
    _check_layer(layer, num_layers)
    return _tensor(8.0 / num_heads * head * (1.0 - layer / num_layers) for head in range(num_heads))


def _geometric(num_heads: int) -> list[float]:
    return [2.0 ** (-8.0 * (head + 1) / num_heads) for head in range(num_heads)]


def _alibi(num_heads: int) -> list[float]:
    power = 1 << (num_heads.bit_length() - 1)
    every_other = _geometric(2 * power)[0::2]
    return _geometric(power) + every_other[: num_heads - power]


def _tnl_factor(layer: int, num_layers: int) -> float:
    return 1.0 - layer / _layers_below_first(num_layers) + 1e-5


def _minimax_factor(layer: int, num_layers: int) -> float:
    return 1.0 + 1e-5 if num_layers == 1 else _tnl_factor(layer, num_layers)


def _minimax_hf_factor(layer: int, num_layers: int) -> float:
    return 1.0 - layer / (num_layers - 1 + 1e-5) + 1e-5


def _bailing_factor(layer: int, num_layers: int) -> float:
    return 1.0 - (layer - 1) / _layers_below_first(num_layers) + 1e-5


def _layers_below_first(num_layers: int) -> int:
    if num_layers < 2:
        raise ValueError(f"slopes: this rule divides by num_layers - 1: expected num_layers >= 2, got {num_layers}")
    return num_layers - 1


_LAYER_FACTORS: Mapping[str, Callable[[int, int], float]] = {
    "tnl": _tnl_factor,
    "minimax": _minimax_factor,
    "minimax_hf": _minimax_hf_factor,
    "bailing": _bailing_factor,
}


def _check_heads(num_heads: int) -> None:
    if num_heads < 1:
        raise ValueError(f"slopes: expected num_heads >= 1, got {num_heads}")


def _check_layer(layer: int | None, num_layers: int | None) -> None:
    if layer is None or num_layers is None:
        raise ValueError(f"slopes: expected layer and num_layers together, got layer={layer}, num_layers={num_layers}")
    if not 0 <= layer < num_layers:
        raise ValueError(f"slopes: expected 0 <= layer < num_layers, got layer={layer}, num_layers={num_layers}")


def _tensor(slopes: Iterable[float]) -> Tensor:
    # Whatever the default device is while a model is built.
    return torch.tensor(list(slopes), dtype=torch.float64, device="cpu").to(torch.float32)
