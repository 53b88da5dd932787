"""Every kernel against float64, over a set of cases in which every two values of any two axes meet."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace

import pytest
import torch
import triton.language as tl
from torch import Tensor

from latune.codegen.kept import keeping, resuming
from latune.codegen.load import load
from latune.codegen.render import render
from latune.config import Config
from latune.ops import reference
from latune.plan import KERNELS, Plan, Step
from latune.problem import Problem, tile_width
from latune.tuner.verify import poisoned_allocations

# o; then all of the backward kernels, each once.
PLANS = (("fwd", ("o",)), ("bwd", ("dq", "dkdv")), ("bwd", ("dk", "dv")), ("bwd", ("dqdkdv",)))
DTYPES = {"fp32": torch.float32, "fp16": torch.float16}
# Bounds of the RMS error of a head over the RMS of the head itself.
TOLERANCES = {"fp32": 2e-5, "fp16": 3e-3}
SCALE = 0.7

AXES: Mapping[str, tuple[object, ...]] = {
    "seqlen": (1, 17, 63, 64, 65, 130),
    "decay": ("matrix key", "matrix value", "factored", "none"),
    # D, E, BLOCK_E: one slice, several; whole and padded tiles, D below and above E.
    "widths": ((32, 32, 32), (16, 64, 16), (48, 80, 32), (80, 48, 64), (64, 16, 16)),
    # As PyTorch makes them; [B, N, H, D] seen as [B, H, N, D]; one head for all; [B, H, D, N] seen as [B, H, N, D].
    "memory": ("contiguous", "transposed", "expanded", "last stride"),
    "states": ((False, False), (True, False), (False, True), (True, True)),
    # Moderate and none; l^C underflows; slow and beyond the bound of a factored decay.
    "slopes": ((0.3, 0.0), (200.0, 0.9), (0.02, 20.0)),
    "algorithm": ("sequential", "split", "scan", "remainder", "parallel"),
    # Programs for the segments of a head, if it is split: with none it is one segment all the same.
    "segments": (0, 3),
    "layout": ("plain", "transposed"),
    "branched": ("none", "scores", "all"),
    "loads": ("pointer", "tma"),
    # Of chunks by themselves: which rows are read, when the chunk's own are, and that more than as many are at once.
    "reads": ("live once", "live each", "all once", "all each", "live once wide", "all each wide"),
    "block_n": (16, 32),
    "tiles": (1, 2, 4),
    "heads": ((1, 2), (2, 2)),
    "dtype": ("fp32", "fp16"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One value of each axis."""

    seqlen: int
    decay: str
    widths: tuple[int, int, int]
    memory: str
    states: tuple[bool, bool]
    slopes: tuple[float, float]
    algorithm: str
    segments: int
    layout: str
    branched: str
    loads: str
    reads: str
    block_n: int
    tiles: int
    heads: tuple[int, int]
    dtype: str

    def problem(self, direction: str) -> Problem:
        return Problem(
            direction=direction,
            decay="none" if self.decay == "none" else "constant",
            dtype=self.dtype,
            batch=self.heads[0],
            num_heads=self.heads[1],
            seqlen=self.seqlen,
            head_dim_k=self.widths[0],
            head_dim_v=self.widths[1],
            has_initial_state=self.states[0],
            needs_final_state=self.states[1],
        )

    def plan(self, *kernels: str) -> Plan:
        return Plan(tuple(Step(kernel=kernel, config=self.config(kernel)) for kernel in kernels))

    def config(self, kernel: str) -> Config:
        if KERNELS[kernel].reads_checkpoints and (self.algorithm == "scan" or self.decay == "factored"):
            # Its search space has neither scans nor factored decays.
            decay = "matrix key" if self.decay == "factored" else self.decay
            algorithm = "split" if self.algorithm == "scan" else self.algorithm
            return replace(self, algorithm=algorithm, decay=decay).config(kernel)
        if self.algorithm == "parallel" and KERNELS[kernel].space != "stream":
            # It is one of streams alone.
            return replace(self, algorithm="sequential").config(kernel)
        mode, _, decayed = self.decay.partition(" ")
        rows_read, own_rows, *wide = self.reads.split()
        choices = {"loads": self.loads} | ({} if mode == "none" else {"decay_mode": mode})
        if self.algorithm == "parallel":
            choices |= {"own_rows": own_rows} | ({} if mode == "none" else {"rows_read": rows_read})
        else:
            choices |= {"state_layout": self.layout, "branched": self.branched} | ({"decayed": decayed} if decayed else {})
        constexprs = {"BLOCK_N": self.block_n}
        constexprs |= {"BLOCK_J": 64 if wide else self.block_n} if self.algorithm == "parallel" else {}
        problem = self.problem(KERNELS[kernel].direction)
        programs = problem.batch_heads
        if KERNELS[kernel].space == "stream":
            key_width, width = KERNELS[kernel].dims(problem)
            constexprs |= {"BLOCK_D": max(16, tile_width(key_width) // self.tiles), "BLOCK_E": self.widths[2]}
            programs *= -(-width // self.widths[2])
        constexprs |= {"PROGRAMS": self.segments * programs + 1} if self.algorithm in ("split", "scan") else {}
        # Of four heads one is left over, in three segments; or none.
        at_a_time = (self.segments or 2) * (programs // problem.batch_heads)
        constexprs |= {"PROGRAMS": at_a_time} if self.algorithm == "remainder" else {}
        return Config.of(self.algorithm, choices=choices, constexprs=constexprs)

    def __str__(self) -> str:
        return "-".join(str(getattr(self, field.name)).replace(" ", "_") for field in fields(self))


def allowed(values: Mapping[str, object]) -> bool:
    """What search spaces offer: factors of a factored decay exceed fp16; without a state none is given, wanted or factored."""
    stateful = values.get("decay") == "factored" or any(values.get("states", ()))  # type: ignore[arg-type]
    refused = values.get("algorithm") == "parallel" and stateful
    return not refused and (values.get("decay"), values.get("dtype")) != ("factored", "fp16")


def pairs(values: Mapping[str, object]) -> set[tuple[tuple[str, object], tuple[str, object]]]:
    return set(itertools.combinations(values.items(), 2))


def all_pairs() -> set[tuple[tuple[str, object], tuple[str, object]]]:
    axes = itertools.combinations(AXES, 2)
    both = (((one, x), (other, y)) for one, other in axes for x in AXES[one] for y in AXES[other])
    return {pair for pair in both if allowed(dict(pair))}


def covering_cases() -> Iterator[Case]:
    """Cases until every two values have met: each the best of many random ones that start from a pair not met yet."""
    dice = random.Random(0)
    open_pairs = all_pairs()
    while open_pairs:
        seed = dict(min(open_pairs, key=repr))
        drawn = ({axis: seed.get(axis, dice.choice(values)) for axis, values in AXES.items()} for _ in range(100))
        best = max(filter(allowed, drawn), key=lambda values: len(pairs(values) & open_pairs))
        open_pairs -= pairs(best)
        yield Case(**best)  # type: ignore[arg-type]


CASES = tuple(covering_cases())


def test_every_two_values_meet() -> None:
    met = set().union(*(pairs({axis: getattr(case, axis) for axis in AXES}) for case in CASES))
    assert met == all_pairs()


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """The tensors of one call by name, and the float64 result of every output."""

    tensors: Mapping[str, Tensor]
    expected: Mapping[str, Tensor]

    def outputs(self, case: Case, direction: str, kernels: tuple[str, ...]) -> dict[str, Tensor]:
        """What the generated module of these kernels computes, by name."""
        plan = case.plan(*kernels)
        results = run(case.problem(direction), plan, self.tensors)
        state = {"fwd": "final_state", "bwd": "dinitial_state"}[direction]
        return dict(zip((*plan.outputs, *[state] * (len(results) - len(plan.outputs))), results, strict=True))


def run(problem: Problem, plan: Plan, tensors: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """What the generated module of this plan returns; what it does not write is NaN."""
    module = load(render(problem, plan))
    function = module.forward if problem.direction == "fwd" else module.backward
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    with poisoned_allocations():
        return function(**{name: SCALE if name == "scale" else tensors[name] for name in names})


def call_of(case: Case) -> Call:
    torch.manual_seed(0)
    (d, e, _), dtype = case.widths, DTYPES[case.dtype]
    rows, state = (*case.heads, case.seqlen), (*case.heads, d, e)
    tensors = {
        "q": laid_out(case.memory, torch.randn(*rows, d).to(dtype)),
        "k": laid_out(case.memory, (torch.randn(*rows, d) * d**-0.5).to(dtype)),
        "v": laid_out(case.memory, torch.randn(*rows, e).to(dtype)),
        "do": laid_out(case.memory, torch.randn(*rows, e).to(dtype)),
        "slopes": torch.tensor(case.slopes[: case.heads[1]]),
        "initial_state": torch.randn(state),
        "dfinal_state": torch.randn(state),
    }
    return Call(tensors=tensors, expected=expected_of(case, tensors))


def laid_out(memory: str, x: Tensor) -> Tensor:
    """x, or (expanded) its first head, in another layout."""
    if memory == "transposed":
        return x.transpose(1, 2).contiguous().transpose(1, 2)
    if memory == "expanded":
        return x[:1, :1].expand(x.shape)
    if memory == "last stride":
        return x.mT.contiguous().mT
    return x


def expected_of(case: Case, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every output by autograd through the recurrence, in float64."""
    inputs = {name: x.double().requires_grad_(name != "slopes") for name, x in tensors.items()}
    with_initial, with_final = case.states
    o, final_state = reference.recurrence(
        inputs["q"],
        inputs["k"],
        inputs["v"],
        None if case.decay == "none" else inputs["slopes"],
        scale=SCALE,
        initial_state=inputs["initial_state"] if with_initial else None,
    )
    loss = (o * inputs["do"]).sum() + with_final * (final_state * inputs["dfinal_state"]).sum()
    sources = ("q", "k", "v", *["initial_state"] * with_initial)
    gradients = torch.autograd.grad(loss, [inputs[name] for name in sources])
    outputs = {"o": o, "final_state": final_state, **{f"d{name}": x for name, x in zip(sources, gradients, strict=True)}}
    return {name: x.detach() for name, x in outputs.items()}


def error_ratio(output: Tensor, expected: Tensor, dtype: torch.dtype) -> float:
    """The largest RMS error of a head, relative to the head's RMS; NaN when an element is NaN.

    Inputs are of size 1, so a head below the dtype's smallest normal number is one whose decay underflowed.
    """
    error, size = (x.square().mean((2, 3)).sqrt() for x in (output.double() - expected, expected))
    return (error / size.clamp(min=torch.finfo(dtype).tiny)).max().item()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernels(case: Case) -> None:
    call = call_of(case)
    for direction, kernels in PLANS:
        for name, output in call.outputs(case, direction, kernels).items():
            ratio = error_ratio(output, call.expected[name], DTYPES[case.dtype])
            bound = TOLERANCES[case.dtype]
            assert ratio <= bound, f"{name} of {kernels}: RMS error ratio {ratio:.3g}, expected at most {bound:.3g}"


PLAIN = Case(
    seqlen=130,
    decay="matrix key",
    widths=(32, 32, 32),
    memory="contiguous",
    states=(False, False),
    slopes=(0.3, 0.02),
    algorithm="split",
    segments=3,
    layout="transposed",
    branched="none",
    loads="pointer",
    reads="live once",
    block_n=16,
    tiles=1,
    heads=(1, 2),
    dtype="fp32",
)

LAYOUTS = ("plain", "transposed")
CHANGES = (
    {},
    {"layout": "plain"},
    {"states": (True, True), "loads": "tma", "heads": (2, 2)},
    {"decay": "none", "heads": (2, 2)},
    {"decay": "factored", "slopes": (0.02, 20.0), "widths": (48, 80, 32)},
    {"decay": "matrix value", "widths": (80, 48, 64), "tiles": 2, "block_n": 32},
    {"dtype": "fp16", "memory": "transposed", "branched": "scores", "widths": (64, 16, 16), "seqlen": 65},
)


def changed(*algorithms: tuple[str, str]) -> list[tuple[dict[str, object], tuple[str, str], str]]:
    """Each change with each pair of an odd number of them, and a layout in turn, so that it meets every one of both."""
    return [(*case, layout) for case, layout in zip(itertools.product(CHANGES, algorithms), itertools.cycle(LAYOUTS))]


@pytest.mark.parametrize(
    ("change", "algorithms", "layout"), changed(("split", "split"), ("scan", "split"), ("scan", "scan")), ids=str
)
def test_dq_starts_from_the_states_that_forward_kept(
    change: dict[str, object], layout: str, algorithms: tuple[str, str]
) -> None:
    """``layout``: of the backward pass's state, whatever forward's is; ``algorithms``: of both."""
    ahead = replace(PLAIN, **change, algorithm=algorithms[0])
    behind = replace(ahead, layout=layout, algorithm=algorithms[1])
    states = check_a_step(ahead, behind.plan("dq", "dkdv"))
    assert states.shape[0] == ahead.problem("fwd").batch_heads and states.shape[1] > 1


@pytest.mark.parametrize(
    ("change", "algorithms", "layout"),
    changed(
        ("sequential", "sequential"), ("split", "sequential"), ("scan", "split"), ("remainder", "split"), ("split", "remainder")
    ),
    ids=str,
)
def test_all_gradients_come_of_the_checkpoints_that_forward_kept(
    change: dict[str, object], layout: str, algorithms: tuple[str, str]
) -> None:
    """``layout``: of the backward pass's state, whatever forward's is; ``algorithms``: of both."""
    ahead = replace(PLAIN, **change, algorithm=algorithms[0])
    states = check_a_step(ahead, replace(ahead, layout=layout, algorithm=algorithms[1]).plan("dqdkdv"))
    chunks = -(-ahead.seqlen // (2 * ahead.block_n))
    assert states.shape == (ahead.problem("fwd").batch_heads, chunks, ahead.widths[0] * ahead.widths[1])
    assert states.dtype == DTYPES[ahead.dtype] and states.isfinite().all()


def check_a_step(ahead: Case, backward: Plan) -> Tensor:
    """Compares outputs and gradients with the recurrence's, backward from what forward keeps for it; returns that."""
    kept = keeping(ahead.plan("o"), backward, ahead.problem("bwd"))
    assert kept is not None
    plan = resuming(backward, kept, ahead.problem("bwd"))
    assert plan is not None
    call = call_of(ahead)
    *outputs, left = run(ahead.problem("fwd"), kept, call.tensors)
    gradients = run(ahead.problem("bwd"), plan, {**call.tensors, "segment_states": left, "checkpoints": left})
    found = dict(zip(("o", *["final_state"] * ahead.states[1]), outputs, strict=True))
    found |= dict(zip(("dq", "dk", "dv", *["dinitial_state"] * ahead.states[0]), gradients, strict=True))
    for name, output in found.items():
        assert error_ratio(output, call.expected[name], DTYPES[ahead.dtype]) < TOLERANCES[ahead.dtype], name
    return left


@pytest.mark.parametrize("algorithm", ["split", "scan"])
def test_rows_that_decay_to_nothing_by_their_segments_end_are_not_read(algorithm: str) -> None:
    """Segments are of 48 rows, of which the last four are alive where the next one begins."""
    case = replace(PLAIN, slopes=(20.0, 20.0), algorithm=algorithm)
    tensors = {name: x.clone() for name, x in call_of(case).tensors.items()}
    for name in ("q", "k", "v", "do"):
        tensors[name][:, :, :16] = tensors[name][:, :, 80:96] = float("nan")
    (o,) = run(case.problem("fwd"), case.plan("o"), tensors)
    dq, dk, dv = run(case.problem("bwd"), case.plan("dq", "dkdv"), tensors)
    for name, clean in {"o": o[:, :, 48:80], "dq": dq[:, :, 48:80], "dk": dk[:, :, 16:48], "dv": dv[:, :, 16:48]}.items():
        assert clean.isfinite().all(), name
    assert o[:, :, :48].isnan().any()


@pytest.mark.parametrize("algorithm", ["split", "scan"])
def test_rows_that_are_alive_at_their_segments_end_are_read(algorithm: str) -> None:
    """A slope at which twenty rows are alive, which chunks of 16 rows make the last two of a segment's three."""
    slope = 126 / 20.5 * math.log(2)
    case = replace(PLAIN, slopes=(slope, slope), algorithm=algorithm)
    for lost, arrives in ((16, True), (0, False)):
        tensors = {name: x.clone() for name, x in call_of(case).tensors.items()}
        for name in ("q", "k", "v", "do"):
            tensors[name][:, :, lost : lost + 16] = float("nan")
            tensors[name][:, :, 80 - lost : 96 - lost] = float("nan")
        (o,) = run(case.problem("fwd"), case.plan("o"), tensors)
        _, dk, dv = run(case.problem("bwd"), case.plan("dq", "dkdv"), tensors)
        for name, next_segment in {"o": o[:, :, 48:64], "dk": dk[:, :, 32:48], "dv": dv[:, :, 32:48]}.items():
            assert next_segment.isnan().any() == arrives, (name, lost)


def test_segments_that_decay_to_nothing_are_not_summed() -> None:
    """What is lost is next to the following segment, and a whole segment away from the one after that."""
    case = replace(PLAIN, slopes=(20.0, 20.0))

    def outputs(direction: str, lost: slice, *kernels: str) -> tuple[Tensor, ...]:
        tensors = {name: x.clone() for name, x in call_of(case).tensors.items()}
        for name in ("q", "k", "v", "do"):
            tensors[name][:, :, lost] = float("nan")
        return run(case.problem(direction), case.plan(*kernels), tensors)

    (o,) = outputs("fwd", slice(32, 48), "o")
    _, dk, dv = outputs("bwd", slice(96, 112), "dq", "dkdv")
    for near, far in ((o[:, :, 48:64], o[:, :, 96:]), (dk[:, :, 80:96], dk[:, :, :48]), (dv[:, :, 80:96], dv[:, :, :48])):
        assert near.isnan().any() and far.isfinite().all()


@pytest.mark.parametrize("direction", ["fwd", "bwd"])
def test_a_chained_plan_computes_what_it_does_otherwise(direction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter runs one kernel after another, and knows nothing of waiting."""
    called: list[str] = []
    for name in ("gdc_wait", "gdc_launch_dependents"):
        monkeypatch.setattr(tl.extra.cuda, name, lambda name=name: called.append(name))
    plan = PLAIN.plan(*(("o",) if direction == "fwd" else ("dq", "dkdv")))
    call = call_of(PLAIN)
    plain, chained = (run(PLAIN.problem(direction), one, call.tensors) for one in (plan, plan.chained()))
    assert all(torch.equal(one, other) for one, other in zip(plain, chained, strict=True))
    assert set(called) == {"gdc_wait", "gdc_launch_dependents"}
