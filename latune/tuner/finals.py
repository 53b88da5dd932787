"""How the tuning of a problem begins and ends, for all processes that tune it: with the same starts, and with one race."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

from latune.cache.entry import Entry
from latune.measurement import Measurement
from latune.plan import Plan
from latune.tuner.leases import Lease
from latune.tuner.storage import opened_study, storage_errors

_PROBLEM = "problem"
# Between looks at what another process does.
_POLL_S = 0.5

Json = Mapping[str, Any]
T = TypeVar("T")


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
    def from_json(cls, fields: Json) -> Result:
        finalists = ((Plan.from_json(each["plan"]), Measurement.from_json(each["measurement"])) for each in fields["finalists"])
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

    @contextmanager
    def in_hand(self) -> Iterator[bool]:
        """Whether this process is the one that has the problem in hand, until the block ends; others are for other problems."""
        with storage_errors(self._storage):
            lease = Lease.take(self._study, _PROBLEM)
        try:
            yield lease is not None
        finally:
            if lease is not None:
                with storage_errors(self._storage):
                    lease.release()

    def starts(self, own: Sequence[Plan]) -> list[Plan]:
        """The plans to start from, which make a search what it is: those of the process that was the first to come."""
        return self._agreed("starts", lambda: {"plans": [plan.to_json() for plan in own]}, _plans)

    def result(self, trials: Mapping[str, int], spaces: Mapping[str, str], race: Callable[[], Result]) -> Result:
        """That of the race, run by this process unless another has run it, or does, after the same searches.

        Args:
            trials: by kernel, how many its search has made.
            spaces: digests of the search spaces, by name.
        """
        made = {"trials": dict(trials), "spaces": dict(spaces)}
        return self._agreed("result", lambda: made | race().to_json(), Result.from_json, made)

    def _agreed(self, name: str, make: Callable[[], Json], read: Callable[[Json], T], alike: Json = MappingProxyType({})) -> T:
        """What is kept under the name, and like ``alike`` where that says something; made by one process where nothing is."""
        while (kept := self._kept(name, read, alike)) is None:
            with storage_errors(self._storage):
                lease = Lease.take(self._study, name)
            if lease is None:
                time.sleep(_POLL_S)
                continue
            try:
                # Another may have made it while this one came to its turn.
                if self._kept(name, read, alike) is None:
                    made = make()
                    read(made)  # raises here, rather than be made for ever
                    with storage_errors(self._storage):
                        self._study.set_user_attr(name, made)
            finally:
                with storage_errors(self._storage):
                    lease.release()
        return kept

    def _kept(self, name: str, read: Callable[[Json], T], alike: Json) -> T | None:
        """None, too, of what cannot be read: it is made again."""
        with storage_errors(self._storage):
            kept = self._study.user_attrs.get(name)
        try:
            return read(kept) if kept is not None and alike.items() <= kept.items() else None
        except (ValueError, LookupError, TypeError, AttributeError):
            return None


def _plans(kept: Json) -> list[Plan]:
    return [Plan.from_json(steps) for steps in kept["plans"]]
