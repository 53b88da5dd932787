"""Configs: values, order, digest, JSON."""

from __future__ import annotations

import dataclasses
import json

import pytest

from latune.config import Config


def config(**changes: object) -> Config:
    fields = {"choices": {"state": "transposed", "loads": "pointer"}, "constexprs": {"BLOCK_N": 64, "BLOCK_E": 128}}
    return Config.of("sequential", **{**fields, "num_warps": 8, "num_stages": 4, **changes})


def test_the_order_of_keys_does_not_matter() -> None:
    turned = config(choices={"loads": "pointer", "state": "transposed"}, constexprs={"BLOCK_E": 128, "BLOCK_N": 64})
    assert turned == config()
    assert turned.digest == config().digest


def test_the_digest_is_short_and_the_same_in_every_process() -> None:
    assert Config.of("sequential").digest == "f7b51bd060"
    assert len(config().digest) == 10


@pytest.mark.parametrize(
    "change",
    [
        {"choices": {"state": "plain", "loads": "pointer"}},
        {"choices": {"state": "transposed"}},
        {"constexprs": {"BLOCK_N": 32, "BLOCK_E": 128}},
        {"num_warps": 4},
        {"num_stages": 3},
        {"options": {"maxnreg": 128}},
    ],
)
def test_every_value_reaches_equality_and_digest(change: dict[str, object]) -> None:
    assert config(**change) != config()
    assert config(**change).digest != config().digest


def test_configs_are_frozen_hashable_and_ordered() -> None:
    narrow, wide = config(num_warps=4), config(num_warps=8)
    assert sorted({wide, narrow, config()}) == [narrow, wide]
    with pytest.raises(dataclasses.FrozenInstanceError):
        narrow.num_warps = 8


def test_json_round_trip() -> None:
    for original in (config(options={"maxnreg": 128}), Config.of("split")):
        assert Config.from_json(json.loads(json.dumps(original.to_json()))) == original


@pytest.mark.parametrize("fields", [{}, {"algorithm": "split", "num_wraps": 4}])
def test_missing_and_unknown_json_fields_are_type_errors(fields: dict[str, object]) -> None:
    with pytest.raises(TypeError):
        Config.from_json(fields)


def test_values_are_flat() -> None:
    values = config(options={"maxnreg": 128}).values()
    assert values == {
        "algorithm": "sequential",
        "state": "transposed",
        "loads": "pointer",
        "BLOCK_N": 64,
        "BLOCK_E": 128,
        "num_warps": 8,
        "num_stages": 4,
        "maxnreg": 128,
    }


def test_text_leads_with_the_algorithm() -> None:
    assert str(config()) == "sequential loads=pointer state=transposed BLOCK_E=128 BLOCK_N=64 num_warps=8 num_stages=4"
