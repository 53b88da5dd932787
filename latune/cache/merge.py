"""Cache files merged into others: which of their entries are taken, and why the others are not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from latune.cache.device import DeviceCache
from latune.cache.entry import Entry, PlanSha256
from latune.cache.files import read_given
from latune.cache.store import check_writable, merge_entries
from latune.gpu import Gpu
from latune.problem import Bucket

OUTCOMES = ("taken", "same", "kept", "refused")
"""Of an entry: it is in the file now, it was before, the file has a better one, or it is of no use."""

_STALE = "its plan is not generated as the code it was tuned as"


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What became of one entry of a source: one of ``OUTCOMES``, and why where it is not in the file now."""

    entry: Entry
    outcome: str
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """One source merged into the file of its GPU."""

    source: Path
    target: Path
    gpu: Gpu
    offers: tuple[Offer, ...]


def merge_files(sources: Sequence[Path], folder: Path | None = None, *, plan_sha256: PlanSha256) -> list[Merge]:
    """Merges cache files, each into the file of its GPU; of one bucket the entry stays that ``store.prefer`` names.

    All sources are read before anything is written.

    Args:
        folder: where the files lie that are merged into; by default the user's cache.
        plan_sha256: tells which entries are current; no others are taken.

    Raises:
        CacheError: a source cannot be read, or a file not be written.
    """
    offered = {source: read_given(source) for source in sources}
    by_gpu: dict[str, list[Path]] = {}
    for source, cache in offered.items():
        by_gpu.setdefault(cache.gpu.name, []).append(source)
    groups = [{source: offered[source] for source in group} for group in by_gpu.values()]
    for group in groups:
        check_writable(_gpu_of(group), folder)
    return [merge for group in groups for merge in _merge(group, folder, plan_sha256)]


def _gpu_of(group: Mapping[Path, DeviceCache]) -> Gpu:
    return next(iter(group.values())).gpu


def _merge(group: Mapping[Path, DeviceCache], folder: Path | None, plan_sha256: PlanSha256) -> list[Merge]:
    """Sources of one GPU, in one write."""
    gpu = _gpu_of(group)
    entries = [entry for cache in group.values() for entry in cache.entries.values()]
    current = {entry for entry in entries if entry.is_current(plan_sha256)}
    written = merge_entries(gpu, [entry for entry in entries if entry in current], folder, plan_sha256=plan_sha256)
    return [
        Merge(
            source=source,
            target=written.path,
            gpu=gpu,
            offers=tuple(_offer(entry, entry in current, written.before, written.after) for entry in cache.entries.values()),
        )
        for source, cache in group.items()
    ]


def _offer(entry: Entry, is_current: bool, before: Mapping[Bucket, Entry], after: Mapping[Bucket, Entry]) -> Offer:
    if not is_current:
        return Offer(entry=entry, outcome="refused", why=_STALE)
    kept = after[entry.bucket]
    if kept == entry:
        return Offer(entry=entry, outcome="same" if before.get(entry.bucket) == entry else "taken")
    better = "newer" if kept.evidence == entry.evidence else f"{kept.evidence}, this one {entry.evidence}"
    return Offer(entry=entry, outcome="kept", why=f"the file's is {better}")
