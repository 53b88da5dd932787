"""Real compilations for GPUs that are not here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CalledProcessError
from types import SimpleNamespace

import pytest
from triton.compiler import CompiledKernel
from triton.runtime import driver

from latune.codegen.build import Build, KernelBuild, build, compile_launch
from latune.codegen.checkpoints import given_checkpoints, keeping_checkpoints, keeping_own_checkpoints
from latune.codegen.launches import Launch, record_launches
from latune.codegen.load import load
from latune.codegen.render import Source
from latune.codegen.space import load_space
from latune.errors import BuildError
from latune.gpu import Gpu, find_gpu
from latune.plan import KERNELS, Plan, Step
from latune.problem import Problem

PlanOf = Callable[..., Plan]
ProblemOf = Callable[..., Problem]

H200 = find_gpu("h200")
TUNED_FOR = ("a100", "h200", "b200")
CONSUMER = ("a10", "l4", "rtx5090")
SMALL_SHARED_BYTES = 48 * 1024


def default_plan(problem: Problem, gpu: Gpu, kernel: str) -> Plan:
    config = load_space(KERNELS[kernel].space).default(problem, gpu, KERNELS[kernel])
    return Plan((Step(kernel=kernel, config=config),))


def check_default(problem: Problem, gpu: Gpu, kernel: str) -> KernelBuild:
    """The build of a space's default, its figures within what the GPU has."""
    plan = default_plan(problem, gpu, kernel)
    built = build(problem, plan, gpu)
    (figures,) = built.kernels
    assert figures.name == f"{kernel}_kernel"
    assert figures.num_warps == plan.steps[0].config.num_warps
    assert 0 < figures.registers <= gpu.architecture.registers_per_thread
    assert 0 < figures.shared_bytes <= gpu.shared_per_block_bytes
    assert built.exceeds(gpu) is None
    return figures


@pytest.mark.parametrize("name", TUNED_FOR)
@pytest.mark.parametrize(("kernel", "dtype"), [("o", "fp32"), ("dk", "bf16")])
def test_the_stream_default_compiles_into_little_shared_memory(
    problem_of: ProblemOf, kernel: str, dtype: str, name: str
) -> None:
    problem = problem_of(KERNELS[kernel].direction, dtype=dtype)
    assert check_default(problem, find_gpu(name), kernel).shared_bytes <= SMALL_SHARED_BYTES


@pytest.mark.parametrize("name", TUNED_FOR)
def test_the_dkdv_default_compiles(problem_of: ProblemOf, name: str) -> None:
    check_default(problem_of("bwd"), find_gpu(name), "dkdv")
    narrow = check_default(problem_of("bwd", head_dim_k=64), find_gpu(name), "dkdv")
    assert narrow.shared_bytes <= SMALL_SHARED_BYTES


@pytest.mark.parametrize("name", CONSUMER)
def test_defaults_compile_for_consumer_gpus(problem_of: ProblemOf, name: str) -> None:
    gpu = find_gpu(name)
    assert check_default(problem_of(), gpu, "o").shared_bytes <= SMALL_SHARED_BYTES
    check_default(problem_of("bwd"), gpu, "dkdv")


@pytest.mark.parametrize("name", ["h200", "b200"])
def test_descriptors_compile(problem_of: ProblemOf, plan_of: PlanOf, name: str) -> None:
    """The fastest forward of the prototypes: two thirds of the shared memory, no spills on Hopper."""
    plan = plan_of("o", state_layout="transposed", loads="tma", BLOCK_N=64, BLOCK_E=128, num_warps=8, num_stages=4)
    built = build(problem_of(), plan, find_gpu(name))
    assert built.exceeds(find_gpu(name)) is None
    assert built.shared_bytes > 128 * 1024
    assert built.spill_bytes == 0


