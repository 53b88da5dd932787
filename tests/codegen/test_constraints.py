"""Search spaces: which configs they refuse, and why; and what stands just beside those."""

from __future__ import annotations

import itertools

import pytest
from spaces import A100, B200, H200, L4, SPACES, changed, problem_for

from latune.gpu import Gpu
from latune.plan import KERNELS

INFEASIBLE = [
    ({"loads": "tma"}, {}, A100, "compute capability 9.0"),
    ({"loads": "tma"}, {"head_dim_k": 100}, H200, "multiple of 16 bytes"),
    ({"BLOCK_E": 256, "num_warps": 8}, {}, H200, "wider than the output"),
    ({"BLOCK_E": 16}, {}, H200, "slices of 16 columns"),
    ({"BLOCK_E": 128, "num_warps": 2}, {}, H200, "spill"),
    ({"BLOCK_E": 256}, {"head_dim_k": 256, "head_dim_v": 256}, H200, "beyond 128 KiB"),
    ({"BLOCK_N": 64, "num_stages": 4}, {}, L4, "shared memory"),
    ({"BLOCK_N": 128, "num_warps": 8}, {}, H200, "1.5 times slower"),
    ({"BLOCK_N": 32}, {"seqlen": 3}, H200, "longer than the sequence"),
    ({"decay_mode": "factored"}, {"dtype": "fp16"}, H200, "range of fp16"),
    ({"BLOCK_N": 64, "BLOCK_E": 32, "num_stages": 1}, {}, H200, "ptxas 12.8"),
    ({"BLOCK_N": 64, "BLOCK_E": 32, "num_stages": 3, "decay_mode": "factored"}, {}, H200, "ptxas 12.8"),
    ({"BLOCK_N": 128, "BLOCK_E": 32, "num_stages": 1}, {"head_dim_k": 64}, H200, "ptxas 12.8"),
    ({"algorithm": "split", "PROGRAMS": 1024}, {"num_heads": 1, "seqlen": 2048}, H200, "fewer than two chunks"),
    ({"algorithm": "split", "PROGRAMS": 64}, {}, H200, "fewer than two segments"),
    ({"algorithm": "split", "PROGRAMS": 512}, {"num_heads": 1, "seqlen": 131072}, L4, "eight programs an SM"),
    ({"algorithm": "split"}, {"batch": 64}, H200, "four programs"),
    ({"algorithm": "split", "PROGRAMS": 132}, {"batch": 1, "num_heads": 4}, H200, "fill a GPU whatever their number"),
    ({"algorithm": "remainder", "PROGRAMS": 128, "BLOCK_E": 128, "num_warps": 8}, {}, H200, "split with another name"),
    ({"algorithm": "remainder", "PROGRAMS": 128, "BLOCK_E": 128, "num_warps": 8}, {"batch": 8}, H200, "no head left over"),
    ({"algorithm": "remainder", "PROGRAMS": 128, "BLOCK_E": 128, "num_warps": 8}, {"batch": 7}, H200, "no head left over"),
    ({"algorithm": "remainder", "PROGRAMS": 96, "BLOCK_E": 128, "num_warps": 8}, {"batch": 5}, H200, "on every SM"),
    ({"algorithm": "remainder", "PROGRAMS": 132, "BLOCK_E": 128, "num_warps": 8}, {"batch": 5}, A100, "on every SM"),
    (
        {"algorithm": "remainder", "PROGRAMS": 128, "BLOCK_E": 128, "num_warps": 8},
        {"num_heads": 33, "seqlen": 512},
        H200,
        "little to walk",
    ),
    ({"algorithm": "scan", "PROGRAMS": 512}, {}, H200, "fewer than ten segments"),
    ({"algorithm": "scan", "PROGRAMS": 512}, {"batch": 1, "num_heads": 8}, H200, "four programs an SM took"),
    ({"BLOCK_N": 48}, {}, H200, "BLOCK_N must be one of 16, 32, 64, 128, got 48"),
]

