"""How long an eager call takes by the wall clock where the host is what it waits for, and when it is not."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from latune.tuner.timing import median

_REPETITIONS = 5
_MOST_CALLS = 2000
_REPETITION_S = 0.1
# Launched one by one, kernels lie further apart than in a graph: from this share on the GPU may be what limits.
_BOUND_SHARE = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class HostTime:
    """An eager call, many times in a row.

    Attributes:
        unit_us: a ``torch.add(a, b, out=c)`` of tiny tensors, measured alike in the same run; the machine's own pace.
        wall_us: of one call; None where it failed.
        gpu_us: of the GPU alone, replaying a CUDA graph of the call, its inputs in the L2 cache if they fit; None where it
            cannot be captured.
        gpu_bound: the GPU is (or may be) slower than the host, so that ``wall_us`` says nothing about the host.
        detail: why it failed.
    """

    unit_us: float
    wall_us: float | None
    gpu_us: float | None = None
    gpu_bound: bool = False
    detail: str = ""

    @property
    def host_us(self) -> float | None:
        """How long the host is busy with one call; None where that is unknown."""
        return None if self.gpu_bound else self.wall_us

    @property
    def units(self) -> float | None:
        return None if self.host_us is None else self.host_us / self.unit_us

    def to_json(self) -> dict[str, object]:
        return {
            "host_us": self.host_us,
            "units": self.units,
            "unit_us": self.unit_us,
            "wall_us": self.wall_us,
            "gpu_us": self.gpu_us,
            "gpu_bound": self.gpu_bound,
            "detail": self.detail,
        }


def wall_us(
    call: Callable[[], object], synchronise: Callable[[], object], *, clock: Callable[[], float] = time.perf_counter
) -> float:
    """One call's wall time: the median of several rows of calls, each synchronised at its end alone.

    Args:
        call: has run before, so that it compiles nothing any more.
        synchronise: waits for the GPU.
        clock: in seconds.
    """

    def row_s(calls: int) -> float:
        synchronise()
        began = clock()
        for _ in range(calls):
            call()
        synchronise()
        return (clock() - began) / calls

    calls = min(max(1, int(_REPETITION_S / row_s(1))), _MOST_CALLS)
    return 1e6 * median([row_s(calls) for _ in range(_REPETITIONS)])


def is_gpu_bound(busy_us: float, wall_us: float) -> bool:
    """Whether the GPU's own time of a call may be what its wall time shows."""
    return busy_us > _BOUND_SHARE * wall_us
