"""Problems raced from what is known, without a search: several are between their two races at a time."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from latune.cli.aside import aside
from latune.cli.output import milliseconds, say, share_of_roof
from latune.cli.pending import forward_first, next_race, pending
from latune.cli.session import Session
from latune.codegen.space import Space
from latune.problem import Problem
from latune.tuner.transfer import Transfer, begin_transfer, foresee_transfer
from latune.tuner.tune import Settings

# So many problems ahead of the one that is raced are compiled for: racing takes two seconds or three, compiling up to ten.
_FORESEEN = 8
# So many problems are between their two races at most: what they have come to is lost by Ctrl-C, and awaited when time is up.
_AT_ONCE = 4


def transfer(session: Session, problems: Sequence[Problem], spaces: Mapping[str, Space], settings: Settings) -> None:
    """As ``race``; buckets that have an entry are passed over.

    Those whose entry was transferred are not, if ``settings`` are fresh: it is among the starts of its own successor.
    """
    unknown = pending(problems, session.target, session.folders, again=settings.fresh)
    if len(unknown) < len(problems):
        searched = settings.fresh and session.target.evidence == "measured"
        which = "that was searched, and stays: search them again, without --transfer" if searched else "already"
        say(f"{len(problems) - len(unknown)} of {len(problems)} buckets have an entry {which}")
    # What is transferred again goes on where it was stopped by the ages of entries: both directions of a shape in turn.
    race(session, unknown, spaces, settings, at_once=1 if settings.fresh else _AT_ONCE)


def race(
    session: Session,
    problems: Sequence[Problem],
    spaces: Mapping[str, Space],
    settings: Settings,
    *,
    at_once: int = _AT_ONCE,
) -> None:
    """Adds to the session what comes of what serves each problem now and the winners of neighbouring buckets alone.

    While compilers are at work for the second race of one problem, the GPU has the first race of another. Ctrl-C ends it, a
    failure does not.

    Args:
        at_once: so many problems at most are between their races.

    Raises:
        WorkerError: the machine's GPU does not answer.
    """
    with session.until_ctrl_c(), aside() as beside:
        _race_all(session, problems, spaces, settings, at_once, beside)
    session.tuned = {problem: session.tuned[problem] for problem in problems if problem in session.tuned}


def _race_all(
    session: Session,
    problems: Sequence[Problem],
    spaces: Mapping[str, Space],
    settings: Settings,
    at_once: int,
    beside: ThreadPoolExecutor,
) -> None:
    left, begun = forward_first(problems, _FORESEEN if at_once > 1 else 1), dict[Problem, Transfer]()
    unforeseen = iter(left.copy())

    def foresee(count: int) -> None:
        for later in islice(unforeseen, count):
            # What goes wrong aside goes wrong again, and is told, when its turn comes.
            beside.submit(_foresee_both, session, later, spaces, beside)

    foresee(_FORESEEN)
    session.meet_the_device()
    deadline = None if settings.time_budget_s is None else time.monotonic() + settings.time_budget_s
    while (left or begun) and not session.interrupted:
        if left and deadline is not None and time.monotonic() > deadline:
            say(f"the time is up, {len(left)} problems are left, from {left[0]} on")
            left.clear()
            continue
        problem = next_race(left if len(begun) < at_once else [], begun)
        if problem in begun:
            session.add(problem, begun.pop(problem).finish)
            _say_how_far(session, problem, len(problems))
            continue
        left.remove(problem)
        foresee(1)
        with session.told(problem):
            judge, starts = session.judge(problem), session.starts(problem)
            begun[problem] = begin_transfer(problem, spaces, judge, starts, seed=settings.seed)


def _foresee_both(session: Session, problem: Problem, spaces: Mapping[str, Space], beside: ThreadPoolExecutor) -> None:
    """By what the cache holds now; a problem's second race, which is guessed, after all that is foreseen by now."""
    beside.submit(foresee_transfer(problem, spaces, session.judge(problem), session.starts(problem)))


def _say_how_far(session: Session, problem: Problem, count: int) -> None:
    if problem in session.tuned:
        entry = session.tuned[problem].entry
        times = milliseconds(entry.measurement.median_ms), share_of_roof(entry.roof_ms, entry.measurement.median_ms)
        number = len(session.tuned) + len(session.failed)
        say(f"[{number}/{count}] {problem}: {times[0]} ms, {times[1]} of the roof")
