"""Slopes against the values their sources define."""

from __future__ import annotations

import math

import pytest
import torch

from latune.ops import slopes

TINY = 1e-5


def close(actual: torch.Tensor, expected: list[float]) -> bool:
    return torch.allclose(actual, torch.tensor(expected), rtol=2e-7, atol=0)


def test_slopes_have_values_whatever_the_default_device_is() -> None:
    with torch.device("meta"):
        assert slopes.alibi(8).tolist() == [2.0**-i for i in range(1, 9)]


def test_alibi_of_a_power_of_two() -> None:
    assert slopes.alibi(8).tolist() == [2.0**-power for power in range(1, 9)]
    assert slopes.alibi(1).tolist() == [2.0**-8]


def test_alibi_of_other_head_counts_borrows_from_the_doubled_set() -> None:
    assert close(slopes.alibi(3), [2**-4, 2**-8, 2**-2])
    assert slopes.alibi(12)[:8].tolist() == slopes.alibi(8).tolist()
    assert slopes.alibi(12)[8:].tolist() == slopes.alibi(16)[0:8:2].tolist()


@pytest.mark.parametrize(
    ("rule", "layer", "num_layers", "factor"),
    [
        ("tnl", 0, 24, 1 + TINY),
        ("tnl", 23, 24, TINY),
        ("tnl", 6, 25, 0.75 + TINY),
        ("minimax", 6, 25, 0.75 + TINY),
        ("minimax", 0, 1, 1 + TINY),
        ("minimax_hf", 0, 1, 1 + TINY),
        ("minimax_hf", 6, 25, 1 - 6 / (24 + TINY) + TINY),
        ("bailing", 0, 25, 1 + 1 / 24 + TINY),
        ("bailing", 24, 25, 1 / 24 + TINY),
    ],
)
def test_layer_factors(rule: str, layer: int, num_layers: int, factor: float) -> None:
    actual = slopes.alibi(4, layer=layer, num_layers=num_layers, rule=rule)
    assert close(actual, [factor * 2 ** (-2 * head) for head in range(1, 5)])


def test_minimax_of_hugging_face_is_geometric_for_every_head_count() -> None:
    expected = [(2 ** (-8 / 12)) ** (head + 1) for head in range(12)]
    assert close(slopes.alibi(12, rule="minimax_hf"), expected)
    assert not torch.equal(slopes.alibi(12, rule="minimax_hf"), slopes.alibi(12))


def test_retnet_decays_by_one_minus_a_power() -> None:
    assert close(slopes.retnet(4), [-math.log(1 - 2.0 ** (-5 - head)) for head in range(4)])
    assert (slopes.retnet(64) > 0).all()  # 1 - 2^-68 rounds to 1: needs log1p


def test_fla_lightning_leaves_head_zero_undecayed() -> None:
    assert close(slopes.fla_lightning(4, layer=3, num_layers=12), [0.0, 1.5, 3.0, 4.5])
    assert slopes.fla_lightning(4, layer=11, num_layers=12)[0] == 0


@pytest.mark.parametrize("num_heads", [1, 3, 32, 40, 64])
@pytest.mark.parametrize("layer", [0, 1, 31])
def test_all_slopes_are_fp32_on_the_cpu_and_not_negative(num_heads: int, layer: int) -> None:
    families = [slopes.alibi(num_heads, layer=layer, num_layers=32, rule=rule) for rule in slopes._LAYER_FACTORS]
    families += [slopes.alibi(num_heads), slopes.retnet(num_heads)]
    families += [slopes.fla_lightning(num_heads, layer=layer, num_layers=32)]
    for tensor in families:
        assert (tensor.shape, tensor.dtype, tensor.device.type) == ((num_heads,), torch.float32, "cpu")
        assert tensor.is_contiguous()
        assert (tensor >= 0).all() and torch.isfinite(tensor).all()


def test_the_default_dtype_does_not_leak_in() -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        assert slopes.alibi(6).dtype == torch.float32
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_heads": 0}, "num_heads >= 1, got 0"),
        ({"num_heads": 4, "layer": 1}, "layer and num_layers together"),
        ({"num_heads": 4, "num_layers": 8}, "layer and num_layers together"),
        ({"num_heads": 4, "layer": 8, "num_layers": 8}, "layer=8, num_layers=8"),
        ({"num_heads": 4, "layer": -1, "num_layers": 8}, "layer=-1"),
        ({"num_heads": 4, "rule": "llama"}, "tnl, minimax, minimax_hf, bailing, got 'llama'"),
        ({"num_heads": 4, "layer": 0, "num_layers": 1}, "num_layers >= 2, got 1"),
        ({"num_heads": 4, "layer": 0, "num_layers": 1, "rule": "bailing"}, "num_layers >= 2, got 1"),
    ],
)
def test_alibi_refuses(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        slopes.alibi(**arguments)


def test_the_others_refuse_too() -> None:
    with pytest.raises(ValueError, match="num_heads >= 1"):
        slopes.retnet(0)
    with pytest.raises(ValueError, match="num_heads >= 1"):
        slopes.fla_lightning(-1, layer=0, num_layers=1)
    with pytest.raises(ValueError, match="layer=2, num_layers=2"):
        slopes.fla_lightning(4, layer=2, num_layers=2)
