"""``latune landscape replay``: searches of recorded landscapes, without a GPU."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

import click

from latune.cli.options import json_option
from latune.cli.output import print_json, print_table
from latune.tuner.effort import DEFAULT
from latune.tuner.landscapes.file import read_landscape
from latune.tuner.landscapes.landscape import Landscape
from latune.tuner.landscapes.score import Score, score
from latune.tuner.landscapes.strategies import STRATEGIES

_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)
_COLUMNS = ("landscape", "configs", "trials", "strategy", "median", "worst", "as good as the best")
_LARGEST_SHARE = 0.15


@click.command(short_help="Searches recorded landscapes, and says what is found.")
@click.argument("files", metavar="FILE...", type=_FILE, nargs=-1, required=True)
@click.option(
    "--strategy",
    "strategies",
    type=click.Choice(list(STRATEGIES)),
    multiple=True,
    help="How to search: latune's way, the same without what has won before, Optuna's TPE as it comes, or at random. "
    "Repeatable.  [default: all]",
)
@click.option(
    "--trials",
    type=click.IntRange(min=1),
    help=f"Evaluations of a search, at most.  [default: {DEFAULT.trials['measured']}, or {_LARGEST_SHARE:.0%} of the configs]",
)
@click.option("--seeds", type=click.IntRange(min=1), default=20, show_default=True, help="Searches by each strategy.")
@json_option
def replay(files: Sequence[Path], strategies: Sequence[str], trials: int | None, seeds: int, as_json: bool) -> None:
    """Searches the landscapes in FILEs as if they were measured, with the noise that was recorded.

    For each strategy: the evaluations made, in the mean of the searches; the best config's time over that of the one chosen,
    in the median and in the worst; and how many chose one that is as good as the best, to 1%.
    """
    landscapes = [read_landscape(path) for path in files]
    scores = [
        score(landscape, strategy, trials=trials or _default_trials(landscape), seeds=range(seeds))
        for landscape in landscapes
        for strategy in strategies or STRATEGIES
    ]
    if as_json:
        print_json([found.to_json() for found in scores])
    else:
        print_table(_COLUMNS, map(_row, scores), right=("configs", "trials", *_COLUMNS[4:]))


def _default_trials(landscape: Landscape) -> int:
    return max(min(DEFAULT.trials["measured"], int(_LARGEST_SHARE * len(landscape.points))), 1)


def _row(found: Score) -> list[str]:
    shares = [f"{share:.1%}" for share in (found.median, found.worst, found.tied)]
    return [found.landscape, str(found.configs), f"{statistics.mean(found.trials):.0f}", found.strategy, *shares]
