"""Measurements: outcomes as data."""

from __future__ import annotations

import json

import pytest

from latune.measurement import OUTCOMES, Measurement


def timed(**changes: object) -> Measurement:
    fields = {"outcome": "ok", "median_ms": 0.3, "ci_low_ms": 0.29, "ci_high_ms": 0.31, "samples": 50}
    return Measurement(**{**fields, "errors": (("dk", 2e-3), ("dq", 1e-3)), **changes})


def test_the_vocabulary_of_outcomes_is_fixed() -> None:
    failures = {"constraint", "compile_error", "out_of_resources", "wrong_result", "illegal_access", "timeout"}
    assert set(OUTCOMES) == failures | {"ok", "faster_than_physics"}


def test_an_unknown_outcome_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="faster_than_physics, got 'crashed'"):
        Measurement(outcome="crashed")


@pytest.mark.parametrize("median_ms", [None, 0.0, -1.0])
def test_ok_needs_a_time(median_ms: float | None) -> None:
    with pytest.raises(ValueError, match="median_ms > 0"):
        timed(median_ms=median_ms)


@pytest.mark.parametrize("outcome", [outcome for outcome in OUTCOMES if outcome != "ok"])
def test_a_failure_needs_no_time(outcome: str) -> None:
    failed = Measurement(outcome=outcome, detail="why")
    assert not failed.ok
    assert (failed.median_ms, failed.samples, failed.errors) == (None, 0, ())
    assert timed().ok


@pytest.mark.parametrize("original", [timed(), Measurement(outcome="timeout", detail="60 s"), timed(errors=())])
def test_json_round_trip(original: Measurement) -> None:
    assert Measurement.from_json(json.loads(json.dumps(original.to_json()))) == original


def test_errors_are_a_mapping_in_json() -> None:
    assert timed().to_json()["errors"] == {"dk": 2e-3, "dq": 1e-3}


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({}, TypeError),
        ({"outcome": "timeout", "median_us": 3.0}, TypeError),
        ({"outcome": "ok"}, ValueError),
        ({"outcome": "crashed"}, ValueError),
    ],
)
def test_malformed_json_is_refused(fields: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        Measurement.from_json(fields)
