"""What the parent and its processes, compilers and the one on the GPU, say to each other: metadata only, never a tensor."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from latune.gpu import Gpu
from latune.measurement import Measurement
from latune.plan import Plan
from latune.problem import Problem

if TYPE_CHECKING:
    from latune.codegen.render import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """The first message: which runner (``module:function``) serves jobs, on which device, and how far it gives way to others.

    Attributes:
        niceness: what is added to the process's own, as ``os.nice`` has it.
    """

    runner: str
    device_index: int
    niceness: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The answer to ``Start``: the runner is up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """Comes before every answer: the process has the job, and what befalls it from here on is the job's doing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compile:
    """Asks a compiler for a ``Build``."""

    problem: Problem
    plan: Plan
    gpu: Gpu

    @property
    def kernels(self) -> frozenset[Hashable]:
        """What is compiled here and, alike, for other plans and for buckets that are served by the same code."""
        bucket = self.problem.bucket().unsized
        return frozenset((bucket, step, self.gpu) for step in self.plan.steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Describe:
    """Asks for a ``DeviceReport``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepare:
    """Asks for the inputs and references of a problem to be made and kept; answered by ``Ready``.

    Attributes:
        ahead: the forward plan that backward plans of the problem run behind; None: not known.
    """

    problem: Problem
    seed: int
    ahead: Plan | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluate:
    """Asks for a ``Measurement`` of one plan of the prepared problem.

    Attributes:
        give_up_above_ms: stop timing after the race when the median is above this.
    """

    plan: Plan
    source: Source
    give_up_above_ms: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """Asks for a list of ``Arm``: the candidates of the prepared problem, timed in turns."""

    candidates: tuple[tuple[Plan, Source], ...]
    rounds: int
    seed: int


Job = Describe | Prepare | Evaluate | Race


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The answer to a job that failed: one of ``latune.measurement.OUTCOMES`` and one line on why."""

    outcome: str
    detail: str

    def measurement(self) -> Measurement:
        return Measurement(outcome=self.outcome, detail=self.detail)


@dataclass(frozen=True, slots=True, kw_only=True)
class Obstacle:
    """The answer to a job that met one which no candidate has made, such as a full disk: one line on what it is."""

    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One candidate's result in a race.

    Attributes:
        rounds_ms: its median of each round, so that two arms of a race can be compared pairwise.
    """

    measurement: Measurement
    rounds_ms: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceReport:
    """A device as it reports itself, and what drives it.

    Attributes:
        title: the driver's name for the device.
        memory_bytes: device memory.
        free_bytes: device memory that was free when asked.
        copy_gbps: measured bandwidth of a device-to-device copy, reads and writes counted, GB/s.
        toolchain: versions by name: torch, triton, cuda, driver.
    """

    title: str
    memory_bytes: int
    free_bytes: int
    copy_gbps: float
    toolchain: tuple[tuple[str, str], ...]
