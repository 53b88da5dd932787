"""A search space of one case as a grid: which configs are feasible, and which lie next to which."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

from latune.codegen.parameters import Parameter
from latune.codegen.space import Space
from latune.config import Config
from latune.gpu import Gpu
from latune.plan import Kernel, Plan, Step
from latune.problem import Problem

Values = Mapping[str, str | int]


@dataclass(frozen=True)
class Grid:
    """The feasible configs of a space for one problem, GPU and kernel, all listed.

    Two configs are as far apart as there are steps between them: one for each index along an ordinal, one for a
    choice that differs. A parameter that only one of them has adds nothing, so that a sequential kernel lies next to
    a split one with any number of programs.
    """

    space: Space
    problem: Problem
    gpu: Gpu
    kernel: Kernel

    @cached_property
    def configs(self) -> tuple[Config, ...]:
        return tuple(self.space.configs(self.problem, self.gpu, self.kernel))

    @cached_property
    def axes(self) -> tuple[Parameter, ...]:
        """The parameters on which the feasible configs differ."""
        used = [
            parameter for parameter in self.space.parameters if any(parameter.name in point for point in self._points.values())
        ]
        return tuple(parameter for parameter in used if len(parameter.values) > 1)

    @cached_property
    def default(self) -> Config:
        return self.space.default(self.problem, self.gpu, self.kernel)

    @cached_property
    def starts(self) -> tuple[Config, ...]:
        """The feasible configs nearest to those values that the space's file says have won somewhere."""
        found = (self.nearest(values) for values in self.space.starts)
        return tuple(dict.fromkeys(config for config in found if config is not None))

    @property
    def digest(self) -> str:
        """Six hexadecimal digits of what the axes are; a study holds trials of one grid only."""
        axes = repr([(axis.name, axis.values) for axis in self.axes])
        return hashlib.sha256(axes.encode()).hexdigest()[:6]

    def plan(self, config: Config) -> Plan:
        """The plan of the grid's kernel alone, under the config."""
        return Plan((Step(kernel=self.kernel.name, config=config),))

    def __contains__(self, config: Config) -> bool:
        return config in self._points

    def full(self, config: Config) -> dict[str, str | int]:
        """A value for every axis: the config's own, or the first possible one where an axis does not apply to it."""
        point = self._points[config]
        return {axis.name: point.get(axis.name, axis.values[0]) for axis in self.axes}

    def nearest(self, values: Values, excluded: Collection[Config] = ()) -> Config | None:
        """The feasible config nearest to the values (the first listed of several); None when all are excluded."""
        coordinates = self._coordinates(values)
        free = (config for config in self.configs if config not in excluded)
        return min(free, key=lambda config: self._distance(coordinates, self._located[config]), default=None)

    def neighbours(self, config: Config) -> list[Config]:
        """The feasible configs one step away."""
        here = self._located[config]
        return [other for other in self.configs if self._distance(here, self._located[other]) == 1]

    @cached_property
    def _points(self) -> dict[Config, Values]:
        return {config: config.values() for config in self.configs}

    @cached_property
    def _located(self) -> dict[Config, tuple[int | None, ...]]:
        return {config: self._coordinates(point) for config, point in self._points.items()}

    def _coordinates(self, values: Values) -> tuple[int | None, ...]:
        """For each axis the index of the value; None where the axis does not apply, or has no such value."""
        return tuple(
            axis.values.index(value) if (value := values.get(axis.name)) in axis.values else None for axis in self.axes
        )

    def _distance(self, here: tuple[int | None, ...], there: tuple[int | None, ...]) -> int:
        steps = 0
        for ordinal, one, other in zip(self._ordinal, here, there, strict=True):
            if one != other and one is not None and other is not None:
                steps += abs(one - other) if ordinal else 1
        return steps

    @cached_property
    def _ordinal(self) -> tuple[bool, ...]:
        return tuple(axis.ordinal for axis in self.axes)
