"""What one run of ``latune tune`` has come to: told, written to the cache, summed up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import click

from latune.cache.store import check_writable, read_file, write_entries
from latune.cli.closing import Call, closing_call
from latune.cli.output import INTERRUPTED, print_table, say
from latune.cli.shapes import shape_of
from latune.cli.starts import starts_of
from latune.cli.tuned import COLUMNS, row, to_json
from latune.codegen.render import plan_sha256
from latune.errors import LatuneError
from latune.ops.dispatch import resolve, tune_command
from latune.plan import Plan
from latune.problem import Bucket, Problem
from latune.tuner.evaluators import Evaluator
from latune.tuner.jobs import DeviceReport
from latune.tuner.load import Load
from latune.tuner.serving import hands_over
from latune.tuner.target import Target
from latune.tuner.tune import Tuned

# Of a device's memory, for the tensors of one problem: it is verified and timed on several copies of them.
_TIMED_SHARE = 1 / 5
# Of an idle device's memory; the rest is a context's.
_FREE_SHARE = 0.9


@dataclass(slots=True, kw_only=True)
class Session:
    """What one run of the command has come to.

    Attributes:
        output: the folder to write to; None: the user's cache.
        path: the cache file; None until something is written.
        tuned: by problem.
        failed: problems for which nothing was found, and why.
        unhanded: forward problems whose former plan left to the backward pass what their new one does not.
        interrupted: by Ctrl-C.
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

    def meet_the_device(self) -> None:
        """Waits for the worker, and says who else is on its GPU.

        Raises:
            WorkerError: it does not answer.
        """
        if self.target.worker is not None:
            warn_of_a_shared_device(self.target.worker.device())

    def judge(self, problem: Problem) -> Evaluator:
        return self.target.evaluator(problem, self.folders)

    def starts(self, problem: Problem) -> list[Plan]:
        return starts_of(problem, self.target.gpu, self.folders)

    @property
    def folders(self) -> list[Path]:
        """Where this run's entries are looked for; none: where the dispatcher looks."""
        return [] if self.output is None else [self.output]

    def add(self, problem: Problem, tune: Callable[[], Tuned]) -> None:
        """Tunes the problem and writes its entry; what goes wrong, and Ctrl-C, are kept."""
        with self.told(problem):
            handed = problem.direction == "fwd" and self._hands_over(problem)
            tuned = tune()
            self.interrupted = tuned.interrupted
            self._write(problem, tuned)
            if handed and not self._hands_over(problem):
                self.unhanded.append(problem)

    @contextmanager
    def told(self, problem: Problem) -> Iterator[None]:
        """What goes wrong with a problem is kept in ``failed``, and told."""
        with self.until_ctrl_c():
            try:
                yield
            except LatuneError as error:
                self._fail(problem, str(error))

    @contextmanager
    def until_ctrl_c(self) -> Iterator[None]:
        """Ctrl-C ends the block, and the run is ``interrupted``."""
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
        return hands_over(problem, self.target.gpu, self.folders)

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


def warn_of_a_shared_device(report: DeviceReport) -> None:
    if report.free_bytes < _FREE_SHARE * report.memory_bytes:
        free, whole = report.free_bytes / 2**30, report.memory_bytes / 2**30
        say(f"only {free:.0f} of {whole:.0f} GiB are free: what else runs on {report.title} will disturb the measurements")
