"""A plan that reads checkpoints, verified and timed as it runs in training."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from latune.codegen.load import load
from latune.codegen.render import render
from latune.config import Config
from latune.plan import Plan, Step
from latune.problem import Problem
from latune.tuner.cases import small_cases
from latune.tuner.resumed import Forms, Resumed
from latune.tuner.runner import GpuRunner
from latune.tuner.verify import Fixture, verify

PROBLEM = Problem(
    direction="bwd",
    decay="constant",
    dtype="fp32",
    batch=1,
    num_heads=2,
    seqlen=70,
    head_dim_k=16,
    head_dim_v=32,
    has_initial_state=True,
    needs_final_state=True,
)
CHOICES = {"state_layout": "plain", "loads": "pointer", "decay_mode": "matrix", "decayed": "key"}
PLAN = Plan((Step(kernel="dqdkdv", config=Config.of("sequential", choices=CHOICES, constexprs={"BLOCK_N": 32})),))


@pytest.fixture(scope="module")
def fixture() -> Fixture:
    return Fixture(problem=PROBLEM, cases=tuple(small_cases(PROBLEM, torch.device("cpu"), 0)), fingerprint=0)


def test_checkpoints_from_hand_to_hand_are_those_it_makes_itself(fixture: Fixture) -> None:
    resumed, inputs = Resumed.load(PROBLEM, PLAN), fixture.cases[0].inputs
    alone = inputs.launch(load(render(PROBLEM, PLAN)))
    assert all(torch.equal(one, other) for one, other in zip(inputs.launch(resumed), alone, strict=True))
    assert verify(resumed, PLAN, fixture).ok


def test_what_is_handed_over_is_verified(fixture: Fixture) -> None:
    resumed = Resumed.load(PROBLEM, PLAN)
    idle = SimpleNamespace(backward=lambda *arguments: [x.zero_() for x in resumed.maker.backward(*arguments)])
    verification = verify(replace(resumed, maker=idle), PLAN, fixture)
    assert not verification.ok and verification.detail.startswith("dq")


def test_what_is_timed_is_the_pass_and_a_copy_of_its_checkpoints(fixture: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    resumed, inputs = Resumed.load(PROBLEM, PLAN), fixture.cases[0].inputs
    call = resumed.timed(inputs)
    given: list[torch.Tensor] = []
    backward = resumed.taker.backward
    monkeypatch.setattr(resumed.maker, "backward", None)
    monkeypatch.setattr(resumed.taker, "backward", lambda *arguments: given.append(arguments[-1]) or backward(*arguments))
    written = [call(), call()]
    assert given[0] is given[1] and given[0].shape == (10, 7, 16 * 32)
    for copy, *gradients in written:
        assert torch.equal(copy, given[0]) and copy is not given[0]
        assert len(gradients) == 4
    addresses = {tensor.data_ptr() for tensors in written for tensor in tensors}
    assert len(addresses) == 10, "each call writes memory of its own, as long as what it returned is held"


def test_the_runner_verifies_both_forms_and_times_the_one_that_is_given(
    fixture: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = GpuRunner(device=torch.device("cpu"), _fixture=fixture, _sets=[fixture.cases[0].inputs])
    module = load(render(PROBLEM, PLAN))
    forms = Forms.load(PROBLEM, PLAN, render(PROBLEM, PLAN))
    assert runner._verify_all(forms, PLAN).ok
    ((copy, *_),) = [call() for call in forms.calls(runner._sets)]
    assert copy.shape == (10, 7, 16 * 32)
    monkeypatch.setattr(Resumed, "backward", lambda self, *arguments: self.maker.backward(*arguments))
    assert "outputs" in runner._verify_all(forms, PLAN).detail
    wrong = SimpleNamespace(backward=lambda *arguments: [x.zero_() for x in module.backward(*arguments)])
    assert runner._verify_all(replace(forms, alone=wrong), PLAN).detail.startswith("dq")
