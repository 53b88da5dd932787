"""One run of ``latune tune``: problems tuned one after another, each written as soon as it is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

import click

from latune.cache.store import check_writable, read_file, write_entries
from latune.cli.closing import Call, closing_call
from latune.cli.output import INTERRUPTED, milliseconds, print_table, say, share_of_roof
from latune.cli.pending import forward_first, next_race, pending, ready
from latune.cli.progress import TuningProgress
from latune.cli.shapes import shape_of
from latune.cli.starts import starts_of
from latune.cli.tuned import COLUMNS, row, to_json
from latune.codegen.render import plan_sha256
from latune.codegen.space import Space
from latune.errors import LatuneError
from latune.ops.dispatch import resolve, tune_command
from latune.plan import Plan
from latune.problem import Bucket, Problem
from latune.tuner.evaluators import Evaluator
from latune.tuner.jobs import DeviceReport
from latune.tuner.load import Load
from latune.tuner.search import TrialEvent
from latune.tuner.serving import hands_over
from latune.tuner.target import Target
from latune.tuner.transfer import Transfer, begin_transfer, foresee_transfer
from latune.tuner.tune import OnTrial, Settings, Tuned, finals_of, foresee_search, tune_problem

T = TypeVar("T")

# Of a device's memory, for the tensors of one problem: it is verified and timed on several copies of them.
_TIMED_SHARE = 1 / 5
# Of an idle device's memory; the rest is a context's.
_FREE_SHARE = 0.9
# So many problems ahead of the one that is raced are compiled for: racing takes two seconds or three, compiling up to ten.
_FORESEEN = 8
# So many problems are between their two races at most: what they have come to is lost by Ctrl-C, and awaited when time is up.
_AT_ONCE = 4


@dataclass(slots=True, kw_only=True)
class Session:
    """What one run of the command has come to.

    Attributes:
        output: the folder to write to; None: the user's cache.
        path: the cache file; None until something is written.
        tuned: by problem.
        failed: problems for which nothing was found, and why.
        unhanded: forward problems whose former plan left to the backward pass what their new one does not.
    """

    target: Target
    output: Path | None
    path: Path | None = None
    tuned: dict[Problem, Tuned] = field(default_factory=dict)
    failed: dict[Problem, str] = field(default_factory=dict)
    unhanded: list[Problem] = field(default_factory=list)
    interrupted: bool = False

    def announce(self, problems: Sequence[Problem]) -> list[Problem]:
        """Says what will be tuned: the first problem of each bucket.

        Raises:
            CacheError: the result could not be written.
            LatuneError: none of the problems fits the GPU.
        """
        check_writable(self.target.gpu, self.output)
        first: dict[Bucket, Problem] = {}
        for problem in filter(self._fits, problems):
            if first.setdefault(problem.bucket(), problem) is not problem:
                say(f"leaving out {problem}: {first[problem.bucket()]} is of the same bucket, {problem.bucket()}")
        title = self.target.gpu.title
        if not first:
            raise LatuneError(f"none of {len(problems)} problems fits {title}: choose smaller shapes")
        how = "measuring on it" if self.target.worker else "not in this machine: compiling for it and ranking by a model"
        count = f"{len(first)} problem{'s' * (len(first) != 1)}"
        say(f"tuning {count} for {title}, {how} (evidence: {self.target.evidence})")
        if self.target.worker is None and self.output is None:
            self._say_what_goes_on_serving(list(first.values()))
        return list(first.values())

    def _say_what_goes_on_serving(self, problems: Sequence[Problem]) -> None:
        if ran := sum(map(self._is_served_by_what_ran, problems)):
            say(f"{ran} of them {'has' if ran == 1 else 'have'} an entry that ran on one, which goes on serving")

    def _is_served_by_what_ran(self, problem: Problem) -> bool:
        resolution = resolve(problem, self.target.gpu)
        return resolution.step == "exact" and resolution.entry is not None and resolution.entry.evidence != "static"

    def _fits(self, problem: Problem) -> bool:
        memory_gib = self.target.gpu.memory_gib * (_TIMED_SHARE if self.target.worker else 1)
        fits = problem.compulsory_bytes <= memory_gib * 2**30
        if not fits:
            say(f"leaving out {problem}: its tensors take more than {memory_gib:.0f} GiB")
        return fits

    def search(self, problems: Sequence[Problem], spaces: Mapping[str, Space], settings: Settings) -> None:
        """One problem after another, each written as soon as it is done; Ctrl-C ends it, a failure does not.

        Raises:
            WorkerError: the machine's GPU does not answer.
        """
        self._meet_the_device()
        bandwidth_gbps = self.target.evaluator(problems[0]).bandwidth_gbps
        progress = TuningProgress(problems, trials=settings.trials, bandwidth_gbps=bandwidth_gbps)
        with progress, _aside() as aside:
            left = list(problems)
            for share_s in self._shares(problems, settings.time_budget_s):
                limited = replace(settings, time_budget_s=share_s)
                with ExitStack() as hands:
                    try:
                        problem = self._next(left, limited, hands)
                    except KeyboardInterrupt:
                        self.interrupted = True
                        return
                    left.remove(problem)
                    foresee = partial(aside.submit, self._foresee, partial(foresee_search, settings=limited), spaces=spaces)
                    on_trial = _and_once(progress.on_trial, foresee, ready(left)[:1])
                    self._add(problem, partial(self._search, problem, spaces, limited, on_trial))
                progress.finish(problem)

    def _search(self, problem: Problem, spaces: Mapping[str, Space], settings: Settings, on_trial: OnTrial) -> Tuned:
        judge, starts = self._judge(problem), self._starts(problem)
        return tune_problem(problem, spaces, evaluate=judge, settings=settings, starts=starts, on_trial=on_trial)

    def _next(self, left: Sequence[Problem], settings: Settings, hands: ExitStack) -> Problem:
        """The first problem that no other process has in hand, or the first, to help; a backward pass after its forward one.

        Args:
            hands: what it enters keeps the problem in hand. What goes wrong with that goes wrong again, and is told, when the
                problem is tuned.
        """
        waiting = ready(left)
        try:
            # What is begun anew is nobody else's.
            free = (problem for problem in waiting if settings.fresh or hands.enter_context(self._in_hand(problem, settings)))
            return next(free, waiting[0])
        except LatuneError:
            return waiting[0]

    def _in_hand(self, problem: Problem, settings: Settings) -> AbstractContextManager[bool]:
        return finals_of(problem, self._judge(problem), settings).in_hand()

    def transfer(self, problems: Sequence[Problem], spaces: Mapping[str, Space], settings: Settings) -> None:
        """As ``race``; buckets that have an entry are passed over.

        Those whose entry was transferred are not, if ``settings`` are fresh: it is among the starts of its own successor.
        """
        unknown = pending(problems, self.target, self._folders, again=settings.fresh)
        if len(unknown) < len(problems):
            searched = settings.fresh and self.target.evidence == "measured"
            which = "that was searched, and stays: search them again, without --transfer" if searched else "already"
            say(f"{len(problems) - len(unknown)} of {len(problems)} buckets have an entry {which}")
        # What is transferred again goes on where it was stopped by the ages of entries: both directions of a shape in turn.
        self.race(unknown, spaces, settings, at_once=1 if settings.fresh else _AT_ONCE)

    def race(
        self, problems: Sequence[Problem], spaces: Mapping[str, Space], settings: Settings, *, at_once: int = _AT_ONCE
    ) -> None:
        """As ``search``, from what serves the problems now and the winners of neighbouring buckets alone.

        While compilers are at work for the second race of one problem, the GPU has the first race of another.

        Args:
            at_once: so many problems at most are between their races.

        Raises:
            WorkerError: as there.
        """
        with self._until_ctrl_c(), _aside() as aside:
            self._race_all(problems, spaces, settings, at_once, aside)
        self.tuned = {problem: self.tuned[problem] for problem in problems if problem in self.tuned}

    def _race_all(
        self,
        problems: Sequence[Problem],
        spaces: Mapping[str, Space],
        settings: Settings,
        at_once: int,
        aside: ThreadPoolExecutor,
    ) -> None:
        left, begun = forward_first(problems, _FORESEEN if at_once > 1 else 1), dict[Problem, Transfer]()
        unforeseen = iter(left.copy())

        def foresee(count: int) -> None:
            for later in islice(unforeseen, count):
                # What goes wrong aside goes wrong again, and is told, when its turn comes.
                aside.submit(self._foresee_both, later, spaces, aside)

        foresee(_FORESEEN)
        self._meet_the_device()
        deadline = None if settings.time_budget_s is None else time.monotonic() + settings.time_budget_s
        while (left or begun) and not self.interrupted:
            if left and deadline is not None and time.monotonic() > deadline:
                say(f"the time is up, {len(left)} problems are left, from {left[0]} on")
                left.clear()
                continue
            problem = next_race(left if len(begun) < at_once else [], begun)
            if problem in begun:
                self._add(problem, begun.pop(problem).finish)
                self._say_how_far(problem, len(problems))
                continue
            left.remove(problem)
            foresee(1)
            with self._told(problem):
                judge, starts = self._judge(problem), self._starts(problem)
                begun[problem] = begin_transfer(problem, spaces, judge, starts, seed=settings.seed)

    def _say_how_far(self, problem: Problem, count: int) -> None:
        if problem in self.tuned:
            entry = self.tuned[problem].entry
            times = milliseconds(entry.measurement.median_ms), share_of_roof(entry.roof_ms, entry.measurement.median_ms)
            number = len(self.tuned) + len(self.failed)
            say(f"[{number}/{count}] {problem}: {times[0]} ms, {times[1]} of the roof")

    def _meet_the_device(self) -> None:
        """Waits for the worker, and says who else is on its GPU."""
        if self.target.worker is not None:
            warn_of_a_shared_device(self.target.worker.device())

    def _foresee(self, foresee: Callable[..., T], problem: Problem, spaces: Mapping[str, Space]) -> T:
        """By what the cache holds now, to which the problem at hand may add."""
        return foresee(problem, spaces, self._judge(problem), self._starts(problem))

    def _foresee_both(self, problem: Problem, spaces: Mapping[str, Space], aside: ThreadPoolExecutor) -> None:
        """Both races of a problem; the second one, which is guessed, after all that is foreseen by now."""
        aside.submit(self._foresee(foresee_transfer, problem, spaces))

    def _judge(self, problem: Problem) -> Evaluator:
        return self.target.evaluator(problem, self._folders)

    def _starts(self, problem: Problem) -> list[Plan]:
        return starts_of(problem, self.target.gpu, self._folders)

    @property
    def _folders(self) -> list[Path]:
        """Where this run's entries are looked for; none: where the dispatcher looks."""
        return [] if self.output is None else [self.output]

    def _shares(self, problems: Sequence[Problem], budget_s: float | None) -> Iterator[float | None]:
        """For each problem its share of the time that is left, until Ctrl-C."""
        deadline = None if budget_s is None else time.monotonic() + budget_s
        for index in range(len(problems)):
            if self.interrupted:
                return
            yield None if deadline is None else max(deadline - time.monotonic(), 0) / (len(problems) - index)

    def _add(self, problem: Problem, tune: Callable[[], Tuned]) -> None:
        """Tunes the problem and writes its entry."""
        with self._told(problem):
            handed = problem.direction == "fwd" and self._hands_over(problem)
            tuned = tune()
            self.interrupted = tuned.interrupted
            self._write(problem, tuned)
            if handed and not self._hands_over(problem):
                self.unhanded.append(problem)

    @contextmanager
    def _told(self, problem: Problem) -> Iterator[None]:
        """What goes wrong with a problem is kept in ``failed``."""
        with self._until_ctrl_c():
            try:
                yield
            except LatuneError as error:
                self._fail(problem, str(error))

    @contextmanager
    def _until_ctrl_c(self) -> Iterator[None]:
        try:
            yield
        except KeyboardInterrupt:
            self.interrupted = True

    def _fail(self, problem: Problem, why: str) -> None:
        self.failed[problem] = why
        say(f"{problem}: {why}")

    def _write(self, problem: Problem, tuned: Tuned) -> None:
        self.path = write_entries(self.target.gpu, [tuned.entry], self.output, plan_sha256=plan_sha256)
        self.tuned[problem] = tuned
        kept = read_file(self.path, self.target.gpu).entries[tuned.entry.bucket]
        if kept != tuned.entry:
            say(f"{tuned.entry.bucket}: the file keeps its {kept.evidence} entry of {kept.tuned_at}")
        elif self.output is None and (serves := resolve(problem, self.target.gpu).entry) not in (None, kept):
            say(f"{tuned.entry.bucket}: the shipped {serves.evidence} entry of {serves.tuned_at} keeps serving")

    def _hands_over(self, problem: Problem) -> bool:
        return hands_over(problem, self.target.gpu, self._folders)

    def say_what_lost_its_start(self) -> None:
        """Of backward passes that new forward plans leave nothing to; those tuned since have had the choice."""
        for problem in self.unhanded:
            backward = replace(problem, direction="bwd")
            if backward not in self.tuned:
                command = tune_command(backward, self.target.gpu)
                say(f"{backward} started from what the former forward plan kept, which the new one does not keep: {command}")

    def closing_call(self) -> Call | None:
        """For the first shape; None after Ctrl-C, or when nothing was found."""
        if self.path is None or self.interrupted:
            return None
        first = shape_of(next(iter(self.tuned)))
        problems = [problem for problem in self.tuned if shape_of(problem) == first]
        return closing_call(problems, self.target.gpu, self.path if self.output else None)

    @property
    def load(self) -> Load | None:
        """How busy the GPU was; None where it is not in this machine."""
        return None if self.target.worker is None else self.target.worker.load

    def print_table(self) -> None:
        if self.tuned:
            print_table(COLUMNS, [row(problem, tuned) for problem, tuned in self.tuned.items()], right=COLUMNS[2:4])
            click.echo(f"wrote {self.path}")
        if self.load is not None:
            click.echo(f"{self.target.gpu.title} was {self.load}")

    def to_json(self, call: Call | None) -> dict[str, object]:
        return {
            "gpu": self.target.gpu.name,
            "evidence": self.target.evidence,
            "file": None if self.path is None else str(self.path),
            "interrupted": self.interrupted,
            "load": None if self.load is None else self.load.to_json(),
            "tuned": [to_json(problem, tuned) for problem, tuned in self.tuned.items()],
            "failed": [{"problem": str(problem), "why": why} for problem, why in self.failed.items()],
            "call": None if call is None else call.to_json(),
        }

    def exit(self, next_time: str) -> None:
        """Ends the command after Ctrl-C or a failure.

        Args:
            next_time: as ``output.next_time`` has it.

        Raises:
            LatuneError: there are problems for which nothing was found.
        """
        if self.interrupted:
            kept = "the best so far is kept" if self.tuned else "nothing was found yet"
            say(f"interrupted: {kept}; {next_time}")
            raise click.exceptions.Exit(INTERRUPTED)
        if self.failed:
            problem, why = next(iter(self.failed.items()))
            raise LatuneError(
                f"{len(self.failed)} of {len(self.failed) + len(self.tuned)} problems not tuned; {problem}: {why}"
            )


@contextmanager
def _aside() -> Iterator[ThreadPoolExecutor]:
    """A thread beside this one; what it has not begun when the block ends is left, and not waited for if that fails."""
    executor, ended = ThreadPoolExecutor(1), False
    try:
        yield executor
        ended = True
    finally:
        executor.shutdown(wait=ended, cancel_futures=True)


def _and_once(on_trial: OnTrial, foresee: Callable[[Problem], object], problems: Sequence[Problem]) -> OnTrial:
    """``on_trial``, and with the first evaluation, which a search that was made before has none of, ``foresee`` as well."""
    left = list(problems)

    def both(event: TrialEvent) -> None:
        on_trial(event)
        while left:
            foresee(left.pop())

    return both


def warn_of_a_shared_device(report: DeviceReport) -> None:
    if report.free_bytes < _FREE_SHARE * report.memory_bytes:
        free, whole = report.free_bytes / 2**30, report.memory_bytes / 2**30
        say(f"only {free:.0f} of {whole:.0f} GiB are free: what else runs on {report.title} will disturb the measurements")
