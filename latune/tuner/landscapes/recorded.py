"""An evaluator that answers from a landscape, with the noise that was recorded: no GPU, no compiler."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from latune.cache.resources import Resources
from latune.config import Config
from latune.measurement import Measurement
from latune.plan import Plan
from latune.problem import Problem
from latune.tuner.landscapes.landscape import Landscape, Point


class RecordedEvaluator:
    """Judges plans of the landscape's kernel alone as they were judged; satisfies ``evaluators.Evaluator``.

    A time is drawn from those that were recorded of the config itself, since some configs take another time in each process
    and others do not: for a race from its races, for an evaluation from these and the one by itself. Of a config that was not
    raced it is the only one, times a ratio recorded of others. The n-th evaluation of a config draws the same whatever was
    evaluated in between.

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

    def has_compiled(self, plans: Sequence[Plan]) -> bool:
        return True

    def __call__(self, plan: Plan) -> Measurement:
        return self._measured(self._point(plan), in_race=False)

    def race(self, plans: Sequence[Plan]) -> list[Measurement]:
        return [self._measured(self._point(plan), in_race=True) for plan in plans]

    race_here = race

    def at(self, problem: Problem) -> RecordedEvaluator:
        """Itself: of other problems nothing is recorded."""
        return self

    def resources(self, plan: Plan) -> tuple[Resources, ...]:
        return self._point(plan).resources

    def _point(self, plan: Plan) -> Point:
        (step,) = plan.steps
        return self._landscape.by_config[step.config]

    def _measured(self, point: Point, *, in_race: bool) -> Measurement:
        if point.time_ms is None:
            return point.measurement
        times_ms = self._times_ms(point, in_race=in_race)
        self._drawn[point.config, in_race] += 1
        number = self._drawn[point.config, in_race]
        drawn_ms = random.Random(f"{self._seed} {point.config.digest} {in_race} {number}").choice(times_ms)
        return replace(point.measurement, median_ms=drawn_ms)

    def _times_ms(self, point: Point, *, in_race: bool) -> Sequence[float]:
        if not point.raced_ms:
            return [point.time_ms * ratio for ratio in self._ratios[in_race]]  # type: ignore[operator]
        return point.raced_ms if in_race else (point.measurement.median_ms, *point.raced_ms)  # type: ignore[return-value]

    @cached_property
    def _ratios(self) -> dict[bool, list[float]]:
        """Of all times that an evaluation, or a race, may draw, to what is known of their config."""
        raced = [point for point in self._landscape.points if point.raced_ms]
        return {
            in_race: [time_ms / point.time_ms for point in raced for time_ms in self._times_ms(point, in_race=in_race)] or [1.0]  # type: ignore[operator]
            for in_race in (False, True)
        }
