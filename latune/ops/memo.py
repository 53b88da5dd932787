"""What serves a call whose exact signature was met before; bounded, and read without a lock."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from latune.ops.recording import Tensors

MOST_CALLS = 512
"""Remembered in each direction: calls of ever new lengths must not fill the host's memory."""

Signature = tuple[Hashable, ...]
Serve = Callable[..., Tensors | None]
"""Takes the scale and a call's tensors; returns None when that call has to take the plain path."""


def signature(tensors: tuple[Tensor | None, ...], flag: Hashable = False) -> Signature:
    """All that decides what a call allocates and launches, but for addresses.

    Classes are part of it: a subclass of Tensor may have no address at all. So is whether its memory has the negated values.
    """
    return (
        flag,
        *[None if x is None else (type(x), x.dtype, x.shape, x.stride(), x.get_device(), x.is_neg()) for x in tensors],
    )


def plainly(scale: float, *tensors: Tensor | None) -> None:
    """Serves a call that cannot be replayed."""


def not_yet(scale: float, *tensors: Tensor | None) -> None:
    """Serves a call that was made once: only what comes back is worth a recording, which takes longer than a call."""


def keeps_nothing(scale: float, *tensors: Tensor | None) -> None:
    """Serves a forward call that leaves nothing to its backward call, and so is like any other."""


class Memo:
    """Signature -> what serves it; beyond ``MOST_CALLS`` the oldest goes."""

    def __init__(self) -> None:
        self.calls: dict[Signature, Serve] = {}
        self._lock = threading.Lock()

    def put(self, calls: dict[Signature, Serve], key: Signature, serve: Serve) -> None:
        """Remembers into ``calls`` as they were before ``serve`` was made: if they are forgotten since, so is it."""
        with self._lock:
            calls[key] = serve
            if len(calls) > MOST_CALLS:
                del calls[next(iter(calls))]

    def forget(self) -> None:
        self.calls = {}


FORWARD, KEEPING, BACKWARD = Memo(), Memo(), Memo()

_kept: dict[Signature, tuple[torch.Size, torch.dtype]] = {}


def note_kept(key: Signature, states: Tensor) -> None:
    """Remembers what a forward call left to its backward call, whatever gives way since."""
    if len(_kept) < MOST_CALLS:
        _kept[key] = states.shape, states.dtype


def stand_in(key: Signature, like: Tensor) -> Tensor | None:
    """Of the shape and dtype of what the like of this call once left, in hardly any memory; None where it left nothing.

    Activation checkpointing compares what a call saves when it is made again with what it saved.
    """
    kept = _kept.get(key)
    return None if kept is None else like.new_empty((), dtype=kept[1]).expand(kept[0])


def forget_calls() -> None:
    for memo in (FORWARD, KEEPING, BACKWARD):
        memo.forget()
