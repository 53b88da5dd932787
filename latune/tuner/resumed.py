"""A backward plan that reads checkpoints, run as in training: from those that were kept for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

from latune.codegen.checkpoints import given_checkpoints, keeping_own_checkpoints
from latune.codegen.load import load
from latune.codegen.render import render
from latune.plan import Plan
from latune.problem import Problem
from latune.tuner.cases import Inputs

if TYPE_CHECKING:
    from types import ModuleType

    from latune.codegen.render import Source


def resumed_variants(plan: Plan, problem: Problem) -> tuple[Plan, Plan]:
    """The plan that returns its checkpoints, and the one that is given them."""
    kept = keeping_own_checkpoints(plan)
    given = given_checkpoints(plan, kept, problem)
    assert given is not None, "a plan's own checkpoints are of its own rows"
    return kept, given


@dataclass(frozen=True, slots=True)
class Resumed:
    """Stands for the plan's module: ``backward`` with checkpoints that one variant has made and the other is given."""

    maker: ModuleType
    taker: ModuleType

    @classmethod
    def load(cls, problem: Problem, plan: Plan) -> Resumed:
        return cls(*(load(render(problem, variant)) for variant in resumed_variants(plan, problem)))

    def backward(self, *arguments: Tensor | float) -> tuple[Tensor, ...]:
        *_, checkpoints = self.maker.backward(*arguments)
        return self.taker.backward(*arguments, checkpoints)

    def timed(self, inputs: Inputs) -> Callable[[], tuple[Tensor, ...]]:
        """The pass with checkpoints at hand, and its price: a copy of them moves twice what keeping them adds to forward.

        Returns:
            A call that returns all it has written, so that whoever holds that keeps the next one's memory cold.
        """
        *_, checkpoints = inputs.launch(self.maker)
        taker = _Given(self.taker, checkpoints)
        return lambda: (checkpoints.clone(), *inputs.launch(taker))


@dataclass(frozen=True, slots=True)
class _Given:
    """Stands for a module whose last argument is known."""

    module: ModuleType
    checkpoints: Tensor

    def backward(self, *arguments: Tensor | float) -> tuple[Tensor, ...]:
        return self.module.backward(*arguments, self.checkpoints)


@dataclass(frozen=True, slots=True)
class Forms:
    """A candidate as it is verified, and as it is timed.

    Attributes:
        alone: its module.
        resumed: the form that is timed; None: the module itself.
    """

    alone: ModuleType
    resumed: Resumed | None = None

    @classmethod
    def load(cls, problem: Problem, plan: Plan, source: Source) -> Forms:
        return cls(load(source), Resumed.load(problem, plan) if plan.reads_checkpoints else None)

    @property
    def verified(self) -> tuple[ModuleType | Resumed, ...]:
        return (self.alone,) if self.resumed is None else (self.alone, self.resumed)

    def calls(self, sets: Sequence[Inputs]) -> list[Callable[[], object]]:
        """What is timed, for each set of inputs."""
        if self.resumed is None:
            return [partial(inputs.launch, self.alone) for inputs in sets]
        return [self.resumed.timed(inputs) for inputs in sets]
