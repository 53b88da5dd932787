"""How busy a worker is: what a tuner would waste of a GPU that waited for compilers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class Load:
    """Time with a job and without, from the beginning of the first job to the end of the last.

    Attributes:
        busy_s: seconds with a job.
        elapsed_s: all of them.
    """

    busy_s: float = 0.0
    elapsed_s: float = 0.0
    _began_s: float | None = None
    _clock: Callable[[], float] = field(default=time.monotonic, repr=False)

    @contextmanager
    def working(self) -> Iterator[None]:
        """One job."""
        began_s = self._clock()
        self._began_s = began_s if self._began_s is None else self._began_s
        try:
            yield
        finally:
            ended_s = self._clock()
            self.busy_s += ended_s - began_s
            self.elapsed_s = ended_s - self._began_s

    @property
    def share(self) -> float:
        return self.busy_s / self.elapsed_s if self.elapsed_s else 0.0

    def to_json(self) -> dict[str, float]:
        return {"busy_s": self.busy_s, "elapsed_s": self.elapsed_s, "share": self.share}

    def __str__(self) -> str:
        return f"busy for {self.share:.0%} of {self.elapsed_s:.0f} s"
