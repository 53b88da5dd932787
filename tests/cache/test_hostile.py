"""Whatever stands in the user's cache file, a model gets a plan, its owner is told in one line, and nothing is lost."""

from __future__ import annotations

import copy
import functools
import json
import os
import random
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from entries import valid_entry
from hostile import at, mutated, places

import latune
from latune.cache import resolve as ladder
from latune.cache.device import DeviceCache
from latune.cache.entry import Entry
from latune.cache.resolve import default_plan
from latune.cache.store import cache_path, read_cache, write_entries
from latune.codegen.render import plan_sha256, render
from latune.errors import CacheError
from latune.gpu import find_gpu
from latune.problem import Problem

H200 = find_gpu("h200")
FORWARD = Problem(
    direction="fwd", decay="constant", dtype="bf16", batch=2, num_heads=16, seqlen=4096, head_dim_k=128, head_dim_v=128
)
PROBLEMS = (FORWARD, replace(FORWARD, direction="bwd", seqlen=1024))
SEED = 20260131
MIB = 2**20

LONGEST_LINE = 600
"""Of a warning: a path, and as much of a reason as can be read."""


@functools.cache
def sound_text() -> str:
    """A file of two entries that serve."""
    entries = [valid_entry(problem, default_plan(problem, H200)) for problem in PROBLEMS]
    return DeviceCache.of(H200, entries).to_text()


@pytest.fixture
def document() -> dict[str, Any]:
    return json.loads(sound_text())


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache file of the GPU; it is not there yet."""
    monkeypatch.setenv("LATUNE_CACHE_DIR", str(tmp_path))
    (tmp_path / "cache").mkdir()
    return cache_path(tmp_path / "cache", H200)


def check_read(path: Path, content: bytes) -> dict[object, Entry]:
    """Reads the file: it serves, or it is said once, in one line, that it does not; its bytes are there either way."""
    path.write_bytes(content)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        entries, _ = (read_cache(H200, [path.parent]).entries for _ in range(2))
    left = path if path.exists() else path.with_name(f"{path.name}.damaged-1")
    assert left.read_bytes() == content
    assert len(caught) == (left != path)
    for warning in caught:
        line = str(warning.message)
        assert "is damaged and was set aside as nvidia-h200.json.damaged-1: " in line
        assert line.isprintable() and len(line) < LONGEST_LINE
    if left != path:
        assert not entries
        left.unlink()
    return dict(entries)


@pytest.fixture
def climb(monkeypatch: pytest.MonkeyPatch) -> Callable[[Iterable[Entry]], None]:
    """Climbs the ladder down to its last candidate, as where one plan after another fails to launch."""
    monkeypatch.setattr(ladder, "default_plan", functools.cache(default_plan))

    def climb(entries: Iterable[Entry]) -> None:
        caches = [DeviceCache.of(H200, entries)]
        for problem in PROBLEMS:
            resolution = ladder.resolve(problem, H200, plan_sha256=plan_sha256, caches=caches)
            assert render(problem, resolution.plan).text
            *_, (last, _) = resolution.candidates
            assert last == ladder.default_plan(problem, H200)

    return climb


def test_wrong_values_anywhere_leave_a_plan_that_can_be_generated(
    path: Path, document: dict[str, Any], climb: Callable[[Iterable[Entry]], None]
) -> None:
    draw = random.Random(SEED)
    served, drawn = 0, 1500
    for _ in range(drawn):
        changed = mutated({name: document[name] for name in ("gpu", "entries")}, draw)
        text = json.dumps({**changed, "schema": 1} if isinstance(changed, dict) else changed)
        if entries := check_read(path, text.encode()):
            climb(entries.values())
            served += 1
    assert 0 < served < drawn, "some changes do no harm, others do"


def test_numbers_that_no_kernel_has_are_passed_over(
    path: Path, document: dict[str, Any], climb: Callable[[Iterable[Entry]], None]
) -> None:
    """Well-formed ones: none divides by zero, overflows or takes for ever where the ladder is climbed."""
    draw = random.Random(SEED)
    numbers = [place for place in places(document["entries"]) if type(at(document["entries"], place)) is int]
    for place in draw.sample(numbers, 40):
        for number in (0, 1, 3, 2**31 - 1, 2**53):
            changed = copy.deepcopy(document)
            at(changed["entries"], place[:-1])[place[-1]] = number
            climb(check_read(path, json.dumps(changed).encode()).values())


def test_a_file_cut_off_anywhere_is_set_aside_whole(path: Path, document: dict[str, Any]) -> None:
    text = json.dumps(document, indent=2) + "\n"
    whole = DeviceCache.from_text(text)
    assert DeviceCache.from_text(text[:-1]) == whole
    for length in range(0, len(text) - 1, 7):
        with pytest.raises(ValueError):
            DeviceCache.from_text(text[:length])
    for length in random.Random(SEED).sample(range(len(text) - 1), 100):
        assert not check_read(path, text[:length].encode())


def test_flipped_bits_are_damage_or_do_no_harm(path: Path, document: dict[str, Any]) -> None:
    draw = random.Random(SEED)
    sound = (json.dumps(document, indent=2) + "\n").encode()
    for _ in range(300):
        content = bytearray(sound)
        for _ in range(draw.choice([1, 1, 3])):
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        entries = check_read(path, bytes(content)) if b'"schema": 1\n' in content else {}
        assert len(entries) in (0, 2)


def nested(opening: str, closing: str, depth: int) -> str:
    return opening * depth + closing * depth


def in_an_entry(value: str) -> Callable[[str], str]:
    """The text with the first entry's study replaced by ``value``."""
    return lambda text: text.replace('"study": "study"', f'"study": {value}', 1)


