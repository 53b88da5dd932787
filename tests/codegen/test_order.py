"""Chained kernels: which wait for the one ahead where they begin, which run alongside it and wait where they end."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from renderings import only_function, top_level

from latune.codegen.render import render
from latune.plan import Plan
from latune.problem import Problem

PlanOf = Callable[..., Plan]
ProblemOf = Callable[..., Problem]


@pytest.mark.parametrize(
    ("form", "algorithm", "kernels"),
    [
        (("o",), "sequential", ["o"]),
        (("o",), "split", ["o_states", "o"]),
        (("dq", "dk", "dv"), "split", ["dq_states", "dq", "dk_states", "dk", "dv_states", "dv"]),
        (("dq", "dkdv"), "scan", ["dq_states", "dq_scan", "dq", "dkdv_states", "dkdv_scan", "dkdv"]),
    ],
)
def test_chained_kernels_wait_for_the_one_ahead_and_let_the_next_one_come(
    problem_of: ProblemOf, plan_of: PlanOf, form: tuple[str, ...], algorithm: str, kernels: list[str]
) -> None:
    """But the first is launched as any other is, and the last lets none go ahead."""
    direction = "fwd" if form == ("o",) else "bwd"
    text = render(problem_of(direction), plan_of(*form, algorithm=algorithm).chained()).text
    found = [chunk for chunk in top_level(text) if "@triton.jit" in chunk]
    assert [only_function(chunk).name for chunk in found] == [f"{name}_kernel" for name in kernels]
    assert ["gdc_wait()" in chunk for chunk in found] == [index > 0 for index in range(len(kernels))]
    assert ["gdc_launch_dependents()" in chunk for chunk in found] == [
        index < len(kernels) - 1 for index in range(len(kernels))
    ]
    launches = top_level(text)[-1].split("_kernel[")[1:]
    assert ["launch_pdl=" in launch for launch in launches] == [index > 0 for index in range(len(kernels))]
    # A single segment has no first pass: what is ahead is then the caller's own kernel, or another call's.
    alone = [f"launch_pdl={kernels[0].removesuffix('_states')}_segments > 1," in launch for launch in launches]
    assert alone == [index == 1 and kernels[0].endswith("_states") for index in range(len(kernels))]
    assert [waits(chunk) for chunk in found[1:]] == ["first"] * (len(kernels) - 1)


def waits(chunk: str) -> str:
    """When a kernel waits for the one ahead: ahead of all memory accesses, or behind them."""
    accesses = [access.start() for access in re.finditer(r"tl\.load|\.load\(|tl\.store|\.store\(|warp_specialize", chunk)]
    (wait,) = (found.start() for found in re.finditer(r"gdc_wait\(\)", chunk))
    assert accesses and (wait < accesses[0] or accesses[-1] < wait)
    return "first" if wait < accesses[0] else "last"


GIVEN = {"segment_states": "given", "given_layout": "transposed"}


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([("dq", {}), ("dk", {}), ("dv", {})], ["last", "last"]),
        ([("dq", {}), ("dkdv", {"algorithm": "split"})], ["last", "first"]),
        ([("dq", {"algorithm": "split"}), ("dkdv", {})], ["first", "last"]),
        ([("dq", {"algorithm": "split"}), ("dkdv", {"algorithm": "split"})], ["first"] * 3),
        ([("dkdv", {"algorithm": "split"}), ("dq", {"algorithm": "split", **GIVEN})], ["first", "first"]),
        ([("dkdv", {}), ("dq", {"algorithm": "split", **GIVEN})], ["last"]),
    ],
    ids=["streams", "a-first-pass", "behind-one", "two", "its-memory-is-lent", "nothing-is-lent"],
)
def test_chained_steps_run_alongside_unless_they_use_the_same_memory(
    problem_of: ProblemOf, plan_of: PlanOf, steps: list[tuple[str, dict[str, str]]], expected: list[str]
) -> None:
    """That of segments' states, which lie in the last output's where that step is given its own."""
    plan = Plan(tuple(step for name, changes in steps for step in plan_of(name, **changes).steps)).chained()
    text = render(problem_of("bwd"), plan).text
    found = [chunk for chunk in top_level(text) if "@triton.jit" in chunk]
    assert [waits(chunk) for chunk in found[1:]] == expected and "gdc_wait()" not in found[0]
    assert ["gdc_launch_dependents()" in chunk for chunk in found] == [True] * len(expected) + [False]


SPECIALIZED = {"loads": "specialized", "state_layout": "transposed", "branched": "none", "BLOCK_N": 64}


@pytest.mark.parametrize(("algorithm", "expected"), [("sequential", ["last", "last"]), ("split", ["first"] * 5)])
def test_kernels_with_warps_of_their_own_run_alongside_too(
    problem_of: ProblemOf, plan_of: PlanOf, algorithm: str, expected: list[str]
) -> None:
    text = render(problem_of("bwd"), plan_of("dq", "dk", "dv", algorithm=algorithm, **SPECIALIZED).chained()).text
    assert [waits(chunk) for chunk in top_level(text) if "gdc_wait" in chunk] == expected


def test_states_that_are_handed_on_are_in_the_same_memory_too(problem_of: ProblemOf, plan_of: PlanOf) -> None:
    algorithms = (("dq", "relay"), ("dk", "remainder"), ("dv", "sequential"))
    steps = [step for name, one in algorithms for step in plan_of(name, algorithm=one, **SPECIALIZED).steps]
    text = render(problem_of("bwd"), Plan(tuple(steps)).chained()).text
    kernels = {only_function(chunk).name: chunk for chunk in top_level(text) if "gdc_wait" in chunk}
    assert {name: waits(chunk) for name, chunk in kernels.items()} == {
        "dk_states_kernel": "first",
        "dk_kernel": "first",
        "dv_kernel": "last",
    }


def test_a_walk_that_is_cut_and_makes_its_checkpoints_waits_for_the_states_alone(
    problem_of: ProblemOf, plan_of: PlanOf
) -> None:
    """Their kernel is launched as any other is, behind the checkpoints' one: by the time that it ends, both have."""
    plan = plan_of("dqdkdv", algorithm="split", BLOCK_N=64).chained()
    text = render(problem_of("bwd", head_dim_k=64, head_dim_v=64), plan).text
    found = {only_function(chunk).name: chunk for chunk in top_level(text) if "@triton.jit" in chunk}
    assert list(found) == ["dqdkdv_checkpoints_kernel", "dqdkdv_states_kernel", "dqdkdv_kernel"]
    assert ["gdc_wait()" in chunk for chunk in found.values()] == [False, False, True]
    launches = top_level(text)[-1].split("_kernel[")[1:]
    assert ["launch_pdl=dqdkdv_segments > 1," in launch for launch in launches] == [False, False, True]
