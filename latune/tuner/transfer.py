"""One problem from what is known of others: their winners are raced on it, and nothing new is searched.

A bucket's best plan is among its neighbours' best often enough that a grid of buckets is tuned by searching a few of
them and transferring to the rest, in seconds each.
"""

from __future__ import annotations

from collections.abc import Sequence

from latune.errors import LatuneError
from latune.plan import Plan
from latune.problem import Problem
from latune.tuner.compose import Composer, Spaces, all_spaces
from latune.tuner.evaluators import Evaluator
from latune.tuner.podium import entry_of, podium
from latune.tuner.tune import Tuned

TRANSFERRED = "transferred"


def transfer_problem(
    problem: Problem, space: Spaces | None, evaluate: Evaluator, starts: Sequence[Plan], *, seed: int = 0
) -> Tuned:
    """The fastest of ``starts``, made feasible here, and the default: each verified on this problem, then timed in turns.

    Raises:
        LatuneError: none passed.
    """
    composer = Composer(problem=problem, gpu=evaluate.gpu, spaces=all_spaces(space))
    plans = composer.fit(starts)
    raced = tuple(zip(plans, evaluate.race_here(plans), strict=True))
    ranked = podium(raced, evaluate)
    if not ranked:
        last = next((measurement.detail for _, measurement in raced if measurement.detail), "")
        raise LatuneError(f"none of {len(plans)} plans of its neighbours passed; {last}; search it: tune without --transfer")
    evidence = evaluate.evidence if evaluate.evidence == "static" else TRANSFERRED
    return Tuned(entry=entry_of(problem, ranked, evaluate, seed=seed, evidence=evidence), searches={}, finalists=raced)
