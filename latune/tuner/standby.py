"""The processes that judge plans on this machine's GPU, begun before there is one to judge: they take seconds to come up."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from latune.tuner.builders import VERIFIED_COMPILER, ParallelBuilder
from latune.tuner.worker import Worker

# Of NVIDIA's driver: on Linux, and on Linux under Windows.
_DEVICES = (Path("/dev/nvidiactl"), Path("/dev/dxg"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Standby:
    """Compilers, and a worker for the GPU."""

    builder: ParallelBuilder
    worker: Worker

    def begin(self) -> None:
        """Starts those that have not been started; they come up while the caller goes on."""
        self.builder.begin()
        self.worker.begin()

    def close(self) -> None:
        """Ends them; the compilers too where the worker does not end, or nobody waits for it."""
        try:
            self.worker.close()
        finally:
            self.builder.close()


@contextmanager
def standing_by(*, seed: int = 0, device_index: int = 0, workers: int | None = None) -> Iterator[Standby]:
    """The processes, begun where there may be a GPU: what knows for certain takes as long to import as they to come up.

    Args:
        seed: of the inputs that plans are verified and timed on.
        device_index: which of the machine's GPUs, as torch counts them.
        workers: compiler processes; None: one a CPU core.
    """
    standby = Standby(
        builder=ParallelBuilder(workers=workers, runner=VERIFIED_COMPILER), worker=Worker(device_index, seed=seed)
    )
    try:
        if _may_have_a_gpu():
            standby.begin()
        yield standby
    finally:
        standby.close()


def _may_have_a_gpu() -> bool:
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return not hidden and any(device.exists() for device in _DEVICES)
