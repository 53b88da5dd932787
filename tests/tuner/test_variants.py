"""Variants of a plan, which run against it; and what is tried behind a forward plan."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import pytest
from composers import GPU, SPACES, composer, default, kernels

from latune.config import Config
from latune.gpu import find_gpu
from latune.plan import FORMS, KERNELS, Plan, Step
from latune.tuner.compose import Composer


def test_variants_change_one_kernel_and_its_siblings_to_what_has_won_somewhere() -> None:
    backward = composer("bwd")
    fused = Plan(tuple(Step(kernel=name, config=default(backward, name)) for name in ("dq", "dkdv")))
    streams = Plan(tuple(Step(kernel=name, config=default(backward, name)) for name in ("dq", "dk", "dv")))
    of_fused, of_streams = (
        [plan for plan in backward.variants(known) if plan != known.chained() and kernels(plan) == kernels(known)]
        for known in (fused, streams)
    )
    for kept in (0, 1):
        same = [plan for plan in of_fused if plan.steps[kept] == fused.steps[kept]]
        assert len(same) > 1 and all(plan.steps[1 - kept] != fused.steps[1 - kept] for plan in same)
    assert len(of_streams) > 1
    assert all(len({step.config for step in plan.steps}) == 1 for plan in of_streams), "dk and dv are as dq is"
    for plan in (*of_fused, *of_streams):
        for step in plan.steps:
            assert backward.space(step.kernel).feasible(step.config, backward.problem, GPU, KERNELS[step.kernel]) is None
    assert len({*of_fused, *of_streams, fused, streams}) == len(of_fused) + len(of_streams) + 2


def test_variants_are_of_every_form_that_serves() -> None:
    """At head dims of 64 all gradients may come of one walk; at others dk and dv side by side."""
    for composed, without in ((composer("bwd"), ("dqdkdv",)), (composer("bwd", 64, 64), ("dq", "dk_dv"))):
        assert set(composed.forms) == set(FORMS["bwd"]) - {without}
        assert ("dqdkdv" in composed.searched) == (without != ("dqdkdv",))
        for form in composed.forms:
            known = Plan(tuple(Step(kernel=name, config=first(composed, name)) for name in form))
            variants = composed.variants(known)
            assert {kernels(plan) for plan in variants} == set(composed.forms)
            others = {plan.is_chained for plan in variants if kernels(plan) != form and len(plan.steps) > 1}
            assert others == {False, True}


def first(composed: Composer, name: str) -> Config:
    """The default, or where that is none of its configs the first start."""
    if name != "dk_dv":
        return default(composed, name)
    return composed.space(name).feasible_starts(composed.problem, GPU, KERNELS[name])[0]


def test_dk_and_dv_are_raced_apart_and_side_by_side() -> None:
    backward = composer("bwd")
    config = first(backward, "dk_dv")
    apart, beside = (
        Plan(tuple(Step(kernel=name, config=config) for name in form)) for form in (("dq", "dk", "dv"), ("dq", "dk_dv"))
    )
    assert beside in backward.variants(apart) and apart in backward.variants(beside)
    assert beside.chained() in backward.variants(apart.chained())
    starts = backward.space("dk_dv").feasible_starts(backward.problem, GPU, KERNELS["dk_dv"])
    own = [Plan((Step(kernel="dq", config=config), Step(kernel="dk_dv", config=start))) for start in starts]
    assert len(set(own) - {beside}) > 0 and set(own) <= set(backward.variants(apart))


def test_no_variant_leaves_the_space() -> None:
    """Of ordinary kernels dk and dv go in two launches alone."""
    few = replace(composer("bwd").problem, batch=1, num_heads=8, seqlen=65536)
    backward = Composer(problem=few, gpu=GPU, spaces=SPACES)
    config = first(backward, "dk_dv")
    variants = backward.variants(Plan((Step(kernel="dq", config=config), Step(kernel="dk_dv", config=config))))
    assert ("dq", "dk", "dv") in map(kernels, variants) and ("dq", "dk_dv") in map(kernels, variants)
    for plan in variants:
        for step in plan.steps:
            assert backward.space(step.kernel).feasible(step.config, few, GPU, KERNELS[step.kernel]) is None


@pytest.mark.parametrize(("heads", "algorithm"), [(16, "split"), (192, "sequential"), (384, "remainder"), (512, "sequential")])
def test_the_first_walk_to_be_tried_is_cut_where_that_fills_the_gpu(heads: int, algorithm: str) -> None:
    narrow = composer("bwd", 64, 64)
    narrow = replace(narrow, problem=replace(narrow.problem, batch=1, num_heads=heads, seqlen=8192))
    starts = narrow.space("dqdkdv").feasible_starts(narrow.problem, GPU, KERNELS["dqdkdv"])
    assert starts[0].algorithm == algorithm


def test_a_variant_fills_the_gpu_twice_over(fake_builds: ModuleType) -> None:
    """48 heads in segments for 128 programs are 96; for 256, 240."""
    problem = replace(composer("fwd", 96, 96).problem, batch=1, num_heads=48, seqlen=8192)
    known = fake_builds.one("o", fake_builds.config(algorithm="split", programs=128))
    variants = Composer(problem=problem, gpu=GPU, spaces=SPACES).variants(known)
    assert 256 in [dict(plan.steps[0].config.constexprs).get("PROGRAMS") for plan in variants]


def test_for_few_heads_starts_come_in_segments_summed_scanned_and_in_one_launch(fake_builds: ModuleType) -> None:
    problem = replace(composer("fwd").problem, batch=1, num_heads=8, seqlen=65536)
    few = Composer(problem=problem, gpu=GPU, spaces=SPACES)
    known = fake_builds.one("o", fake_builds.config(algorithm="split", programs=128))
    configs = [plan.steps[0].config for plan in few.variants(known)]
    starts = few.space("o").feasible_starts(problem, GPU, KERNELS["o"])
    assert starts and set(starts) <= set(configs), "as they are, too"
    assert {config.algorithm for config in configs} == {"sequential", "split", "scan", "cooperative", "balanced"}
    configs = [config for config in configs if config.algorithm != "sequential"]
    wide = [dict(config.constexprs) for config in configs if dict(config.constexprs)["BLOCK_E"] == 128]
    assert {values["PROGRAMS"] for values in wide} == {128, 132, 256}


def test_starts_that_cannot_be_cut_are_raced_as_they_are() -> None:
    """Segments that fill the GPU would have less than two chunks."""
    problem = replace(composer("fwd").problem, batch=1, num_heads=8, seqlen=256)
    short = Composer(problem=problem, gpu=GPU, spaces=SPACES)
    starts = short.space("o").feasible_starts(problem, GPU, KERNELS["o"])
    variants = {plan.steps[0].config for plan in short.variants(Plan((Step(kernel="o", config=default(short, "o")),)))}
    assert len(starts) > 1 and set(starts) - {default(short, "o")} <= variants


@pytest.mark.parametrize(("stages", "deeper"), [(1, [2]), (3, [4]), (4, [])])
def test_a_variant_is_one_stage_deeper_where_the_space_goes_so_far(stages: int, deeper: list[int]) -> None:
    forward = composer("fwd", 64, 64)
    config = replace(default(forward, "o"), num_stages=stages)
    variants = forward.variants(Plan((Step(kernel="o", config=config),)))
    alike = [plan.steps[0].config for plan in variants]
    assert [other.num_stages for other in alike if replace(other, num_stages=stages) == config] == deeper


@pytest.mark.parametrize("algorithm", ["sequential", "split"])
def test_plans_of_several_launches_are_raced_chained_too(fake_builds: ModuleType, algorithm: str) -> None:
    forward = composer("fwd")
    programs = {} if algorithm == "sequential" else {"programs": 512}
    known = fake_builds.one("o", fake_builds.config(algorithm=algorithm, num_stages=3, **programs))
    several = algorithm == "split"
    assert (known.chained() in forward.variants(known)) == several
    assert (known.chained() in forward.rearranged(known)) == several
    ampere = replace(forward, gpu=find_gpu("a100"))
    assert known.chained() not in ampere.variants(known), "it has no programmatic dependent launch"


def test_a_chained_plan_stays_chained_where_it_fits(fake_builds: ModuleType) -> None:
    forward = composer("fwd")
    known = fake_builds.one("o", fake_builds.config(algorithm="split", num_stages=3, programs=512)).chained()
    assert known in forward.fit([known])
    assert known in forward.compose({}, pinned=[known])
    assert known.chained() == known
    variants = forward.variants(known)
    assert variants.pop() == known.unchained()
    assert variants and all(plan == plan.chained() for plan in variants)


def behind(forward: Config, **shape: int) -> Composer:
    """Composes backward plans of a few heads that run behind a forward plan of this config."""
    backward = composer("bwd")
    problem = replace(backward.problem, **{"batch": 1, "num_heads": 16, "seqlen": 16384, **shape})
    return replace(backward, problem=problem, ahead=Plan((Step(kernel="o", config=forward),)))


def test_behind_a_forward_plan_dq_is_raced_by_its_config_and_cut_as_it_is(fake_builds: ModuleType) -> None:
    forward = fake_builds.config(algorithm="split", block_e=64, num_warps=4, num_stages=2, programs=128)
    own = fake_builds.config(algorithm="scan", programs=128)
    dkdv = Step(kernel="dkdv", config=fake_builds.config("plain", algorithm="split", block_d=None, block_e=None, programs=128))
    known = Plan((Step(kernel="dq", config=own), dkdv))
    cut_alike = replace(own.with_constexprs(BLOCK_E=64), algorithm="split")
    for one in (forward, cut_alike):
        plan = Plan((Step(kernel="dq", config=one), dkdv))
        assert plan in behind(forward).variants(known)
        assert plan not in replace(behind(forward), ahead=None).variants(known)
        assert plan in behind(forward).rearranged(known) and plan.chained() in behind(forward).rearranged(plan)


@pytest.mark.parametrize(
    ("width", "names", "programs"),
    [(128, ("o",), {"o": 132}), (128, ("dq", "dk_dv"), {"dq": 132, "dk_dv": 66}), (64, ("dqdkdv",), {"dqdkdv": 132})],
    ids=["forward", "side-by-side", "walk"],
)
def test_heads_that_fill_no_waves_come_in_equal_shares_too(
    fake_builds: ModuleType, width: int, names: tuple[str, ...], programs: dict[str, int]
) -> None:
    """160 heads are a wave of 132 and 28; dk and dv side by side have half of the programs each."""
    sizes = {"block_d": None, "block_e": None, "num_warps": 4} if width == 64 else {"num_stages": 2}
    form = {"layout": "plain", "decayed": "key"} if width == 64 else {"layout": "transposed"}
    whole = Plan(tuple(Step(kernel=name, config=fake_builds.config(loads="specialized", **form, **sizes)) for name in names))
    composed = composer("fwd" if names == ("o",) else "bwd", width, width)
    for heads, expected in ((128, set()), (160, set(programs.items()))):
        of_heads = replace(composed, problem=replace(composed.problem, batch=1, num_heads=heads))
        steps = [step for other in of_heads.variants(whole) for step in other.steps if step.config.algorithm == "relay"]
        found = {(step.kernel, step.config.values()["PROGRAMS"]) for step in steps if step.kernel in names}
        assert found == expected and (expected or not steps)


@pytest.mark.parametrize("algorithm", ["sequential", "remainder"])
def test_dq_is_left_as_it_is_where_the_forward_plan_ahead_keeps_nothing(fake_builds: ModuleType, algorithm: str) -> None:
    cut, heads = ({}, 16) if algorithm == "sequential" else ({"programs": 128}, 160)
    forward = fake_builds.config(algorithm=algorithm, **cut)
    known = Plan(tuple(Step(kernel=name, config=default(composer("bwd"), name)) for name in ("dq", "dk", "dv")))
    one = behind(forward, num_heads=heads)
    assert one.space("dq").feasible(forward, one.problem, GPU, KERNELS["dq"]) is None
    assert one.variants(known) == replace(one, ahead=None).variants(known)


@pytest.mark.parametrize(("d", "e", "programs"), [(64, 128, 64), (128, 128, 128)])
def test_dq_has_as_many_segments_as_the_forward_plan_ahead_whatever_its_slices(
    fake_builds: ModuleType, d: int, e: int, programs: int
) -> None:
    forward = fake_builds.config(algorithm="split", block_d=d, block_e=64, num_stages=2, programs=128)
    backward = behind(forward, head_dim_k=d, head_dim_v=e)
    own = fake_builds.config(algorithm="scan", block_d=e, block_e=64, block_n=32, programs=256)
    dkdv = Step(kernel="dkdv", config=fake_builds.config("plain", block_d=None, block_e=None))
    cut_alike = replace(own.with_constexprs(PROGRAMS=programs, BLOCK_N=64), algorithm="split")
    assert Plan((Step(kernel="dq", config=cut_alike), dkdv)) in backward.variants(Plan((Step(kernel="dq", config=own), dkdv)))


def test_every_form_is_rearranged_behind_the_forward_plan(fake_builds: ModuleType) -> None:
    forward = fake_builds.config(algorithm="split", block_e=64, num_warps=4, num_stages=2, programs=128)
    dkdv = fake_builds.config("plain", algorithm="split", block_d=None, block_e=None, programs=128)
    backward = behind(forward)
    composed = backward.compose({"dq": [fake_builds.config(algorithm="scan", programs=128)], "dkdv": [dkdv]})
    plans = [other for plan in composed for other in backward.rearranged(plan)]
    by_forward = {kernels(plan) for plan in plans if Step(kernel="dq", config=forward) in plan.steps}
    assert by_forward == {("dq", "dkdv"), ("dq", "dk", "dv"), ("dq", "dk_dv")}


def test_dq_is_left_as_it_is_where_the_space_keeps_the_forward_config_out(fake_builds: ModuleType) -> None:
    """At value head dims of 256 dq contracts 256 columns, for which the forward pass of 128 has no tile."""
    forward = fake_builds.config(algorithm="split", block_e=256, programs=128)
    wide = behind(forward, head_dim_v=256)
    known = Plan(tuple(Step(kernel=name, config=default(composer("bwd"), name)) for name in ("dq", "dk", "dv")))
    for plan in wide.variants(known):
        for step in plan.steps:
            assert wide.space(step.kernel).feasible(step.config, wide.problem, GPU, KERNELS[step.kernel]) is None
