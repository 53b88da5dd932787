"""Kernels with warps of their own, run as text in float64: their arithmetic, and their order, without a GPU."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from random import Random

import numpy as np
import pytest
import torch
from gluon_emulator import emulated
from gluon_memory import Pointer
from torch import Tensor

from latune.codegen.kept import handing_over
from latune.codegen.load import COUNTERS
from latune.codegen.render import render
from latune.ops import reference
from latune.plan import Plan
from latune.problem import DIRECTIONS, Problem

PlanOf = Callable[..., Plan]
ProblemOf = Callable[..., Problem]

BATCH, HEADS, D, E = 1, 3, 24, 32
SCALE = 0.7
CHECKPOINT_ROWS = 128
# Blocks narrower than the hardware's: columns are split, and 200 rows are seven chunks, the last one ragged.
FORM = {"state_layout": "transposed", "branched": "none", "num_stages": 3}
BLOCKS = {"BLOCK_N": 32, "BLOCK_E": 16}
# Four segments of a head; or two heads whole, and the third in two segments; or two shares, each of a head and a half.
PROGRAMS = {"sequential": 24, "split": 24, "scan": 24, "remainder": 4, "cooperative": 24, "balanced": 24, "relay": 4}

BY_ALL = ["sequential", "split", "scan", "remainder", "relay"]
algorithms_and_forms = pytest.mark.parametrize(
    ("algorithm", "loads"),
    [*itertools.product(BY_ALL, ("specialized", "producer")), ("cooperative", "specialized")],
)
# With the key side in one tile; and in three or four of them, as many as hold it.
sizes = pytest.mark.parametrize(("seqlen", "block_d"), [(1, 32), (64, 32), (200, 32), (200, 8)])
states = pytest.mark.parametrize("with_states", [False, True], ids=["", "states"])
decays = pytest.mark.parametrize("decay", ["constant", "none"])


@dataclass(frozen=True)
class Inputs:
    """Of one call; without decay, or without states, those are None."""

    q: Tensor
    k: Tensor
    v: Tensor
    do: Tensor
    slopes: Tensor | None
    initial_state: Tensor | None
    dfinal_state: Tensor | None

    @classmethod
    @functools.cache
    def of(cls, problem: Problem) -> Inputs:
        generator = torch.Generator().manual_seed(problem.seqlen)

        def drawn(*shape: int) -> Tensor:
            return torch.randn(BATCH, HEADS, *shape, dtype=torch.float64, generator=generator)

        keys, values = problem.head_dim_k, problem.head_dim_v
        return cls(
            q=drawn(problem.seqlen, keys),
            k=drawn(problem.seqlen, keys),
            v=drawn(problem.seqlen, values),
            do=drawn(problem.seqlen, values),
            slopes=torch.tensor([0.5, 0.03, 0.0], dtype=torch.float64) if problem.decay == "constant" else None,
            initial_state=drawn(keys, values) if problem.has_initial_state else None,
            dfinal_state=drawn(keys, values) if problem.needs_final_state else None,
        )

    def results(self, text: str, *kept: Tensor) -> tuple[Tensor, ...]:
        """Of the host function that the text defines."""
        names = emulated(text, seed=0)
        given = (self.q, self.k, self.v, self.slopes, SCALE)
        if "forward" in names:
            found = names["forward"](*present(*given, self.initial_state))
        else:
            found = names["backward"](*present(*given, self.do, self.initial_state, self.dfinal_state, *kept))
        if COUNTERS in names:
            # Given only if they are as the last launch has found them.
            names[COUNTERS](self.q.device, 1)
        return found

    def checkpoints(self, rows: int, *, turned: bool) -> Tensor:
        """The reference's states ahead of every so many rows, as a forward pass keeps them."""
        first = torch.zeros(BATCH, HEADS, D, E, dtype=torch.float64) if self.initial_state is None else self.initial_state
        states = torch.stack([first, *(states_after(self, row) for row in range(rows, self.q.shape[2], rows))], dim=2)
        return (states.mT if turned else states).flatten(3).flatten(0, 1).contiguous()


