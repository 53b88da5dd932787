from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from latune import paths
from latune.cache.device import DeviceCache
from latune.cache.entry import EVIDENCE, Entry
from latune.cache.merge import OUTCOMES, Merge, merge_files
from latune.cache.store import cache_path, prefer, read_file, write_entries
from latune.errors import CacheError
from latune.gpu import find_gpu
from latune.plan import Plan
from latune.problem import Bucket, Problem

EntryOf = Callable[..., Entry]
ProblemOf = Callable[..., Problem]

H200, H100 = find_gpu("h200"), find_gpu("h100")
CODE, OTHER_CODE = "a" * 64, "b" * 64
SEED = 20260131


def code_of(bucket: Bucket, plan: Plan) -> str:
    return CODE


def merge(*sources: Path, into: Path) -> list[Merge]:
    return merge_files(sources, into, plan_sha256=code_of)


def outcomes(merge: Merge) -> list[tuple[str, str]]:
    return [(offer.outcome, offer.why) for offer in merge.offers]


@pytest.mark.parametrize(
    ("old", "new", "outcome"),
    [
        (None, ("static", 1), ("taken", "")),
        (("measured", 1), ("measured", 1), ("same", "")),
        (("measured", 1), ("measured", 2), ("taken", "")),
        (("measured", 2), ("measured", 1), ("kept", "the file's is newer")),
        (("measured", 1), ("static", 2), ("kept", "the file's is measured, this one static")),
        (("measured", 1), ("transferred", 2), ("kept", "the file's is measured, this one transferred")),
        (("static", 2), ("transferred", 1), ("taken", "")),
    ],
)
def test_what_becomes_of_an_entry(
    tmp_path: Path,
    entry_of: EntryOf,
    old: tuple[str, int] | None,
    new: tuple[str, int],
    outcome: tuple[str, str],
) -> None:
    first, second = (kind and entry_of(evidence=kind[0], tuned_at=f"2026-01-0{kind[1]}T00:00:00Z") for kind in (old, new))
    if first:
        write_entries(H200, [first], tmp_path / "into")
    (merged,) = merge(write_entries(H200, [second], tmp_path / "from"), into=tmp_path / "into")
    assert outcomes(merged) == [outcome] and outcome[0] in OUTCOMES
    assert merged.target == cache_path(tmp_path / "into", H200) and merged.gpu == H200
    (kept,) = read_file(merged.target, H200).entries.values()
    assert kept == (first if outcome[0] == "kept" else second)


def test_a_stale_entry_is_refused_even_where_there_is_none(tmp_path: Path, entry_of: EntryOf, problem_of: ProblemOf) -> None:
    stale, current = entry_of(template_sha256=OTHER_CODE), entry_of(problem_of(seqlen=8192))
    (merged,) = merge(write_entries(H200, [stale, current], tmp_path / "from"), into=tmp_path / "into")
    assert outcomes(merged) == [("refused", "its plan is not generated as the code it was tuned as"), ("taken", "")]
    assert list(read_file(merged.target, H200).entries.values()) == [current]


def test_of_several_sources_the_best_is_taken_whatever_their_order(tmp_path: Path, entry_of: EntryOf) -> None:
    entries = [entry_of(evidence=evidence) for evidence in EVIDENCE]
    sources = [write_entries(H200, [entry], tmp_path / entry.evidence) for entry in entries]
    for order in (sources, sources[::-1]):
        into = tmp_path / order[0].parent.name / "into"
        merged = {one.source: outcomes(one)[0][0] for one in merge(*order, into=into)}
        assert merged == dict(zip(sources, ("taken", "kept", "kept"), strict=True))
        assert list(read_file(cache_path(into, H200), H200).entries.values()) == entries[:1]


def test_each_file_goes_to_that_of_its_gpu_whatever_it_is_called(tmp_path: Path, entry_of: EntryOf) -> None:
    sources = [write_entries(gpu, [entry_of()], tmp_path).rename(tmp_path / f"{gpu.name}.txt") for gpu in (H100, H200)]
    merged = merge(*sources, into=tmp_path / "into")
    assert [(one.source, one.target) for one in merged] == [
        (source, cache_path(tmp_path / "into", gpu)) for source, gpu in zip(sources, (H100, H200), strict=True)
    ]
    assert [read_file(one.target, one.gpu) for one in merged] == [DeviceCache.of(gpu, [entry_of()]) for gpu in (H100, H200)]


def test_nothing_is_written_when_a_source_is_damaged_or_a_file_closed(tmp_path: Path, entry_of: EntryOf) -> None:
    sound = write_entries(H200, [entry_of()], tmp_path / "from")
    torn = tmp_path / "torn.json"
    torn.write_text("{", encoding="utf-8")
    with pytest.raises(CacheError, match=f"expected a cache file at {torn}"):
        merge(sound, torn, into=tmp_path / "into")
    assert not (tmp_path / "into").exists() and torn.exists()
    cache_path(tmp_path / "into", H100).mkdir(parents=True)
    with pytest.raises(CacheError, match=r"cannot write the cache file .*nvidia-h100.json"):
        merge(sound, write_entries(H100, [entry_of()], tmp_path / "from"), into=tmp_path / "into")
    assert not cache_path(tmp_path / "into", H200).exists()


def test_by_default_the_users_cache_is_merged_into(tmp_path: Path, entry_of: EntryOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATUNE_CACHE_DIR", str(tmp_path / "latune"))
    (merged,) = merge_files([write_entries(H200, [entry_of()], tmp_path)], plan_sha256=code_of)
    assert merged.target == cache_path(paths.user_cache(), H200) and merged.target.exists()


def test_whatever_is_merged_no_bucket_gets_worse(tmp_path: Path, entry_of: EntryOf, problem_of: ProblemOf) -> None:
    draw = random.Random(SEED)

    def some() -> list[Entry]:
        buckets = draw.sample(range(5, 13), draw.randrange(1, 8))
        day = [f"2026-01-{draw.randrange(1, 29):02}T00:00:00Z" for _ in buckets]
        code = [draw.choice([CODE, CODE, OTHER_CODE]) for _ in buckets]
        return [
            entry_of(problem_of(seqlen=2**power), evidence=draw.choice(EVIDENCE), tuned_at=day, template_sha256=code)
            for power, day, code in zip(buckets, day, code, strict=True)
        ]

    for number in range(30):
        folder = tmp_path / str(number)
        held, *offered = [some() for _ in range(draw.randrange(2, 5))]
        target = write_entries(H200, held, folder)
        sources = [write_entries(H200, entries, folder / str(part)) for part, entries in enumerate(offered)]
        merged = merge(*sources, into=folder)
        wanted = {entry.bucket: entry for entry in held}
        for entry in (entry for entries in offered for entry in entries if entry.template_sha256 == CODE):
            old = wanted.get(entry.bucket, entry)
            wanted[entry.bucket] = entry if old.template_sha256 == OTHER_CODE else prefer(old, entry)
        after = read_file(target, H200).entries
        assert after == wanted
        for offer in (offer for one in merged for offer in one.offers):
            if offer.entry.template_sha256 == OTHER_CODE:
                assert offer.outcome == "refused"
            else:
                stands = after[offer.entry.bucket] == offer.entry
                assert offer.outcome in (("taken", "same") if stands else ("kept",))
