"""A backward plan that reads checkpoints, run as in training: from those that were kept for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from latune.codegen.checkpoints import given_checkpoints, keeping_own_checkpoints
from latune.codegen.load import load
from latune.codegen.render import render
from latune.plan import Plan
from latune.problem import Problem
from latune.tuner.cases import Inputs

if TYPE_CHECKING:
    from types import ModuleType


def variants(plan: Plan, problem: Problem) -> tuple[Plan, Plan]:
    """The plan that returns its checkpoints, and the one that is given them."""
    kept = keeping_own_checkpoints(plan)
    given = given_checkpoints(plan, kept, problem)
    assert given is not None, "a plan's own checkpoints are of its own rows"
    return kept, given


@dataclass(frozen=True, slots=True)
class Handed:
    """Stands for the plan's module: ``backward`` with checkpoints made by one variant and handed to the other."""

    maker: ModuleType
    taker: ModuleType

    @classmethod
    def load(cls, problem: Problem, plan: Plan) -> Handed:
        return cls(*(load(render(problem, variant)) for variant in variants(plan, problem)))

    def backward(self, *arguments: Tensor | float) -> tuple[Tensor, ...]:
        *_, checkpoints = self.maker.backward(*arguments)
        return self.taker.backward(*arguments, checkpoints)

    def timed(self, inputs: Inputs) -> Callable[[], object]:
        """The pass with checkpoints at hand, and its price: a copy of them moves twice what keeping them adds to forward."""
        *_, checkpoints = inputs.launch(self.maker)
        taker = _Given(self.taker, checkpoints)
        room = torch.empty_like(checkpoints)

        def call() -> None:
            room.copy_(checkpoints)
            inputs.launch(taker)

        return call


@dataclass(frozen=True, slots=True)
class _Given:
    """Stands for a module whose last argument is known."""

    module: ModuleType
    checkpoints: Tensor

    def backward(self, *arguments: Tensor | float) -> tuple[Tensor, ...]:
        return self.module.backward(*arguments, self.checkpoints)