_SHORT = {"num_heads": 2, "seqlen": 1024}
_PARALLEL = {"algorithm": "parallel", "loads": "tma", "decay_mode": "matrix", "rows_read": "live", "own_rows": "once"}
_PARALLEL |= {"BLOCK_N": 64, "BLOCK_J": 64, "num_stages": 3}
INFEASIBLE_PARALLEL = [
    ({"loads": "specialized"}, {}, H200, "a program without a state walks none"),
    ({"decay_mode": "factored"}, {}, H200, "no operands for a factored decay"),
    ({}, {"has_initial_state": True}, H200, "none can be taken or left"),
    ({}, {"needs_final_state": True}, H200, "none can be taken or left"),
    ({}, {"seqlen": 4096}, H200, "the square of the length"),
    ({}, {"batch": 32}, H200, "the square of the length"),
    ({"num_warps": 8}, {}, H200, "compute the same rows"),
    ({"BLOCK_N": 128, "BLOCK_J": 128, "BLOCK_E": 128, "num_warps": 8}, {}, H200, "output, scores and their decay"),
    ({"BLOCK_J": 256}, {}, H200, "output, scores and their decay"),
    ({"BLOCK_J": 32}, {}, H200, "as many rows at once as it has, or many more"),
    ({"BLOCK_N": 32, "BLOCK_J": 64, "num_warps": 2}, {}, H200, "as many rows at once as it has, or many more"),
    ({"BLOCK_J": 256, "num_warps": 8}, {"seqlen": 100}, H200, "than the sequence has"),
    ({"BLOCK_J": 256, "num_warps": 8, "num_stages": 4, "BLOCK_E": 64}, {"head_dim_k": 256}, H200, "exceed the shared memory"),
    ({"num_stages": 4, "BLOCK_E": 128}, {}, L4, "TMA needs"),
]

_SPECIALIZED = {
    "state_layout": "transposed",
    "branched": "none",
    "loads": "specialized",
    "decayed": "value",
    "BLOCK_N": 64,
    "BLOCK_E": 64,
    "num_warps": 4,
    "num_stages": 3,
}
_OF_192 = {"head_dim_k": 192, "head_dim_v": 192}
_OF_256 = {"head_dim_k": 256, "head_dim_v": 256}
_WIDE = {**_SPECIALIZED, "BLOCK_D": 256, "num_stages": 2}
INFEASIBLE_SPECIALIZED = [
    ({}, {}, B200, "compute capability 9.0"),
    ({}, {"dtype": "fp32", "head_dim_k": 64}, H200, "16-bit tiles"),
    ({"state_layout": "plain", "branched": None}, {}, H200, "transposed layout alone"),
    ({"branched": "scores"}, {}, H200, "compute no rows twice"),
    ({"decay_mode": "factored", "decayed": None}, {}, H200, "decay matrix alone"),
    ({"decayed": "key"}, {}, H200, "value side carries the decay"),
    ({"num_warps": 8}, {}, H200, "16 columns of the state each"),
    ({"BLOCK_N": 32}, {}, H200, "16 columns of the state each"),
    ({"num_stages": 1}, {}, H200, "nothing is loaded ahead"),
    ({"BLOCK_E": 128, "num_warps": 8, "num_stages": 4}, {}, H200, "exceed the shared memory"),
    ({**_WIDE, "BLOCK_E": 128, "num_warps": 8}, {"head_dim_k": 256, "head_dim_v": 256}, H200, "too few registers"),
    ({**_WIDE, "num_stages": 3}, {"head_dim_k": 256, "head_dim_v": 256}, H200, "exceed the shared memory"),
    ({**_WIDE, "BLOCK_D": 128}, {"head_dim_k": 256, "head_dim_v": 256}, H200, "products in smaller pieces"),
    ({"BLOCK_D": 64, "BLOCK_E": 128, "num_warps": 8, "num_stages": 2}, _OF_192, H200, "too few registers"),
    ({"BLOCK_D": 64, "num_stages": 4}, _OF_192, H200, "exceed the shared memory"),
]

# Of 160 heads, one wave and 28 SMs of another.
_RELAY = {**_SPECIALIZED, "algorithm": "relay", "PROGRAMS": 132, "BLOCK_E": 128, "num_warps": 8, "num_stages": 2}
INFEASIBLE_RELAYS = [
    ({"loads": "tma", "num_stages": 3}, {}, H200, "hand states on"),
    ({"PROGRAMS": 192}, {}, H200, "have to run at once"),
    ({"PROGRAMS": 96}, {}, H200, "leave SMs without work"),
    ({}, {"batch": 4}, H200, "sequential with another name"),
    ({}, {"batch": 8}, H200, "full to nineteen in twenty"),
]

_REMAINDER = {"algorithm": "remainder", "PROGRAMS": 128}
INFEASIBLE_WALKS = [
    ({"algorithm": "split"}, {"batch": 64}, H200, "four programs, so that cutting"),
    ({"algorithm": "split", "PROGRAMS": 1024}, {"num_heads": 1, "seqlen": 2048}, H200, "fewer than two chunks"),
    ({"algorithm": "split", "PROGRAMS": 64}, {}, H200, "fewer than two segments"),
    ({"algorithm": "split"}, {"num_heads": 1, "seqlen": 131072}, L4, "beyond four programs an SM"),
    (_REMAINDER, {}, H200, "split with another name"),
    ({**_REMAINDER, "PROGRAMS": 96}, {"batch": 5}, H200, "on every SM"),
    (_REMAINDER, {"batch": 8}, H200, "no head left over"),
    (_REMAINDER, {"batch": 7}, H200, "no head left over"),
    (_REMAINDER, {"num_heads": 33, "seqlen": 512}, H200, "little to walk"),
]

