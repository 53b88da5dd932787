"""A whole search space of one kernel as it was measured on one GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from latune.cache.resources import Resources
from latune.codegen.space import Space
from latune.codegen.space_file import parse_space_file
from latune.config import Config
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

    @classmethod
    def from_json(cls, fields: Mapping) -> Point:
        return cls(
            config=Config.from_json(fields["config"]),
            measurement=Measurement.from_json(fields["measurement"]),
            raced_ms=tuple(fields["raced_ms"]),
            resources=tuple(Resources(**resources) for resources in fields["resources"]),
        )


@dataclass(frozen=True, kw_only=True)
class Landscape:
    """Every feasible config of a space for one kernel, problem and GPU, with what came of it.

    Attributes:
        kernel: its name in ``plan.KERNELS``.
        space_yaml: the search space's file as it was when it was recorded.
        bandwidth_gbps: measured copy bandwidth of the GPU, reads and writes counted.
        toolchain: versions of what the times depend on.
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

    @cached_property
    def grid(self) -> Grid:
        return Grid(self.space, self.problem, self.gpu, KERNELS[self.kernel])

    @property
    def space(self) -> Space:
        """As it was recorded: what the shipped one has become since has no part in it."""
        name, path = KERNELS[self.kernel].space, Path("space_yaml")
        return Space.of(name, parse_space_file(self.space_yaml, path), path)

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
