"""What is to be done next, where parts that jobs have in common are done once if they are not done side by side."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

Job = TypeVar("Job", bound=Hashable)


@dataclass(frozen=True, slots=True)
class _Waiting:
    parts: frozenset[Hashable]
    urgent: bool


class Backlog(Generic[Job]):
    """Jobs that wait, and those under way. The caller sees to it that one thread at a time has it.

    Whoever does a job leaves its parts in a cache. So of urgent jobs, then of the others, those come first that share no part
    with what is under way: of these the oldest. Where all do, the oldest of them is not kept waiting.
    """

    def __init__(self) -> None:
        self._waiting: dict[Job, _Waiting] = {}
        self._under_way: dict[Job, frozenset[Hashable]] = {}

    def add(self, job: Job, parts: frozenset[Hashable], *, urgent: bool) -> None:
        self._waiting[job] = _Waiting(parts, urgent)

    def hurry(self, job: Job) -> None:
        """Makes a job urgent, behind those that are; one that does not wait is left as it is."""
        waiting = self._waiting.get(job)
        if waiting is not None and not waiting.urgent:
            del self._waiting[job]
            self.add(job, waiting.parts, urgent=True)

    def take(self) -> Job:
        """The next one, which is under way from now on.

        Raises:
            ValueError: none waits.
        """
        under_way = frozenset().union(*self._under_way.values())

        def place(job: Job) -> tuple[bool, bool]:
            waiting = self._waiting[job]
            return not waiting.urgent, not waiting.parts.isdisjoint(under_way)

        job = min(self._waiting, key=place)
        self._under_way[job] = self._waiting.pop(job).parts
        return job

    def done(self, job: Job) -> None:
        del self._under_way[job]
