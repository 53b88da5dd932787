"""What serves a problem, which forward plan a backward plan is judged behind, and whether the one leaves the other anything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from entries import valid_entry

from latune.cache.store import write_entries
from latune.errors import BuildError
from latune.gpu import Gpu, find_gpu
from latune.measurement import Measurement
from latune.ops.dispatch import resolve
from latune.plan import Plan, Step
from latune.problem import Problem
from latune.tuner.serving import hands_over, serving_plan
from latune.tuner.target import Target

GPU = find_gpu("h200")
BACKWARD = Problem(
    direction="bwd", decay="constant", dtype="bf16", batch=2, num_heads=16, seqlen=4096, head_dim_k=128, head_dim_v=128
)
FORWARD = replace(BACKWARD, direction="fwd")
LONGER = replace(FORWARD, seqlen=2 * FORWARD.seqlen)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LATUNE_CACHE_DIR", str(tmp_path / "user"))


@pytest.fixture
def plans(fake_builds: ModuleType) -> list[Plan]:
    return [fake_builds.one("o", fake_builds.config(num_warps=warps)) for warps in (4, 8)]


def test_it_is_what_the_dispatcher_would_run(plans: list[Plan]) -> None:
    assert serving_plan(FORWARD, GPU) == resolve(FORWARD, GPU).plan, "the default of the search space"
    write_entries(GPU, [valid_entry(FORWARD, plans[0])])
    assert serving_plan(FORWARD, GPU) == serving_plan(LONGER, GPU) == plans[0]
    narrow = replace(FORWARD, head_dim_k=120)
    assert serving_plan(narrow, GPU) == plans[0], "as it is padded"


def test_the_folder_that_is_written_to_comes_first_where_it_has_the_very_bucket(plans: list[Plan], tmp_path: Path) -> None:
    folder = tmp_path / "output"
    write_entries(GPU, [valid_entry(FORWARD, plans[0])])
    write_entries(GPU, [valid_entry(FORWARD, plans[1])], folder)
    assert serving_plan(FORWARD, GPU, [folder]) == plans[1]
    assert serving_plan(FORWARD, GPU) == serving_plan(LONGER, GPU, [folder]) == plans[0]


@pytest.mark.parametrize("change", [{"template_sha256": "0" * 64}, {"evidence": "static"}])
def test_what_is_out_of_date_or_predicted_in_that_folder_does_not(plans: list[Plan], tmp_path: Path, change: dict) -> None:
    write_entries(GPU, [valid_entry(FORWARD, plans[0])])
    unmeasured = {"measurement": Measurement(outcome="ok", median_ms=0.3)} if "evidence" in change else {}
    write_entries(GPU, [valid_entry(FORWARD, plans[1], **change, **unmeasured)], tmp_path / "output")
    assert serving_plan(FORWARD, GPU, [tmp_path / "output"]) == plans[0]


def test_plans_that_cut_the_sequence_alike_hand_over(fake_builds: ModuleType, tmp_path: Path) -> None:
    cut = {"algorithm": "split", "programs": 64}
    backward = Plan(
        (
            Step(kernel="dq", config=fake_builds.config(**cut)),
            Step(kernel="dkdv", config=fake_builds.config(**cut, block_d=None, block_e=None)),
        )
    )
    write_entries(GPU, [valid_entry(FORWARD, fake_builds.one("o", fake_builds.config(**cut))), valid_entry(BACKWARD, backward)])
    assert hands_over(FORWARD, GPU) and hands_over(BACKWARD, GPU) and hands_over(replace(BACKWARD, head_dim_k=120), GPU)
    write_entries(GPU, [valid_entry(FORWARD, fake_builds.one("o", fake_builds.config()))], tmp_path / "output")
    assert not hands_over(FORWARD, GPU, [tmp_path / "output"]), "whole heads leave no states of segments"
    assert hands_over(FORWARD, GPU)


def target(refused: Plan | None = None) -> Target:
    """Of a GPU in this machine whose compiler refuses one plan."""

    def build(problem: Problem, plan: Plan, gpu: Gpu) -> None:
        assert problem == FORWARD
        if plan == refused:
            raise BuildError("o_kernel does not compile: refused")

    worker = SimpleNamespace(device=lambda: SimpleNamespace(copy_gbps=4000.0))
    return Target(gpu=GPU, builder=build, worker=worker)  # type: ignore[arg-type]


def test_measured_backward_plans_are_judged_behind_it(plans: list[Plan], tmp_path: Path) -> None:
    write_entries(GPU, [valid_entry(FORWARD, plans[0])])
    write_entries(GPU, [valid_entry(FORWARD, plans[1])], tmp_path)
    assert target().evaluator(BACKWARD).ahead == target().ahead(BACKWARD) == plans[0]
    assert target().evaluator(BACKWARD, [tmp_path]).ahead == plans[1]
    assert target().evaluator(FORWARD).ahead is None
    assert replace(target(), worker=None).evaluator(BACKWARD).ahead is None, "a model knows nothing of it"


def test_a_forward_plan_that_does_not_compile_is_ahead_of_nothing(plans: list[Plan]) -> None:
    write_entries(GPU, [valid_entry(FORWARD, plans[0])])
    assert target(refused=plans[0]).ahead(BACKWARD) is None