@pytest.mark.parametrize(
    ("kernel", "blocks"), [("o", (128, 64)), ("o", (128, 128)), ("o", (256, 64)), ("dk", (128, 128))], ids=str
)
def test_warps_of_their_own_compile(problem_of: ProblemOf, plan_of: PlanOf, kernel: str, blocks: tuple[int, int]) -> None:
    """Beside those that hold the state are four for scores, and a group of four for loads, of which one works."""
    block_d, block_e = blocks
    problem = problem_of(KERNELS[kernel].direction, head_dim_k=block_d, head_dim_v=block_d)
    changes = {"state_layout": "transposed", "branched": "none", "loads": "specialized", "BLOCK_N": 64}
    stages = 2 if block_d == 256 else 3
    plan = plan_of(kernel, **changes, BLOCK_D=block_d, BLOCK_E=block_e, num_warps=block_e // 16, num_stages=stages)
    built = build(problem, plan, H200)
    (figures,) = built.kernels
    assert figures.num_warps == block_e // 16 + 8
    assert figures.spill_bytes == 0
    assert built.exceeds(H200) is None


def test_kernels_come_in_launch_order_with_their_grids(problem_of: ProblemOf, plan_of: PlanOf) -> None:
    problem = problem_of("bwd", batch=2, num_heads=3, seqlen=1000, head_dim_k=48, head_dim_v=32)
    split = plan_of("dq", algorithm="split", BLOCK_E=32, BLOCK_N=32, PROGRAMS=4 * 6 * 2)
    scan = plan_of("dkdv", algorithm="scan", BLOCK_N=64, PROGRAMS=8 * 6)
    built = build(problem, Plan((*split.steps, *scan.steps)), H200)
    heads, slices, segments, scan_segments = 6, 2, 4, 8
    assert [(kernel.name, kernel.programs) for kernel in built.kernels] == [
        ("dq_states_kernel", heads * slices * (segments - 1)),
        ("dq_kernel", heads * slices * segments),
        ("dkdv_states_kernel", heads * (scan_segments - 1)),
        ("dkdv_scan_kernel", heads * 48 * 32 // 512),
        ("dkdv_kernel", heads * scan_segments),
    ]
    assert all(kernel.registers > 0 for kernel in built.kernels)


def test_heads_that_are_left_over_by_a_wave_are_split(problem_of: ProblemOf, plan_of: PlanOf) -> None:
    """Of 11 heads in two slices each, 8 fill 16 programs; the other 3 are cut in two: 4 segments of them would be 24."""
    problem = problem_of("bwd", batch=1, num_heads=11, seqlen=1000, head_dim_k=48, head_dim_v=32)
    whole, left, slices = 8, 3, 2
    stream = plan_of("dq", algorithm="remainder", BLOCK_E=32, BLOCK_N=32, PROGRAMS=16)
    fused = plan_of("dkdv", algorithm="remainder", BLOCK_N=64, PROGRAMS=8)
    built = build(problem, Plan((*stream.steps, *fused.steps)), H200)
    assert [(kernel.name, kernel.programs) for kernel in built.kernels] == [
        ("dq_states_kernel", left * slices),
        ("dq_kernel", (whole + left * 2) * slices),
        ("dkdv_states_kernel", left),
        ("dkdv_kernel", whole + left * 2),
    ]


def test_with_given_states_dq_needs_no_first_pass_and_no_more_registers(problem_of: ProblemOf, plan_of: PlanOf) -> None:
    problem = problem_of("bwd", batch=1, num_heads=4, seqlen=1000, head_dim_k=64, head_dim_v=64)
    options = {"BLOCK_D": 64, "BLOCK_E": 64, "BLOCK_N": 64, "PROGRAMS": 32, "state_layout": "transposed"}
    states, plain = build(problem, plan_of("dq", algorithm="split", **options), H200).kernels
    assert (states.name, plain.name) == ("dq_states_kernel", "dq_kernel")
    for layout in ("plain", "transposed"):
        (dq,) = build(
            problem, plan_of("dq", algorithm="split", segment_states="given", given_layout=layout, **options), H200
        ).kernels
        assert (dq.name, dq.programs) == ("dq_kernel", plain.programs)
        assert dq.registers <= plain.registers + 8 and dq.spill_bytes == plain.spill_bytes


def test_a_forward_pass_that_keeps_its_states_is_the_same_code(problem_of: ProblemOf, plan_of: PlanOf) -> None:
    problem = problem_of(batch=1, num_heads=4, seqlen=1000)
    binaries = [
        [kernel.binary_sha256 for kernel in build(problem, plan_of("o", **what, algorithm="split", PROGRAMS=32), H200).kernels]
        for what in ({}, {"segment_states": "kept"})
    ]
    assert binaries[0] == binaries[1]


@pytest.mark.parametrize(("layout", "loads"), [("plain", "tma"), ("transposed", "pointer")])
def test_checkpoints_compile_wherever_they_come_from(problem_of: ProblemOf, plan_of: PlanOf, layout: str, loads: str) -> None:
    """Beside states of the caller's, which are of another dtype."""
    widths = {"head_dim_k": 64, "head_dim_v": 48, "has_initial_state": True, "needs_final_state": True}
    forward, backward = problem_of(**widths), problem_of("bwd", **widths)
    walk = plan_of("dqdkdv", state_layout=layout, loads=loads, BLOCK_N=64)
    kept = keeping_checkpoints(plan_of("o", state_layout=layout, loads=loads, BLOCK_E=64), walk, forward)
    given = given_checkpoints(walk, keeping_own_checkpoints(walk), backward)
    assert kept is not None and given is not None
    assert [kernel.name for kernel in build(forward, kept, H200).kernels] == ["o_kernel"]
    first, main = build(backward, walk, H200).kernels
    assert (first.name, main.name) == ("dqdkdv_checkpoints_kernel", "dqdkdv_kernel")
    assert first.programs == main.programs == backward.batch_heads
    (alone,) = build(backward, given, H200).kernels
    assert (alone.name, alone.registers, alone.shared_bytes) == (main.name, main.registers, main.shared_bytes)


def test_the_default_of_one_walk_compiles(problem_of: ProblemOf) -> None:
    problem = problem_of("bwd", batch=8, num_heads=32, head_dim_k=64, head_dim_v=64)
    built = build(problem, default_plan(problem, H200, "dqdkdv"), H200)
    assert built.exceeds(H200) is None and built.shared_bytes <= SMALL_SHARED_BYTES


def test_chained_kernels_compile_to_as_much_as_others(problem_of: ProblemOf, plan_of: PlanOf) -> None:
    problem = problem_of("bwd", batch=1, num_heads=4, seqlen=1000, head_dim_k=32, head_dim_v=32)
    plan = plan_of("dq", "dkdv", algorithm="split", BLOCK_D=32, BLOCK_E=32, BLOCK_N=32, PROGRAMS=32)
    plain, chained = (build(problem, one, H200).kernels for one in (plan, plan.chained()))
    assert [kernel.name for kernel in chained] == [kernel.name for kernel in plain]
    for one, other in zip(plain, chained, strict=True):
        assert one.binary_sha256 != other.binary_sha256
        assert other.registers <= one.registers + 8 and other.shared_bytes == one.shared_bytes


def test_too_much_shared_memory_is_seen(problem_of: ProblemOf, plan_of: PlanOf) -> None:
    built = build(problem_of(), plan_of("o", BLOCK_N=128, BLOCK_E=128, num_warps=8, num_stages=4), H200)
    assert built.shared_bytes > H200.shared_per_block_bytes
    why = f"needs {built.shared_bytes} bytes of shared memory a block, NVIDIA H200 has {H200.shared_per_block_bytes}"
    assert built.exceeds(H200) == why


def test_spills_are_seen(problem_of: ProblemOf, plan_of: PlanOf) -> None:
    problem = problem_of(head_dim_k=64, head_dim_v=64)
    assert build(problem, plan_of("o", BLOCK_D=64, BLOCK_E=64, BLOCK_N=32, num_warps=1, num_stages=1), H200).spill_bytes > 0


def test_a_second_build_gives_the_same_binary(
    problem_of: ProblemOf, plan_of: PlanOf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    problem, plan = problem_of(head_dim_k=32, head_dim_v=32), plan_of("o", BLOCK_E=32)
    builds: list[Build] = []
    for name in ("first", "second"):
        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / name))
        monkeypatch.setenv("LATUNE_CACHE_DIR", str(tmp_path / "latune"))
        builds.append(build(problem, plan, H200))
        assert any((tmp_path / name).rglob("*.cubin")), "nothing was compiled"
    assert builds[0] == builds[1]


def test_another_length_gives_the_same_binary(problem_of: ProblemOf, plan_of: PlanOf) -> None:
    problem, plan = problem_of(head_dim_k=32, head_dim_v=32), plan_of("o", BLOCK_E=32, algorithm="split")
    shas = set()
    for seqlen in (4096, 4097, 5000):
        built = build(replace(problem, seqlen=seqlen), plan, H200)
        shas.add(tuple(kernel.binary_sha256 for kernel in built.kernels))
    assert len(shas) == 1


def test_what_other_shapes_compile_otherwise_is_compiled_too(
    problem_of: ProblemOf, plan_of: PlanOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sequence of one segment has no kernel ahead of it that its launch could wait for."""
    problem = problem_of(batch=1, num_heads=2, seqlen=4096, head_dim_k=32, head_dim_v=32)
    plan = plan_of("o", BLOCK_E=32, BLOCK_N=64, algorithm="split", PROGRAMS=32).chained()
    compiled: list[tuple[str, object]] = []

    def noted(launch: Launch, gpu: Gpu) -> CompiledKernel:
        compiled.append((launch.kernel.__name__, launch.options.get("launch_pdl")))
        return compile_launch(launch, gpu)

    monkeypatch.setattr("latune.codegen.build.compile_launch", noted)
    short = [replace(problem, seqlen=seqlen) for seqlen in (64, 63, 1)]
    own = build(problem, plan, H200)
    alone = list(compiled)
    compiled.clear()
    assert build(problem, plan, H200, also=[replace(problem, seqlen=8192), *short]) == own
    assert alone == [("o_states_kernel", None), ("o_kernel", True)]
    assert compiled == [*alone, ("o_kernel", False)]


@pytest.mark.parametrize("launchers", [False, True])
def test_what_launches_a_kernel_is_made_where_it_is_asked_for(
    problem_of: ProblemOf, plan_of: PlanOf, monkeypatch: pytest.MonkeyPatch, launchers: bool
) -> None:
    made: list[str] = []
    present = SimpleNamespace(launcher_cls=lambda source, metadata: made.append(source.fn.__name__ + metadata.name))
    monkeypatch.setattr(driver, "_active", present)
    build(problem_of(), plan_of("o"), H200, launchers=launchers)
    assert made == ["o_kernelo_kernel"] * launchers


@pytest.mark.parametrize("error", [RuntimeError("Failed to find C compiler."), CalledProcessError(1, ["gcc"])])
def test_without_a_c_compiler_the_error_says_so(
    problem_of: ProblemOf, plan_of: PlanOf, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def launcher(source: object, metadata: object) -> None:
        raise error

    monkeypatch.setattr(driver, "_active", SimpleNamespace(launcher_cls=launcher))
    with pytest.raises(BuildError, match=r"no launcher for o_kernel: (Failed to find C compiler|Command .*gcc)"):
        build(problem_of(), plan_of("o"), H200, launchers=True)


def test_what_does_not_compile_is_a_build_error(problem_of: ProblemOf, plan_of: PlanOf) -> None:
    with pytest.raises(BuildError, match=r"^o_kernel does not compile for sm_90: .+"):
        build(problem_of(), plan_of("o", BLOCK_N=8), H200)


def test_a_refusal_of_the_assembler_gives_its_own_words(problem_of: ProblemOf, plan_of: PlanOf) -> None:
    """A state of 256 x 128 beside the warps for scores and loads."""
    problem = problem_of(head_dim_k=256, head_dim_v=256)
    changes = {"state_layout": "transposed", "branched": "none", "loads": "specialized", "BLOCK_N": 64}
    with pytest.raises(BuildError, match=r"^o_kernel does not compile for sm_90: ptxas\S* fatal .*registers"):
        build(problem, plan_of("o", **changes, BLOCK_D=256, BLOCK_E=128, num_warps=8), H200)


def test_a_refusal_of_what_a_kernel_calls_gives_the_reason(problem_of: ProblemOf) -> None:
    text = """
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

@gluon.jit
def o_load(q):
    gl.static_assert(False, "no such part")

@gluon.jit
def o_kernel(q):
    o_load(q)

def forward(q, k, v, slopes, scale):
    o_kernel[(1,)](q, num_warps=4)
"""
    (launch,) = record_launches(load(Source(text=text, sha256="")), problem_of())
    with pytest.raises(BuildError, match=r"^o_kernel does not compile for sm_90: .*no such part"):
        compile_launch(launch, H200)