DAMAGE: dict[str, Callable[[str], str | bytes]] = {
    "nothing": lambda text: "",
    "white space": lambda text: " \n" * 1000,
    "null": lambda text: "null",
    "a list": lambda text: f"[{text}]",
    "a number": lambda text: "1" * 4000,
    "a number too long to convert": lambda text: "1" * 5000,
    "an unfinished string": lambda text: '"' + "a" * MIB,
    "two documents": lambda text: text + text,
    "lists in lists": lambda text: nested("[", "]", 100_000),
    "objects in objects": lambda text: nested('{"a":', "}", 100_000).replace(":}", ":1}"),
    "an entry in 500 lists": in_an_entry(nested("[", "]", 500)),
    "an entry in 100000 lists": in_an_entry(nested("[", "]", 100_000)),
    "a long string": in_an_entry('"' + "a" * (50 * MIB) + '\\u0000"'),
    "a long key": in_an_entry('"study", "' + "a" * (50 * MIB) + '": 1'),
    "many items": in_an_entry("[" + "0," * MIB + "0]"),
    "infinity": lambda text: text.replace('"roof_ms": 0.25', '"roof_ms": Infinity'),
    "a number past all floats": lambda text: text.replace('"roof_ms": 0.25', '"roof_ms": 1e999'),
    "a key twice": lambda text: text.replace('"study": "study"', '"study": "other", "study": "study"', 1),
    "entries twice": lambda text: text.rstrip()[:-1] + ', "entries": []}',
    "schema twice": lambda text: text.replace('"schema": 1', '"schema": 2, "schema": 1'),
    "a bucket twice": lambda text: json.dumps({**json.loads(text), "entries": json.loads(text)["entries"] * 2}),
    "half a character": in_an_entry('"\\ud800"'),
    "a terminal's escape": in_an_entry('"\\u001b[2J"'),
    "no text": lambda text: b"\x80\x81" + text.encode(),
    "another encoding": lambda text: text.encode("utf-16"),
    "a byte order mark": lambda text: text.encode("utf-8-sig"),
    "schema true": lambda text: text.replace('"schema": 1', '"schema": true'),
    "schema 1.0": lambda text: text.replace('"schema": 1', '"schema": 1.0'),
    "schema in words": lambda text: text.replace('"schema": 1', '"schema": "1"'),
    "another GPU": lambda text: text.replace('"name": "h200"', '"name": "h100"'),
    "another GPU's title": lambda text: text.replace('"title": "NVIDIA H200"', '"title": "NVIDIA H100"'),
    "another architecture": lambda text: text.replace('"arch": 90', '"arch": 80'),
    "no bandwidth": lambda text: text.replace('"bandwidth_gbps": 4800', '"bandwidth_gbps": 0'),
    "no architecture": lambda text: text.replace('"arch": 90', '"arch": 1').replace("h200", "h2000"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=list(DAMAGE))
def test_damage_is_set_aside_and_the_call_gets_its_plan(
    path: Path, document: dict[str, Any], damage: Callable[[str], str | bytes]
) -> None:
    sound = json.dumps(document, indent=2)
    damaged = damage(sound)
    assert damaged != sound
    assert not check_read(path, damaged if isinstance(damaged, bytes) else damaged.encode())
    assert latune.resolve(FORWARD, H200).step == "default"


def test_a_file_beyond_any_cache_is_set_aside_unread(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: pytest.fail("read"))
    with pytest.warns(UserWarning, match="set aside as .*: expected at most 64 MiB, got 1048576 MiB"):
        assert not read_cache(H200, [path.parent]).entries


def test_no_file_grows_past_what_would_be_read(path: Path, document: dict[str, Any]) -> None:
    entry = Entry.from_json(document["entries"][0])
    write_entries(H200, [entry], path.parent)
    before = path.read_bytes()
    other = Entry.from_json({**document["entries"][1], "study": "a" * (64 * MIB)})
    with pytest.raises(CacheError, match="expected at most 64 MiB, got 65 MiB"):
        write_entries(H200, [other], path.parent)
    assert path.read_bytes() == before


def test_what_never_ends_is_not_read(path: Path) -> None:
    os.mkfifo(path)
    with pytest.warns(UserWarning, match="cannot read the cache file .*: expected a regular file"):
        assert not read_cache(H200, [path.parent]).entries
    assert path.exists()


@pytest.mark.parametrize("schema", [0, 2, 99, -1, 10**30])
def test_other_schema_versions_are_left_as_they_are(path: Path, document: dict[str, Any], schema: int) -> None:
    content = json.dumps({"schema": schema, "gpu": "otherwise", "written by": []})
    path.write_text(content, encoding="utf-8")
    with pytest.warns(
        UserWarning, match=f"is another version's, going on without it: schema: expected 1, got {str(schema)[:9]}"
    ):
        assert latune.resolve(FORWARD, H200).step == "default"
    with pytest.raises(CacheError, match=r"cannot write the cache file .*; use the latune that wrote it"):
        write_entries(H200, [Entry.from_json(document["entries"][0])], path.parent)
    assert [child.name for child in path.parent.glob("*.json*") if child.suffix != ".lock"] == [path.name]
    assert path.read_text(encoding="utf-8") == content


def test_a_file_that_becomes_another_versions_while_it_is_mended_is_left(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_text('{"schema": 2}', encoding="utf-8")
    texts = iter(["{"])
    sound = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda self, **options: next(texts, None) or sound(self, **options))
    with pytest.warns(UserWarning, match="is another version's, going on without it"):
        assert not read_cache(H200, [path.parent]).entries
    assert path.exists()


CODE = 'tma"""\nimport os\nos.abort()\n"""'


@pytest.mark.parametrize(
    "place",
    [("config", "algorithm"), ("config", "choices", "loads"), ("config", "choices", CODE), ("config", "options", CODE)],
    ids=["algorithm", "choice", "choice's name", "option's name"],
)
def test_no_code_comes_out_of_a_file(document: dict[str, Any], place: tuple[str, ...]) -> None:
    """Modules state their configs, and are imported."""
    step = document["entries"][0]["plan"][0]
    at(step, place[:-1])[place[-1]] = 1 if "options" in place else CODE
    with pytest.raises(ValueError, match="letters, digits and underscores"):
        DeviceCache.from_text(json.dumps(document))


def test_a_title_names_a_file_in_the_cache_folder(tmp_path: Path, document: dict[str, Any]) -> None:
    outside = {**document["gpu"], "name": "x", "title": "../../NVIDIA x"}
    gpu = DeviceCache.from_text(json.dumps({**document, "gpu": outside})).gpu
    assert cache_path(tmp_path, gpu).parent == tmp_path
    assert cache_path(tmp_path, gpu).resolve().parent == tmp_path.resolve()
