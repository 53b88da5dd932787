"""Which of the cache's entries a command checks, and what mends those that fail."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from latune.cache.entry import Entry
from latune.cache.store import read_entries
from latune.cli.output import say
from latune.cli.shapes import Shape
from latune.codegen.render import plan_sha256
from latune.errors import LatuneError
from latune.gpu import Gpu
from latune.ops.dispatch import tune_command


def entries_of(gpu: Gpu, shapes: Sequence[Shape]) -> list[Entry]:
    """Those of the GPU, or of the shapes; there is at least one, and one for each shape.

    Raises:
        LatuneError: there is none, of the GPU or of a shape.
    """
    known = read_entries(gpu)
    if not shapes:
        if not known:
            raise LatuneError(f"no entries for {gpu.title}: tune it with `latune tune --gpu {gpu.name}`")
        return [serving(entries) for entries in known.values()]
    found: dict[Entry, None] = {}
    for shape in shapes:
        alike = [serving(known[first.bucket]) for first in entries_alike((first for first, *_ in known.values()), shape)]
        if not alike:
            raise LatuneError(
                f"no entries for {shape} on {gpu.title}: `latune tune --gpu {gpu.name} --shape {shape}` makes them"
            )
        found |= dict.fromkeys(alike)
    return list(found)


def serving(entries: Sequence[Entry]) -> Entry:
    """Of those of one bucket the first that is current, or the first if none is."""
    first, *others = entries
    return next((entry for entry in entries if entry.is_current(plan_sha256)), first) if others else first


def entries_alike(entries: Iterable[Entry], shape: Shape) -> list[Entry]:
    """Those whose bucket is the shape's, whatever its direction, decay, dtype and states."""
    return [entry for entry in entries if _is_of(entry, shape)]


def _is_of(entry: Entry, shape: Shape) -> bool:
    bucket = entry.bucket
    wanted = shape.problem(direction=bucket.direction, decay=bucket.decay, dtype=bucket.dtype).bucket()
    names = ("batch_heads", "seqlen", "head_dim_k", "head_dim_v")
    return all(getattr(bucket, name) == getattr(wanted, name) for name in names)


def fail_for(entries: Sequence[Entry], total: int, gpu: Gpu) -> None:
    """Says what mends each of the entries that failed.

    Raises:
        LatuneError: there is one.
    """
    for entry in entries:
        say(mend_command(entry, gpu))
    if entries:
        raise LatuneError(f"{len(entries)} of {total} entries failed: run the commands above to tune them anew")


def mend_command(entry: Entry, gpu: Gpu, output: Path | None = None) -> str:
    """The command that tunes the entry anew.

    Args:
        output: the folder of its file; None: the user's cache.
    """
    where = "" if output is None else f" --output {output}"
    return f"{tune_command(entry.problem, gpu)} --fresh{where}"
