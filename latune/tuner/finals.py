"""How the tuning of a problem ends: with one race of its finalists, whose result all processes that tune it share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from latune.cache.entry import Entry
from latune.config import Config
from latune.measurement import Measurement
from latune.plan import Plan, Step
from latune.tuner.leases import Lease
from latune.tuner.storage import opened_study, storage_errors

_RESULT = "result"
_RACE, _PROBLEM = "race", "problem"
# Between looks at what the process does that has the race.
_POLL_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The winner's entry, and what it won against.

    Attributes:
        finalists: the complete plans that were raced, with their measurements.
    """

    entry: Entry
    finalists: tuple[tuple[Plan, Measurement], ...]

    def to_json(self) -> dict[str, object]:
        finalists = [{"plan": plan.to_json(), "measurement": measurement.to_json()} for plan, measurement in self.finalists]
        return {"entry": self.entry.to_json(), "finalists": finalists}

    @classmethod
    def from_json(cls, fields: Mapping) -> Result:
        finalists = ((_plan(each["plan"]), Measurement.from_json(each["measurement"])) for each in fields["finalists"])
        return cls(entry=Entry.from_json(fields["entry"]), finalists=tuple(finalists))


class Finals:
    """What processes that tune one problem agree on.

    Args:
        name: as ``podium.study_name`` gives it.
        storage: see ``study.Study``.
        fresh: forget what an earlier run stored under the name.

    Raises:
        StudyError: the storage cannot be opened, read or written; so do all methods.
    """

    def __init__(self, name: str, storage: str | None = None, *, fresh: bool = False) -> None:
        self._storage = storage
        self._study = opened_study(name, storage, fresh=fresh)

    @property
    def is_taken(self) -> bool:
        """Whether a process has the problem in hand."""
        with storage_errors(self._storage):
            return Lease.is_held(self._study, _PROBLEM)

    @contextmanager
    def in_hand(self) -> Iterator[None]:
        """Has the problem in hand until the block ends, for others to begin with other problems."""
        with storage_errors(self._storage):
            lease = Lease.take(self._study, _PROBLEM)
        try:
            yield
        finally:
            if lease is not None:
                with storage_errors(self._storage):
                    lease.release()

    def result(self, trials: Mapping[str, int], race: Callable[[], Result]) -> Result:
        """That of the race, run by this process unless another has run it, or does, after searches of as many trials.

        Args:
            trials: by kernel, how many its search has made.
        """
        while (kept := self._kept(trials)) is None:
            with storage_errors(self._storage):
                lease = Lease.take(self._study, _RACE)
            if lease is None:
                time.sleep(_POLL_S)
                continue
            try:
                self._raced(trials, race)
            finally:
                with storage_errors(self._storage):
                    lease.release()
        return kept

    def _raced(self, trials: Mapping[str, int], race: Callable[[], Result]) -> None:
        """Races, unless another process has while this one waited for its turn."""
        if self._kept(trials) is None:
            result = race()
            with storage_errors(self._storage):
                self._study.set_user_attr(_RESULT, {"trials": dict(trials), **result.to_json()})

    def _kept(self, trials: Mapping[str, int]) -> Result | None:
        with storage_errors(self._storage):
            kept = self._study.user_attrs.get(_RESULT)
        return Result.from_json(kept) if kept is not None and kept["trials"] == trials else None


def _plan(steps: list[Mapping]) -> Plan:
    return Plan.from_steps([Step(kernel=step["kernel"], config=Config.from_json(step["config"])) for step in steps])
