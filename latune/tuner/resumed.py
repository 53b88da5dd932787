"""A backward plan as it runs in training: from what the forward pass ahead of it has kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

from latune.codegen.checkpoints import given_checkpoints, keeping_own_checkpoints
from latune.codegen.kept import handing_over, resuming
from latune.codegen.load import load
from latune.codegen.render import render
from latune.plan import Plan
from latune.problem import Problem
from latune.tuner.cases import Case, Inputs

if TYPE_CHECKING:
    from types import ModuleType

    from latune.codegen.render import Source
    from latune.tuner.verify import Launch


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """Two plans, the second of which starts from what the first one keeps.

    Attributes:
        problem: of the backward plan.
        keeper: the forward plan ahead or, of a plan that reads checkpoints, that plan itself, which keeps the same.
        taker: the backward plan, given what ``keeper`` returns last.
    """

    problem: Problem
    keeper: Plan
    taker: Plan

    @classmethod
    def of(cls, plan: Plan, problem: Problem, ahead: Plan | None) -> Handover | None:
        """The handover of a backward plan; None where it starts from its inputs alone.

        Args:
            ahead: the forward plan that runs before it; None: not known, and any that a plan needs for its checkpoints.
        """
        pair = None if ahead is None else handing_over(ahead, plan, problem)
        if plan.reads_checkpoints and (pair or ahead is None):
            keeper = keeping_own_checkpoints(plan)
            taker = given_checkpoints(plan, keeper, problem)
            assert taker is not None, "a plan's own checkpoints are of its own rows"
            pair = keeper, taker
        return None if pair is None else cls(problem=problem, keeper=pair[0], taker=pair[1])

    @property
    def keeper_is_ahead(self) -> bool:
        return self._direction == "fwd"

    @property
    def variants(self) -> tuple[tuple[Problem, Plan], tuple[Problem, Plan]]:
        """The keeper and the taker, each with its own problem."""
        return (replace(self.problem, direction=self._direction), self.keeper), (self.problem, self.taker)

    @property
    def _direction(self) -> str:
        """Of the keeper."""
        return self.keeper.kernels[0].direction

    def serves(self, inputs: Inputs) -> bool:
        """Whether the two meet at the shape of these inputs as they do at the problem's: both cut it at the same rows."""
        batch, num_heads, seqlen, _ = inputs.q.shape
        shape = replace(self.problem, batch=batch, num_heads=num_heads, seqlen=seqlen)
        return resuming(self.taker, self.keeper, shape) is not None


@dataclass(frozen=True, slots=True)
class Resumed:
    """The modules of a handover: the pass of the second from what the first has made."""

    handover: Handover
    keeper: ModuleType
    taker: ModuleType

    @classmethod
    def load(cls, handover: Handover) -> Resumed:
        keeper, taker = (load(render(problem, plan)) for problem, plan in handover.variants)
        return cls(handover, keeper, taker)

    def launch(self, inputs: Inputs) -> tuple[Tensor, ...]:
        """Both passes; what the second one returns."""
        return inputs.launch(_Given(self.taker, self._keep(inputs)))

    def timed(self, inputs: Inputs) -> Callable[[], tuple[Tensor, ...]]:
        """The pass with what was kept at hand, and the price of that.

        Segment states are there anyway. Checkpoints are copied: that moves twice what keeping them adds to forward.

        Returns:
            A call that returns all it has written, so that whoever holds that keeps the next one's memory cold.
        """
        kept = self._keep(inputs)
        taker = _Given(self.taker, kept)
        if self.handover.keeper_is_ahead:
            return lambda: inputs.launch(taker)
        return lambda: (kept.clone(), *inputs.launch(taker))

    def _keep(self, inputs: Inputs) -> Tensor:
        *_, kept = (inputs.without_gradients if self.handover.keeper_is_ahead else inputs).launch(self.keeper)
        return kept


@dataclass(frozen=True, slots=True)
class _Given:
    """Stands for a module whose last argument is known."""

    module: ModuleType
    kept: Tensor

    def backward(self, *arguments: Tensor | float) -> tuple[Tensor, ...]:
        return self.module.backward(*arguments, self.kept)


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
    def load(cls, problem: Problem, plan: Plan, source: Source, ahead: Plan | None) -> Forms:
        handover = Handover.of(plan, problem, ahead)
        return cls(load(source), None if handover is None else Resumed.load(handover))

    def launches(self, cases: Sequence[Case]) -> Iterator[tuple[Launch, tuple[Case, ...]]]:
        """What is verified: each form, on the cases that it serves."""
        yield partial(Inputs.launch, module=self.alone), tuple(cases)
        if self.resumed is not None:
            yield self.resumed.launch, tuple(case for case in cases if self.resumed.handover.serves(case.inputs))

    def calls(self, sets: Sequence[Inputs]) -> list[Callable[[], object]]:
        """What is timed, for each set of inputs."""
        if self.resumed is None:
            return [partial(inputs.launch, self.alone) for inputs in sets]
        return [self.resumed.timed(inputs) for inputs in sets]
