"""The order of jobs that have parts in common: one after another, so that each finds done what those before it have done."""

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

    Urgent jobs come before the others; of both, those that share no part with what is under way come before those that do, and
    older ones before younger ones. None is held back while somebody is free to do it.
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
