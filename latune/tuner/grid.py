"""A search space of one case as a grid: which configs are feasible, and which lie next to which."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from latune.codegen.parameters import Parameter
from latune.codegen.space import Space
from latune.config import Config
from latune.gpu import Gpu
from latune.plan import Kernel, Plan, Step
from latune.problem import Problem

Values = Mapping[str, str | int]
Indices = npt.NDArray[np.int32]

_NOWHERE = -1
_OUT_OF_REACH = np.iinfo(np.int32).max


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
        if not self.configs:
            return None
        steps = self._steps_from(self._coordinates(values))
        steps[[self._rows[config] for config in excluded if config in self._rows]] = _OUT_OF_REACH
        row = int(steps.argmin())
        return None if steps[row] == _OUT_OF_REACH else self.configs[row]

    def neighbours(self, config: Config) -> list[Config]:
        """The feasible configs one step away."""
        steps = self._steps_from(self._located[self._rows[config]])
        return [self.configs[row] for row in np.flatnonzero(steps == 1)]

    @cached_property
    def _points(self) -> dict[Config, Values]:
        return {config: config.values() for config in self.configs}

    @cached_property
    def _rows(self) -> dict[Config, int]:
        return {config: row for row, config in enumerate(self.configs)}

    @cached_property
    def _located(self) -> Indices:
        """The coordinates of each config."""
        return np.stack([self._coordinates(point) for point in self._points.values()])

    def _coordinates(self, values: Values) -> Indices:
        """For each axis the index of the value; -1 where the axis does not apply, or has no such value."""
        indices = (
            axis.values.index(value) if (value := values.get(axis.name)) in axis.values else _NOWHERE for axis in self.axes
        )
        return np.fromiter(indices, dtype=np.int32, count=len(self.axes))

    def _steps_from(self, here: Indices) -> Indices:
        """How far each config is from there."""
        apart = np.abs(self._located - here)
        steps = np.where(self._ordinal, apart, apart != 0)
        steps[(self._located == _NOWHERE) | (here == _NOWHERE)] = 0
        return steps.sum(axis=1, dtype=np.int32)

    @cached_property
    def _ordinal(self) -> npt.NDArray[np.bool_]:
        return np.array([axis.ordinal for axis in self.axes], dtype=bool)
