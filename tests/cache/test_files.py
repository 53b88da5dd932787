from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from latune import paths
from latune.cache.device import DeviceCache
from latune.cache.entry import Entry
from latune.cache.files import dispatched_files, files_set_aside, find_file, read_given
from latune.cache.store import cache_path, write_entries
from latune.errors import CacheError
from latune.gpu import find_gpu

EntryOf = Callable[..., Entry]

H200, H100 = find_gpu("h200"), find_gpu("h100")


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "user", tmp_path / "shipped"


def test_the_users_files_come_before_the_shipped_ones(roots: tuple[Path, Path], entry_of: EntryOf) -> None:
    written = [write_entries(gpu, [entry_of()], root) for root in roots for gpu in (H100, H200)]
    files = dispatched_files(roots)
    assert [file.path for file in files] == written
    assert [file.gpu for file in files] == [H100, H200] * 2
    assert all(file.cache == DeviceCache.of(file.gpu, [entry_of()]) and file.fault is None for file in files)


def test_by_default_the_files_of_the_dispatcher_are_meant(
    roots: tuple[Path, Path], entry_of: EntryOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATUNE_CACHE_DIR", str(roots[0]))
    monkeypatch.setattr(paths, "shipped_cache", lambda: roots[1])
    assert dispatched_files() == files_set_aside() == []
    written = [write_entries(H200, [entry_of()]), write_entries(H200, [entry_of()], roots[1])]
    assert [file.path for file in dispatched_files()] == written


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "damaged: Expecting property name"),
        ('{"schema": 2}', "another version's: schema: expected 1, got 2"),
        ('{"schema": 1, "gpu": {}}', "damaged: the file: key 'entries' is missing"),
    ],
)
def test_what_keeps_a_file_from_serving_is_said_and_left(roots: tuple[Path, Path], text: str, fault: str) -> None:
    path = cache_path(roots[0], H200)
    path.parent.mkdir()
    path.write_text(text, encoding="utf-8")
    (file,) = dispatched_files(roots)
    assert (file.path, file.cache, file.gpu) == (path, None, None)
    assert file.fault is not None and file.fault.startswith(fault)
    assert [child.name for child in roots[0].iterdir()] == [path.name] and path.read_text(encoding="utf-8") == text
    with pytest.raises(CacheError, match=f"expected a cache file at {path}, got one that is {fault}.*give a file that latune"):
        read_given(path)


def test_what_is_no_file_is_unreadable(tmp_path: Path) -> None:
    assert find_file(tmp_path).fault == "unreadable: expected a regular file, got drwx------"
    assert find_file(tmp_path / "none.json").fault == "unreadable: No such file or directory"


def test_a_file_under_another_gpus_name_is_misnamed(roots: tuple[Path, Path], entry_of: EntryOf) -> None:
    path = write_entries(H200, [entry_of()], roots[0])
    other = path.rename(cache_path(roots[0], H100))
    (file,) = dispatched_files(roots)
    assert file.fault == "misnamed: of NVIDIA H200, whose file is nvidia-h200.json"
    assert file.cache == find_file(other).cache == read_given(other)
    assert find_file(other).fault is None, "whoever names it may name it as he likes"


def test_files_set_aside_are_told_apart(roots: tuple[Path, Path], entry_of: EntryOf) -> None:
    path = write_entries(H200, [entry_of()], roots[0])
    sound = path.rename(path.with_name(f"{path.name}.damaged-1"))
    torn = path.with_name(f"{path.name}.damaged-2")
    torn.write_text("", encoding="utf-8")
    assert dispatched_files(roots) == []
    assert [file.path for file in files_set_aside(roots)] == [sound, torn]
    faults = [str(file.fault) for file in files_set_aside(roots)]
    assert faults[0] == "set aside, sound by now" and faults[1].startswith("set aside, damaged: Expecting value")
