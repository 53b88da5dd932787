"""How far apart two buckets are, and which entries lie near a problem."""

from __future__ import annotations

import math
from collections.abc import Iterable

from latune.cache.entry import Entry
from latune.cache.kin import carried
from latune.problem import Bucket

KINDS = ("decay", "dtype")
FLAGS = ("has_initial_state", "needs_final_state", "varlen")
# Between buckets that differ in one of these no plan is carried over.
_SAME_KERNEL = ("op", "direction", "head_dim_k", "head_dim_v")
# How many octaves of seqlen one of batch * heads counts for. In caches measured for an H200 and an H100 a bucket's winner is
# among the best four of one four octaves longer or shorter more often (81%) than of one with twice or half the heads (78%).
_HEADS_WEIGHT = 4
# And another dtype or decay of the same sizes: there it is among the best two, more often than one of half or twice the length.
_OTHER_KIND_WEIGHT = 0.5


def by_distance(entries: Iterable[Entry], wanted: Bucket) -> list[Entry]:
    """The entries that can serve a bucket which has none, the nearest first.

    They are of the same head dims, and of a dtype and decay whose plans carry over; those of one bucket stay in their order.
    """
    related = [entry for entry in entries if _agree(entry.bucket, wanted, _SAME_KERNEL)]
    alike = [entry for entry in related if carried(entry.plan, entry.bucket, wanted) is not None]
    return sorted(alike, key=lambda entry: (distance(entry.bucket, wanted), entry.bucket))


def by_likeness(entries: Iterable[Entry], wanted: Bucket) -> list[Entry]:
    """The entries whose plans are worth trying for a bucket, the likeliest first: other dtypes and decays come last.

    Equally likely ones stay in their order.
    """
    related = [entry for entry in entries if _agree(entry.bucket, wanted, _SAME_KERNEL)]
    return sorted(related, key=lambda entry: _unlikeness(entry.bucket, wanted))


def distance(served: Bucket, wanted: Bucket) -> tuple[bool, float]:
    """Other flags first, then octaves of seqlen and, as there are programs for each head, more so of batch * heads; then kinds.

    Flags never exclude: the module is rendered for the problem's own, whichever the plan was tuned with.
    """
    octaves_of_seqlen = abs(math.log2(served.seqlen / wanted.seqlen))
    octaves_of_heads = abs(math.log2(served.batch_heads / wanted.batch_heads))
    other_kinds = sum(getattr(served, name) != getattr(wanted, name) for name in KINDS)
    return (
        any(getattr(served, name) != getattr(wanted, name) for name in FLAGS),
        octaves_of_seqlen + _HEADS_WEIGHT * octaves_of_heads + _OTHER_KIND_WEIGHT * other_kinds,
    )


def _unlikeness(known: Bucket, wanted: Bucket) -> tuple[int, float]:
    """How many of decay, dtype and flags differ, then how far apart the sizes are."""
    others = sum(getattr(known, name) != getattr(wanted, name) for name in (*KINDS, *FLAGS))
    return others, distance(known, wanted)[1]


def _agree(one: Bucket, other: Bucket, names: Iterable[str]) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in names)
