"""Compiler processes, for ``ParallelBuilder(runner="fake_compilers:start")``, that compile nothing.

They come up in a tenth of a second: nothing is imported that takes PyTorch or Triton.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable

from latune.errors import BuildError
from latune.tuner.jobs import Compile

COMPILE_ERROR, CRASH, STALL, DISK_FULL = 16, 32, 128, 256
"""A plan's BLOCK_N that makes its compiler do that."""


def start(_: int) -> Callable[[Compile], str]:
    """Answers with the id of the process in the place of a build."""

    def run(job: Compile) -> str:
        block_n = job.plan.steps[0].config.values()["BLOCK_N"]
        if block_n == COMPILE_ERROR:
            raise BuildError("o_kernel does not compile: no such layout")
        if block_n == CRASH:
            os.kill(os.getpid(), signal.SIGABRT)
        if block_n == DISK_FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if block_n == STALL:
            threading.Event().wait()
        return str(os.getpid())

    return run
