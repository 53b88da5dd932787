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
from latune.tuner.handed import Handed
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
    handed, inputs = Handed.load(PROBLEM, PLAN), fixture.cases[0].inputs
    alone = inputs.launch(load(render(PROBLEM, PLAN)))
    assert all(torch.equal(one, other) for one, other in zip(inputs.launch(handed), alone, strict=True))
    assert verify(handed, PLAN, fixture).ok


def test_what_is_handed_over_is_verified(fixture: Fixture) -> None:
    handed = Handed.load(PROBLEM, PLAN)
    idle = SimpleNamespace(backward=lambda *arguments: [x.zero_() for x in handed.maker.backward(*arguments)])
    verification = verify(replace(handed, maker=idle), PLAN, fixture)
    assert not verification.ok and verification.detail.startswith("dq")


def test_what_is_timed_is_the_pass_and_a_copy_of_its_checkpoints(fixture: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    handed, inputs = Handed.load(PROBLEM, PLAN), fixture.cases[0].inputs
    call = handed.timed(inputs)
    given, copied = [], []
    copy = torch.Tensor.copy_
    monkeypatch.setattr(torch.Tensor, "copy_", lambda self, other: copied.append(other) or copy(self, other))
    monkeypatch.setattr(handed.maker, "backward", None)
    monkeypatch.setattr(handed.taker, "backward", lambda *arguments: given.append(arguments[-1]))
    call()
    call()
    assert len(given) == 2 and given[0].shape == (10, 7, 16 * 32)
    assert sum(other is given[0] for other in copied) == 2
