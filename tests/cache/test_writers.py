"""Several processes write one file, die over it, or find the disk full or closed: no entry that was there is lost."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from unittest import mock

import filelock
import pytest

from latune.cache import disk
from latune.cache.device import DeviceCache
from latune.cache.entry import EVIDENCE, Entry
from latune.cache.store import cache_path, check_writable, prefer, read_cache, read_file, write_entries
from latune.errors import CacheError
from latune.gpu import find_gpu
from latune.problem import Bucket, Problem

EntryOf = Callable[..., Entry]
ProblemOf = Callable[..., Problem]

H200 = find_gpu("h200")
SEED = 20260131
# Forked ones come up at once, and write at the same time.
PROCESSES = multiprocessing.get_context("fork")


@pytest.fixture
def entries(entry_of: EntryOf, problem_of: ProblemOf) -> list[Entry]:
    """Of a few buckets many entries each, no two of one evidence and time."""
    return [
        entry_of(
            problem_of(seqlen=2**power),
            evidence=EVIDENCE[minute % 3],
            tuned_at=f"2026-01-31T12:{minute:02}:00Z",
            study=f"{minute}",
        )
        for power in range(5, 11)
        for minute in range(20)
    ]


def best(entries: Sequence[Entry]) -> dict[Bucket, Entry]:
    """What has to stay of each bucket, in whatever order all are written."""
    kept: dict[Bucket, Entry] = {}
    for entry in entries:
        kept[entry.bucket] = prefer(kept.get(entry.bucket, entry), entry)
    return kept


def write_in_parts(folder: Path, entries: Sequence[Entry], seed: int) -> None:
    draw = random.Random(seed)
    left = list(entries)
    while left:
        size = draw.choice([1, 1, 2, 5])
        write_entries(H200, left[:size], folder)
        del left[:size]


def started(target: Callable[..., None], *arguments: object) -> multiprocessing.process.BaseProcess:
    process = PROCESSES.Process(target=target, args=arguments)
    process.start()
    return process


def test_what_concurrent_processes_write_ends_as_if_one_had_written_it(tmp_path: Path, entries: list[Entry]) -> None:
    shuffled = random.Random(SEED).sample(entries, len(entries))
    writers = [started(write_in_parts, tmp_path, shuffled[part::5], part) for part in range(5)]
    seen: set[Bucket] = set()
    while any(writer.is_alive() for writer in writers):
        found = read_cache(H200, [tmp_path]).entries.keys()
        assert seen <= found, "what was read once is read again"
        seen |= found
    assert [writer.exitcode for writer in writers] == [0] * 5
    assert read_cache(H200, [tmp_path]) == DeviceCache.of(H200, best(entries).values())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nvidia-h200.json", "nvidia-h200.json.lock"]


def test_threads_of_one_process_lose_nothing_either(tmp_path: Path, entries: list[Entry]) -> None:
    threads = [threading.Thread(target=write_in_parts, args=(tmp_path, entries[part::4], part)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read_cache(H200, [tmp_path]) == DeviceCache.of(H200, best(entries).values())


DEATHS = {
    "before the draft is on the disk": "os.fsync",
    "between draft and rename": "pathlib.Path.replace",
    "after the rename": "pathlib.Path.unlink",
    "before a damaged file is set aside": "pathlib.Path.rename",
}


def die_at(function: str, folder: Path, entries: Sequence[Entry]) -> None:
    with mock.patch(function, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)):
        write_entries(H200, entries, folder)


@pytest.mark.parametrize("function", DEATHS.values(), ids=list(DEATHS))
def test_a_writer_killed_at_any_step_does_no_harm(tmp_path: Path, entries: list[Entry], function: str) -> None:
    first, second, third = entries[0], entries[20], entries[40]
    path = write_entries(H200, [first], tmp_path)
    if function.endswith("rename"):
        path.write_text("{", encoding="utf-8")
    before = path.read_bytes()
    killed = started(die_at, function, tmp_path, [second])
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    if not function.endswith("unlink"):
        assert path.read_bytes() == before
    if not function.endswith("rename"):
        assert first in read_file(path, H200).entries.values()
        write_entries(H200, [third], tmp_path)
        assert {first, third} <= set(read_file(path, H200).entries.values())
    else:
        with pytest.warns(UserWarning, match="set aside as nvidia-h200.json.damaged-1"):
            write_entries(H200, [third], tmp_path)
        assert path.with_name(f"{path.name}.damaged-1").read_bytes() == before
    assert not list(tmp_path.glob("*.tmp"))


def failing(function: str, number: int) -> AbstractContextManager[mock.Mock]:
    """Calls of ``function`` fail as those of the system do."""
    return mock.patch(function, side_effect=OSError(number, os.strerror(number)))


STEPS = [
    *("pathlib.Path.mkdir", "filelock.FileLock.acquire", "pathlib.Path.read_text", "pathlib.Path.open"),
    *("os.fsync", "pathlib.Path.replace", "pathlib.Path.unlink"),
]
ERRORS = [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT, errno.EIO]


@pytest.mark.parametrize("step", STEPS)
def test_whatever_step_fails_the_file_is_whole_and_the_error_names_it(tmp_path: Path, entries: list[Entry], step: str) -> None:
    path = write_entries(H200, entries[:1], tmp_path)
    for number in ERRORS:
        with failing(step, number) as calls, pytest.raises(CacheError) as caught:
            write_entries(H200, [entries[20]], tmp_path)
        assert calls.call_count
        message = str(caught.value)
        assert str(path) in message and os.strerror(number) in message and "LATUNE_CACHE_DIR" in message
        assert entries[0] in read_file(path, H200).entries.values()
    write_entries(H200, [entries[40]], tmp_path)
    assert {entries[0], entries[40]} <= set(read_file(path, H200).entries.values())
    assert not list(tmp_path.glob("*.tmp"))


@pytest.fixture
def full_disk(tmp_path: Path, entries: list[Entry]) -> Path:
    """A sound file of one entry, on a disk that takes no byte more."""
    path = write_entries(H200, entries[:1], tmp_path)
    path.with_name(f"{path.name}.tmp").symlink_to("/dev/full")
    return path


@pytest.mark.parametrize("write", [check_writable, lambda gpu, folder: write_entries(gpu, [], folder)], ids=["check", "write"])
def test_a_full_disk_is_told_before_a_search_and_after_it(full_disk: Path, write: Callable[..., object]) -> None:
    before = full_disk.read_bytes()
    with pytest.raises(
        CacheError, match=f"cannot write the cache file {full_disk}: .*No space left on device; set LATUNE_CACHE"
    ):
        write(H200, full_disk.parent)
    assert full_disk.read_bytes() == before
    assert Path("/dev/full").exists()


@pytest.mark.parametrize(
    "error", [PermissionError(errno.EROFS, "Read-only file system"), NotImplementedError("no flock"), filelock.Timeout("lock")]
)
def test_a_damaged_file_where_no_lock_is_to_be_had_is_left_and_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    path = cache_path(tmp_path, H200)
    path.write_text("{", encoding="utf-8")
    monkeypatch.setattr(filelock.FileLock, "acquire", mock.Mock(side_effect=error))
    with pytest.warns(UserWarning, match="is damaged, going on without it") as caught:
        assert not any(read_cache(H200, [tmp_path]).entries for _ in range(3))
    assert len(caught) == 1
    assert path.read_text(encoding="utf-8") == "{"
    with pytest.raises(CacheError, match=str(path)):
        write_entries(H200, [], tmp_path)


def test_a_file_system_without_locks_is_a_cache_error(
    tmp_path: Path, entries: list[Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filelock.FileLock, "acquire", mock.Mock(side_effect=NotImplementedError))
    with pytest.raises(CacheError, match=r"the file system of .* has no locks; set LATUNE_CACHE_DIR"):
        write_entries(H200, entries[:1], tmp_path)


def test_who_waits_too_long_for_the_lock_is_told_what_to_do(
    tmp_path: Path, entries: list[Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_entries(H200, entries[:1], tmp_path)
    monkeypatch.setattr(disk, "LOCK_TIMEOUT_S", 0)
    with disk.locked(path), pytest.raises(CacheError, match=r"another process holds .*json.lock for over 0 s: end it, or wait"):
        write_entries(H200, [entries[20]], tmp_path)
    write_entries(H200, [entries[20]], tmp_path)


def test_below_a_regular_file_there_is_no_cache(tmp_path: Path, entries: list[Entry]) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    with pytest.warns(UserWarning, match="cannot read the cache file .*, going on without it"):
        assert not read_cache(H200, [tmp_path / "file" / "cache"]).entries
    with pytest.raises(CacheError, match="LATUNE_CACHE_DIR"):
        write_entries(H200, entries[:1], tmp_path / "file" / "cache")
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


def test_an_unreadable_file_is_not_written_over(tmp_path: Path, entries: list[Entry]) -> None:
    """What cannot be read may be sound: it is neither set aside nor replaced."""
    path = write_entries(H200, entries[:1], tmp_path)
    before = path.read_bytes()
    with failing("pathlib.Path.read_text", errno.EIO):
        with pytest.warns(UserWarning, match="cannot read the cache file"):
            assert not read_cache(H200, [tmp_path]).entries
        with pytest.raises(CacheError, match=os.strerror(errno.EIO)):
            write_entries(H200, [entries[20]], tmp_path)
    assert path.read_bytes() == before and not list(tmp_path.glob("*.damaged-*"))
