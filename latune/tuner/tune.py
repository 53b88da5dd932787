"""One problem, from search spaces to a cache entry.

Kernels are tuned one by one, each in a search of its own; what is raced are complete plans made of the best of them,
because the launches of a plan share caches and gaps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from latune.cache.entry import Entry
from latune.config import Config
from latune.errors import LatuneError
from latune.measurement import Measurement
from latune.plan import Plan
from latune.problem import Problem
from latune.tuner.compose import Composer, Spaces
from latune.tuner.effort import DEFAULT
from latune.tuner.evaluators import Evaluator
from latune.tuner.finalists import finalists
from latune.tuner.finals import Finals, Result
from latune.tuner.podium import entry_of, podium, standing, study_name
from latune.tuner.route import Route
from latune.tuner.search import SearchResult, TrialEvent, search
from latune.tuner.target import open_target

# At least: all that tie with the winner are kept.
_ALTERNATES = 3

OnTrial = Callable[[TrialEvent], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How one problem is tuned.

    Attributes:
        trials: the most evaluations of each kernel's search, those of earlier runs included.
        patience: as ``search.Route`` has it.
        seed: same seed, same evaluator, same result.
        storage: see ``study.Study``.
        fresh: forget what earlier runs stored.
        time_budget_s: for all searches of the problem together; the race comes after it.
    """

    trials: int = DEFAULT.trials["measured"]
    patience: int | None = DEFAULT.patience
    seed: int = 0
    storage: str | None = None
    fresh: bool = False
    time_budget_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """What tuning one problem came to.

    Attributes:
        searches: by kernel.
        finalists: the complete plans that were raced, with their measurements.
    """

    entry: Entry
    searches: Mapping[str, SearchResult]
    finalists: tuple[tuple[Plan, Measurement], ...]

    @property
    def interrupted(self) -> bool:
        """Ctrl-C ended a search before its time; the entry holds the best until then."""
        return any(result.stopped == "interrupted" for result in self.searches.values())


def tune(
    problem: Problem,
    space: Spaces | None = None,
    evaluate: Evaluator | None = None,
    *,
    gpu: str | None = None,
    trials: int = DEFAULT.trials["measured"],
    patience: int | None = DEFAULT.patience,
    seed: int = 0,
    storage: str | None = None,
    fresh: bool = False,
    time_budget_s: float | None = None,
    starts: Sequence[Plan] = (),
    on_trial: OnTrial | None = None,
) -> Entry:
    """The fastest correct plan for the problem that a search finds, as an entry for the cache; nothing is written to it.

    Args:
        space: search spaces by ``Kernel.space``; those left out are the shipped ones.
        evaluate: judges plans of this problem; None: measures on the machine's GPU, or predicts for one that is not there.
        gpu: which GPU to tune for when ``evaluate`` is None; None: the machine's, else an A100.
        trials: the most evaluations of each kernel's search, those of earlier runs included.
        patience: so many evaluations in a row that bring nothing end a search before that; None: they do not.
        seed: same seed, same evaluator, same result.
        storage: where evaluations are kept: a database URL or a journal file; None: the user's cache root.
        fresh: forget what earlier runs stored.
        time_budget_s: for all searches together.
        starts: complete plans to try early, such as the winners of neighbouring buckets; those of an earlier run where this one
            goes on from it.
        on_trial: called after each evaluation.

    Raises:
        LatuneError: no plan passed, the GPU is unknown or does not answer, or no config serves the problem.
    """
    settings = Settings(trials=trials, patience=patience, seed=seed, storage=storage, fresh=fresh, time_budget_s=time_budget_s)
    if evaluate is not None:
        return tune_problem(problem, space, evaluate, settings, starts=starts, on_trial=on_trial).entry
    with open_target(gpu, seed=seed) as target:
        judge = target.remembering(storage, fresh=fresh).evaluator(problem)
        return tune_problem(problem, space, judge, settings, starts=starts, on_trial=on_trial).entry


def tune_problem(
    problem: Problem,
    space: Spaces | None,
    evaluate: Evaluator,
    settings: Settings,
    *,
    starts: Sequence[Plan] = (),
    on_trial: OnTrial | None = None,
) -> Tuned:
    """As ``tune``, with everything that was found on the way."""
    composer = Composer.of(problem, evaluate, space)
    finals = finals_of(problem, evaluate, settings)
    starts = finals.starts(starts)
    fitted = tuple(composer.fit(starts))
    searches = _Searches(composer=composer, evaluate=evaluate, settings=settings, starts=fitted, on_trial=on_trial).run()
    ranked = {name: _configs(result) for name, result in searches.items()}
    # After Ctrl-C nothing new is tried, and nobody is waited for.
    interrupted = any(result.stopped == "interrupted" for result in searches.values())

    def race() -> Result:
        plans = composer.compose(ranked, starts) if interrupted else finalists(composer, evaluate, ranked, starts)
        return _race(problem, plans, evaluate, searches, seed=settings.seed)

    trials = {name: len(found.trials) for name, found in searches.items()}
    digests = {name: space.digest for name, space in composer.spaces.items()}
    result = race() if interrupted else finals.result(trials, digests, race)
    return Tuned(entry=result.entry, searches=searches, finalists=result.finalists)


