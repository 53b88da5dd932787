"""What serves a problem, and which forward plan a backward plan is judged behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from latune.cache.entry import TOOLCHAIN, Entry, Resources
from latune.cache.store import write_entries
from latune.codegen.render import plan_sha256
from latune.gpu import find_gpu
from latune.measurement import Measurement
from latune.ops.dispatch import resolve
from latune.plan import Plan
from latune.problem import Problem
from latune.tuner.serving import plan_ahead

GPU = find_gpu("h200")
BACKWARD = Problem(
    direction="bwd", decay="constant", dtype="bf16", batch=2, num_heads=16, seqlen=4096, head_dim_k=128, head_dim_v=128
)
FORWARD = replace(BACKWARD, direction="fwd")
LONGER = replace(BACKWARD, seqlen=2 * BACKWARD.seqlen)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LATUNE_CACHE_DIR", str(tmp_path / "user"))


@pytest.fixture
def plans(fake_builds: ModuleType) -> list[Plan]:
    return [fake_builds.one("o", fake_builds.config(num_warps=warps)) for warps in (4, 8)]


def entry(plan: Plan) -> Entry:
    return Entry(
        bucket=FORWARD.bucket(),
        batch=FORWARD.batch,
        num_heads=FORWARD.num_heads,
        seqlen=FORWARD.seqlen,
        plan=plan,
        alternates=(),
        measurement=Measurement(outcome="ok", median_ms=0.3, ci_low_ms=0.29, ci_high_ms=0.31, samples=40),
        evidence="measured",
        resources=(Resources(name="o_kernel", registers=168, spill_bytes=0, shared_bytes=98304, num_warps=8),),
        roof_ms=0.25,
        toolchain=dict.fromkeys(TOOLCHAIN, "1.0"),
        template_sha256=plan_sha256(FORWARD.bucket(), plan),
        tuned_at="2026-01-31T12:00:00Z",
        study="study",
    )


def test_it_is_what_the_dispatcher_would_run(plans: list[Plan]) -> None:
    assert plan_ahead(BACKWARD, GPU) == resolve(FORWARD, GPU).plan, "the default of the search space"
    write_entries(GPU, [entry(plans[0])])
    assert plan_ahead(BACKWARD, GPU) == plan_ahead(LONGER, GPU) == plans[0]


def test_a_forward_pass_has_none() -> None:
    assert plan_ahead(FORWARD, GPU) is None


def test_the_folder_that_is_written_to_comes_first_where_it_has_the_very_bucket(plans: list[Plan], tmp_path: Path) -> None:
    folder = tmp_path / "output"
    write_entries(GPU, [entry(plans[0])])
    write_entries(GPU, [entry(plans[1])], folder)
    assert plan_ahead(BACKWARD, GPU, [folder]) == plans[1]
    assert plan_ahead(BACKWARD, GPU) == plan_ahead(LONGER, GPU, [folder]) == plans[0]


def test_what_is_out_of_date_in_that_folder_serves_nothing(plans: list[Plan], tmp_path: Path) -> None:
    write_entries(GPU, [entry(plans[0])])
    write_entries(GPU, [replace(entry(plans[1]), template_sha256="0" * 64)], tmp_path / "output")
    assert plan_ahead(BACKWARD, GPU, [tmp_path / "output"]) == plans[0]
