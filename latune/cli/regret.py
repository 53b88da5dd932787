"""``latune regret``: what shapes off the tuned grid lose by being served from it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from latune.cache.resolve import Resolution
from latune.cli.chosen_gpu import chosen_gpu
from latune.cli.options import (
    chosen_shapes,
    decay_option,
    direction_option,
    dtype_option,
    gpu_option,
    jobs_option,
    preset_option,
    shapes_option,
    trials_option,
)
from latune.cli.output import INTERRUPTED, milliseconds, next_time, print_table, say
from latune.cli.regrets import RegretFile
from latune.cli.shapes import Shape, problems_of
from latune.cli.starts import starts_of
from latune.ops.dispatch import resolve
from latune.problem import Problem
from latune.tuner.effort import DEFAULT
from latune.tuner.regret import Regret, regret_of
from latune.tuner.target import Target, open_target
from latune.tuner.tune import Settings

_COLUMNS = ("problem", "step", "served ms", "tuned ms", "regret", "served by")
_PRESET = "off-grid"


@click.command()
@gpu_option
@shapes_option("A shape to serve and to tune.")
@preset_option(f"A named set of them.  [default: {_PRESET}, without --shape]")
@dtype_option
@direction_option
@decay_option
@trials_option
@click.option(
    "--json",
    "json_path",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write JSON to this file after each shape; what it holds is measured again only if something else serves it by now.",
)
@jobs_option
def regret(
    gpu_name: str,
    shapes: Sequence[Shape],
    preset: str | None,
    dtype: str,
    direction: str,
    decay: str,
    trials: int | None,
    json_path: Path | None,
    jobs: int | None,
) -> None:
    """Tunes each shape afresh and compares what the cache's ladder serves it with, in one race.

    The fresh results are not written to the cache; the regrets are kept under its root, for `latune explain`. Ends with the
    median and the worst regret: how much longer the served plan takes.
    """
    if preset is None and not shapes:
        preset = _PRESET
    problems = problems_of(chosen_shapes(shapes, preset), direction=direction, dtype=dtype, decay=decay)
    with open_target(chosen_gpu(gpu_name).name, workers=jobs) as target:
        files = [RegretFile.kept(target.gpu, target.evidence)]
        known: dict[str, Regret] = {}
        if json_path is not None:
            files.append(RegretFile.open(json_path, target.gpu, target.evidence))
            known |= files[-1].by_problem
        try:
            for number, problem in enumerate(problems, start=1):
                served = resolve(problem, target.gpu)
                if str(problem) in known and known[str(problem)].served == served.why:
                    continue
                known[str(problem)] = found = _measure(problem, served, target, trials or DEFAULT.trials[target.evidence])
                say(f"[{number}/{len(problems)}] {problem}: {found.share:.1%}, {found.step}")
                for file in files:
                    file.add(found)
        except KeyboardInterrupt:
            say(f"interrupted: {next_time(fresh=False, keeps=json_path is not None)}")
    measured = [known[str(problem)] for problem in problems if str(problem) in known]
    _print(measured)
    if len(measured) < len(problems):
        raise click.exceptions.Exit(INTERRUPTED)


def _measure(problem: Problem, served: Resolution, target: Target, trials: int) -> Regret:
    """By a search that knows nothing of those the user has made, and leaves them alone."""
    with TemporaryDirectory() as studies:
        settings = Settings(trials=trials, patience=DEFAULT.patience, storage=studies)
        return regret_of(problem, served, target.evaluator(problem), settings, starts=starts_of(problem, target.gpu))


def _print(regrets: Sequence[Regret]) -> None:
    if not regrets:
        return
    rows = sorted(regrets, key=lambda regret: regret.share, reverse=True)
    print_table(_COLUMNS, [_row(regret) for regret in rows], right=_COLUMNS[2:5])
    shares = [regret.share for regret in regrets]
    click.echo(f"{len(shares)} shapes: median regret {statistics.median(shares):.1%}, worst {max(shares):.1%}")


def _row(regret: Regret) -> list[str]:
    times = [milliseconds(regret.served_ms), milliseconds(regret.tuned_ms)]
    return [regret.problem, regret.step, *times, f"{regret.share:.1%}", regret.served]
