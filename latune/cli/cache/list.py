"""``latune cache list``: the cache files that the dispatcher reads."""

from __future__ import annotations

from collections import Counter

import click

from latune import paths
from latune.cache.entry import EVIDENCE
from latune.cache.files import CacheFile, dispatched_files, files_set_aside
from latune.cli.options import json_option
from latune.cli.output import print_json, print_table, say
from latune.codegen.render import plan_sha256
from latune.problem import DIRECTIONS

_COLUMNS = ("file", "GPU", "entries", *EVIDENCE, *DIRECTIONS, "stale", "state")


@click.command("list", short_help="The cache files that are read.")
@json_option
def list_command(as_json: bool) -> None:
    """Lists the cache files that the dispatcher reads, the user's first, and damaged ones that it has set aside.

    Counts the entries of each: by evidence, by direction, and those that are ignored since their plan is generated as
    other code by now (stale).
    """
    files = [*dispatched_files(), *files_set_aside()]
    if as_json:
        print_json({"files": [_file_json(file) for file in files]})
        return
    if not files:
        say(f"no cache files in {paths.user_cache()} and {paths.shipped_cache()}: `latune tune` writes them")
        return
    print_table(_COLUMNS, [_row(file) for file in files], right=_COLUMNS[2:-1])


def _counts(file: CacheFile) -> dict[str, int]:
    """By the names of the columns; empty where nothing can be read."""
    if file.cache is None:
        return {}
    entries = file.cache.entries.values()
    kinds = Counter(name for entry in entries for name in (entry.evidence, entry.bucket.direction))
    stale = sum(not entry.is_current(plan_sha256) for entry in entries)
    return {"entries": len(entries), **{name: kinds[name] for name in (*EVIDENCE, *DIRECTIONS)}, "stale": stale}


def _row(file: CacheFile) -> list[str]:
    counts = _counts(file)
    title = file.gpu.title if file.gpu else "-"
    return [str(file.path), title, *(str(counts.get(name, "-")) for name in _COLUMNS[2:-1]), file.fault or "serves"]


def _file_json(file: CacheFile) -> dict[str, object]:
    return {"path": str(file.path), "gpu": file.gpu.name if file.gpu else None, "fault": file.fault, **_counts(file)}
