from __future__ import annotations

import json
import multiprocessing
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from latune import paths
from latune.cache.device import DeviceCache
from latune.cache.entry import Entry
from latune.cache.store import cache_path, check_writable, prefer, read_cache, read_entries, read_file, write_entries
from latune.errors import CacheError
from latune.gpu import find_gpu
from latune.problem import Problem

EntryOf = Callable[..., Entry]
ProblemOf = Callable[..., Problem]

H200 = find_gpu("h200")
OLD, NEW = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "user", tmp_path / "shipped"


def damage_truncated(text: str) -> str:
    return text[: len(text) // 2]


def damage_type(text: str) -> str:
    return text.replace('"num_warps": 8', '"num_warps": "8"')


def damage_nan(text: str) -> str:
    return text.replace('"roof_ms": 0.25', '"roof_ms": NaN')


def damage_nesting(text: str) -> str:
    return "[" * 200_000


def damage_all(text: str) -> str:
    return ""


def damage_gpu(text: str) -> str:
    return text.replace('"name": "h200"', '"name": "h100"')


DAMAGES = [damage_truncated, damage_type, damage_nan, damage_nesting, damage_all, damage_gpu]


def spoil(root: Path, damage: Callable[[str], str]) -> str:
    path = cache_path(root, H200)
    before = path.read_text(encoding="utf-8")
    after = damage(before)
    assert after != before
    path.write_text(after, encoding="utf-8")
    return after


def test_what_is_written_is_read(roots: tuple[Path, Path], entry_of: EntryOf) -> None:
    path = write_entries(H200, [entry_of()], roots[0])
    assert path == roots[0] / "nvidia-h200.json"
    assert read_cache(H200, roots) == DeviceCache.of(H200, [entry_of()])
    assert read_file(path, H200) == DeviceCache.of(H200, [entry_of()])


def test_a_file_is_checked_once_while_its_text_is_the_same(
    tmp_path: Path, entry_of: EntryOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_entries(H200, [entry_of()], tmp_path)
    known = read_file(path, H200)
    checks, check = [], DeviceCache.from_text
    monkeypatch.setattr(DeviceCache, "from_text", lambda text: checks.append(text) or check(text))
    assert read_file(path, H200) == known
    assert not checks
    spoil(tmp_path, lambda text: text + f"\n{' ' * 1000}\n")
    assert read_file(path, H200) == known
    assert len(checks) == 1


def test_by_default_the_users_file_is_written_and_both_are_read(
    roots: tuple[Path, Path], entry_of: EntryOf, problem_of: ProblemOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATUNE_CACHE_DIR", str(roots[0]))
    monkeypatch.setattr(paths, "shipped_cache", lambda: roots[1])
    shipped = entry_of(problem_of(seqlen=1024))
    write_entries(H200, [shipped], roots[1])
    assert write_entries(H200, [entry_of()]) == roots[0] / "cache" / "nvidia-h200.json"
    assert read_cache(H200) == DeviceCache.of(H200, [shipped, entry_of()])
    assert read_file(cache_path(roots[1], H200), H200) == DeviceCache.of(H200, [shipped])


def test_no_file_is_an_empty_cache(roots: tuple[Path, Path]) -> None:
    assert read_cache(H200, roots) == DeviceCache.of(H200)
    assert not roots[0].exists()


@pytest.mark.parametrize(
    ("user", "shipped", "order"),
    [
        ("measured", "measured", ["user", "shipped"]),
        ("static", "static", ["user", "shipped"]),
        ("measured", "static", ["user", "shipped"]),
        ("transferred", "measured", ["user", "shipped"]),
        ("static", "transferred", ["shipped", "user"]),
        ("static", "measured", ["shipped", "user"]),
    ],
)
def test_the_users_entry_comes_before_the_shipped_one_and_hides_it(
    roots: tuple[Path, Path], entry_of: EntryOf, user: str, shipped: str, order: list[str]
) -> None:
    write_entries(H200, [entry_of(evidence=user, study="user", tuned_at=OLD)], roots[0])
    write_entries(H200, [entry_of(evidence=shipped, study="shipped", tuned_at=NEW)], roots[1])
    assert [entry.study for entry in read_entries(H200, roots)[entry_of().bucket]] == order
    assert [entry.study for entry in read_cache(H200, roots).entries.values()] == order[:1]


def test_of_several_shipped_folders_the_first_comes_first(tmp_path: Path, entry_of: EntryOf, problem_of: ProblemOf) -> None:
    folders = [tmp_path / name for name in ("user", "one", "two")]
    for folder, evidence in zip(folders, ("static", "measured", "measured"), strict=True):
        write_entries(H200, [entry_of(evidence=evidence, study=folder.name)], folder)
    write_entries(H200, [entry_of(problem_of(seqlen=64), study="two")], folders[2])
    studies = [[entry.study for entry in entries] for entries in read_entries(H200, folders).values()]
    assert studies == [["one", "two", "user"], ["two"]]


@pytest.mark.parametrize(
    ("old", "new", "stays"),
    [
        (("measured", OLD), ("static", NEW), "old"),
        (("measured", OLD), ("transferred", NEW), "old"),
        (("measured", OLD), ("measured", NEW), "new"),
        (("measured", NEW), ("measured", OLD), "old"),
        (("measured", NEW), ("measured", NEW), "new"),
        (("static", NEW), ("measured", OLD), "new"),
        (("static", OLD), ("static", NEW), "new"),
        (("static", NEW), ("static", OLD), "old"),
        (("transferred", OLD), ("static", NEW), "old"),
        (("static", NEW), ("transferred", OLD), "new"),
    ],
)
def test_which_of_two_entries_stays(
    tmp_path: Path, entry_of: EntryOf, old: tuple[str, str], new: tuple[str, str], stays: str
) -> None:
    first = entry_of(evidence=old[0], tuned_at=old[1], study="old")
    second = entry_of(evidence=new[0], tuned_at=new[1], study="new")
    assert prefer(first, second).study == stays
    write_entries(H200, [first], tmp_path)
    write_entries(H200, [second], tmp_path)
    assert [entry.study for entry in read_cache(H200, [tmp_path]).entries.values()] == [stays]


def test_what_is_stale_gives_way_to_whatever_is_current(tmp_path: Path, entry_of: EntryOf) -> None:
    stale, current = entry_of(study="old", template_sha256="0" * 64), entry_of(evidence="static", study="new")

    def code_of(*_: object) -> str:
        return current.template_sha256

    write_entries(H200, [stale], tmp_path)
    write_entries(H200, [current], tmp_path)
    assert [entry.study for entry in read_cache(H200, [tmp_path]).entries.values()] == ["old"]
    write_entries(H200, [current], tmp_path, plan_sha256=code_of)
    assert [entry.study for entry in read_cache(H200, [tmp_path]).entries.values()] == ["new"]
    write_entries(H200, [entry_of(study="better")], tmp_path, plan_sha256=code_of)
    write_entries(H200, [current], tmp_path, plan_sha256=code_of)
    assert [entry.study for entry in read_cache(H200, [tmp_path]).entries.values()] == ["better"]


def test_where_warnings_raise_the_next_look_goes_on_without_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    roots = [tmp_path / "user", tmp_path / "shipped"]
    cache_path(roots[1], H200).mkdir(parents=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="cannot read the cache file"):
            read_cache(H200, roots)
        assert not read_cache(H200, roots).entries


def test_a_write_keeps_the_entries_of_other_buckets(tmp_path: Path, entry_of: EntryOf, problem_of: ProblemOf) -> None:
    entries = [entry_of(problem_of(seqlen=seqlen)) for seqlen in (1024, 2048)]
    write_entries(H200, [entries[1]], tmp_path)
    write_entries(H200, [entries[0]], tmp_path)
    assert list(read_cache(H200, [tmp_path]).entries.values()) == entries


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_users_file_is_set_aside_and_the_shipped_one_serves(
    roots: tuple[Path, Path], entry_of: EntryOf, damage: Callable[[str], str]
) -> None:
    for root in roots:
        write_entries(H200, [entry_of(study=root.name)], root)
    damaged = spoil(roots[0], damage)
    with pytest.warns(UserWarning, match="is damaged and was set aside as nvidia-h200.json.damaged-1") as caught:
        reads = [read_cache(H200, roots) for _ in range(2)]
    assert len(caught) == 1
    assert [[entry.study for entry in cache.entries.values()] for cache in reads] == [["shipped"]] * 2
    assert (roots[0] / "nvidia-h200.json.damaged-1").read_text(encoding="utf-8") == damaged
    assert not cache_path(roots[0], H200).exists()


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_shipped_file_is_left_and_the_users_serves(
    roots: tuple[Path, Path], entry_of: EntryOf, damage: Callable[[str], str]
) -> None:
    for root in roots:
        write_entries(H200, [entry_of(study=root.name)], root)
    damaged = spoil(roots[1], damage)
    names = sorted(path.name for path in roots[1].iterdir())
    with pytest.warns(UserWarning, match="is damaged, going on without it") as caught:
        reads = [read_cache(H200, roots) for _ in range(2)]
    assert len(caught) == 1
    assert [[entry.study for entry in cache.entries.values()] for cache in reads] == [["user"]] * 2
    assert cache_path(roots[1], H200).read_text(encoding="utf-8") == damaged
    assert sorted(path.name for path in roots[1].iterdir()) == names


def test_bytes_that_are_no_text_are_damage(tmp_path: Path) -> None:
    cache_path(tmp_path, H200).write_bytes(b"\xff\xfe\x00")
    with pytest.warns(UserWarning, match="set aside"):
        assert not read_cache(H200, [tmp_path]).entries


def test_a_write_sets_a_damaged_file_aside_and_numbers_them(tmp_path: Path, entry_of: EntryOf) -> None:
    for _ in range(2):
        cache_path(tmp_path, H200).write_text("{", encoding="utf-8")
        with pytest.warns(UserWarning, match="set aside"):
            write_entries(H200, [entry_of()], tmp_path)
        assert read_cache(H200, [tmp_path]) == DeviceCache.of(H200, [entry_of()])
    assert sorted(path.name for path in tmp_path.glob("*.damaged-*")) == [f"nvidia-h200.json.damaged-{n}" for n in (1, 2)]


def test_a_file_mended_meanwhile_is_not_set_aside(tmp_path: Path, entry_of: EntryOf, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_entries(H200, [entry_of()], tmp_path)
    texts = iter(["{"])
    sound = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda self, **options: next(texts, None) or sound(self, **options))
    assert read_cache(H200, [tmp_path]) == DeviceCache.of(H200, [entry_of()])
    assert path.exists()


def test_a_damaged_file_that_cannot_be_moved_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache_path(tmp_path, H200).write_text("{", encoding="utf-8")
    monkeypatch.setattr(Path, "rename", _refuse)
    with pytest.warns(UserWarning, match="going on without it.*read-only"):
        assert not read_cache(H200, [tmp_path]).entries


def test_an_unreadable_file_is_warned_of(tmp_path: Path) -> None:
    cache_path(tmp_path, H200).mkdir()
    with pytest.warns(UserWarning, match="cannot read the cache file"):
        assert not read_cache(H200, [tmp_path]).entries


def _refuse(*_: object) -> None:
    raise PermissionError("read-only")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, entry_of: EntryOf, problem_of: ProblemOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_entries(H200, [entry_of()], tmp_path)
    before = path.read_bytes(), sorted(tmp_path.iterdir())
    monkeypatch.setattr(os, "fsync", _refuse)
    with pytest.raises(CacheError, match=r"cannot write the cache file .*nvidia-h200.json: read-only; set LATUNE_CACHE_DIR"):
        write_entries(H200, [entry_of(problem_of(seqlen=64))], tmp_path)
    assert (path.read_bytes(), sorted(tmp_path.iterdir())) == before


def test_a_folder_that_cannot_be_made_is_a_cache_error(tmp_path: Path, entry_of: EntryOf) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(CacheError, match="cannot write the cache file"):
        write_entries(H200, [entry_of()], tmp_path / "file" / "cache")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_a_cache_error(tmp_path: Path, entry_of: EntryOf) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(CacheError, match="cannot write the cache file"):
        write_entries(H200, [entry_of()], tmp_path)


def test_a_file_of_another_schema_is_left_as_it_is(roots: tuple[Path, Path], entry_of: EntryOf) -> None:
    for root in roots:
        write_entries(H200, [entry_of(study=root.name)], root)
    newer = spoil(roots[0], lambda text: text.replace('"schema": 1', '"schema": 2'))
    with pytest.warns(UserWarning, match="is another version's, going on without it: schema: expected 1, got 2"):
        assert [entry.study for entry in read_cache(H200, roots).entries.values()] == ["shipped"]
    with pytest.raises(CacheError, match="schema: expected 1, got 2; use the latune that wrote it"):
        write_entries(H200, [entry_of()], roots[0])
    assert [path.name for path in roots[0].glob("*.json*") if path.suffix != ".lock"] == ["nvidia-h200.json"]
    assert cache_path(roots[0], H200).read_text(encoding="utf-8") == newer


def test_whether_a_folder_can_be_written_to_is_known_beforehand(tmp_path: Path, entry_of: EntryOf) -> None:
    path = write_entries(H200, [entry_of()], tmp_path / "fine")
    before = path.read_bytes()
    check_writable(H200, tmp_path / "fine")
    check_writable(H200, tmp_path / "new")
    assert path.read_bytes() == before and not cache_path(tmp_path / "new", H200).exists()
    for closed in (path, Path("/dev/null/folder")):
        with pytest.raises(CacheError, match="LATUNE_CACHE_DIR"):
            check_writable(H200, closed)


def test_what_would_not_read_back_is_not_written(tmp_path: Path, entry_of: EntryOf) -> None:
    path = write_entries(H200, [entry_of()], tmp_path)
    before = path.read_bytes()
    with pytest.raises(CacheError, match="study: expected a string"):
        write_entries(H200, [entry_of(study=7)], tmp_path)
    assert path.read_bytes() == before


def test_concurrent_writers_lose_no_entry(tmp_path: Path, entry_of: EntryOf, problem_of: ProblemOf) -> None:
    entries = [entry_of(problem_of(batch=batch, num_heads=1, seqlen=2**power)) for batch in (1, 2) for power in range(16)]
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        pool.starmap(write_entries, [(H200, [entry], tmp_path) for entry in entries], chunksize=1)
    assert read_cache(H200, [tmp_path]) == DeviceCache.of(H200, entries)
    assert not list(tmp_path.glob("*.tmp"))


def test_the_file_is_indented_json(tmp_path: Path, entry_of: EntryOf) -> None:
    text = write_entries(H200, [entry_of()], tmp_path).read_text(encoding="utf-8")
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"
