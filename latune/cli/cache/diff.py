"""``latune cache diff``: what two cache files have of their own, and where they differ."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from latune.cache.device import DeviceCache
from latune.cache.difference import CHANGES, Difference, differences, mean_ratio
from latune.cache.entry import Entry
from latune.cache.files import read_given
from latune.cli.cache.arguments import FILE
from latune.cli.options import json_option
from latune.cli.output import milliseconds, plan_lines, print_json, print_table, say

_COLUMNS = ("bucket", "change", "old ms", "new ms", "new / old", "old", "new")


@click.command("diff", short_help="Compares two cache files.")
@click.argument("old_path", metavar="OLD", type=FILE)
@click.argument("new_path", metavar="NEW", type=FILE)
@json_option
def diff_command(old_path: Path, new_path: Path, as_json: bool) -> None:
    """Lists the buckets that only one of two cache files has, and those whose plan or time differs.

    Times of different runs are only an indication of which plan is the faster one. Exit code 0, whether they differ or not.
    """
    old, new = read_given(old_path), read_given(new_path)
    found = differences(old, new)
    if as_json:
        print_json(_document(old, new, found))
        return
    if old.gpu.name != new.gpu.name:
        say(f"{old_path} is of {old.gpu.title}, {new_path} of {new.gpu.title}: their times say nothing of their plans")
    if found:
        print_table(_COLUMNS, [_row(difference) for difference in found], right=_COLUMNS[2:5])
    click.echo(_summary(old, new, found))


def _row(difference: Difference) -> list[str]:
    old, new = difference.old, difference.new
    ratio = "-" if difference.ratio is None else f"{difference.ratio:.3f}"
    with_plan = difference.change != "other time"
    times = [milliseconds(entry.measurement.median_ms if entry else None) for entry in (old, new)]
    return [str(difference.bucket), difference.change, *times, ratio, *(_side(entry, with_plan) for entry in (old, new))]


def _side(entry: Entry | None, with_plan: bool) -> str:
    if entry is None:
        return ""
    return "\n".join([f"{entry.evidence}, {entry.tuned_at}", *([plan_lines(entry.plan)] if with_plan else [])])


def _counts(old: DeviceCache, new: DeviceCache, found: list[Difference]) -> dict[str, int]:
    counts = Counter(difference.change for difference in found)
    alike = len(old.entries.keys() | new.entries.keys()) - len(found)
    return {**{change: counts[change] for change in CHANGES}, "alike": alike}


def _summary(old: DeviceCache, new: DeviceCache, found: list[Difference]) -> str:
    line = ", ".join(f"{count} {change}" for change, count in _counts(old, new, found).items())
    if (mean := mean_ratio(old, new)) is None:
        return line
    return f"{line}; new / old {mean:.3f} in the geometric mean of the buckets of both (of different runs: an indication)"


def _document(old: DeviceCache, new: DeviceCache, found: list[Difference]) -> dict[str, object]:
    return {
        "gpus": {"old": old.gpu.name, "new": new.gpu.name},
        "counts": _counts(old, new, found),
        "mean_ratio": mean_ratio(old, new),
        "differences": [
            {
                "bucket": difference.bucket.to_json(),
                "change": difference.change,
                "ratio": difference.ratio,
                "old": difference.old.to_json() if difference.old else None,
                "new": difference.new.to_json() if difference.new else None,
            }
            for difference in found
        ],
    }
