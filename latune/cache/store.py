"""Cache files: reading them with the user's first, and merging new entries into one without losing any."""

from __future__ import annotations

import functools
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from latune import paths
from latune.cache import disk
from latune.cache.device import DeviceCache, SchemaError
from latune.cache.entry import EVIDENCE, Entry, PlanSha256
from latune.errors import CacheError, warn_once
from latune.gpu import Gpu
from latune.problem import Bucket

_LONGEST_REASON = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What a merge has made of a file: its entries by bucket before and after."""

    path: Path
    before: Mapping[Bucket, Entry]
    after: Mapping[Bucket, Entry]


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


def write_entries(
    gpu: Gpu, entries: Iterable[Entry], folder: Path | None = None, *, plan_sha256: PlanSha256 | None = None
) -> Path:
    """The path of the file of ``gpu``, into which ``entries`` are merged as by ``merge_entries``.

    Raises:
        CacheError: as there.
    """
    return merge_entries(gpu, entries, folder, plan_sha256=plan_sha256).path


def merge_entries(
    gpu: Gpu, entries: Iterable[Entry], folder: Path | None = None, *, plan_sha256: PlanSha256 | None = None
) -> Written:
    """Merges ``entries`` into the file of ``gpu``, atomically and safe against other writers.

    Args:
        entries: current ones.
        folder: where the file lies; by default the user's cache.
        plan_sha256: tells which of the file's are not current, and give way to any; None: it is not asked.

    Raises:
        CacheError: the folder cannot be written to, the file is a newer latune's, or an entry would not read back.
    """
    with _writing(gpu, folder) as path:
        before = DeviceCache.of(gpu, _read_or_set_aside(path, gpu))
        after = DeviceCache.of(gpu, _merge(before.entries.values(), entries, plan_sha256))
        text = after.to_text()
        # A file that would not read back costs its owner every entry in it: let the writer fail instead.
        disk.check_size(len(text))
        DeviceCache.from_text(text)
        with disk.draft(path, text) as draft:
            draft.replace(path)
    return Written(path=path, before=before.entries, after=after.entries)


def check_writable(gpu: Gpu, folder: Path | None = None) -> None:
    """Whether ``write_entries`` could write there, asked before a long search.

    Raises:
        CacheError: it could not.
    """
    with _writing(gpu, folder) as path:
        text = DeviceCache.of(gpu, _read_or_set_aside(path, gpu)).to_text()
        # As long as what would be written: an empty file fits a full disk.
        with disk.draft(path, text):
            pass


@contextmanager
def _writing(gpu: Gpu, folder: Path | None) -> Iterator[Path]:
    """The path of a file whose lock is held; what stands in the way is a ``CacheError``."""
    import filelock

    path = cache_path(folder or paths.user_cache(), gpu)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with disk.locked(path):
            yield path
    except filelock.Timeout as error:
        raise CacheError(f"another process holds {path}.lock for over {disk.LOCK_TIMEOUT_S} s: end it, or wait") from error
    except OSError as error:
        remedy = "set LATUNE_CACHE_DIR to, or name as output, a folder you can write to"
        raise CacheError(f"cannot write the cache file {path}: {error}; {remedy}") from error
    except ValueError as error:
        raise CacheError(f"cannot write the cache file {path}: {brief(error)}") from error


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
    cache = read_any(path)
    if cache.gpu.name != gpu.name:
        raise ValueError(f"gpu.name: expected {gpu.name!r}, got {cache.gpu.name!r}")
    return cache


def read_any(path: Path) -> DeviceCache:
    """One cache file as it is, of whichever GPU it says.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged.
    """
    return _parsed(disk.read_text(path))


@functools.lru_cache(maxsize=8)
def _parsed(text: str) -> DeviceCache:
    """Kept by the text: to check the 1100 entries of a file takes 0.6 s, and every bucket that a process meets reads it."""
    return DeviceCache.from_text(text)


def _merge(kept: Iterable[Entry], added: Iterable[Entry], plan_sha256: PlanSha256 | None) -> list[Entry]:
    merged = {entry.bucket: entry for entry in kept}
    for entry in added:
        old = merged.get(entry.bucket, entry)
        stays = prefer(old, entry)
        gives_way = stays is old and plan_sha256 is not None and not old.is_current(plan_sha256)
        merged[entry.bucket] = entry if gives_way else stays
    return list(merged.values())


def _read(path: Path, gpu: Gpu, *, set_aside: bool) -> list[Entry]:
    """The entries of a file; none, and one warning, where it cannot serve: a model goes on without it."""
    try:
        return list(read_file(path, gpu).entries.values())
    except FileNotFoundError:
        return []
    except OSError as error:
        warn_once(f"latune: cannot read the cache file {path}, going on without it: {error}")
        return []
    except SchemaError as error:
        return _ignore(path, error)
    except ValueError as error:
        return _mend(path, gpu) if set_aside else _ignore(path, error)


def _mend(path: Path, gpu: Gpu) -> list[Entry]:
    try:
        with disk.locked(path):
            return _read_or_set_aside(path, gpu)
    # Another latune's, by now, is no reason to fail either.
    except (OSError, SchemaError) as error:
        return _ignore(path, error)


def _ignore(path: Path, error: Exception) -> list[Entry]:
    state = "another version's" if isinstance(error, SchemaError) else "damaged"
    warn_once(f"latune: the cache file {path} is {state}, going on without it: {brief(error)}")
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
        aside = disk.set_aside(path)
        why = brief(error)
        warnings.warn(f"latune: the cache file {path} is damaged and was set aside as {aside.name}: {why}", stacklevel=2)
        return []


def brief(error: Exception) -> str:
    """What an error says, in one line, however long a text it quotes from a file."""
    return textwrap.shorten(str(error)[: 2 * _LONGEST_REASON], _LONGEST_REASON, placeholder=" ...")
