"""A whole search space of one kernel as it was measured on one GPU."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from latune.cache.resources import Resources
from latune.codegen.space import Space
from latune.codegen.space_file import parse_space_file
from latune.config import Config
from latune.errors import SpaceError
from latune.gpu import Gpu
from latune.measurement import Measurement
from latune.plan import KERNELS
from latune.problem import Problem
from latune.tuner.grid import Grid
from latune.tuner.timing import TIE, median


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One config of a landscape.

    Attributes:
        measurement: of the config by itself, as a search takes it.
        raced_ms: its medians in further races among the fastest, each race in processes of its own; empty for slower ones.
        resources: what its kernels take; empty unless it is ok.
    """

    config: Config
    measurement: Measurement
    raced_ms: tuple[float, ...] = ()
    resources: tuple[Resources, ...] = ()

    def __post_init__(self) -> None:
        if self.raced_ms and not self.measurement.ok:
            raise ValueError(f"raced_ms: expected none of a config that is not ok, got {len(self.raced_ms)}")

    @property
    def time_ms(self) -> float | None:
        """The best that is known of its time; None unless it is ok."""
        if not self.measurement.ok:
            return None
        return median(self.raced_ms) if self.raced_ms else self.measurement.median_ms

    def to_json(self) -> dict[str, object]:
        return {
            "config": self.config.to_json(),
            "measurement": self.measurement.to_json(),
            "raced_ms": list(self.raced_ms),
            "resources": [asdict(resources) for resources in self.resources],
        }


@dataclass(frozen=True, kw_only=True)
class Landscape:
    """Every feasible config of a space for one kernel, problem and GPU, with what came of it.

    Attributes:
        kernel: its name in ``plan.KERNELS``.
        space_yaml: the search space's file as it was when it was recorded.
        bandwidth_gbps: measured copy bandwidth of the GPU, reads and writes counted.
        toolchain: versions of what the times depend on.
        templates_sha256: of what generates its kernels, ``templates.generator_sha256``; in older files of the templates alone.
        points: in the order of the grid.
    """

    problem: Problem
    gpu: Gpu
    kernel: str
    space_yaml: str
    evidence: str
    bandwidth_gbps: float
    toolchain: Mapping[str, str | None]
    templates_sha256: str
    points: tuple[Point, ...] = ()

    def __post_init__(self) -> None:
        known = [kernel.name for kernel in KERNELS.values() if kernel.direction == self.problem.direction]
        if self.kernel not in known:
            raise ValueError(f"kernel: expected one of {', '.join(known)} for {self.problem.direction}, got {self.kernel!r}")

    @cached_property
    def grid(self) -> Grid:
        return Grid(self.space, self.problem, self.gpu, KERNELS[self.kernel])

    @property
    def space(self) -> Space:
        """As it was recorded: what the shipped one has become since has no part in it."""
        return _space(KERNELS[self.kernel].space, self.space_yaml)

    @cached_property
    def by_config(self) -> dict[Config, Point]:
        return {point.config: point for point in self.points}

    @cached_property
    def best_ms(self) -> float:
        return min(time_ms for point in self.points if (time_ms := point.time_ms) is not None)

    def share_of_best(self, config: Config) -> float:
        """The best time over the config's: 1.0 for the best, 0.5 for one that takes twice as long, 0 for one that fails."""
        time_ms = self.by_config[config].time_ms
        return 0.0 if time_ms is None else self.best_ms / time_ms

    def in_tie(self, config: Config) -> bool:
        """Whether the config is as good as the best: within a tie of it."""
        return self.share_of_best(config) * TIE >= 1

    def __str__(self) -> str:
        return f"{self.problem} {self.kernel} {self.gpu.name}"


@functools.lru_cache(maxsize=8)
def _space(name: str, space_yaml: str) -> Space:
    """Read once: that takes 0.3 s, and a landscape is made of another when it gets its points."""
    path = Path("space_yaml")
    file = parse_space_file(space_yaml, path)
    if file.kernel != name:
        raise SpaceError(f"{path}: kernel: expected {name!r}, got {file.kernel!r}")
    return Space.of(name, file, path)
