"""A thread beside the one that tunes, for what is compiled ahead."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def aside() -> Iterator[ThreadPoolExecutor]:
    """The thread; what it has not begun when the block ends is left, and not waited for if that fails."""
    executor, ended = ThreadPoolExecutor(1), False
    try:
        yield executor
        ended = True
    finally:
        executor.shutdown(wait=ended, cancel_futures=True)
