"""An entry: what it says survives JSON, and what is wrong in it is named."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace

import pytest
from documents import MISSING, changed

from latune.cache.entry import Entry, utc_now
from latune.cache.standing import Standing
from latune.errors import RenderError
from latune.measurement import Measurement
from latune.plan import Plan
from latune.problem import Problem

EntryOf = Callable[..., Entry]
PlanOf = Callable[..., Plan]
ProblemOf = Callable[..., Problem]


def through_text(entry: Entry) -> Entry:
    return Entry.from_json(json.loads(json.dumps(entry.to_json(), allow_nan=False)))


@pytest.mark.parametrize("direction", ["fwd", "bwd"])
@pytest.mark.parametrize("evidence", ["measured", "transferred", "static"])
def test_an_entry_survives_json(entry_of: EntryOf, problem_of: ProblemOf, direction: str, evidence: str) -> None:
    entry = entry_of(problem_of(direction=direction, seqlen=3000, has_initial_state=True), evidence=evidence)
    assert through_text(entry) == entry


def test_an_entry_of_a_machine_without_a_gpu_survives_json(entry_of: EntryOf) -> None:
    toolchain = {**entry_of().toolchain, "cuda": None, "driver": None}
    entry = entry_of(evidence="static", roof_ms=None, alternates=(), toolchain=toolchain)
    assert through_text(entry) == entry


def test_how_its_winner_stands_survives_json_and_may_not_be_known(entry_of: EntryOf) -> None:
    """Files of an older latune say nothing of it."""
    entry = entry_of(standing=Standing(rivals=11, ties=2, certainty=0.97))
    assert through_text(entry) == entry
    assert "standing" not in entry_of().to_json()


def test_an_entry_is_hashable_and_can_be_sent_to_another_process(entry_of: EntryOf) -> None:
    entry = entry_of()
    assert hash(pickle.loads(pickle.dumps(entry))) == hash(entry)


def test_the_problem_is_the_one_tuned_on(entry_of: EntryOf, problem_of: ProblemOf) -> None:
    problem = problem_of(batch=3, num_heads=10, seqlen=5000, needs_final_state=True)
    assert entry_of(problem).problem == problem


def test_an_entry_is_current_when_its_bucket_and_plan_still_give_its_code(entry_of: EntryOf) -> None:
    entry = entry_of()
    code = {(entry.bucket, entry.plan): entry.template_sha256}
    assert entry.is_current(lambda bucket, plan: code[bucket, plan])
    assert not entry.is_current(lambda bucket, plan: "b" * 64)


def test_an_entry_that_can_no_longer_be_rendered_is_not_current(entry_of: EntryOf) -> None:
    def refuse(*_: object) -> str:
        raise RenderError("no BLOCK_N")

    assert not entry_of().is_current(refuse)


def test_utc_now_is_what_an_entry_accepts(entry_of: EntryOf) -> None:
    assert entry_of(tuned_at=utc_now()).tuned_at.endswith("Z")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("extra",), 1, "entry: unknown key 'extra'"),
        (("study",), MISSING, "entry: key 'study' is missing"),
        (("study",), None, "entry.study: expected a string"),
        (("evidence",), "guessed", "evidence: expected one of measured, transferred, static, got 'guessed'"),
        (("roof_ms",), float("nan"), "entry.roof_ms: expected a finite number"),
        (("roof_ms",), 10**400, "entry.roof_ms: expected a finite number"),
        (("roof_ms",), True, "entry.roof_ms: expected a finite number"),
        (("roof_ms",), "0.2", "entry.roof_ms: expected a finite number"),
        (("tuned_at",), "2026-01-31T12:00:00+01:00", "tuned_at: expected UTC time"),
        (("bucket",), [], "entry.bucket: expected an object"),
        (("bucket", "seqlen"), 4096.0, "entry.bucket.seqlen: expected an integer"),
        (("bucket", "seqlen"), True, "entry.bucket.seqlen: expected an integer"),
        (("bucket", "varlen"), 0, "entry.bucket.varlen: expected true or false"),
        (("bucket", "dtype"), "fp8", "entry.bucket: problem: expected dtype"),
        (("bucket", "seqlen"), 8192, "bucket: expected that of the shape tuned on"),
        (("shape", "batch"), 0, "entry.shape.batch: expected an integer >= 1"),
        (("shape", "length"), 1, "entry.shape: unknown key 'length'"),
        (("plan",), {}, "entry.plan: expected a list"),
        (("plan",), [], "plan: expected the kernels o for direction 'fwd', got none"),
        (("plan", 0, "kernel"), "oo", "entry.plan\\[0\\]: plan: expected a kernel"),
        (("plan", 0, "kernel"), "dq", "plan: expected the kernels o for direction 'fwd', got dq"),
        (("plan", 0, "config", "num_warps"), 0, "entry.plan\\[0\\].config.num_warps: expected an integer >= 1"),
        (
            ("plan", 0, "config", "constexprs", "BLOCK_N"),
            "64",
            "entry.plan\\[0\\].config.constexprs.BLOCK_N: expected an integer",
        ),
        (("plan", 0, "config", "choices", "state"), 1, "entry.plan\\[0\\].config.choices.state: expected a string"),
        (("plan", 0, "config", "num_ctas"), 1, "entry.plan\\[0\\].config: unknown key 'num_ctas'"),
        (("alternates", 0), [], "alternates\\[0\\]: expected the kernels o"),
        (("measurement", "outcome"), "fine", "entry.measurement: measurement: expected outcome"),
        (("measurement", "outcome"), "timeout", "measurement.outcome: expected 'ok'"),
        (("measurement", "median_ms"), float("inf"), "entry.measurement.median_ms: expected a finite number"),
        (("measurement", "errors", "o"), float("nan"), "entry.measurement.errors.o: expected a finite number"),
        (("measurement", "samples"), 0, "measurement.samples: expected at least 1 for evidence 'measured'"),
        (("standing",), None, "entry.standing: expected an object, got None"),
        (("standing",), {"rivals": 1, "ties": 0}, "entry.standing: key 'certainty' is missing"),
        (("standing",), {"rivals": 1, "ties": 2, "certainty": 1}, "entry.standing: ties: expected 0 to 1"),
        (
            ("standing",),
            {"rivals": 1, "ties": 0, "certainty": 1.5},
            "certainty: expected a probability, got 1.5",
        ),
        (("resources", 0, "shared_bytes"), -1, "entry.resources\\[0\\].shared_bytes: expected an integer >= 0"),
        (("toolchain", "triton"), MISSING, "toolchain: expected the keys"),
        (("toolchain", "triton"), 3, "entry.toolchain.triton: expected a string"),
    ],
)
def test_what_is_wrong_is_named(entry_of: EntryOf, path: tuple[str | int, ...], value: object, message: str) -> None:
    fields = entry_of().to_json()
    assert Entry.from_json(fields) == entry_of()
    with pytest.raises(ValueError, match=message):
        Entry.from_json(changed(fields, path, value))


def test_a_plan_of_half_a_direction_is_refused(entry_of: EntryOf, plan_of: PlanOf, problem_of: ProblemOf) -> None:
    whole = plan_of("bwd", form=1)
    assert entry_of(problem_of(direction="bwd"), plan=whole).plan == whole
    forms = r"dq\+dkdv or dq\+dk\+dv or dq\+dk_dv or dqdkdv"
    with pytest.raises(ValueError, match=rf"plan: expected the kernels {forms} for direction 'bwd', got dq\+dk"):
        entry_of(problem_of(direction="bwd"), plan=Plan(whole.steps[:2]))


def test_a_prediction_cannot_pose_as_measured(entry_of: EntryOf) -> None:
    prediction = Measurement(outcome="ok", median_ms=0.3)
    with pytest.raises(ValueError, match="samples: expected at least 1"):
        entry_of(measurement=prediction)
    with pytest.raises(ValueError, match="samples: expected 0 for evidence 'static'"):
        entry_of(evidence="static", measurement=replace(prediction, samples=3))


def test_a_transferred_entry_keeps_the_shape_it_comes_from(entry_of: EntryOf, problem_of: ProblemOf) -> None:
    entry = entry_of(evidence="transferred", bucket=problem_of(seqlen=1024).bucket())
    assert through_text(entry).seqlen == 4096
