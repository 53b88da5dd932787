"""What an entry says of its measurement, and what the tuner would not have written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from entries import valid_entry

from latune.cache.entry import Entry
from latune.cache.resolve import default_plan
from latune.cache.store import cache_path, read_file
from latune.gpu import CATALOGUE, Gpu, find_gpu
from latune.measurement import Measurement
from latune.problem import Problem
from latune.tuner.evidence import contradictions
from latune.tuner.timing import roof_ms

H200 = find_gpu("h200")
PROBLEM = Problem(
    direction="bwd", decay="constant", dtype="bf16", batch=1, num_heads=4, seqlen=256, head_dim_k=64, head_dim_v=64
)
FOLDER = Path(__file__).resolve().parents[2] / "cache"
SHIPPED = [gpu for gpu in CATALOGUE if cache_path(FOLDER, gpu).is_file()]
PLAN = default_plan(PROBLEM, H200)
PEAK_ROOF_MS = roof_ms(PROBLEM.compulsory_bytes, H200.bandwidth_gbps)


def entry(**changes: object) -> Entry:
    return valid_entry(PROBLEM, PLAN, **changes)


def measured(**changes: object) -> Entry:
    sound = entry()
    return replace(sound, measurement=replace(sound.measurement, **changes))


def with_protocol(protocol: str | None, evidence: str) -> Entry:
    sound = entry(evidence=evidence)
    return replace(sound, toolchain={**sound.toolchain, "protocol": protocol})


@pytest.mark.parametrize("evidence", ["measured", "transferred", "static"])
def test_a_sound_entry_contradicts_nothing(evidence: str) -> None:
    assert contradictions(entry(evidence=evidence), H200) == []


@pytest.mark.parametrize("gpu", SHIPPED, ids=lambda gpu: gpu.name)
def test_the_shipped_entries_contradict_nothing(gpu: Gpu) -> None:
    entries = read_file(cache_path(FOLDER, gpu), gpu).entries.values()
    assert {str(entry.bucket): found for entry in entries if (found := contradictions(entry, gpu))} == {}


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (with_protocol("static-2", "measured"), "expected a protocol measured-N for evidence 'measured', got 'static-2'"),
        (with_protocol("measured-2", "static"), "expected a protocol static-N for evidence 'static', got 'measured-2'"),
        (with_protocol(None, "transferred"), "expected a protocol measured-N for evidence 'transferred', got None"),
        (entry(roof_ms=0.4), "faster than physics: 0.3 ms, where moving its bytes takes 0.4 ms"),
        (entry(roof_ms=0.4, evidence="static"), "faster than physics: 0.3 ms, where moving its bytes takes 0.4 ms"),
        (measured(ci_low_ms=None), "expected an interval around its median of 0.3 ms, got None to 0.31 ms"),
        (measured(ci_low_ms=0.305), "expected an interval around its median of 0.3 ms, got 0.305 to 0.31 ms"),
        (measured(ci_high_ms=0.2), "expected an interval around its median of 0.3 ms, got 0.29 to 0.2 ms"),
        (measured(errors=(("dq", 0.002),)), "expected an error for each output, got none for dk, dv"),
        (
            measured(errors=(("dk", 0.002), ("dq", 0.02), ("dv", 0.002))),
            "wrong result: expected an RMS error of at most 0.01 of dq, got 0.02",
        ),
        (
            entry(evidence="static", measurement=Measurement(outcome="ok", median_ms=0.3, ci_low_ms=0.3)),
            "expected neither errors nor an interval of what no sample was taken of",
        ),
        (
            entry(evidence="static", measurement=Measurement(outcome="ok", median_ms=0.3, errors=(("dq", 0.0),))),
            "expected neither errors nor an interval of what no sample was taken of",
        ),
    ],
)
def test_what_the_tuner_would_not_have_written_is_told(wrong: Entry, why: str) -> None:
    assert contradictions(wrong, H200) == [why]


@pytest.mark.parametrize(("share", "sound"), [(0.9, False), (1.0, True)])
def test_without_a_roof_the_peak_bandwidth_makes_one(share: float, sound: bool) -> None:
    median_ms = share * PEAK_ROOF_MS
    fast = measured(median_ms=median_ms, ci_low_ms=median_ms, ci_high_ms=median_ms)
    assert (contradictions(replace(fast, roof_ms=None), H200) == []) == sound
