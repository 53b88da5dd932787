"""The problems that are left to tune, and their order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from latune.cache.store import read_entries
from latune.cli.shapes import shape_of
from latune.codegen.render import plan_sha256
from latune.problem import DIRECTIONS, Problem
from latune.tuner.target import Target
from latune.tuner.transfer import TRANSFERRED, Transfer


def pending(problems: Sequence[Problem], target: Target, folders: Sequence[Path] = (), *, again: bool = False) -> list[Problem]:
    """Those that a transfer is for: whose buckets have no entry that is as good as a transfer's would be.

    What was transferred longest ago comes first of what is transferred again, so that the same command goes on where it was
    stopped. Both directions stay together, in their order: backward plans are judged behind the forward one.

    Args:
        folders: where entries are looked for; none: where the dispatcher looks.
        again: those whose entry was transferred too.
    """
    known = read_entries(target.gpu, folders or None)
    measures = target.evidence == "measured"
    poorer = ["static"] * measures + [TRANSFERRED] * (measures and again)
    served = {
        problem: next((entry for entry in known.get(problem.bucket(), ()) if entry.is_current(plan_sha256)), None)
        for problem in problems
    }
    unknown = {problem: entry for problem, entry in served.items() if entry is None or entry.evidence in poorer}
    ages = {problem: entry.tuned_at for problem, entry in unknown.items() if entry and entry.evidence == TRANSFERRED}
    oldest: dict[Problem, str] = {}
    for problem in unknown:
        both, age = replace(problem, direction="fwd"), ages.get(problem, "")
        oldest[both] = min(oldest.get(both, age), age)
    return sorted(unknown, key=lambda problem: oldest[replace(problem, direction="fwd")])


def ready(left: Sequence[Problem]) -> list[Problem]:
    """Those that may be next: a backward pass comes after its forward one."""
    forward = {shape_of(problem) for problem in left if problem.direction == "fwd"}
    return [problem for problem in left if problem.direction == "fwd" or shape_of(problem) not in forward]


def forward_first(problems: Sequence[Problem], count: int) -> list[Problem]:
    """The problems so that of each ``count`` in a row the forward ones come first: a backward one waits for its own."""
    parts = (problems[index : index + count] for index in range(0, len(problems), count))
    return [problem for part in parts for problem in sorted(part, key=lambda problem: DIRECTIONS.index(problem.direction))]


def next_race(left: Sequence[Problem], begun: Mapping[Problem, Transfer]) -> Problem:
    """Whose race is next: the second one of a problem that is ``begun`` if it is compiled, else a first one that is ``left``.

    A backward problem's first race comes after both of its forward one. Where there is neither, the second race that has waited
    longest is next.
    """
    compiled = (problem for problem, transfer in begun.items() if transfer.has_compiled)
    may_begin = (problem for problem in ready([*left, *begun]) if problem not in begun)
    return next(compiled, None) or next(may_begin, None) or next(iter(begun))
