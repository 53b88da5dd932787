"""Problems searched one after another, each written as soon as it is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from functools import partial

from latune.cli.aside import aside
from latune.cli.pending import ready
from latune.cli.progress import TuningProgress
from latune.cli.session import Session
from latune.codegen.space import Space
from latune.errors import LatuneError
from latune.problem import Problem
from latune.tuner.search import TrialEvent
from latune.tuner.tune import OnTrial, Settings, Tuned, finals_of, foresee_search, tune_problem


def search(session: Session, problems: Sequence[Problem], spaces: Mapping[str, Space], settings: Settings) -> None:
    """Adds to the session what comes of each problem; Ctrl-C ends it, a failure does not.

    Raises:
        WorkerError: the machine's GPU does not answer.
    """
    session.meet_the_device()
    bandwidth_gbps = session.judge(problems[0]).bandwidth_gbps
    progress = TuningProgress(problems, trials=settings.trials, bandwidth_gbps=bandwidth_gbps)
    with progress, aside() as beside:
        left = list(problems)
        for share_s in _shares(session, problems, settings.time_budget_s):
            limited = replace(settings, time_budget_s=share_s)
            with ExitStack() as hands:
                try:
                    problem = _next(session, left, limited, hands)
                except KeyboardInterrupt:
                    session.interrupted = True
                    return
                left.remove(problem)
                foresee = partial(beside.submit, _foresee, session, spaces, limited)
                on_trial = _and_once(progress.on_trial, foresee, ready(left)[:1])
                session.add(problem, partial(_search, session, problem, spaces, limited, on_trial))
            progress.finish(problem)


def _search(session: Session, problem: Problem, spaces: Mapping[str, Space], settings: Settings, on_trial: OnTrial) -> Tuned:
    judge, starts = session.judge(problem), session.starts(problem)
    return tune_problem(problem, spaces, evaluate=judge, settings=settings, starts=starts, on_trial=on_trial)


def _foresee(session: Session, spaces: Mapping[str, Space], settings: Settings, problem: Problem) -> None:
    """By what the cache holds now, to which the problem at hand may add."""
    foresee_search(problem, spaces, session.judge(problem), session.starts(problem), settings=settings)


def _next(session: Session, left: Sequence[Problem], settings: Settings, hands: ExitStack) -> Problem:
    """The first problem that no other process has in hand, or the first, to help; a backward pass after its forward one.

    Args:
        hands: what it enters keeps the problem in hand. What goes wrong with that goes wrong again, and is told, when the
            problem is tuned.
    """
    waiting = ready(left)
    try:
        # What is begun anew is nobody else's.
        free = (problem for problem in waiting if settings.fresh or hands.enter_context(_in_hand(session, problem, settings)))
        return next(free, waiting[0])
    except LatuneError:
        return waiting[0]


def _in_hand(session: Session, problem: Problem, settings: Settings) -> AbstractContextManager[bool]:
    return finals_of(problem, session.judge(problem), settings).in_hand()


def _shares(session: Session, problems: Sequence[Problem], budget_s: float | None) -> Iterator[float | None]:
    """For each problem its share of the time that is left, until Ctrl-C."""
    deadline = None if budget_s is None else time.monotonic() + budget_s
    for index in range(len(problems)):
        if session.interrupted:
            return
        yield None if deadline is None else max(deadline - time.monotonic(), 0) / (len(problems) - index)


def _and_once(on_trial: OnTrial, foresee: Callable[[Problem], object], problems: Sequence[Problem]) -> OnTrial:
    """``on_trial``, and with the first evaluation, which a search that was made before has none of, ``foresee`` as well."""
    left = list(problems)

    def both(event: TrialEvent) -> None:
        on_trial(event)
        while left:
            foresee(left.pop())

    return both
