"""``latune regret``: what shapes off the tuned grid lose by being served from it."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path

import click

from latune.cache.resolve import Resolution
from latune.cli.options import (
    TRIALS,
    chosen_gpu,
    chosen_shapes,
    decay_option,
    direction_option,
    dtype_option,
    gpu_option,
    preset_option,
    shapes_option,
    trials_option,
    workers_option,
)
from latune.cli.output import json_text, milliseconds, print_table, say, write_text
from latune.cli.session import INTERRUPTED
from latune.cli.shapes import Shape, problems_of
from latune.cli.starts import starts_of
from latune.codegen.templates import templates_sha256
from latune.errors import LatuneError
from latune.ops.dispatch import resolve
from latune.problem import Problem
from latune.tuner.regret import Regret, regret_of
from latune.tuner.target import Target, open_target
from latune.tuner.tune import Settings

_COLUMNS = ("problem", "step", "served ms", "tuned ms", "regret", "served by")
_PRESET = "off-grid"


@click.command(short_help="What served shapes lose to tuned ones.")
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
@workers_option
def regret(
    gpu_name: str,
    shapes: Sequence[Shape],
    preset: str | None,
    dtype: str,
    direction: str,
    decay: str,
    trials: int | None,
    json_path: Path | None,
    workers: int | None,
) -> None:
    """Tunes each shape afresh and compares what the cache's ladder serves it with, in one race.

    The fresh results are not written to the cache. Ends with the median and the worst regret: how much longer the served
    plan takes.
    """
    if preset is None and not shapes:
        preset = _PRESET
    problems = problems_of(chosen_shapes(shapes, preset), direction=direction, dtype=dtype, decay=decay)
    with open_target(chosen_gpu(gpu_name).name, workers=workers) as target:
        known = {} if json_path is None else _read(json_path, target)
        try:
            for number, problem in enumerate(problems, start=1):
                served = resolve(problem, target.gpu)
                if str(problem) in known and known[str(problem)].served == served.why:
                    continue
                settings = Settings(trials=trials or TRIALS[target.evidence])
                known[str(problem)] = found = _measure(problem, served, target, settings)
                say(f"[{number}/{len(problems)}] {problem}: {found.share:.1%}, {found.step}")
                if json_path is not None:
                    write_text(json_path, json_text(_document(target, list(known.values()))) + "\n")
        except KeyboardInterrupt:
            say("interrupted: with --json the same command goes on from here")
    measured = [known[str(problem)] for problem in problems if str(problem) in known]
    _print(measured)
    if len(measured) < len(problems):
        raise click.exceptions.Exit(INTERRUPTED)


def _measure(problem: Problem, served: Resolution, target: Target, settings: Settings) -> Regret:
    return regret_of(problem, served, target.evaluator(problem), settings, starts=starts_of(problem, target.gpu))


def _document(target: Target, regrets: Sequence[Regret]) -> dict[str, object]:
    worst = max(regrets, key=lambda regret: regret.share)
    return {
        "gpu": target.gpu.name,
        "evidence": target.evidence,
        "templates_sha256": templates_sha256(),
        "median": statistics.median(regret.share for regret in regrets),
        "worst": {"problem": worst.problem, "regret": worst.share},
        "regrets": [regret.to_json() for regret in regrets],
    }


def _read(path: Path, target: Target) -> dict[str, Regret]:
    """By problem, what an earlier run on this GPU and these templates wrote; nothing where there is no file.

    Raises:
        LatuneError: the file is no such document, or another GPU's or other templates', or its folder is not there.
    """
    if not path.exists():
        if not path.parent.is_dir():
            raise LatuneError(f"cannot write {path}: there is no folder {path.parent}; give a path you can write to")
        return {}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        regrets = [Regret(**fields) for fields in document["regrets"]]
        made = tuple(document[name] for name in ("gpu", "evidence", "templates_sha256"))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise LatuneError(f"{path}: expected what `latune regret --json` wrote, got {error!r}; name another file") from error
    if made != (target.gpu.name, target.evidence, templates_sha256()):
        raise LatuneError(f"{path} is of {made[0]}, {made[1]}, or of other templates: name another file, or remove it")
    return {regret.problem: regret for regret in regrets}


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
