"""``latune cache merge``: entries of cache files into others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click

from latune.cache.merge import OUTCOMES, Merge, merge_files
from latune.cli.cache.arguments import FILE
from latune.cli.options import json_option
from latune.cli.output import print_json, print_table
from latune.codegen.render import plan_sha256

_COLUMNS = ("source", "GPU", *OUTCOMES, "why", "into")


@click.command("merge", short_help="Merges cache files into others.")
@click.argument("sources", metavar="SOURCE...", type=FILE, nargs=-1, required=True)
@click.option(
    "--into",
    metavar="FOLDER",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the files lie that are merged into.  [default: the user's cache]",
)
@json_option
def merge_command(sources: Sequence[Path], into: Path | None, as_json: bool) -> None:
    """Merges each SOURCE into the file of its GPU.

    Of one bucket that entry is kept which tuning would keep: one measured before one transferred before one static, then
    the newer one. Stale entries, whose plan is generated as other code by now, are refused. Sources stay as they are.
    """
    merges = merge_files(sources, into, plan_sha256=plan_sha256)
    if as_json:
        print_json({"merges": [_merge_json(merge) for merge in merges]})
        return
    print_table(_COLUMNS, [_row(merge) for merge in merges], right=_COLUMNS[2:-2])


def _counts(merge: Merge) -> dict[str, int]:
    counts = Counter(offer.outcome for offer in merge.offers)
    return {outcome: counts[outcome] for outcome in OUTCOMES}


def _row(merge: Merge) -> list[str]:
    reasons = Counter(f"{offer.outcome}: {offer.why}" for offer in merge.offers if offer.why)
    why = "\n".join(f"{count} {reason}" for reason, count in reasons.items())
    return [str(merge.source), merge.gpu.title, *map(str, _counts(merge).values()), why, str(merge.target)]


def _merge_json(merge: Merge) -> dict[str, object]:
    offers = [
        {"bucket": offer.entry.bucket.to_json(), "outcome": offer.outcome, "why": offer.why or None} for offer in merge.offers
    ]
    paths = {"source": str(merge.source), "into": str(merge.target), "gpu": merge.gpu.name}
    return {**paths, **_counts(merge), "entries": offers}
