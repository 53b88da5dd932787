"""Complete plans made of ranked kernels."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import pytest
from composers import GPU, SPACES, composer, default, kernels

from latune.codegen.expression import Expression
from latune.codegen.parameters import Constraint
from latune.config import Config
from latune.plan import FORMS, KERNELS, Plan, Step
from latune.problem import Problem
from latune.tuner import compose
from latune.tuner.compose import Composer
from latune.tuner.grid import Grid

NEVER = Constraint(require=Expression.parse("gpu.sms < 1", origin="here", parameters=()), why="never")


@pytest.fixture
def streams(fake_builds: ModuleType) -> list[Config]:
    """One more than plans are made of."""
    deep = [fake_builds.config(block_e=64, num_warps=4, num_stages=stages) for stages in (2, 3, 1, 4)]
    return [*deep, *(fake_builds.config(block_e=128, num_warps=8, num_stages=stages) for stages in (2, 3, 1))]


@pytest.fixture
def fused(fake_builds: ModuleType) -> list[Config]:
    return [fake_builds.config(block_d=None, block_e=None, num_stages=stages) for stages in (2, 1)]


def test_forward_plans_are_the_ranking_then_the_default(streams: list[Config]) -> None:
    forward = composer("fwd")
    plans = forward.compose({"o": streams})
    assert [plan.steps[0].config for plan in plans] == [*streams[:-1], default(forward, "o")]
    assert forward.searched == ["o"]


def test_backward_plans_of_both_forms_best_first(streams: list[Config], fused: list[Config]) -> None:
    backward = composer("bwd")
    plans = backward.compose({"dq": streams, "dkdv": fused})
    assert backward.searched == ["dq", "dkdv"]
    assert {kernels(plan) for plan in plans} == set(FORMS["bwd"]) - {("dqdkdv",)}, "its states are too wide here"
    assert plans[0] == Plan((Step(kernel="dq", config=streams[0]), Step(kernel="dkdv", config=fused[0])))
    three = [plan for plan in plans if kernels(plan) == ("dq", "dk", "dv")]
    assert three[0] == Plan(tuple(Step(kernel=name, config=streams[0]) for name in ("dq", "dk", "dv")))
    assert len(plans) == len(set(plans))


def test_the_fused_form_is_left_out_where_no_config_serves_it(streams: list[Config]) -> None:
    wide = composer("bwd", 256, 256)
    tile = {"BLOCK_N": 32, "BLOCK_D": 256, "BLOCK_E": 32}
    narrow = [Config.of(**{**config.to_json(), "constexprs": tile}) for config in streams[:1]]
    assert wide.searched == ["dq"]
    assert {kernels(plan) for plan in wide.compose({"dq": narrow})} == {("dq", "dk", "dv"), ("dq", "dk_dv")}


def test_a_form_without_a_ranking_gives_way_to_the_default(streams: list[Config]) -> None:
    *ranked, default_form = composer("bwd").compose({"dq": streams[:1]})
    assert [kernels(plan) for plan in ranked] == [("dq", "dk", "dv"), ("dq", "dk_dv")] and kernels(default_form) == (
        "dq",
        "dkdv",
    )
    assert len(composer("bwd").compose({})) == 1


def test_a_plan_is_rearranged_without_another_config_for_dq(streams: list[Config]) -> None:
    backward = composer("bwd")
    for plan in backward.compose({"dq": streams[:1]})[:-1]:
        rearranged = backward.rearranged(plan)
        assert plan not in rearranged and plan.chained() in rearranged and plan in backward.rearranged(plan.chained())
        assert {kernels(other) for other in rearranged} == {("dq", "dk", "dv"), ("dq", "dk_dv")}
        assert {other.steps[0].config for other in rearranged} == {streams[0]}


def test_a_sibling_of_other_widths_has_a_ranking_of_its_own(fake_builds: ModuleType) -> None:
    """dv contracts the key dim and writes the value dim: a BLOCK_D of 64 and a BLOCK_E of 128, right for dq, are not for it."""
    backward = composer("bwd", 128, 64)
    assert backward.searched == ["dq", "dkdv", "dv", "dqdkdv"]
    best, of_dv = fake_builds.config(block_d=64, block_e=128), fake_builds.config(block_d=128, block_e=64)
    assert SPACES["stream"].feasible(best, backward.problem, GPU, KERNELS["dv"]) is not None
    plans = backward.compose({"dq": [best], "dv": [of_dv]})
    assert [step.config for step in plans[0].steps] == [best, best, of_dv]
    assert len(backward.compose({"dq": [best]})) == 1, "without a ranking of dv the default alone is left"


def test_every_plan_is_feasible_and_pinned_ones_are_kept_when_they_are(streams: list[Config], fused: list[Config]) -> None:
    backward = composer("bwd")
    pinned = Plan((Step(kernel="dq", config=streams[3]), Step(kernel="dkdv", config=fused[1])))
    foreign = Plan((Step(kernel="dq", config=fused[0]), Step(kernel="dkdv", config=fused[0])))
    incomplete = Plan((Step(kernel="dq", config=streams[0]),))
    plans = backward.compose({"dq": streams, "dkdv": fused}, pinned=[pinned, foreign, incomplete])
    assert plans[-1] == pinned
    assert not {foreign, incomplete} & set(plans)
    for plan in plans:
        for step in plan.steps:
            space = SPACES[KERNELS[step.kernel].space]
            assert space.feasible(step.config, backward.problem, GPU, KERNELS[step.kernel]) is None


def test_a_space_is_listed_once_for_all_that_is_fitted(fake_builds: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = []
    compose._grid.cache_clear()
    monkeypatch.setattr(compose, "Grid", lambda *case: listed.append(case) or Grid(*case))
    wide = fake_builds.config(block_e=128)
    known = [fake_builds.one("o", replace(wide, num_stages=stages)) for stages in (1, 2, 3)]
    plans = composer("fwd", 64, 64).fit(known)
    assert composer("fwd", 64, 64).fit(known) == plans, "foreseen, then tuned"
    assert len(listed) == 1 < len(plans)
    assert all(dict(plan.steps[0].config.constexprs)["BLOCK_E"] <= 64 for plan in plans)


def test_what_needs_no_state_is_tried_in_every_gradient_and_never_cut() -> None:
    short = replace(composer("bwd").problem, batch=1, num_heads=8, seqlen=512)
    backward = Composer(problem=short, gpu=GPU, spaces=SPACES)
    (start,) = (config for config in backward.space("dq").feasible_starts(short, GPU, KERNELS["dq"])[:1])
    assert start.algorithm == "parallel"
    known = Plan(tuple(Step(kernel=name, config=start) for name in ("dq", "dk", "dv")))
    fused = Plan(tuple(Step(kernel=name, config=default(backward, name)) for name in ("dq", "dkdv")))
    assert {known, known.chained()} <= set(backward.variants(fused))
    assert known in backward.fit([known]) and not any(
        step.config.algorithm == "parallel" and step.config != start for plan in backward.fit([known]) for step in plan.steps
    )
    longer = Composer(problem=replace(short, seqlen=8192), gpu=GPU, spaces=SPACES)
    assert not any(step.config.algorithm == "parallel" for plan in longer.fit([known]) for step in plan.steps)


def test_nothing_is_fitted_where_no_form_is_served(fake_builds: ModuleType) -> None:
    problem = composer("fwd").problem
    unserved = Composer(problem=problem, gpu=GPU, spaces={"stream": replace(SPACES["stream"], constraints=(NEVER,))})
    assert unserved.fit([fake_builds.one("o", fake_builds.config())]) == []


@pytest.mark.parametrize("programs", [None, 256])
def test_a_plan_is_also_fitted_in_segments_that_fill_the_gpu(fake_builds: ModuleType, programs: int | None) -> None:
    known = fake_builds.config(algorithm="split" if programs else "sequential", programs=programs)
    few_heads = Problem(
        direction="fwd", decay="constant", dtype="bf16", batch=1, num_heads=8, seqlen=65536, head_dim_k=128, head_dim_v=128
    )
    plans = Composer(problem=few_heads, gpu=GPU, spaces=SPACES).fit([fake_builds.one("o", known)])
    assert [dict(plan.steps[0].config.constexprs).get("PROGRAMS") for plan in plans] == [programs, 128, None]
    many_heads = replace(few_heads, batch=16)
    plans = Composer(problem=many_heads, gpu=GPU, spaces=SPACES).fit([fake_builds.one("o", known)])
    assert len(plans) == 2, "128 heads fill the GPU without segments: nothing is added"
