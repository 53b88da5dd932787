"""Kernels whose loads, scores and state have warps of their own: as text, and on the GPU they are for. None is interpreted."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import triton
from renderings import body, check_formatted, check_line_length, check_names, write

from latune.codegen.build import build
from latune.codegen.load import load
from latune.codegen.partition import Partition
from latune.codegen.render import render
from latune.gpu import find_gpu
from latune.ops import slopes
from latune.plan import Plan
from latune.problem import Problem
from latune.tuner.worker import Worker

PlanOf = Callable[..., Plan]
ProblemOf = Callable[..., Problem]

# Of those that one warp feeds, and of streams side by side; and with them those whose programs make one another's states.
BY_ALL = ("sequential", "split", "scan", "remainder", "relay")
ALGORITHMS = (*BY_ALL, "cooperative", "balanced")
SPECIALIZED = {"loads": "specialized", "state_layout": "transposed", "branched": "none", "BLOCK_N": 64, "num_stages": 3}
# Loads alone have warps of their own.
PRODUCER = {**SPECIALIZED, "loads": "producer", "BLOCK_E": 128, "num_warps": 8}
STATES = {"has_initial_state": True, "needs_final_state": True}
# Heads, and a length that is no multiple of a chunk's rows.
SMALL = {"batch": 2, "num_heads": 5, "seqlen": 1000}
# Programs where others have 128: so few that waves leave heads over, or that shares end inside heads.
FEW = {"remainder": 16, "relay": 8}


def walk_plan(plan_of: PlanOf, mode: str | None, **changes: str | int) -> Plan:
    """All gradients in one walk."""
    form = {"decay_mode": mode, "decayed": "key"} if mode else {"decay_mode": None}
    form |= {"loads": "specialized", "state_layout": "plain", "BLOCK_N": 64, "num_stages": 3}
    return plan_of("dqdkdv", **(form | changes))


def cases(problem_of: ProblemOf, plan_of: PlanOf) -> Iterator[tuple[Problem, Plan]]:
    """The product of all that shapes such a source."""
    axes = (ALGORITHMS, ((128, 128, 128), (96, 48, 128), (192, 64, 64)), ("matrix", None), (False, True), (False, True))
    for algorithm, (d, e, block_d), mode, given, wanted in itertools.product(*axes):
        if algorithm == "balanced" and mode is None:
            continue
        for kernels in (("o",), ("dq", "dk", "dv")):
            form = {**SPECIALIZED, "algorithm": algorithm, "decay_mode": mode, "BLOCK_D": block_d}
            plan = plan_of(*kernels, **form)
            problem = problem_of(
                "fwd" if kernels == ("o",) else "bwd",
                decay="constant" if mode else "none",
                head_dim_k=d,
                head_dim_v=e,
                has_initial_state=given,
                needs_final_state=wanted,
            )
            yield problem, plan
            if kernels == ("o",):
                yield problem, plan_of(*kernels, **form, checkpoints="kept", CHECKPOINT_ROWS=128)
            if algorithm not in BY_ALL:
                yield problem, plan.chained()
                continue
            of_a_producer = plan_of(*kernels, **(form | PRODUCER | {"BLOCK_D": block_d, "algorithm": algorithm}))
            yield problem, of_a_producer
            if algorithm == "split":
                yield problem, plan.chained()
                yield problem, of_a_producer.chained()
            if algorithm == "sequential" and d == e == 128 and kernels != ("o",):
                narrow = replace(problem, head_dim_k=64, head_dim_v=64)
                for handed, cut in itertools.product(
                    ({}, {"checkpoints": "given", "given_layout": "transposed"}), ("sequential", "split", "remainder", "relay")
                ):
                    yield narrow, walk_plan(plan_of, mode, algorithm=cut, **handed)
            if d == e and kernels != ("o",):
                beside = plan_of("dq", "dk_dv", **form)
                yield problem, beside
                yield problem, beside.chained()


@pytest.fixture(scope="module")
def texts(problem_of: ProblemOf, plan_of: PlanOf) -> list[str]:
    return [render(problem, plan).text for problem, plan in cases(problem_of, plan_of)]


def test_every_rendering_is_formatted_and_has_no_unused_or_undefined_name(texts: list[str], tmp_path: Path) -> None:
    folder = write(texts, tmp_path)
    check_formatted(folder)
    check_names(folder)
    check_line_length(texts)


def test_without_decay_nothing_of_it_is_left(texts: list[str]) -> None:
    without = [text for text in texts if "decay=none" in text]
    assert 0 < len(without) < len(texts)
    for text in without:
        assert not re.search(r"slope|exp2|\bexp\b|_decayed|LOG2|across|to_state", body(text))


@pytest.mark.parametrize(("algorithm", "lent"), [("split", True), ("relay", False)])
def test_states_that_are_handed_on_borrow_no_memory(problem_of: ProblemOf, plan_of: PlanOf, algorithm: str, lent: bool) -> None:
    """They are of another dtype than the output that would lend it."""
    given = {"algorithm": "split", "segment_states": "given", "given_layout": "transposed"}
    forms = (("dk", {"algorithm": "split"}), ("dv", {"algorithm": algorithm}), ("dq", given))
    steps = [step for name, form in forms for step in plan_of(name, **SPECIALIZED, **form).steps]
    assert ("borrow" in render(problem_of("bwd"), Plan(tuple(steps))).text) == lent


@pytest.mark.parametrize("algorithm", BY_ALL)
@pytest.mark.parametrize(
    ("form", "most", "most_of_shares"),
    [(SPECIALIZED | {"BLOCK_D": 256, "BLOCK_E": 64}, 0, 64), (PRODUCER | {"BLOCK_D": 128}, 16, 72)],
    ids=["specialized", "producer"],
)
def test_the_widest_state_does_not_spill(
    problem_of: ProblemOf, plan_of: PlanOf, form: dict[str, str | int], most: int, most_of_shares: int, algorithm: str
) -> None:
    """Wherever it starts from: the state, its rounded copy and the output are 224 registers a thread, of 255 or 240.

    By Triton 3.6, with which all was measured, none does; of a walk that a producer feeds later ones leave up to four values a
    thread. Where shares are walked, so does what says which: at most 18 values.
    """
    problem = problem_of(head_dim_k=256, head_dim_v=256, num_heads=3)
    cut = {"algorithm": algorithm, "PROGRAMS": 32, "num_stages": 2}
    built = build(problem, plan_of("o", **{**form, **cut}), find_gpu("h200"))
    (spilled,) = (kernel.spill_bytes for kernel in built.kernels if kernel.name == "o_kernel")
    if algorithm == "relay":
        assert spilled <= most_of_shares
    else:
        assert spilled <= (0 if triton.__version__.startswith("3.6.") else most)


on_hopper = pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability() != (9, 0), reason="for compute capability 9.0 alone"
)


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker() as worker:
        yield worker


def check(worker: Worker, problem: Problem, *plans: Plan) -> None:
    """On every case of verification, some with strides, lengths and slopes of their own, then timed."""
    parts = [Partition(problem=problem, step=step) for plan in plans for step in plan.steps]
    assert all(part.shares < problem.batch_heads for part in parts if part.relayed), "no state would be handed on"
    for measurement in worker.race(problem, [(plan, render(problem, plan)) for plan in plans], rounds=5):
        assert measurement.ok, measurement.detail


@on_hopper
@pytest.mark.gpu
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("kernels", [("o",), ("dq", "dk", "dv")], ids=["forward", "backward"])
@pytest.mark.parametrize("states", [{}, STATES], ids=["", "states"])
def test_each_algorithm_is_right(
    worker: Worker, problem_of: ProblemOf, plan_of: PlanOf, states: dict[str, bool], kernels: tuple[str, ...], algorithm: str
) -> None:
    problem = problem_of("fwd" if kernels == ("o",) else "bwd", **SMALL, **states)
    plan = plan_of(*kernels, algorithm=algorithm, PROGRAMS=FEW.get(algorithm, 128), **SPECIALIZED)
    check(worker, problem, plan, plan.chained())


@on_hopper
@pytest.mark.gpu
@pytest.mark.parametrize("width", [96, 128, 192, 256])
@pytest.mark.parametrize("algorithm", BY_ALL)
@pytest.mark.parametrize("states", [{}, STATES], ids=["", "states"])
def test_dk_and_dv_side_by_side_are_right(
    worker: Worker, problem_of: ProblemOf, plan_of: PlanOf, states: dict[str, bool], algorithm: str, width: int
) -> None:
    problem = problem_of("bwd", **SMALL, **states, head_dim_k=width, head_dim_v=width)
    blocks = {"BLOCK_D": 64 if width == 192 else max(width, 128), "num_stages": 2}
    cut = {"algorithm": algorithm, "PROGRAMS": FEW.get(algorithm, 128)}
    plan = plan_of("dq", "dk_dv", **{**SPECIALIZED, **blocks, **cut})
    check(worker, problem, plan, plan.chained())


OTHER_WIDTHS = {
    "64": ({"head_dim_k": 64, "head_dim_v": 64}, {"BLOCK_D": 64, "BLOCK_E": 64}),
    "96x80": ({"head_dim_k": 96, "head_dim_v": 80}, {"BLOCK_D": 128, "BLOCK_E": 64}),
    "192x192": ({"head_dim_k": 192, "head_dim_v": 192}, {"BLOCK_D": 64, "BLOCK_E": 64}),
    "96-in-tiles": ({"head_dim_k": 96, "head_dim_v": 96}, {"BLOCK_D": 32, "BLOCK_E": 128, "num_warps": 8}),
    "128-none": ({"decay": "none"}, {"BLOCK_E": 128, "num_warps": 8, "decay_mode": None}),
    "256-fp16": ({"head_dim_k": 256, "head_dim_v": 256, "dtype": "fp16"}, {"BLOCK_D": 256, "BLOCK_E": 64, "num_stages": 2}),
}


@on_hopper
@pytest.mark.gpu
@pytest.mark.parametrize("name", OTHER_WIDTHS)
@pytest.mark.parametrize("algorithm", ["sequential", "cooperative", "balanced", "relay"])
@pytest.mark.parametrize("kernels", [("o",), ("dq", "dk", "dv")], ids=["forward", "backward"])
def test_other_widths_are_right(
    worker: Worker, problem_of: ProblemOf, plan_of: PlanOf, kernels: tuple[str, ...], algorithm: str, name: str
) -> None:
    shape, blocks = OTHER_WIDTHS[name]
    if algorithm == "balanced" and shape.get("decay") == "none":
        pytest.skip("it is by the decay that heads have more segments or fewer")
    direction = "fwd" if kernels == ("o",) else "bwd"
    plan = plan_of(*kernels, algorithm=algorithm, PROGRAMS=FEW.get(algorithm, 128), **{**SPECIALIZED, **blocks})
    check(worker, problem_of(direction, **SMALL, **shape), plan)


@on_hopper
@pytest.mark.gpu
@pytest.mark.parametrize("states", [{}, STATES], ids=["", "states"])
@pytest.mark.parametrize("algorithm", BY_ALL)
@pytest.mark.parametrize("kernels", [("o",), ("dq", "dk", "dv"), ("dq", "dk_dv")], ids=["forward", "backward", "side-by-side"])
@pytest.mark.parametrize(("width", "blocks"), [(128, (128, 4)), (192, (64, 3)), (256, (128, 2))], ids=["128", "192", "256"])
def test_a_producer_and_those_it_feeds_are_right(
    worker: Worker,
    problem_of: ProblemOf,
    plan_of: PlanOf,
    width: int,
    blocks: tuple[int, int],
    kernels: tuple[str, ...],
    algorithm: str,
    states: dict[str, bool],
) -> None:
    direction = "fwd" if kernels == ("o",) else "bwd"
    problem = problem_of(direction, **SMALL, **states, head_dim_k=width, head_dim_v=width)
    cut = {"algorithm": algorithm, "PROGRAMS": FEW.get(algorithm, 128)}
    block_d, num_stages = blocks
    check(worker, problem, plan_of(*kernels, **{**PRODUCER, **cut, "BLOCK_D": block_d, "num_stages": num_stages}))


@on_hopper
@pytest.mark.gpu
def test_eight_warps_for_a_state_of_narrow_keys_are_right(worker: Worker, problem_of: ProblemOf, plan_of: PlanOf) -> None:
    blocks = {"BLOCK_D": 64, "BLOCK_E": 128, "num_warps": 8, "num_stages": 4}
    check(worker, problem_of(**SMALL, head_dim_k=64), plan_of("o", **{**SPECIALIZED, **blocks}))


@on_hopper
@pytest.mark.gpu
@pytest.mark.parametrize("states", [{}, STATES], ids=["", "states"])
def test_checkpoints_are_those_of_other_kernels(problem_of: ProblemOf, plan_of: PlanOf, states: dict[str, bool]) -> None:
    problem = problem_of(**{**SMALL, "head_dim_k": 64, "head_dim_v": 64}, **states)
    torch.manual_seed(0)
    shape = (problem.batch, problem.num_heads, problem.seqlen, 64)
    q, k, v = (torch.randn(shape, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    given = [torch.randn(*shape[:2], 64, 64, device="cuda")] if states else []
    checkpoints = []
    for form in (SPECIALIZED, {"loads": "tma", "state_layout": "transposed", "BLOCK_N": 64}):
        plan = plan_of("o", **form, BLOCK_D=64, checkpoints="kept", CHECKPOINT_ROWS=128)
        *_, kept = load(render(problem, plan)).forward(q, k, v, slopes.alibi(problem.num_heads).cuda(), 1.0, *given)
        checkpoints.append(kept.float())
    one, other = checkpoints
    assert one.shape[1] == 8 and other.norm() > 0
    assert (one - other).norm() < 1e-2 * other.norm()


@on_hopper
@pytest.mark.gpu
@pytest.mark.parametrize("states", [{}, STATES], ids=["", "states"])
@pytest.mark.parametrize("mode", ["matrix", None], ids=["", "none"])
@pytest.mark.parametrize("width", [64, 56])
@pytest.mark.parametrize("algorithm", ["sequential", "split", "remainder", "relay"])
def test_a_walk_of_all_gradients_is_right(
    worker: Worker,
    problem_of: ProblemOf,
    plan_of: PlanOf,
    algorithm: str,
    width: int,
    mode: str | None,
    states: dict[str, bool],
) -> None:
    decay = "constant" if mode else "none"
    problem = problem_of("bwd", **SMALL, head_dim_k=width, head_dim_v=width, decay=decay, **states)
    cut = {"algorithm": algorithm, "PROGRAMS": {"remainder": 4, "relay": 6}.get(algorithm, 32)}
    check(worker, problem, walk_plan(plan_of, mode, **cut), walk_plan(plan_of, mode, **cut, num_stages=2).chained())