_PRODUCER = {**_SPECIALIZED, "loads": "producer", "BLOCK_E": 128, "num_warps": 8}
INFEASIBLE_PRODUCER = [
    ({}, {}, B200, "compute capability 9.0"),
    ({"num_stages": 1}, {}, H200, "nothing is loaded ahead"),
    ({}, {}, H200, "narrower states leave registers to warps that make scores"),
    ({"BLOCK_E": 64, "num_warps": 4}, {}, H200, "eight others share the scores"),
    ({"BLOCK_D": 256, "num_stages": 2}, _OF_256, H200, "round the state tile by tile"),
    ({"BLOCK_D": 128, "num_stages": 3}, _OF_256, H200, "exceed the shared memory"),
]

_SPECIALIZED_WALK = {
    "state_layout": "plain",
    "branched": None,
    "loads": "specialized",
    "decayed": "key",
    "BLOCK_N": 64,
    "num_warps": 4,
    "num_stages": 3,
}
INFEASIBLE_SPECIALIZED_WALKS = [
    ({}, {}, B200, "compute capability 9.0"),
    ({"state_layout": "transposed", "branched": "none"}, {}, H200, "as it is and turned"),
    (
        {"state_layout": "transposed", "branched": "none", "decayed": None, "decay_mode": None},
        {"decay": "none"},
        H200,
        "as it is and turned",
    ),
    ({"decayed": "value"}, {}, H200, "q carries the decay into"),
    ({"BLOCK_N": 32}, {}, H200, "four warps take 64 rows"),
    ({"num_warps": 8}, {}, H200, "four warps take 64 rows"),
    ({}, {"head_dim_v": 128}, H200, "hold both forms of the state's gradient"),
    ({"num_stages": 1}, {}, H200, "an odd chunk needs the one before it"),
    ({"num_stages": 4}, {}, H200, "blocks in flight exceed the shared memory"),
]

_RELAYED_WALK = {**_SPECIALIZED_WALK, "algorithm": "relay", "PROGRAMS": 132}
INFEASIBLE_RELAYED_WALKS = [
    ({"loads": "tma", "num_stages": 2}, {}, H200, "hand states on"),
    ({"PROGRAMS": 192}, {}, H200, "have to run at once"),
    ({"PROGRAMS": 96}, {}, H200, "leave SMs without work"),
    ({}, {"batch": 4}, H200, "sequential with another name"),
    ({}, {"batch": 8}, H200, "full to nineteen in twenty"),
    ({"algorithm": "split"}, {"batch": 1}, H200, "whatever their number"),
]


@pytest.mark.parametrize(
    ("kernel_name", "values", "fields", "gpu", "why"),
    [
        *(("o", *row) for row in INFEASIBLE),
        *(("o", {**_SPECIALIZED, **values}, *rest) for values, *rest in INFEASIBLE_SPECIALIZED),
        *(("o", {**_PRODUCER, **values}, *rest) for values, *rest in INFEASIBLE_PRODUCER),
        *(("o", {**_RELAY, **values}, {"batch": 5, **fields}, *rest) for values, fields, *rest in INFEASIBLE_RELAYS),
        *(("o", {**_PARALLEL, **values}, {**_SHORT, **fields}, *rest) for values, fields, *rest in INFEASIBLE_PARALLEL),
        ("dq", {**_SPECIALIZED, "BLOCK_D": 64}, {"head_dim_k": 64, "head_dim_v": 64}, H200, "one walk makes all gradients"),
        ("dkdv", {"BLOCK_N": 64, "decay_mode": "factored"}, {"head_dim_v": 32, "head_dim_k": 64}, H200, "ptxas 12.8"),
        *(
            ("dqdkdv", values, {"head_dim_k": 64, "head_dim_v": 64, **fields}, gpu, why)
            for values, fields, gpu, why in [
                *INFEASIBLE_WALKS,
                *(({**_SPECIALIZED_WALK, **values}, *rest) for values, *rest in INFEASIBLE_SPECIALIZED_WALKS),
                *(
                    ({**_RELAYED_WALK, **values}, {"batch": 5, **fields}, *rest)
                    for values, fields, *rest in INFEASIBLE_RELAYED_WALKS
                ),
            ]
        ),
    ],
)
def test_infeasible_configs_say_why(kernel_name: str, values: dict, fields: dict, gpu: Gpu, why: str) -> None:
    kernel = KERNELS[kernel_name]
    space, problem = SPACES[kernel.space], problem_for(kernel, **fields)
    config = space.make(
        {"PROGRAMS": 256, **changed(space.default(problem, gpu, kernel), **values)},  # type: ignore[arg-type]
        problem,
        gpu,
        kernel,
    )
    assert why in str(space.feasible(config, problem, gpu, kernel))


