from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from latune.cache.device import DeviceCache
from latune.cache.difference import CHANGES, differences, mean_ratio
from latune.cache.entry import Entry
from latune.gpu import find_gpu
from latune.plan import Plan
from latune.problem import Problem

EntryOf = Callable[..., Entry]
PlanOf = Callable[..., Plan]
ProblemOf = Callable[..., Problem]

H200 = find_gpu("h200")


def taking(entry: Entry, median_ms: float) -> Entry:
    return replace(entry, measurement=replace(entry.measurement, median_ms=median_ms))


@pytest.fixture
def caches(entry_of: EntryOf, plan_of: PlanOf, problem_of: ProblemOf) -> tuple[DeviceCache, DeviceCache]:
    """With a bucket for each kind of difference, by length, and one that is as it was."""
    one, two, four, eight, sixteen = (entry_of(problem_of(seqlen=2**power)) for power in range(10, 15))
    other_plan, other_time = taking(replace(one, plan=plan_of(block_n=128)), 0.6), taking(four, 0.15)
    tuned_again = replace(two, tuned_at="2027-01-01T00:00:00Z")
    return DeviceCache.of(H200, [one, two, four, eight]), DeviceCache.of(H200, [other_plan, tuned_again, other_time, sixteen])


def test_each_kind_of_difference_is_told_and_what_is_alike_left_out(caches: tuple[DeviceCache, DeviceCache]) -> None:
    found = {difference.bucket.seqlen: difference for difference in differences(*caches)}
    changes = {seqlen: difference.change for seqlen, difference in found.items()}
    assert changes == {1024: "other plan", 4096: "other time", 8192: "only in old", 16384: "only in new"}
    assert {difference.change for difference in found.values()} == set(CHANGES)
    assert list(found) == sorted(found)
    assert {seqlen: difference.ratio for seqlen, difference in found.items()} == {1024: 2, 4096: 0.5, 8192: None, 16384: None}


def test_the_mean_is_geometric_and_of_all_buckets_that_both_have(caches: tuple[DeviceCache, DeviceCache]) -> None:
    assert math.isclose(mean_ratio(*caches) or 0, 1)
    assert math.isclose(mean_ratio(caches[1], caches[0]) or 0, 1)
    slower = DeviceCache.of(H200, [taking(entry, 2.4) for entry in caches[0].entries.values()])
    assert math.isclose(mean_ratio(caches[0], slower) or 0, 8)


def test_a_cache_is_as_itself_and_an_empty_one_has_no_mean(caches: tuple[DeviceCache, DeviceCache]) -> None:
    assert differences(caches[0], caches[0]) == []
    assert mean_ratio(caches[0], DeviceCache.of(H200)) is None
    assert {difference.change for difference in differences(caches[0], DeviceCache.of(H200))} == {"only in old"}


@pytest.mark.parametrize(("least", "most"), [(1e-100, 1e100)])
def test_times_as_far_apart_as_a_file_may_state_have_a_ratio(entry_of: EntryOf, least: float, most: float) -> None:
    texts = [DeviceCache.of(H200, [taking(entry_of(), median_ms)]).to_text() for median_ms in (least, most)]
    caches = [DeviceCache.from_text(text) for text in texts]
    assert math.isclose(mean_ratio(*caches) or 0, most / least)
    with pytest.raises(ValueError, match="median_ms: expected 0 or a number from 1e-100 to 1e"):
        DeviceCache.from_text(texts[0].replace("1e-100", "1e-101"))
