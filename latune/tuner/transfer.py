"""One problem from what is known of others: their winners are raced on it, and nothing new is searched.

A bucket's best plan is among its neighbours' best often enough that a grid of buckets is tuned by searching a few of
them and transferring to the rest, in seconds each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from latune.errors import LatuneError
from latune.plan import Plan
from latune.problem import Problem
from latune.tuner.compose import Composer, Spaces
from latune.tuner.evaluators import Evaluator
from latune.tuner.podium import entry_of, podium, ranked
from latune.tuner.ties import Raced
from latune.tuner.tune import Tuned

TRANSFERRED = "transferred"

# Of the first race's plans, those that run in the second one too.
_KEPT = 3
# A grid has thousands of transferred entries, and what falls through one of them finds its neighbours.
_ALTERNATES = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """A problem between its two races, while the second one's plans compile: the GPU is free for another one.

    Attributes:
        first: the first race.
        plans: those of the second; none: the first is all there is.
    """

    problem: Problem
    evaluate: Evaluator
    seed: int
    first: Raced
    plans: Sequence[Plan]

    @property
    def has_compiled(self) -> bool:
        """Whether the second race would wait for no compiler."""
        return self.evaluate.has_compiled(self.plans)

    def finish(self) -> Tuned:
        """Races the best of the first race and its variants; the fastest of both races wins."""
        raced = _race(self.plans, self.evaluate) if self.plans else self.first
        # What passed the first time may fall the second: then the first race is all there is.
        placed = podium(self.problem, raced, self.evaluate) or podium(self.problem, self.first, self.evaluate)
        evidence = self.evaluate.evidence if self.evaluate.evidence == "static" else TRANSFERRED
        entry = entry_of(self.problem, placed, self.evaluate, alternates=_ALTERNATES, seed=self.seed, evidence=evidence)
        return Tuned(entry=entry, searches={}, finalists=raced)


def begin_transfer(
    problem: Problem, space: Spaces | None, evaluate: Evaluator, starts: Sequence[Plan], *, seed: int = 0
) -> Transfer:
    """Races ``starts``, made feasible here, and the default, and begins to compile what the second race needs.

    In both races each plan is verified on this problem, then timed in turns with the others.

    Raises:
        LatuneError: none passed.
    """
    composer = Composer.of(problem, evaluate, space)
    first = _race(composer.fit(starts), evaluate)
    best = [plan for plan, _ in ranked(first)[:_KEPT]]
    if not best:
        last = next((measurement.detail for _, measurement in first if measurement.detail), "")
        raise LatuneError(f"none of {len(first)} plans of its neighbours passed; {last}; search it: tune without --transfer")
    known = dict(first)
    new = [plan for plan in composer.variants(best[0]) if plan not in known]
    plans = [*best, *new] if new else []
    evaluate.prepare(plans)
    return Transfer(problem=problem, evaluate=evaluate, seed=seed, first=first, plans=plans)


def foresee_transfer(problem: Problem, space: Spaces | None, evaluate: Evaluator, starts: Sequence[Plan]) -> Callable[[], None]:
    """Begins to compile, while others have the GPU, what the first race needs.

    Returns:
        What begins to compile for the second one, by a guess: that the likeliest start wins the first.
    """
    composer = Composer.of(problem, evaluate, space)
    first = composer.fit(starts)
    evaluate.prepare(first, urgent=False)

    def guess() -> None:
        evaluate.prepare([variant for likeliest in first[:1] for variant in composer.variants(likeliest)], urgent=False)

    return guess


def _race(plans: Sequence[Plan], evaluate: Evaluator) -> Raced:
    return tuple(zip(plans, evaluate.race_here(plans), strict=True))