@pytest.mark.parametrize(
    ("values", "fields", "gpu", "why"),
    [
        ({}, {}, H200, None),
        ({**_PRODUCER, "BLOCK_D": 128, "num_stages": 2}, {"head_dim_k": 256, "head_dim_v": 256}, H200, None),
        ({**_RELAY, "PROGRAMS": 66}, {"batch": 5}, H200, None),
        (_RELAY, {"batch": 5}, H200, "have to run at once"),
        ({}, {}, B200, "compute capability 9.0"),
        ({}, {"head_dim_k": 96}, H200, "head dims that are alike"),
        ({"loads": "tma"}, {}, H200, "as kernels with warps of their own"),
    ],
)
def test_dk_and_dv_go_side_by_side(values: dict, fields: dict, gpu: Gpu, why: str | None) -> None:
    """As configs of dv do, some of them."""
    kernel, space = KERNELS["dk_dv"], SPACES["stream"]
    problem = problem_for(kernel, **fields)
    base = space.default(problem, gpu, KERNELS["dv"])
    config = space.make(changed(base, **{**_SPECIALIZED, **values}), problem, gpu, kernel)  # type: ignore[arg-type]
    found = space.feasible(config, problem, gpu, kernel)
    assert found is None if why is None else why in str(found)


@pytest.mark.parametrize(("width", "decay"), [(64, "constant"), (128, "none"), (192, "constant"), (256, "none")])
def test_short_sequences_of_few_heads_need_no_state(width: int, decay: str) -> None:
    problem = problem_for(KERNELS["dv"], head_dim_k=width, head_dim_v=width, decay=decay, **_SHORT)
    configs = [config for config in SPACES["stream"].configs(problem, H200, KERNELS["dv"]) if config.algorithm == "parallel"]
    choices = {"loads": ("pointer", "tma"), "own_rows": ("once", "each")}
    choices |= {"decay_mode": ("matrix",), "rows_read": ("live", "all")} if decay == "constant" else {}
    every = {tuple(sorted(zip(choices, values, strict=True))) for values in itertools.product(*choices.values())}
    assert {config.choices for config in configs} == every
    assert not any("PROGRAMS" in dict(config.constexprs) for config in configs)


@pytest.mark.parametrize("decay", ["constant", "none"])
@pytest.mark.parametrize("width", [96, 128, 256])
def test_kernels_with_warps_of_their_own_have_one_form(width: int, decay: str) -> None:
    kernel = KERNELS["o"]
    problem = problem_for(kernel, head_dim_k=width, head_dim_v=width, decay=decay, num_heads=8)
    configs = SPACES["stream"].configs(problem, H200, kernel)
    (form,) = {config.choices for config in configs if dict(config.choices)["loads"] == "specialized"}
    decayed = {"decay_mode": "matrix", "decayed": "value"} if decay == "constant" else {}
    assert dict(form) == {"state_layout": "transposed", "branched": "none", "loads": "specialized", **decayed}


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ({"BLOCK_E": 64, "num_stages": 1}, "bf16"),
        ({"BLOCK_E": 32, "num_stages": 1, "state_layout": "transposed", "branched": "none"}, "bf16"),
        ({"BLOCK_E": 32, "num_stages": 1}, "fp32"),
        ({"BLOCK_E": 32, "num_stages": 2}, "bf16"),
    ],
)
def test_what_is_next_to_wrongly_compiled_slices_is_feasible(values: dict, dtype: str) -> None:
    kernel, space = KERNELS["o"], SPACES["stream"]
    problem = problem_for(kernel, dtype=dtype, head_dim_k=64, head_dim_v=64)
    config = space.make(changed(space.default(problem, H200, kernel), BLOCK_N=64, **values), problem, H200, kernel)
    assert space.feasible(config, problem, H200, kernel) is None


def test_a_wave_of_whole_heads_may_count_all_sms() -> None:
    """Of 64 heads in three slices each 44 are whole, and 20 are cut in two."""
    kernel, space = KERNELS["o"], SPACES["stream"]
    problem = problem_for(kernel, batch=1, num_heads=64, **_OF_192)
    form = {**_SPECIALIZED, "algorithm": "remainder", "BLOCK_D": 64, "PROGRAMS": H200.sms}
    config = space.make(changed(space.default(problem, H200, kernel), **form), problem, H200, kernel)
    assert space.feasible(config, problem, H200, kernel) is None
