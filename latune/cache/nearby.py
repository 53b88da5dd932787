"""How far apart two buckets are, and which entries lie near a problem."""

from __future__ import annotations

import math
from collections.abc import Iterable

from latune.cache.entry import Entry
from latune.problem import Bucket

FLAGS = ("has_initial_state", "needs_final_state", "varlen")
# Between buckets that differ in one of these no plan is carried over.
_SAME_KERNEL = ("op", "direction", "head_dim_k", "head_dim_v")
# A plan carries over, its time does not.
_SAME_WORK = (*_SAME_KERNEL, "decay", "dtype")


def by_distance(entries: Iterable[Entry], wanted: Bucket) -> list[Entry]:
    """The entries that can serve a bucket which has none, the best first: seqlen decides before batch * heads.

    They are of the same head dims, dtype and decay; those of one bucket stay in their order.
    """
    alike = [entry for entry in entries if _agree(entry.bucket, wanted, _SAME_WORK)]
    return sorted(alike, key=lambda entry: (distance(entry.bucket, wanted), entry.bucket))


def by_likeness(entries: Iterable[Entry], wanted: Bucket) -> list[Entry]:
    """The entries whose plans are worth trying for a bucket, the likeliest first: other dtypes and decays come last.

    Equally likely ones stay in their order.
    """
    related = [entry for entry in entries if _agree(entry.bucket, wanted, _SAME_KERNEL)]
    return sorted(related, key=lambda entry: _unlikeness(entry.bucket, wanted))


def distance(served: Bucket, wanted: Bucket) -> tuple[bool, float, float]:
    """Other flags first, then octaves of seqlen, then of batch * heads.

    Flags never exclude: the module is rendered for the problem's own, whichever the plan was tuned with.
    """
    return (
        any(getattr(served, name) != getattr(wanted, name) for name in FLAGS),
        abs(math.log2(served.seqlen / wanted.seqlen)),
        abs(math.log2(served.batch_heads / wanted.batch_heads)),
    )


def _unlikeness(known: Bucket, wanted: Bucket) -> tuple[int, float]:
    """How many of decay, dtype and flags differ; then octaves, of batch * heads as of seqlen: both decide what fills a GPU."""
    others = sum(getattr(known, name) != getattr(wanted, name) for name in ("decay", "dtype", *FLAGS))
    _, seqlen, batch_heads = distance(known, wanted)
    return others, seqlen + batch_heads


def _agree(one: Bucket, other: Bucket, names: Iterable[str]) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in names)