def foresee_search(
    problem: Problem, space: Spaces | None, evaluate: Evaluator, starts: Sequence[Plan], *, settings: Settings
) -> None:
    """Begins to compile, while others have the GPU, what ``tune_problem`` will evaluate first."""
    composer = Composer.of(problem, evaluate, space)
    fitted = tuple(composer.fit(starts))
    searches = _Searches(composer=composer, evaluate=evaluate, settings=settings, starts=fitted, on_trial=None)
    evaluate.prepare(searches.first_batch(composer.searched[0]), urgent=False)


def finals_of(problem: Problem, evaluate: Evaluator, settings: Settings) -> Finals:
    """Where the processes that tune the problem, under these settings, agree on how that begins and ends."""
    return Finals(study_name(problem, evaluate, settings.seed), settings.storage, fresh=settings.fresh)


def _race(
    problem: Problem, plans: Sequence[Plan], evaluate: Evaluator, searches: Mapping[str, SearchResult], *, seed: int
) -> Result:
    """The final race.

    Raises:
        LatuneError: no plan passed.
    """
    raced = tuple(zip(plans, evaluate.race(plans), strict=True))
    placed = podium(problem, raced, evaluate)
    if not placed:
        raise LatuneError(_nothing_passed(raced, searches))
    alternates = max(standing(placed).ties, _ALTERNATES)
    entry = entry_of(problem, placed, evaluate, alternates=alternates, seed=seed)
    return Result(entry=entry, finalists=raced)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Searches:
    """Runs the searches of one problem, one kernel after another."""

    composer: Composer
    evaluate: Evaluator
    settings: Settings
    starts: tuple[Plan, ...]
    """Made to fit the problem."""
    on_trial: OnTrial | None

    def run(self) -> dict[str, SearchResult]:
        """By kernel; the time that is left is shared evenly among those that are left, and Ctrl-C ends them all."""
        names, budget_s = self.composer.searched, self.settings.time_budget_s
        deadline = None if budget_s is None else time.monotonic() + budget_s
        results: dict[str, SearchResult] = {}
        for number, name in enumerate(names):
            time_budget_s = None if deadline is None else (deadline - time.monotonic()) / (len(names) - number)
            results[name] = self._search(name, time_budget_s, names[number + 1 : number + 2])
            if results[name].stopped == "interrupted":
                break
        return results

    def _search(self, name: str, time_budget_s: float | None, following: Sequence[str]) -> SearchResult:
        """Of a kernel's space.

        Args:
            following: whose first batch is compiled meanwhile.
        """
        settings = self.settings
        return search(
            self._route(name),
            self.evaluate,
            study_name=f"{study_name(self.composer.problem, self.evaluate, settings.seed)}-{name}",
            storage=settings.storage,
            fresh=settings.fresh,
            time_budget_s=time_budget_s,
            on_trial=self.on_trial,
            prepare=self.evaluate.prepare,
            later=[plan for kernel in following for plan in self.first_batch(kernel)],
        )

    def first_batch(self, name: str) -> list[Plan]:
        """What the search of a kernel's space evaluates first, where no earlier run has."""
        route = self._route(name)
        return [route.grid.plan(config) for config in route.following([])]

    def _route(self, name: str) -> Route:
        settings = self.settings
        return Route.of(
            self.composer.grid(name),
            trials=settings.trials,
            seed=settings.seed,
            starts=[step.config for plan in self.starts for step in plan.steps if step.kernel == name],
            patience=settings.patience,
        )


def _configs(result: SearchResult) -> list[Config]:
    return [trial.config for trial in result.ranked]


def _nothing_passed(raced: Sequence[tuple[Plan, Measurement]], searches: Mapping[str, SearchResult]) -> str:
    outcomes = "; ".join(
        f"{name}: {', '.join(f'{count} {outcome}' for outcome, count in sorted(result.outcomes.items())) or 'not tried'}"
        for name, result in searches.items()
    )
    last = next((measurement.detail for _, measurement in raced if measurement.detail), "")
    return f"no plan passed ({outcomes}){f'; {last}' if last else ''}; try more trials, or widen the search space"
