"""One problem from what is known of others: their winners are raced on it, and nothing new is searched.

A bucket's best plan is among its neighbours' best often enough that a grid of buckets is tuned by searching a few of
them and transferring to the rest, in seconds each.
"""

from __future__ import annotations

from collections.abc import Sequence

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


def transfer_problem(
    problem: Problem, space: Spaces | None, evaluate: Evaluator, starts: Sequence[Plan], *, seed: int = 0
) -> Tuned:
    """The fastest of two races: ``starts``, made feasible here, and the default; then their best and its variants.

    Each plan is verified on this problem, then timed in turns with those of its race.

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
    raced = _race([*best, *new], evaluate) if new else first
    # What passed the first time may fall the second: then the first race is all there is.
    placed = podium(problem, raced, evaluate) or podium(problem, first, evaluate)
    evidence = evaluate.evidence if evaluate.evidence == "static" else TRANSFERRED
    entry = entry_of(problem, placed, evaluate, alternates=_ALTERNATES, seed=seed, evidence=evidence)
    return Tuned(entry=entry, searches={}, finalists=raced)


def foresee_transfer(problem: Problem, space: Spaces | None, evaluate: Evaluator, starts: Sequence[Plan]) -> None:
    """Begins to compile, while others have the GPU, what ``transfer_problem`` will race.

    For its second race by a guess: that the likeliest start wins the first.
    """
    composer = Composer.of(problem, evaluate, space)
    first = composer.fit(starts)
    second = [variant for likeliest in first[:1] for variant in composer.variants(likeliest)]
    evaluate.prepare([*first, *second], urgent=False)


def _race(plans: Sequence[Plan], evaluate: Evaluator) -> Raced:
    return tuple(zip(plans, evaluate.race_here(plans), strict=True))