@functools.cache
def states_after(inputs: Inputs, rows: int) -> Tensor:
    """The reference's state behind the first ``rows`` rows."""
    head = (tensor[:, :, :rows] for tensor in (inputs.q, inputs.k, inputs.v))
    return reference.recurrence(*head, inputs.slopes, initial_state=inputs.initial_state)[1]


@functools.cache
def expected(problem: Problem) -> list[Tensor]:
    """The reference's results."""
    inputs = Inputs.of(problem)
    given = (inputs.q, inputs.k, inputs.v, inputs.slopes)
    if problem.direction == "bwd":
        return present(*reference.gradients(*given, SCALE, inputs.do, inputs.initial_state, inputs.dfinal_state))
    o, final_state = reference.recurrence(*given, scale=SCALE, initial_state=inputs.initial_state)
    return [o, final_state] if problem.needs_final_state else [o]


def present(*values: Tensor | float | None) -> list[Tensor | float]:
    return [value for value in values if value is not None]


def check(results: Iterable[Tensor], expected: Iterable[Tensor]) -> None:
    for one, other in zip(results, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def problem_for(problem_of: ProblemOf, direction: str, seqlen: int, with_states: bool, decay: str) -> Problem:
    return problem_of(
        direction,
        decay=decay,
        batch=BATCH,
        num_heads=HEADS,
        seqlen=seqlen,
        head_dim_k=D,
        head_dim_v=E,
        has_initial_state=with_states,
        needs_final_state=with_states,
    )


def plan_for(
    plan_of: PlanOf,
    problem: Problem,
    algorithm: str,
    loads: str,
    backward: tuple[str, ...] = ("dq", "dk", "dv"),
    **changes: str | int,
) -> Plan:
    kernels = ("o",) if problem.direction == "fwd" else backward
    decay_mode = "matrix" if problem.decay == "constant" else None
    form = {"algorithm": algorithm, "PROGRAMS": PROGRAMS[algorithm], "loads": loads, "decay_mode": decay_mode, **FORM, **BLOCKS}
    return plan_of(*kernels, **(form | changes))


@pytest.mark.parametrize("direction", DIRECTIONS)
@algorithms_and_forms
@sizes
@states
@decays
def test_results_are_those_of_the_reference(
    problem_of: ProblemOf,
    plan_of: PlanOf,
    direction: str,
    loads: str,
    algorithm: str,
    seqlen: int,
    block_d: int,
    with_states: bool,
    decay: str,
) -> None:
    problem = problem_for(problem_of, direction, seqlen, with_states, decay)
    inputs = Inputs.of(problem)
    results = inputs.results(render(problem, plan_for(plan_of, problem, algorithm, loads, BLOCK_D=block_d)).text)
    check(results, expected(problem))


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(("algorithm", "programs"), [("balanced", 16), ("balanced", 40), ("relay", 2), ("relay", 40)])
@sizes
@states
def test_so_are_those_of_segments_by_the_decay_and_of_other_shares(
    problem_of: ProblemOf,
    plan_of: PlanOf,
    direction: str,
    algorithm: str,
    programs: int,
    seqlen: int,
    block_d: int,
    with_states: bool,
) -> None:
    """In a share are all heads, or one."""
    problem = problem_for(problem_of, direction, seqlen, with_states, "constant")
    inputs = Inputs.of(problem)
    plan = plan_for(plan_of, problem, algorithm, "specialized", BLOCK_D=block_d, PROGRAMS=programs)
    check(inputs.results(render(problem, plan).text), expected(problem))


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(("algorithm", "seqlen", "programs"), [("cooperative", 640, 60), ("balanced", 1700, 108)])
def test_more_segments_than_a_scan_has_in_flight_are_scanned(
    problem_of: ProblemOf, plan_of: PlanOf, direction: str, algorithm: str, seqlen: int, programs: int
) -> None:
    """Ten of each head, and 18 in the mean."""
    problem = problem_for(problem_of, direction, seqlen, True, "constant")
    inputs = Inputs.of(problem)
    plan = plan_for(plan_of, problem, algorithm, "specialized", BLOCK_D=32, PROGRAMS=programs)
    check(inputs.results(render(problem, plan).text), expected(problem))


def parts_of_heads(text: str, slopes: list[float], seqlen: int, parts: int) -> list[int]:
    """How many each head has; none is of no head or left out."""
    head_of, given = emulated(text, seed=0)["head_of"], Pointer(np.array(slopes))
    found = [tuple(map(int, head_of(part, parts, given, len(slopes), seqlen))) for part in range(parts)]
    counts = Counter(head for head, _, _ in found)
    firsts = [0, *itertools.accumulate(counts[head] for head in range(len(slopes)))]
    assert found == [(head, firsts[head], counts[head]) for head in range(len(slopes)) for _ in range(counts[head])]
    return list(counts.values())


def test_heads_that_remember_longer_have_more_segments(problem_of: ProblemOf, plan_of: PlanOf) -> None:
    problem = problem_for(problem_of, "fwd", 8192, False, "constant")
    text = render(problem, plan_for(plan_of, problem, "balanced", "specialized", BLOCK_D=32)).text
    counts = parts_of_heads(text, [2.0 ** -(head / 2) for head in range(1, 17)], 32768, 132)
    assert counts[7] < counts[11] < counts[-1] == max(counts)
    # Like heads have as many, but for what is left over.
    for slope in (1e-9, 10.0):
        assert parts_of_heads(text, [slope] * 16, 8192, 132) == [9] * 4 + [8] * 12
        assert parts_of_heads(text, [slope] * 64, 8192, 128) == [2] * 64
        assert parts_of_heads(text, [slope] * 40, 8192, 40) == [1] * 40


def test_no_segment_is_without_rows(problem_of: ProblemOf, plan_of: PlanOf) -> None:
    """A host function has three chunks or more for each part, and two parts or more for each head, or one."""
    problem = problem_for(problem_of, "fwd", 8192, False, "constant")
    text = render(problem, plan_for(plan_of, problem, "balanced", "specialized", BLOCK_D=32)).text
    random = Random(0)
    for _ in range(40):
        heads, chunks = random.randint(1, 64), random.randint(6, 40)
        parts = min(132, heads * chunks // 3)
        if parts >= 2 * heads:
            slopes = [2.0 ** random.uniform(-12, 2) for _ in range(heads)]
            assert max(parts_of_heads(text, slopes, 64 * chunks, parts)) <= chunks


def test_shares_hold_each_chunk_once_and_wait_for_none_that_waits(problem_of: ProblemOf, plan_of: PlanOf) -> None:
    """A share's first segment is a head's beginning, so that its state comes without waiting; only its last one waits."""
    problem = problem_for(problem_of, "fwd", 200, False, "constant")
    names = emulated(render(problem, plan_for(plan_of, problem, "relay", "specialized", BLOCK_D=32)).text, seed=0)
    random = Random(0)
    for _ in range(40):
        chunks, shares = random.randint(1, 40), random.randint(1, 132)
        heads = random.randint(shares, 4 * shares)
        walked = Counter[tuple[int, int]]()
        for share in range(shares):
            begin, end = map(int, names["share_of"](share, shares, heads * chunks))
            assert end - begin >= chunks
            count = (end - 1) // chunks - begin // chunks + 1
            segments = [tuple(map(int, names["segment_of"](back, begin, end, chunks))) for back in range(count)]
            assert all(first == 0 for _, first, _ in segments[:-1])
            assert all(last == chunks for _, _, last in segments[1:])
            walked.update((head, chunk) for head, first, last in segments for chunk in range(first, last))
        assert walked == Counter(itertools.product(range(heads), range(chunks)))


@pytest.mark.parametrize("loads", ["specialized", "producer"])
@pytest.mark.parametrize("algorithm", BY_ALL)
@sizes
@states
@decays
def test_dk_and_dv_come_side_by_side(
    problem_of: ProblemOf,
    plan_of: PlanOf,
    loads: str,
    algorithm: str,
    seqlen: int,
    block_d: int,
    with_states: bool,
    decay: str,
) -> None:
    problem = replace(problem_for(problem_of, "bwd", seqlen, with_states, decay), head_dim_v=D)
    inputs = Inputs.of(problem)
    plan = plan_for(plan_of, problem, algorithm, loads, ("dq", "dk_dv"), BLOCK_D=block_d)
    check(inputs.results(render(problem, plan).text), expected(problem))


@pytest.mark.parametrize("others", ["split", "scan", "remainder", "cooperative", "balanced"])
@pytest.mark.parametrize("algorithm", ["split", "scan", "cooperative"])
@states
def test_dq_starts_from_the_states_that_a_forward_pass_has_left(
    problem_of: ProblemOf, plan_of: PlanOf, algorithm: str, others: str, with_states: bool
) -> None:
    """The states of dk and dv lie in dq's memory meanwhile, whose own elements have 16 bits."""
    problem = problem_for(problem_of, "fwd", 400, with_states, "constant")
    behind = replace(problem, direction="bwd")
    inputs = Inputs.of(problem)
    forward = plan_for(plan_of, problem, algorithm, "specialized", BLOCK_D=32)
    of_dq = plan_for(plan_of, behind, "split", "specialized", ("dq",), BLOCK_D=32)
    of_others = plan_for(plan_of, behind, others, "specialized", ("dk", "dv"), BLOCK_D=32)
    handed = handing_over(forward, Plan(of_dq.steps + of_others.steps), problem)
    assert handed is not None
    *results, states = inputs.results(render(problem, handed[0]).text)
    check(results, expected(problem))
    check(inputs.results(render(behind, handed[1]).text, states), expected(behind))


@pytest.mark.parametrize(
    ("loads", "algorithm"),
    [("producer", "sequential"), ("producer", "relay"), *(("specialized", algorithm) for algorithm in PROGRAMS)],
    ids=str,
)
@states
def test_checkpoints_are_the_states_ahead_of_their_rows(
    problem_of: ProblemOf, plan_of: PlanOf, loads: str, algorithm: str, with_states: bool
) -> None:
    problem = problem_for(problem_of, "fwd", 3 * CHECKPOINT_ROWS - 20, with_states, "constant")
    inputs = Inputs.of(problem)
    plan = plan_for(plan_of, problem, algorithm, loads, BLOCK_D=32, checkpoints="kept", CHECKPOINT_ROWS=CHECKPOINT_ROWS)
    *results, checkpoints = inputs.results(render(problem, plan).text)
    check(results, expected(problem))
    first = torch.zeros(BATCH, HEADS, D, E, dtype=torch.float64) if inputs.initial_state is None else inputs.initial_state
    wanted = [first, *(states_after(inputs, rows) for rows in (CHECKPOINT_ROWS, 2 * CHECKPOINT_ROWS))]
    transposed = checkpoints.reshape(BATCH, HEADS, len(wanted), E, D)
    check(transposed.mT.unbind(dim=2), wanted)


# Whole heads; three segments of a head; two heads whole, and the third in two segments; or two shares of a head and a half.
@pytest.mark.parametrize(
    "walked",
    [{}, *({"algorithm": name, "PROGRAMS": programs} for name, programs in (("split", 9), ("remainder", 2), ("relay", 2)))],
    ids=str,
)
@pytest.mark.parametrize("seqlen", [1, 64, 65, 200])
@states
@decays
@pytest.mark.parametrize("given", [None, "plain", "transposed"], ids=["", "given", "given-transposed"])
def test_a_walk_makes_all_gradients(
    problem_of: ProblemOf,
    plan_of: PlanOf,
    walked: dict[str, str | int],
    seqlen: int,
    with_states: bool,
    decay: str,
    given: str | None,
) -> None:
    problem = problem_for(problem_of, "bwd", seqlen, with_states, decay)
    inputs = Inputs.of(problem)
    decayed = {"decay_mode": "matrix", "decayed": "key"} if decay == "constant" else {"decay_mode": None}
    handed = {"checkpoints": "given", "given_layout": given} if given else {}
    plan = plan_of("dqdkdv", loads="specialized", state_layout="plain", BLOCK_N=32, num_stages=3, **walked, **decayed, **handed)
    kept = [inputs.checkpoints(64, turned=given == "transposed")] if given else []
    check(inputs.results(render(problem, plan).text, *kept), expected(problem))
