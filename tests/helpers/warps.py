"""Warps that take turns in an order drawn at random, and what they wait for: transfers in flight, and barriers."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from greenlet import greenlet

# How often a transfer ends although a warp could go on.
_TRANSFERS_FIRST = 0.3


class Partition:
    """What some warps of a program do, which goes on only while it has its turn."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.may_go_on: Callable[[], bool] = _always
        self._greenlet = greenlet(work)

    @property
    def finished(self) -> bool:
        return self._greenlet.dead

    def go_on(self) -> None:
        """Runs it up to its next pause, or its end; what it raises is raised here."""
        self._greenlet.switch()

    def pause(self, condition: Callable[[], bool]) -> None:
        """Called by its own work: returns on its next turn, which comes after ``condition`` holds."""
        self.may_go_on = condition
        self._greenlet.parent.switch()

    def stop(self) -> None:
        """Ends it, wherever that is."""
        self._greenlet.throw()


class Scheduler:
    """Gives turns to a program's partitions, and ends its transfers, each in an order drawn from ``random``."""

    def __init__(self, random: Random) -> None:
        self.current: Partition | None = None
        self._random = random
        self._transfers: list[Callable[[], None]] = []

    def run(self, *works: Callable[[], None]) -> None:
        """Runs a partition for each of ``works`` until all have finished.

        Raises:
            RuntimeError: every one waits for something that will not happen.
        """
        partitions = [Partition(work) for work in works]
        running = list(partitions)
        try:
            while running:
                self._advance(running)
        finally:
            self.current = None
            for partition in partitions:
                partition.stop()
        assert not self._transfers, "a transfer that none has waited for"

    def pause(self, condition: Callable[[], bool] | None = None) -> None:
        """Lets others go on, until ``condition`` holds."""
        assert self.current is not None, "only a partition pauses"
        self.current.pause(condition or _always)

    def later(self, transfer: Callable[[], None]) -> None:
        """Has ``transfer`` happen at some time."""
        self._transfers.append(transfer)

    def _advance(self, running: list[Partition]) -> None:
        ready = [partition for partition in running if partition.may_go_on()]
        if self._transfers and (not ready or self._random.random() < _TRANSFERS_FIRST):
            self._transfers.pop(self._random.randrange(len(self._transfers)))()
        elif ready:
            self.current = self._random.choice(ready)
            self.current.go_on()
            if self.current.finished:
                running.remove(self.current)
        else:
            raise RuntimeError("deadlock")


class Barrier:
    """An mbarrier: its phase turns once ``count`` have arrived and all expected bytes have come."""

    def __init__(self) -> None:
        self.phase = 0
        self._count = self._missing = self._missing_bytes = 0

    def init(self, count: int) -> None:
        self._count = self._missing = count

    def arrive(self, count: int) -> None:
        self._missing -= count
        self._turn_if_complete()

    def expect(self, nbytes: int) -> None:
        """Arrives, with bytes that are still to come."""
        self._missing_bytes += nbytes
        self.arrive(1)

    def receive(self, nbytes: int) -> None:
        self._missing_bytes -= nbytes
        self._turn_if_complete()

    def _turn_if_complete(self) -> None:
        assert self._missing >= 0, "more have arrived than a phase has"
        if self._missing == self._missing_bytes == 0:
            self.phase += 1
            self._missing = self._count


def _always() -> bool:
    return True
