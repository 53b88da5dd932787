"""Measures every config of a space, over as many runs as that takes, and the fastest ones several times."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from latune.codegen.templates import generator_sha256
from latune.config import Config
from latune.tuner.evaluators import Evaluator
from latune.tuner.grid import Grid
from latune.tuner.landscapes.file import Recording, write_landscape
from latune.tuner.landscapes.landscape import Landscape, Point

# Compiled together, while those before them are measured.
_BATCH = 64
# Of the fastest: their times and the spread of these are what a search is judged by.
_RACED = 48
_RACED_WITHIN = 1.10
_RACES = 3
_ARMS = 12
_ORDER_SEED = 0

OnPoint = Callable[[Point, int, int], None]
"""Called with a point, how many there are by now, and how many there will be."""


def record(
    grid: Grid,
    evaluate: Evaluator,
    path: Path,
    *,
    fresh: bool = False,
    time_budget_s: float | None = None,
    on_point: OnPoint | None = None,
) -> Landscape | None:
    """The grid's landscape, written to the file; None where the time is up first: called again, it goes on from there.

    Configs are measured in random order, so that what changes on the GPU meanwhile falls on no region of the space.

    Args:
        evaluate: called with a plan of the grid's kernel alone; its races start processes of their own.
        path: beside it, as ``.part``, every point is kept before the next is measured.
        fresh: forget what earlier runs kept.
        time_budget_s: begin no measurement later than this; the races of the fastest come after the last.

    Raises:
        LandscapeError: a file cannot be written, or holds another landscape.
    """
    deadline = math.inf if time_budget_s is None else time.monotonic() + time_budget_s
    begun = _begun(grid, evaluate)
    recording = Recording(begun, path.with_name(f"{path.name}.part"), fresh=fresh)
    for config in _left(grid, recording.points, evaluate):
        if time.monotonic() >= deadline:
            return None
        recording.add(_point(grid, config, evaluate))
        if on_point is not None:
            on_point(recording.points[config], len(recording.points), len(grid.configs))
    landscape = replace(begun, points=_raced(grid, recording.points, evaluate))
    write_landscape(landscape, path)
    recording.remove()
    return landscape


def _begun(grid: Grid, evaluate: Evaluator) -> Landscape:
    return Landscape(
        problem=grid.problem,
        gpu=grid.gpu,
        kernel=grid.kernel.name,
        space_yaml=grid.space.path.read_text(encoding="utf-8"),
        evidence=evaluate.evidence,
        bandwidth_gbps=evaluate.bandwidth_gbps,
        toolchain=dict(evaluate.toolchain),
        templates_sha256=generator_sha256(),
    )


def _left(grid: Grid, measured: Collection[Config], evaluate: Evaluator) -> Iterator[Config]:
    """What is not measured yet, in random order; while a batch is, the next one compiles."""
    left = [config for config in grid.configs if config not in measured]
    random.Random(_ORDER_SEED).shuffle(left)
    batches = [left[first : first + _BATCH] for first in range(0, len(left), _BATCH)]
    for batch, following in zip(batches, [*batches[1:], []], strict=True):
        evaluate.prepare([grid.plan(config) for config in batch])
        evaluate.prepare([grid.plan(config) for config in following], urgent=False)
        yield from batch


def _point(grid: Grid, config: Config, evaluate: Evaluator) -> Point:
    plan = grid.plan(config)
    measurement = evaluate(plan)
    # The line of a compiler or a driver may hold what a file's reader refuses.
    detail = "".join(char if char.isprintable() else " " for char in measurement.detail)
    resources = evaluate.resources(plan) if measurement.ok else ()
    return Point(config=config, measurement=replace(measurement, detail=detail), resources=resources)


def _raced(grid: Grid, points: Mapping[Config, Point], evaluate: Evaluator) -> tuple[Point, ...]:
    """All points in the grid's order, the fastest with their medians in several races, each among others, drawn anew."""
    timed = sorted((time_ms, point.config) for point in points.values() if (time_ms := point.time_ms) is not None)
    fastest = [config for time_ms, config in timed[:_RACED] if time_ms <= _RACED_WITHIN * timed[0][0]]
    found: dict[Config, list[float]] = {config: [] for config in fastest}
    order = random.Random(_ORDER_SEED)
    for _ in range(_RACES):
        order.shuffle(fastest)
        for first in range(0, len(fastest), _ARMS):
            arms = fastest[first : first + _ARMS]
            for config, measurement in zip(arms, evaluate.race([grid.plan(config) for config in arms]), strict=True):
                if measurement.ok and measurement.median_ms is not None:
                    found[config].append(measurement.median_ms)
    return tuple(replace(points[config], raced_ms=tuple(found.get(config, ()))) for config in grid.configs)
