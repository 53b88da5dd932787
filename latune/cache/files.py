"""Cache files by themselves: which of them the dispatcher reads, and what keeps one from serving."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from latune import paths
from latune.cache.device import DeviceCache, SchemaError
from latune.cache.store import brief, cache_path, read_any
from latune.errors import CacheError
from latune.gpu import Gpu


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheFile:
    """One file as it is found; looking at it changes nothing.

    Attributes:
        cache: what it holds; None where it cannot be read.
        fault: why it does not serve, in one line; None of one that does.
    """

    path: Path
    cache: DeviceCache | None
    fault: str | None

    @property
    def gpu(self) -> Gpu | None:
        return self.cache.gpu if self.cache else None


def find_file(path: Path) -> CacheFile:
    """A cache file of whatever name."""
    try:
        return CacheFile(path=path, cache=read_any(path), fault=None)
    except OSError as error:
        fault = f"unreadable: {error.strerror or error}"
    except SchemaError as error:
        fault = f"another version's: {brief(error)}"
    except ValueError as error:
        fault = f"damaged: {brief(error)}"
    return CacheFile(path=path, cache=None, fault=fault)


def read_given(path: Path) -> DeviceCache:
    """The entries of a file that a command was told to read.

    Raises:
        CacheError: it cannot be read, or is damaged.
    """
    found = find_file(path)
    if found.cache is None:
        raise CacheError(f"expected a cache file at {path}, got one that is {found.fault}; give a file that latune has written")
    return found.cache


def dispatched_files(roots: Sequence[Path] | None = None) -> list[CacheFile]:
    """All files that the dispatcher reads on one GPU or another, the user's first.

    Args:
        roots: folders of cache files; by default the user's and the shipped one.
    """
    return [_under_its_name(find_file(path)) for path in _files(roots, "*.json")]


def files_set_aside(roots: Sequence[Path] | None = None) -> list[CacheFile]:
    """Damaged files that gave way to others, and serve no more.

    Args:
        roots: as in ``dispatched_files``.
    """
    found = (find_file(path) for path in _files(roots, "*.json.damaged-*"))
    return [replace(file, fault=f"set aside, {file.fault or 'sound by now'}") for file in found]


def _files(roots: Sequence[Path] | None, pattern: str) -> Iterator[Path]:
    for root in roots or (paths.user_cache(), paths.shipped_cache()):
        yield from sorted(root.glob(pattern))


def _under_its_name(file: CacheFile) -> CacheFile:
    """The file; at fault where it is not the one that is read for its GPU."""
    if file.gpu is None or file.path == (own := cache_path(file.path.parent, file.gpu)):
        return file
    return replace(file, fault=f"misnamed: of {file.gpu.title}, whose file is {own.name}")
