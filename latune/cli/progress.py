"""What a search looks like while it runs: a bar on a terminal, a line now and then elsewhere. All on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from latune.cli.output import milliseconds, say, share_of_roof
from latune.cli.shapes import shape_of
from latune.plan import Plan, Step
from latune.problem import Problem
from latune.tuner.runner import compulsory_bytes
from latune.tuner.search import TrialEvent
from latune.tuner.timing import roof_ms

_LINE_EVERY_S = 10.0
# o; dq and dkdv.
_SEARCHES = {"fwd": 1, "bwd": 2}


class TuningProgress:
    """Follows the searches of some problems; ``on_trial`` is what ``tune_problem`` calls.

    Args:
        trials: of each search, as far as is known before it begins.
        bandwidth_gbps: what the roof is drawn from.
        bar: draw a bar; None: if stderr is a terminal.
        clock: in seconds.
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        *,
        trials: int,
        bandwidth_gbps: float,
        bar: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._problems = list(problems)
        self._bandwidth_gbps = bandwidth_gbps
        self._clock = clock
        self._expected = {problem: _SEARCHES[problem.direction] * trials for problem in problems}
        self._trials = trials
        self._searches: dict[tuple[Problem, str], TrialEvent] = {}
        self._said_at = clock()
        self._bar = _bar() if (sys.stderr.isatty() if bar is None else bar) else None
        self._task = self._bar.add_task("", total=sum(self._expected.values()), best="") if self._bar else None

    def __enter__(self) -> TuningProgress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar:
            self._bar.stop()

    @property
    def done(self) -> int:
        """Evaluations made so far."""
        return sum(event.index for event in self._searches.values())

    @property
    def total(self) -> int:
        """Evaluations there will be; a search counts with the trials asked for until it has begun."""
        return sum(self._total(problem) for problem in self._problems)

    def on_trial(self, event: TrialEvent) -> None:
        first = (event.problem, event.kernel) not in self._searches
        self._searches[event.problem, event.kernel] = event
        if self._bar is not None and self._task is not None:
            self._bar.update(
                self._task, description=self._title(event), best=self._best(event), completed=self.done, total=self.total
            )
        elif first or event.index == event.total or self._clock() - self._said_at >= _LINE_EVERY_S:
            self._said_at = self._clock()
            say(f"{self._title(event)} {event.index}/{event.total} trials, {self._best(event)}")

    def finish(self, problem: Problem) -> None:
        """The problem's searches are over: what they left undone is not waited for."""
        self._expected[problem] = 0

    def _total(self, problem: Problem) -> int:
        begun = [event for (of, _), event in self._searches.items() if of == problem]
        if not self._expected[problem]:
            return sum(event.index for event in begun)
        return sum(event.total for event in begun) + max(self._expected[problem] - len(begun) * self._trials, 0)

    def _title(self, event: TrialEvent) -> str:
        place = f"[{self._problems.index(event.problem) + 1}/{len(self._problems)}]"
        return f"{place} {event.problem.direction} {shape_of(event.problem)} {event.kernel}"

    def _best(self, event: TrialEvent) -> str:
        if event.best is None:
            return "none correct yet"
        median_ms = event.best.measurement.median_ms
        plan = Plan((Step(kernel=event.kernel, config=event.best.config),))
        roof = roof_ms(compulsory_bytes(event.problem, plan), self._bandwidth_gbps)
        return f"best {milliseconds(median_ms)} ms, {share_of_roof(roof, median_ms)} of the roof"


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[best]}", markup=False),
        TextColumn("time left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
