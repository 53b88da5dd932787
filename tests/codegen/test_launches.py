"""What a generated module would launch, noted without launching."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from latune.codegen.launches import Launch, record_launches
from latune.codegen.load import load
from latune.codegen.render import render
from latune.plan import Plan
from latune.problem import Problem

PlanOf = Callable[..., Plan]
ProblemOf = Callable[..., Problem]
LENGTHS = ("num_heads", "seqlen", "segment_rows", "num_segments")


def launches(problem: Problem, plan: Plan) -> list[Launch]:
    return record_launches(load(render(problem, plan)), problem)


def test_signature_constants_and_options(problem_of: ProblemOf, plan_of: PlanOf) -> None:
    (launch,) = launches(problem_of(batch=2, num_heads=3, seqlen=1000), plan_of("o", num_warps=8, num_stages=3, maxnreg=168))
    assert launch.kernel.__name__ == "o_kernel"
    assert launch.programs == 2 * 3 * 2
    assert {launch.signature[name] for name in ("q", "k", "v", "o")} == {"*bf16"}
    assert launch.signature["slopes"] == "*fp32"
    assert launch.signature["scale"] == "fp32"
    assert launch.signature["stride_qn"] == "i32"
    assert launch.constants == {"D": 128, "E": 128, "BLOCK_N": 32, "BLOCK_D": 128, "BLOCK_E": 64}
    assert launch.options == {"num_warps": 8, "num_stages": 3, "enable_fp_fusion": True, "maxnreg": 168}
    assert list(launch.signature) == launch.kernel.arg_names


def test_descriptors_name_the_layout_of_their_tiles_where_a_kernel_asks_for_it(problem_of: ProblemOf, plan_of: PlanOf) -> None:
    blocks = {"state_layout": "transposed", "BLOCK_N": 64, "BLOCK_E": 64}
    (tma,) = launches(problem_of(), plan_of("o", loads="tma", **blocks))
    (specialized,) = launches(problem_of(), plan_of("o", loads="specialized", num_stages=3, **blocks))
    assert tma.signature["v"] == "tensordesc<bf16[1, 1, 64, 64]>"
    assert specialized.signature["v"].startswith("tensordesc<bf16[1, 1, 64, 64],NVMMASharedLayout(swizzle_byte_width=128")
    assert specialized.constants["STAGES"] == 3
    assert "num_stages" not in specialized.options


def test_recording_leaves_the_module_as_it_was(problem_of: ProblemOf, plan_of: PlanOf) -> None:
    module = load(render(problem_of(), plan_of("o")))
    kernel = module.o_kernel
    record_launches(module, problem_of())
    assert module.o_kernel is kernel


def test_pointers_and_strides_are_aligned_and_lengths_are_not(problem_of: ProblemOf, plan_of: PlanOf) -> None:
    (launch,) = launches(problem_of(batch=16, num_heads=16, seqlen=1024), plan_of("o"))
    assert {"q", "o", "slopes", "stride_qb", "stride_qh", "stride_qn"} <= set(launch.aligned)
    assert not set(launch.aligned) & {*LENGTHS, "scale", *launch.constants}
    position = launch.kernel.arg_names.index("stride_qn")
    assert launch.attributes[(position,)] == [["tt.divisibility", 16]]


def test_a_stride_of_one_is_a_constant_and_a_length_of_one_is_not(problem_of: ProblemOf, plan_of: PlanOf) -> None:
    """Triton's own rule for integers, from which lengths are exempt."""
    problem = problem_of(batch=1, num_heads=1, seqlen=1, head_dim_k=1)
    (launch,) = launches(problem, plan_of("o"))
    assert launch.constants["stride_qn"] == 1
    assert launch.signature["stride_qn"] == "constexpr"
    assert launch.signature["seqlen"] == launch.signature["num_heads"] == "i32"
    assert launch.signature["stride_vn"] == "i32"


def test_strides_beyond_32_bits_are_wide(problem_of: ProblemOf, plan_of: PlanOf) -> None:
    (launch,) = launches(problem_of(batch=2, num_heads=1024, seqlen=2**20), plan_of("o"))
    assert launch.signature["stride_qb"] == "i64"
    assert launch.signature["stride_qh"] == "i32"


@pytest.mark.parametrize(("dtype", "name"), [("bf16", "bf16"), ("fp16", "fp16"), ("fp32", "fp32")])
def test_descriptors(problem_of: ProblemOf, plan_of: PlanOf, dtype: str, name: str) -> None:
    (launch,) = launches(problem_of(dtype=dtype, head_dim_k=48), plan_of("o", loads="tma", BLOCK_N=16, BLOCK_D=64, BLOCK_E=32))
    assert launch.signature["q"] == f"tensordesc<{name}[1, 1, 16, 64]>"
    assert launch.signature["o"] == f"tensordesc<{name}[1, 1, 16, 32]>"
    assert not any(argument.startswith("stride_") for argument in launch.signature)


@pytest.mark.parametrize("algorithm", ["sequential", "split", "scan"])
@pytest.mark.parametrize("loads", ["pointer", "tma"])
def test_a_new_length_is_no_new_kernel(problem_of: ProblemOf, plan_of: PlanOf, algorithm: str, loads: str) -> None:
    problem, plan = problem_of("bwd", batch=1), plan_of("dq", "dkdv", algorithm=algorithm, loads=loads)
    keys = []
    for seqlen in (1, 16, 4095, 4096):
        noted = launches(replace(problem, seqlen=seqlen), plan)
        keys.append([(launch.signature, launch.constants, launch.aligned, launch.options) for launch in noted])
    assert keys[0] == keys[1] == keys[2] == keys[3]


def test_states_and_decay_none(problem_of: ProblemOf, plan_of: PlanOf) -> None:
    problem = problem_of("bwd", decay="none", has_initial_state=True, needs_final_state=True)
    dq, dkdv = launches(problem, plan_of("dq", "dkdv", decay_mode=None, decayed=None))
    assert dq.signature["initial_state"] == "*fp32"
    assert "dfinal_state" not in dq.signature
    assert dkdv.signature["dfinal_state"] == dkdv.signature["dinitial_state"] == "*fp32"
    assert "slopes" not in dq.signature | dkdv.signature


def test_nothing_is_computed(problem_of: ProblemOf, plan_of: PlanOf) -> None:
    """A problem of terabytes is noted on tensors without storage."""
    module = load(render(problem_of(seqlen=2**20, num_heads=4096), plan_of("o")))
    (launch,) = record_launches(module, problem_of(seqlen=2**20, num_heads=4096))
    assert launch.programs == 2 * 4096 * 2
    assert not torch.cuda.is_initialized()
