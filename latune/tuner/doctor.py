"""Do entries still hold, on the GPU that is here and with today's toolchain?

The plans of an entry, its winner and its alternates, and the default of the search space are verified and timed in turns. The
entry fails where one of its own plans does. It is beaten where, round for round, the winner takes longer than another plan by
more than a tie even at the lower end of the 95% interval of that ratio, in the process that is running and in a fresh one: what
a process has in memory where may slow down one plan by more than the rounds of one race tell.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from latune.cache.entry import TOOLCHAIN, Entry
from latune.cache.resolve import default_plan
from latune.codegen.render import plan_sha256
from latune.errors import WorkerError
from latune.gpu import Gpu
from latune.plan import Plan
from latune.problem import Problem
from latune.tuner.jobs import Arm
from latune.tuner.timing import TIE, paired_ratio

# Several times what a race of a few plans takes: one that hangs is ended by it.
_TIMEOUT_S = 60.0

Toolchain = Mapping[str, str | None]


class Racer(Protocol):
    """What of ``evaluators.MeasuredEvaluator`` is asked."""

    gpu: Gpu

    @property
    def toolchain(self) -> Toolchain: ...

    def race_arms(self, plans: Sequence[Plan], *, fresh: bool = False, timeout_s: float) -> list[Arm]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """A plan that the winner was compared with.

    Attributes:
        name: ``alternate 1``, ..., or ``default``.
        ratio: how many times as long the winner takes, in the median of the rounds; below 1 where it is the faster one.
        ratio_low: lower end of the 95% interval of that.
        ratio_high: upper end of it.
    """

    name: str
    plan: Plan
    ratio: float
    ratio_low: float
    ratio_high: float

    @property
    def wins(self) -> bool:
        return self.ratio_low > TIE


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What came of one entry.

    Attributes:
        verdict: ``holds``, ``beaten`` or ``fails``.
        winner_ms: median time of the winner now; None where it failed.
        rival: of the other plans that passed, one that beats the winner if any does, the fastest of those; None without any.
        toolchain: of what is of another version now than in the entry: (then, now).
        detail: which plans failed, and how.
    """

    entry: Entry
    verdict: str
    winner_ms: float | None = None
    rival: Rival | None = None
    toolchain: Mapping[str, tuple[str | None, str | None]]
    detail: str = ""

    @property
    def holds(self) -> bool:
        return self.verdict == "holds"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unchecked:
    """An entry of which nothing can be told, through no fault of its own."""

    entry: Entry
    why: str


def in_turns(entries: Sequence[Entry], toolchain: Toolchain) -> list[Entry]:
    """Those of another toolchain first; of the others, and of these, every size's first entry before any size's second.

    Whatever is left out when the time is up, something of each size has been checked.
    """
    counted: Counter[tuple[int, ...]] = Counter()
    places = []
    for entry in entries:
        bucket = entry.bucket
        sizes = (bucket.batch_heads, bucket.seqlen, bucket.head_dim_k, bucket.head_dim_v)
        places.append((not _differences(entry, toolchain), counted[sizes]))
        counted[sizes] += 1
    return [entry for _, entry in sorted(zip(places, entries, strict=True), key=lambda pair: pair[0])]


def check_up(
    entries: Iterable[Entry],
    racer_of: Callable[[Problem], Racer],
    *,
    deadline: float,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Finding | Unchecked]:
    """Examines one entry after another, until one more, of their mean time, is likely to end after the deadline.

    Args:
        racer_of: what judges the plans of a problem.
        deadline: by the clock, in seconds.
    """
    begun = clock()
    for examined, entry in enumerate(entries):
        now = clock()
        if now + (now - begun) / max(examined, 1) >= deadline:
            return
        try:
            yield examine(entry, racer_of(entry.problem))
        except WorkerError as error:
            yield Unchecked(entry=entry, why=str(error))


def raced_plans(entry: Entry, gpu: Gpu) -> dict[Plan, str]:
    """The names of the plans that are raced to examine an entry: its own, the winner first, and the default."""
    alternates = ((plan, f"alternate {number}") for number, plan in enumerate(entry.alternates, start=1))
    names: dict[Plan, str] = {}
    for plan, name in ((entry.plan, "winner"), *alternates, (default_plan(entry.problem, gpu), "default")):
        names.setdefault(plan, name)
    return names


def examine(entry: Entry, racer: Racer) -> Finding:
    """Verifies and races the plans of an entry; once more, in a fresh process, where another one beats its winner.

    Raises:
        WorkerError: the problem does not fit the device, or its plans can be run one by one and not in turns.
    """
    stale = entry.why_stale(plan_sha256)
    if stale is not None:
        return Finding(entry=entry, verdict="fails", toolchain=_differences(entry, racer.toolchain), detail=stale)
    finding = _race(entry, racer)
    return _race(entry, racer, fresh=True) if finding.verdict == "beaten" else finding


def _race(entry: Entry, racer: Racer, *, fresh: bool = False) -> Finding:
    names = raced_plans(entry, racer.gpu)
    arms = _arms(list(names), racer, fresh=fresh)
    failures = {plan: arm.measurement for plan, arm in arms.items() if not arm.measurement.ok}
    others = () if entry.plan in failures else (plan for plan in names if plan != entry.plan and plan not in failures)
    rivals = [_rival(names[plan], plan, arms[entry.plan], arms[plan]) for plan in others]
    rival = max(rivals, key=lambda rival: (rival.wins, rival.ratio), default=None)
    verdict = "beaten" if rival is not None and rival.wins else "holds"
    return Finding(
        entry=entry,
        verdict="fails" if failures.keys() & {entry.plan, *entry.alternates} else verdict,
        winner_ms=None if entry.plan in failures else arms[entry.plan].measurement.median_ms,
        rival=rival,
        toolchain=_differences(entry, racer.toolchain),
        detail="; ".join(f"{names[plan]}: {failed.outcome}: {failed.detail}" for plan, failed in failures.items()),
    )


def _arms(plans: Sequence[Plan], racer: Racer, *, fresh: bool) -> dict[Plan, Arm]:
    """Each plan's arm of one race; where that falls, each is run alone to find who is at fault, then the others in turns.

    Raises:
        WorkerError: the race falls without those at fault, too.
    """
    arms = dict(zip(plans, racer.race_arms(plans, fresh=fresh, timeout_s=_TIMEOUT_S), strict=True))
    if any(arm.measurement.ok for arm in arms.values()):
        return arms
    alone = {plan: arm for plan in plans for arm in racer.race_arms([plan], timeout_s=_TIMEOUT_S)}
    sound = [plan for plan, arm in alone.items() if arm.measurement.ok]
    if len(sound) < 2:
        return alone
    raced = racer.race_arms(sound, timeout_s=_TIMEOUT_S)
    if not any(arm.measurement.ok for arm in raced):
        raise WorkerError(f"plans that pass one by one fall when they take turns: {raced[0].measurement.detail}")
    return alone | dict(zip(sound, raced, strict=True))


def _rival(name: str, plan: Plan, winner: Arm, other: Arm) -> Rival:
    ratio, low, high = paired_ratio(winner.rounds_ms, other.rounds_ms)
    return Rival(name=name, plan=plan, ratio=ratio, ratio_low=low, ratio_high=high)


def _differences(entry: Entry, toolchain: Toolchain) -> dict[str, tuple[str | None, str | None]]:
    pairs = {name: (entry.toolchain[name], toolchain[name]) for name in TOOLCHAIN}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
