"""The GPU that is tuned for: the one in this machine, measured, or another one, statically."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from latune.errors import BuildError, RenderError, UnknownGpuError
from latune.gpu import STATIC_GPU, Gpu, find_gpu, gpu_of
from latune.plan import Plan
from latune.problem import Problem
from latune.tuner.builders import ParallelBuilder
from latune.tuner.evaluators import Evaluator, MeasuredEvaluator, StaticEvaluator, measured_toolchain
from latune.tuner.failures import Failures
from latune.tuner.serving import serving_plan
from latune.tuner.standby import Standby, standing_by
from latune.tuner.worker import Worker


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A GPU with the processes that judge plans for it; they serve one problem after another.

    Attributes:
        worker: the process on the GPU itself; None: it is not in this machine.
        failures: what earlier runs found to take that process down; None: not asked.
    """

    gpu: Gpu
    builder: ParallelBuilder
    worker: Worker | None
    failures: Failures | None = None

    @property
    def evidence(self) -> str:
        return "static" if self.worker is None else "measured"

    def evaluator(self, problem: Problem, folders: Sequence[Path] = ()) -> Evaluator:
        """What judges plans of the problem: measured, behind what is ``ahead``; the static model knows nothing of that.

        Args:
            folders: as in ``ahead``.
        """
        if self.worker is None:
            return StaticEvaluator(problem, self.gpu, self.builder)
        return MeasuredEvaluator(problem, self.gpu, self.builder, self.worker, self.ahead(problem, folders), self.failures)

    def remembering(self, storage: str | None, *, fresh: bool = False) -> Target:
        """The same, which passes over what took the worker down in earlier runs, and remembers what does in this one.

        Args:
            storage: where searches are kept.
            fresh: what earlier runs remember is tried again.
        """
        if self.worker is None:
            return self
        toolchain = measured_toolchain(self.worker.device())
        return replace(self, failures=Failures(self.gpu.name, toolchain, storage, fresh=fresh))

    def ahead(self, problem: Problem, folders: Sequence[Path] = ()) -> Plan | None:
        """The forward plan that a backward problem's plans run behind; None of a forward problem, or if it does not compile.

        Args:
            folders: where cache files are that come before those that the dispatcher reads.
        """
        if problem.direction == "fwd":
            return None
        forward = replace(problem, direction="fwd")
        plan = serving_plan(forward, self.gpu, folders)
        try:
            self.builder(forward, plan, self.gpu)
        except (BuildError, RenderError):
            return None
        return plan


@contextmanager
def open_target(
    name: str | None = None,
    *,
    seed: int = 0,
    device_index: int = 0,
    workers: int | None = None,
    standby: Standby | None = None,
) -> Iterator[Target]:
    """Finds out whether the GPU is in this machine and starts what judges plans for it.

    Args:
        name: as the catalogue has it; None: the GPU in this machine, else ``STATIC_GPU``.
        seed: of the inputs that plans are verified and timed on.
        device_index: which of the machine's GPUs, as torch counts them.
        workers: compiler processes; None: one a CPU core.
        standby: from ``standing_by`` with these arguments; ended if the GPU is not in this machine. None: as from there.

    Raises:
        UnknownGpuError: neither the catalogue nor the machine has a GPU of that name.
    """
    here = local_gpu(device_index)
    gpu = _wanted(name, here)
    with ExitStack() as stack:
        if gpu == here:
            standby = standby or stack.enter_context(standing_by(seed=seed, device_index=device_index, workers=workers))
            standby.begin()
            yield Target(gpu=gpu, builder=standby.builder, worker=standby.worker)
        else:
            if standby is not None:
                standby.close()
            yield Target(gpu=gpu, builder=stack.enter_context(ParallelBuilder(workers=workers)), worker=None)


def local_gpu(device_index: int | None = None) -> Gpu | None:
    """A GPU in this machine, if it is one that kernels are generated for.

    Args:
        device_index: as torch counts them; None: the one that torch would use.
    """
    # Torch has ROCm's GPUs answer to the name of CUDA.
    if torch.version.hip or not torch.cuda.is_available():
        return None
    try:
        return gpu_of(torch.cuda.get_device_properties(device_index))
    except UnknownGpuError:
        return None


def _wanted(name: str | None, here: Gpu | None) -> Gpu:
    """The machine's own before the catalogue's: a board may go by a model's name and differ from it in memory."""
    if here is not None and name in (None, here.name):
        return here
    return find_gpu(STATIC_GPU if name is None else name)
