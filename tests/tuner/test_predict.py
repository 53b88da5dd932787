"""The static model, against medians measured on an H200, and in its directions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType

import pytest

from latune.codegen.build import Build, KernelBuild
from latune.codegen.launches import record_launches
from latune.codegen.load import load
from latune.codegen.render import render
from latune.codegen.step_view import StepView
from latune.config import Config
from latune.gpu import find_gpu
from latune.plan import Plan, Step
from latune.problem import Problem
from latune.tuner.predict import Prediction, predict
from latune.tuner.work import work_of

H200 = find_gpu("h200")


def problem(batch: int, heads: int, seqlen: int, width: int, **changes: object) -> Problem:
    shape = {"batch": batch, "num_heads": heads, "seqlen": seqlen, "head_dim_k": width, "head_dim_v": width}
    return Problem(**{"direction": "fwd", "decay": "constant", "dtype": "bf16", **shape, **changes})  # type: ignore[arg-type]


LONG = problem(4, 32, 8192, 128)


def predicted(problem: Problem, config: Config, *kernels: KernelBuild, kernel: str = "o") -> Prediction:
    return predict(problem, Plan((Step(kernel=kernel, config=config),)), H200, Build(kernels=kernels))


@pytest.fixture
def forward_ms(fake_builds: ModuleType) -> Callable[..., float]:
    """The forward of 4,32,8192,128 with its best config, changed as told; ``spill_bytes`` of the build."""

    def run(layout: str = "transposed", *, spill_bytes: int = 0, **changes: object) -> float:
        config = fake_builds.config(layout, **changes)
        shared = 64_000 * config.num_stages * config.values()["BLOCK_E"] // 128
        splits = 128 // config.values()["BLOCK_E"]
        registers = min(200, 65536 // (32 * config.num_warps))
        figures = {"registers": registers, "num_warps": config.num_warps, "shared_bytes": min(shared, 200_000)}
        return predicted(
            LONG, config, fake_builds.kernel("o_kernel", programs=128 * splits, spill_bytes=spill_bytes, **figures)
        ).total_ms

    return run


def test_it_is_near_what_was_measured(fake_builds: ModuleType) -> None:
    """Resources are those of real builds for compute capability 9.0; medians in ms from one H200."""
    kernel, config = fake_builds.kernel, fake_builds.config
    narrow = config("plain", block_e=64, num_warps=4, num_stages=4)
    best = config("transposed")
    big = {"registers": 255, "spill_bytes": 8, "shared_bytes": 163_920}
    small = {"registers": 235, "shared_bytes": 172_120, "num_warps": 4, "programs": 256}
    fused = config("transposed", block_e=None, num_stages=2)
    backward = replace(LONG, direction="bwd")
    split = config("transposed", algorithm="split", programs=128)
    cases = [
        (0.3005, predicted(LONG, best, kernel("o_kernel", **big))),
        (0.350, predicted(LONG, narrow, kernel("o_kernel", **small))),
        (0.611, predicted(backward, fused, kernel("dkdv_kernel", **{**big, "spill_bytes": 480}), kernel="dkdv")),
        (
            0.2315,
            predicted(
                problem(1, 16, 32768, 128),
                split,
                kernel("o_states_kernel", registers=122, programs=112),
                kernel("o_kernel", **big),
            ),
        ),
        (
            0.266,
            predicted(
                problem(8, 32, 8192, 64),
                config("transposed", block_e=64, num_warps=4),
                kernel("o_kernel", num_warps=4, programs=256, shared_bytes=80_000),
            ),
        ),
        (0.046, predicted(problem(4, 32, 1024, 128), best, kernel("o_kernel", **big))),
        (
            0.037,
            predicted(
                problem(1, 8, 8192, 128),
                config("transposed", algorithm="split", programs=128, block_e=64, num_warps=4, loads="specialized"),
                kernel("o_states_kernel", registers=109, num_warps=4, programs=112, shared_bytes=98_360),
                kernel("o_kernel", registers=168, num_warps=12, programs=128, shared_bytes=164_184),
            ),
        ),
    ]
    for measured_ms, prediction in cases:
        assert prediction.total_ms == pytest.approx(measured_ms, rel=0.15), str(prediction)


def test_it_ranks_forwards_as_they_were_measured(forward_ms: Callable[..., float]) -> None:
    best = forward_ms()
    assert best < forward_ms(block_e=64, num_warps=4) < forward_ms("plain", block_e=64, num_warps=4)
    assert best < forward_ms(block_n=128)
    assert best < forward_ms(block_n=32)
    assert best < forward_ms(loads="pointer")
    assert best < forward_ms(num_warps=16)


def test_warps_of_their_own_rank_as_they_were_measured(fake_builds: ModuleType) -> None:
    """At 1,64,4096,128: 0.071 ms in slices of 64, 0.085 by warps that share all work, and in one slice."""
    shape = problem(1, 64, 4096, 128)

    def run(num_warps: int, own: int, loads: str) -> float:
        slices = 128 // (16 * num_warps)
        figures = fake_builds.kernel(
            "o_kernel", registers=128, num_warps=num_warps + own, programs=64 * slices, shared_bytes=164_184
        )
        return predicted(
            shape, fake_builds.config("transposed", block_e=16 * num_warps, num_warps=num_warps, loads=loads), figures
        ).total_ms

    assert run(4, 8, "specialized") < run(4, 0, "tma")
    assert run(4, 8, "specialized") < run(8, 8, "specialized")


def test_spills_and_unhidden_latency_cost(forward_ms: Callable[..., float]) -> None:
    assert forward_ms() < forward_ms(spill_bytes=100) < forward_ms(spill_bytes=400)
    assert forward_ms(num_stages=2) < forward_ms(num_stages=1)


@pytest.mark.parametrize(("kernel", "algorithm"), [("o", "sequential"), ("o", "split"), ("dkdv", "split")])
def test_loads_are_as_far_ahead_as_they_are_launched_to_be(fake_builds: ModuleType, kernel: str, algorithm: str) -> None:
    programs = None if algorithm == "sequential" else 128
    blocks = {} if kernel == "o" else {"block_d": None, "block_e": None}
    plan = fake_builds.one(kernel, fake_builds.config(algorithm=algorithm, programs=programs, num_stages=2, **blocks))
    here = replace(problem(1, 16, 32768, 128), direction="fwd" if kernel == "o" else "bwd")
    view = StepView(problem=here, step=plan.steps[0])
    launches = record_launches(load(render(here, plan)), here)
    assert len(launches) == (1 if algorithm == "sequential" else 2)
    for launch in launches:
        assert work_of(view, launch.kernel.__name__, H200).num_stages == launch.options["num_stages"]


def test_nothing_is_predicted_under_the_roof(forward_ms: Callable[..., float]) -> None:
    assert forward_ms() > LONG.compulsory_bytes / H200.bandwidth_gbps * 1e-6


def test_few_heads_gain_from_segments_and_many_do_not(fake_builds: ModuleType) -> None:
    def best_ms(problem: Problem, **changes: object) -> float:
        config = fake_builds.config(**changes)
        plan = fake_builds.one("o", config)
        return predict(problem, plan, H200, fake_builds.build(problem, plan, H200)).total_ms

    few, many = problem(1, 16, 32768, 128), problem(8, 32, 8192, 128)
    assert best_ms(few, algorithm="split", programs=128) < 0.7 * best_ms(few)
    assert best_ms(many) < best_ms(many, algorithm="split", programs=1024)
    assert best_ms(many) < best_ms(many, algorithm="scan", programs=1024)


def test_one_launch_for_few_heads_saves_launches_and_no_work(fake_builds: ModuleType) -> None:
    def prediction(**changes: object) -> Prediction:
        plan = fake_builds.one("o", fake_builds.config(loads="specialized", **changes))
        return predict(few, plan, H200, fake_builds.build(few, plan, H200))

    few = problem(1, 8, 8192, 128)
    together, apart = (prediction(algorithm=name, programs=128) for name in ("cooperative", "scan"))
    assert len(together.kernels) == 1 and len(apart.kernels) == 3
    walk = next(kernel for kernel in apart.kernels if kernel.name == "o_kernel")
    assert walk.total_ms < together.total_ms < apart.total_ms
    assert walk.memory_ms < together.kernels[0].memory_ms <= sum(kernel.memory_ms for kernel in apart.kernels)


def test_short_sequences_gain_from_chunks_by_themselves_and_long_ones_do_not(fake_builds: ModuleType) -> None:
    def ms(problem: Problem, algorithm: str) -> float:
        sizes = {"num_warps": 4, "block_e": 64} if algorithm == "parallel" else {}
        plan = fake_builds.one("o", fake_builds.config(algorithm=algorithm, **sizes))
        return predict(problem, plan, H200, fake_builds.build(problem, plan, H200)).total_ms

    short, long = problem(1, 8, 512, 128), problem(1, 8, 8192, 128)
    assert ms(short, "parallel") < ms(short, "sequential")
    assert ms(long, "parallel") > ms(long, "sequential")


def test_heads_left_over_by_a_wave_gain_from_segments(fake_builds: ModuleType) -> None:
    def ms(batch: int, **changes: object) -> float:
        here, plan = problem(batch, 32, 8192, 128), fake_builds.one("o", fake_builds.config("transposed", **changes))
        return predict(here, plan, H200, fake_builds.build(here, plan, H200)).total_ms

    assert ms(5, algorithm="remainder", programs=128) < 0.9 * ms(5)
    assert ms(6, algorithm="remainder", programs=128) < ms(6)


def test_heads_in_equal_shares_leave_no_wave_behind(fake_builds: ModuleType) -> None:
    def ms(batch: int, **changes: object) -> float:
        here = problem(batch, 32, 8192, 128)
        plan = fake_builds.one("o", fake_builds.config("transposed", loads="specialized", **changes))
        return predict(here, plan, H200, fake_builds.build(here, plan, H200)).total_ms

    shares = {batch: ms(batch, algorithm="relay", programs=132) for batch in (4, 5, 6, 8)}
    assert shares[5] < 0.9 * ms(5) and shares[6] < 0.95 * ms(6)
    assert shares[4] == ms(4), "no more heads than programs: each is whole"
    assert 0.9 * ms(8) < shares[8] < ms(8)
    assert shares[4] < shares[5] < shares[6] < shares[8]


def test_waves_are_counted(fake_builds: ModuleType) -> None:
    def waves(programs: int) -> int:
        kernel = fake_builds.kernel("o_kernel", programs=programs, shared_bytes=200_000)
        return predicted(LONG, fake_builds.config(), kernel).kernels[0].waves

    assert [waves(programs) for programs in (1, 132, 133, 264, 265)] == [1, 1, 2, 2, 3]


def test_a_plan_is_the_sum_of_its_launches(fake_builds: ModuleType) -> None:
    backward = replace(LONG, direction="bwd")
    steps = [Step(kernel=name, config=fake_builds.config()) for name in ("dq", "dk", "dv")]
    whole = predict(backward, Plan(tuple(steps)), H200, fake_builds.build(backward, Plan(tuple(steps)), H200))
    alone = [predict(backward, Plan((s,)), H200, fake_builds.build(backward, Plan((s,)), H200)).total_ms for s in steps]
    assert [kernel.name for kernel in whole.kernels] == ["dq_kernel", "dk_kernel", "dv_kernel"]
    assert whole.total_ms == pytest.approx(sum(alone))


def test_fp32_and_states_are_not_free(fake_builds: ModuleType) -> None:
    def time_ms(problem: Problem) -> float:
        return predicted(problem, fake_builds.config(), fake_builds.kernel("o_kernel")).total_ms

    plain = problem(1, 128, 1024, 128)
    assert time_ms(problem(1, 128, 1024, 128, dtype="fp32")) > 2 * time_ms(plain)
    assert time_ms(problem(1, 128, 1024, 128, has_initial_state=True, needs_final_state=True)) > time_ms(plain)


def test_the_text_names_every_term(fake_builds: ModuleType) -> None:
    text = str(predicted(LONG, fake_builds.config(), fake_builds.kernel("o_kernel")))
    for word in ("o_kernel", "ms", "memory", "l2", "compute", "waves"):
        assert word in text


def test_one_walk_is_predicted_as_it_is_measured(fake_builds: ModuleType) -> None:
    """With a copy of its checkpoints in the place of the pass that makes them; on an H100 .845 ms against .928."""
    here = problem(8, 32, 8192, 64, direction="bwd")
    config = fake_builds.config("plain", block_d=None, block_e=None, num_warps=4, num_stages=2)
    walk = fake_builds.one("dqdkdv", config)
    dq = Step(kernel="dq", config=fake_builds.config("transposed", block_d=64, block_e=64, num_warps=4))
    two = Plan((dq, Step(kernel="dkdv", config=config)))
    one_walk, two_launches = (predict(here, plan, H200, fake_builds.build(here, plan, H200)) for plan in (walk, two))
    assert [kernel.name for kernel in one_walk.kernels] == ["dqdkdv_checkpoints_kernel", "dqdkdv_kernel"]
    copy, main = one_walk.kernels
    # In tensors of the backward pass: half of one read and written; seven, and the checkpoints.
    assert main.memory_ms / copy.memory_ms == pytest.approx(7.5)
    assert main.compute_ms > two_launches.kernels[1].compute_ms
    assert 0.8 * two_launches.total_ms < one_walk.total_ms < two_launches.total_ms
