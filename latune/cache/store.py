"""Cache files: reading them with the user's first, and merging new entries into one without losing any."""

from __future__ import annotations

import functools
import itertools
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from latune import paths
from latune.cache.entry import EVIDENCE, DeviceCache, Entry, SchemaError
from latune.errors import CacheError
from latune.gpu import Gpu
from latune.problem import Bucket

if TYPE_CHECKING:
    import filelock

_LOCK_TIMEOUT_S = 60


def read_cache(gpu: Gpu, roots: Sequence[Path] | None = None) -> DeviceCache:
    """All entries known for ``gpu``, current or not: of each bucket the first that ``read_entries`` names."""
    return DeviceCache.of(gpu, (first for first, *_ in read_entries(gpu, roots).values()))


def read_entries(gpu: Gpu, roots: Sequence[Path] | None = None) -> dict[Bucket, list[Entry]]:
    """All entries known for ``gpu`` by bucket, those of one bucket in the order in which they are to serve.

    The user's come before the shipped ones, but ``static`` ones after those that ran on the GPU. Which of them are current
    is not asked: that may cost a rendering each, and the reader asks it of what it is about to serve.
    A damaged file serves nothing and is warned of once; the user's is set aside as ``<name>.damaged-N``.

    Args:
        roots: folders of cache files, the user's first; the others are never written to.
    """
    user, *shipped = roots or (paths.user_cache(), paths.shipped_cache())
    entries = [entry for root in (user, *shipped) for entry in _read(cache_path(root, gpu), gpu, set_aside=root is user)]
    found: dict[Bucket, list[Entry]] = {}
    for entry in sorted(entries, key=lambda entry: entry.evidence == "static"):
        found.setdefault(entry.bucket, []).append(entry)
    return found


def write_entries(gpu: Gpu, entries: Iterable[Entry], folder: Path | None = None) -> Path:
    """Merges ``entries`` into the file of ``gpu``, atomically and safe against other writers.

    Args:
        folder: where the file lies; by default the user's cache.

    Returns:
        The path of the file.

    Raises:
        CacheError: the folder cannot be written to, the file is a newer latune's, or an entry would not read back.
    """
    with _writing(gpu, folder) as path:
        text = DeviceCache.of(gpu, _merge(_read_or_set_aside(path, gpu), entries)).to_text()
        # A file that would not read back costs its owner every entry in it: let the writer fail instead.
        DeviceCache.from_text(text)
        _replace(path, text)
    return path


def check_writable(gpu: Gpu, folder: Path | None = None) -> None:
    """Whether ``write_entries`` could write there, asked before a long search.

    Raises:
        CacheError: it could not.
    """
    with _writing(gpu, folder) as path:
        _read_or_set_aside(path, gpu)
        draft = _draft(path)
        draft.touch()
        draft.unlink()


@contextmanager
def _writing(gpu: Gpu, folder: Path | None) -> Iterator[Path]:
    """The path of a file whose lock is held; what stands in the way is a ``CacheError``."""
    import filelock

    path = cache_path(folder or paths.user_cache(), gpu)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            yield path
    except filelock.Timeout as error:
        raise CacheError(f"another process holds {path}.lock for over {_LOCK_TIMEOUT_S} s: end it, or wait") from error
    except OSError as error:
        remedy = "set LATUNE_CACHE_DIR to, or name as output, a folder you can write to"
        raise CacheError(f"cannot write the cache file {path}: {error}; {remedy}") from error
    except ValueError as error:
        raise CacheError(f"cannot write the cache file {path}: {error}") from error


def prefer(old: Entry, new: Entry) -> Entry:
    """Which of two entries of one bucket stays: measured before transferred before static, then the newer one."""
    return max(new, old, key=lambda entry: (-EVIDENCE.index(entry.evidence), entry.tuned_at))


def cache_path(root: Path, gpu: Gpu) -> Path:
    """The file of ``gpu`` in the cache folder ``root``."""
    return root / f"{gpu.file_stem}.json"


def read_file(path: Path, gpu: Gpu) -> DeviceCache:
    """One cache file as it is.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged or another GPU's.
    """
    cache = _parsed(path.read_text(encoding="utf-8"))
    if cache.gpu.name != gpu.name:
        raise ValueError(f"gpu.name: expected {gpu.name!r}, got {cache.gpu.name!r}")
    return cache


@functools.lru_cache(maxsize=8)
def _parsed(text: str) -> DeviceCache:
    """Kept by the text: checking the 600 entries of a file takes 0.1 s, and every bucket that a process meets reads it."""
    return DeviceCache.from_text(text)


def _merge(kept: Iterable[Entry], added: Iterable[Entry]) -> list[Entry]:
    merged: dict[Bucket, Entry] = {}
    for entry in itertools.chain(kept, added):
        merged[entry.bucket] = prefer(merged.get(entry.bucket, entry), entry)
    return list(merged.values())


def _read(path: Path, gpu: Gpu, *, set_aside: bool) -> list[Entry]:
    """The entries of a file; none, and one warning, where it cannot serve: a model goes on without it."""
    try:
        return list(read_file(path, gpu).entries.values())
    except FileNotFoundError:
        return []
    except OSError as error:
        _warn_once(f"latune: cannot read the cache file {path}, going on without it: {error}")
        return []
    except SchemaError as error:
        return _ignore(path, error)
    except ValueError as error:
        return _mend(path, gpu) if set_aside else _ignore(path, error)


def _mend(path: Path, gpu: Gpu) -> list[Entry]:
    try:
        with _locked(path):
            return _read_or_set_aside(path, gpu)
    except OSError as error:
        return _ignore(path, error)


def _ignore(path: Path, error: Exception) -> list[Entry]:
    state = "another version's" if isinstance(error, SchemaError) else "damaged"
    _warn_once(f"latune: the cache file {path} is {state}, going on without it: {error}")
    return []


def _read_or_set_aside(path: Path, gpu: Gpu) -> list[Entry]:
    """The entries of a file whose lock is held; a damaged one gives way and has none.

    Raises:
        SchemaError: the file is not damaged, but another latune's.
    """
    try:
        return list(read_file(path, gpu).entries.values())
    except FileNotFoundError:
        return []
    except SchemaError:
        raise
    except ValueError as error:
        aside = next(name for name in _names_aside(path) if not name.exists())
        path.rename(aside)
        warnings.warn(f"latune: the cache file {path} is damaged and was set aside as {aside.name}: {error}", stacklevel=2)
        return []


def _names_aside(path: Path) -> Iterable[Path]:
    return (path.with_name(f"{path.name}.damaged-{number}") for number in itertools.count(1))


def _locked(path: Path) -> filelock.BaseFileLock:
    # `import latune` must stay free of filelock: only writers and damaged files need it.
    import filelock

    return filelock.FileLock(f"{path}.lock", timeout=_LOCK_TIMEOUT_S)


def _replace(path: Path, text: str) -> None:
    """Puts ``text`` in the file's place in one step; the caller holds the lock, which makes the draft's name its own."""
    draft = _draft(path)
    try:
        with draft.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _draft(path: Path) -> Path:
    return path.with_name(f"{path.name}.tmp")


@functools.cache
def _warn_once(message: str) -> None:
    warnings.warn(message, stacklevel=2)
