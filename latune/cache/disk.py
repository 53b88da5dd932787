"""Cache files on the disk: read whole or not at all, locked by who writes, replaced in one step."""

from __future__ import annotations

import itertools
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from latune.files import write_synced

LOCK_TIMEOUT_S = 60

_MIB = 2**20
# Twelve times the largest cache that ships. A damaged file of gigabytes would take the memory of the model that reads it.
_MOST_BYTES = 64 * _MIB


def read_text(path: Path) -> str:
    """What is in a file.

    Raises:
        OSError: it cannot be read; what is no regular file might never end.
        ValueError: it is too large for a cache file, or no UTF-8.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(f"expected a regular file, got {stat.filemode(status.st_mode)}")
    check_size(status.st_size)
    return path.read_text(encoding="utf-8")


def check_size(size_bytes: int) -> None:
    """Whether a file of that size would be read.

    Raises:
        ValueError: it would not.
    """
    if size_bytes > _MOST_BYTES:
        raise ValueError(f"expected at most {_MOST_BYTES // _MIB} MiB, got {-(-size_bytes // _MIB)} MiB")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock of a file, which lies beside it; the system releases it when the process ends, however it does.

    Raises:
        filelock.Timeout: another process holds it for over ``LOCK_TIMEOUT_S``; an ``OSError``.
        OSError: the lock cannot be made.
    """
    # `import latune` must stay free of filelock: only writers and damaged files need it.
    import filelock

    lock = filelock.FileLock(f"{path}.lock", timeout=LOCK_TIMEOUT_S)
    try:
        lock.acquire()
    except NotImplementedError as error:
        raise OSError(f"the file system of {path.parent} has no locks") from error
    try:
        yield
    finally:
        lock.release()


def set_aside(path: Path) -> Path:
    """Renames a damaged file to the first free ``<name>.damaged-N``, which is returned.

    Raises:
        OSError: it cannot be renamed.
    """
    names = (path.with_name(f"{path.name}.damaged-{number}") for number in itertools.count(1))
    return path.rename(next(name for name in names if not name.exists()))


@contextmanager
def draft(path: Path, text: str) -> Iterator[Path]:
    """A file beside ``path`` with ``text``, which is on the disk; gone in the end unless the caller has renamed it.

    Who asks for it holds the lock of ``path``, which makes the draft's name its own: what a killed writer left is written over.

    Raises:
        OSError: it cannot be written; nothing is left of it.
    """
    partial = path.with_name(f"{path.name}.tmp")
    try:
        write_synced(partial, text)
        yield partial
    finally:
        partial.unlink(missing_ok=True)
