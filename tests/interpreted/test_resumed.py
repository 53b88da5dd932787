"""Backward plans that read what a forward pass has kept, verified and timed as they run in training."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from latune.codegen.load import load
from latune.codegen.render import render
from latune.config import Config
from latune.plan import KERNELS, Plan, Step
from latune.problem import Problem
from latune.tuner.cases import small_cases, timed_case
from latune.tuner.resumed import Forms, Handover, Resumed
from latune.tuner.runner import GpuRunner
from latune.tuner.verify import Fixture, verify

PROBLEM = Problem(
    direction="bwd",
    decay="constant",
    dtype="fp32",
    batch=1,
    num_heads=2,
    seqlen=130,
    head_dim_k=16,
    head_dim_v=32,
    has_initial_state=True,
    needs_final_state=True,
)
CHOICES = {"state_layout": "plain", "loads": "pointer", "decay_mode": "matrix", "decayed": "key"}
PLAN = Plan((Step(kernel="dqdkdv", config=Config.of("sequential", choices=CHOICES, constexprs={"BLOCK_N": 32})),))


@pytest.fixture(scope="module")
def fixture() -> Fixture:
    """Of a length that fills no chunk; the interpreter takes half a minute for all that a GPU verifies."""
    return Fixture(problem=PROBLEM, cases=(timed_case(PROBLEM, torch.device("cpu"), 0),), fingerprint=0)


def resumed(plan: Plan = PLAN, ahead: Plan | None = None) -> Resumed:
    handover = Handover.of(plan, PROBLEM, ahead)
    assert handover is not None
    return Resumed.load(handover)


def stream(kernel: str, *, block_n: int = 32, programs: int = 64) -> Step:
    choices = {"state_layout": "plain", "loads": "pointer", "decay_mode": "matrix", "decayed": "key"}
    constexprs = {"BLOCK_N": block_n, "PROGRAMS": programs}
    constexprs |= {"BLOCK_D": 32, "BLOCK_E": 32} if KERNELS[kernel].space == "stream" else {}
    return Step(kernel=kernel, config=Config.of("split", choices=choices, constexprs=constexprs))


AHEAD = Plan((stream("o"),))
BEHIND = Plan((stream("dq"), *(stream(name) for name in ("dk", "dv"))))


def test_checkpoints_from_hand_to_hand_are_those_it_makes_itself(fixture: Fixture) -> None:
    form, inputs = resumed(), fixture.cases[0].inputs
    alone = inputs.launch(load(render(PROBLEM, PLAN)))
    assert all(torch.equal(one, other) for one, other in zip(form.launch(inputs), alone, strict=True))
    assert verify(form.launch, PLAN, fixture).ok


@pytest.mark.parametrize(("plan", "ahead"), [(PLAN, None), (BEHIND, AHEAD)])
def test_what_is_handed_over_is_verified(fixture: Fixture, plan: Plan, ahead: Plan | None) -> None:
    form = resumed(plan, ahead)
    idle = SimpleNamespace(
        backward=lambda *arguments: [x.zero_() for x in form.keeper.backward(*arguments)],
        forward=lambda *arguments: [x.zero_() for x in form.keeper.forward(*arguments)],
    )
    assert verify(form.launch, plan, fixture).ok
    verification = verify(replace(form, keeper=idle).launch, plan, fixture)
    assert not verification.ok and verification.detail.startswith("dq")


def test_what_is_timed_is_the_pass_and_a_copy_of_its_checkpoints(fixture: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    form, inputs = resumed(), fixture.cases[0].inputs
    call = form.timed(inputs)
    given: list[torch.Tensor] = []
    backward = form.taker.backward
    monkeypatch.setattr(form.keeper, "backward", None)
    monkeypatch.setattr(form.taker, "backward", lambda *arguments: given.append(arguments[-1]) or backward(*arguments))
    written = [call(), call()]
    assert given[0] is given[1] and given[0].shape == (2, 3, 16 * 32)
    for copy, *gradients in written:
        assert torch.equal(copy, given[0]) and copy is not given[0]
        assert len(gradients) == 4
    addresses = {tensor.data_ptr() for tensors in written for tensor in tensors}
    assert len(addresses) == 10, "each call writes memory of its own, as long as what it returned is held"


def test_states_of_the_forward_pass_ahead_are_at_hand_and_free(fixture: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    form, case = resumed(BEHIND, AHEAD), fixture.cases[0]
    call = form.timed(case.inputs)
    monkeypatch.setattr(form.keeper, "forward", None)
    gradients = call()
    assert len(gradients) == 4, "the pass alone"
    for name, gradient in zip(("dq", "dk", "dv", "dinitial_state"), gradients, strict=True):
        torch.testing.assert_close(gradient, case.expected[name].values, rtol=1e-4, atol=1e-4)


# Every two values of any two meet.
@pytest.mark.parametrize(
    ("dtype", "algorithm", "others"),
    [
        ("fp32", "split", ("dk", "dv")),
        ("fp32", "scan", ("dkdv",)),
        ("fp16", "split", ("dkdv",)),
        ("fp16", "scan", ("dk", "dv")),
    ],
)
def test_states_that_lie_where_dq_will_be_are_right(dtype: str, algorithm: str, others: tuple[str, ...]) -> None:
    """Four segments of each head, whose states take 16 KiB of the 19 or 38 that dq has."""
    problem = replace(PROBLEM, dtype=dtype, batch=1, num_heads=2, seqlen=300, head_dim_k=32, head_dim_v=32)
    steps = [stream(name, programs=8) for name in others]
    plan = Plan((stream("dq", programs=8), *(replace(x, config=replace(x.config, algorithm=algorithm)) for x in steps)))
    handover = Handover.of(plan, problem, Plan((stream("o", programs=8),)))
    assert handover is not None
    form, case = Resumed.load(handover), timed_case(problem, torch.device("cpu"), 0)
    assert verify(form.launch, plan, Fixture(problem=problem, cases=(case,), fingerprint=0)).ok
    _, *alone = case.inputs.launch(load(render(problem, plan)))
    _, *behind = form.launch(case.inputs)
    assert all(map(torch.equal, behind, alone)), "dk and dv, from states as precise as those in memory of their own"


def test_a_plan_that_is_handed_nothing_is_timed_from_its_inputs() -> None:
    whole = Plan((Step(kernel="o", config=replace(stream("o").config, algorithm="sequential")),))
    forward = replace(PROBLEM, direction="fwd")
    assert (
        Handover.of(BEHIND, PROBLEM, None) is Handover.of(BEHIND, PROBLEM, whole) is Handover.of(AHEAD, forward, AHEAD) is None
    )


def test_a_walk_whose_checkpoints_the_forward_plan_cannot_keep_is_timed_from_its_inputs() -> None:
    whole, longer = (
        Plan((replace(step, config=replace(step.config, algorithm="sequential")),))
        for step in (stream("o"), stream("o", block_n=128))
    )
    assert Handover.of(PLAN, PROBLEM, whole) == Handover.of(PLAN, PROBLEM, None)
    assert Handover.of(PLAN, PROBLEM, longer) is None, "checkpoints are 64 rows apart"


def test_plans_that_are_cut_alike_by_chance_are_verified_where_they_are() -> None:
    problem = replace(PROBLEM, num_heads=5, seqlen=512)
    plan = Plan(tuple(stream(name, programs=20) for name in ("dq", "dk", "dv")))
    handover = Handover.of(plan, problem, Plan((stream("o", block_n=64, programs=20),)))
    assert handover is not None
    forms = Forms(load(render(problem, plan)), Resumed.load(handover))
    cases = tuple(small_cases(PROBLEM, torch.device("cpu"), 0))
    (_, every), (_, served) = forms.launches(cases)
    assert every == cases
    assert [case.inputs.q.shape[2] for case in served] == [129], "in segments of 64 rows; of 401 rows, in 224 and 256"


def test_the_runner_verifies_both_forms_and_times_the_one_that_is_given(
    fixture: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = GpuRunner(device=torch.device("cpu"), _fixture=fixture, _sets=[fixture.cases[0].inputs])
    module = load(render(PROBLEM, PLAN))
    forms = Forms.load(PROBLEM, PLAN, render(PROBLEM, PLAN), None)
    assert runner._verify_all(forms, PLAN).ok
    ((copy, *_),) = [call() for call in forms.calls(runner._sets)]
    assert copy.shape == (2, 3, 16 * 32)
    monkeypatch.setattr(Resumed, "launch", lambda self, inputs: inputs.launch(self.keeper))
    assert "outputs" in runner._verify_all(forms, PLAN).detail
    wrong = SimpleNamespace(backward=lambda *arguments: [x.zero_() for x in module.backward(*arguments)])
    assert runner._verify_all(replace(forms, alone=wrong), PLAN).detail.startswith("dq")
