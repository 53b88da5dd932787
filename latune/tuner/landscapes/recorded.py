"""An evaluator that answers from a landscape, with the noise that was recorded: no GPU, no compiler."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from latune.cache.entry import Resources
from latune.config import Config
from latune.measurement import Measurement
from latune.plan import Plan
from latune.problem import Problem
from latune.tuner.landscapes.landscape import Landscape, Point


class RecordedEvaluator:
    """Judges plans of the landscape's kernel alone as they were judged; satisfies ``evaluators.Evaluator``.

    A time is the config's own times a ratio drawn from those that were recorded between one measurement of a config and
    what is known of it: a single one's for an evaluation, a race's for a race. The n-th evaluation of a config draws the
    same ratio whatever was evaluated in between.

    Args:
        seed: of the noise.
    """

    ahead = None

    def __init__(self, landscape: Landscape, *, seed: int = 0) -> None:
        self.gpu = landscape.gpu
        self.evidence = landscape.evidence
        self.bandwidth_gbps = landscape.bandwidth_gbps
        self.toolchain: Mapping[str, str | None] = landscape.toolchain
        self._landscape = landscape
        self._seed = seed
        self._drawn: Counter[tuple[Config, bool]] = Counter()

    def prepare(self, plans: Sequence[Plan], *, urgent: bool = True) -> None:
        """There is nothing to compile."""

    def __call__(self, plan: Plan) -> Measurement:
        return self._measured(self._point(plan), self._alone, in_race=False)

    def race(self, plans: Sequence[Plan]) -> list[Measurement]:
        return [self._measured(self._point(plan), self._raced, in_race=True) for plan in plans]

    race_here = race

    def at(self, problem: Problem) -> RecordedEvaluator:
        """Itself: of other problems nothing is recorded."""
        return self

    def resources(self, plan: Plan) -> tuple[Resources, ...]:
        return self._point(plan).resources

    def _point(self, plan: Plan) -> Point:
        (step,) = plan.steps
        return self._landscape.by_config[step.config]

    def _measured(self, point: Point, ratios: Sequence[float], *, in_race: bool) -> Measurement:
        if point.time_ms is None:
            return point.measurement
        self._drawn[point.config, in_race] += 1
        number = self._drawn[point.config, in_race]
        ratio = random.Random(f"{self._seed} {point.config.digest} {in_race} {number}").choice(ratios)
        return replace(point.measurement, median_ms=point.time_ms * ratio)

    @cached_property
    def _alone(self) -> list[float]:
        found = [point.measurement.median_ms / point.time_ms for point in self._raced_points]  # type: ignore[operator]
        return found or [1.0]

    @cached_property
    def _raced(self) -> list[float]:
        return [time_ms / point.time_ms for point in self._raced_points for time_ms in point.raced_ms] or [1.0]  # type: ignore[operator]

    @property
    def _raced_points(self) -> list[Point]:
        return [point for point in self._landscape.points if point.raced_ms]
