"""What two caches have of their own, and where they differ."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from latune.cache.device import DeviceCache
from latune.cache.entry import Entry
from latune.problem import Bucket

CHANGES = ("only in old", "only in new", "other plan", "other time")


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A bucket of which two caches hold different plans or times, or one holds nothing; never neither."""

    bucket: Bucket
    old: Entry | None
    new: Entry | None

    @property
    def change(self) -> str:
        """One of ``CHANGES``."""
        if self.old is None:
            return "only in new"
        if self.new is None:
            return "only in old"
        return "other time" if self.old.plan == self.new.plan else "other plan"

    @property
    def ratio(self) -> float | None:
        """How many times as long the new one takes; None where there is one time alone."""
        return None if self.old is None or self.new is None else _ratio(self.old, self.new)


def differences(old: DeviceCache, new: DeviceCache) -> list[Difference]:
    """The buckets in which two caches differ, in their order."""
    buckets = sorted(old.entries.keys() | new.entries.keys())
    pairs = [Difference(bucket=bucket, old=old.entries.get(bucket), new=new.entries.get(bucket)) for bucket in buckets]
    return [pair for pair in pairs if pair.change != "other time" or pair.ratio != 1]


def mean_ratio(old: DeviceCache, new: DeviceCache) -> float | None:
    """How many times as long the new entries take, in the geometric mean of the buckets of both; None where there are none."""
    ratios = [_ratio(entry, new.entries[bucket]) for bucket, entry in old.entries.items() if bucket in new.entries]
    return statistics.geometric_mean(ratios) if ratios else None


def _ratio(old: Entry, new: Entry) -> float:
    old_ms, new_ms = old.measurement.median_ms, new.measurement.median_ms
    assert old_ms and new_ms, "a winner has a time"
    return new_ms / old_ms
