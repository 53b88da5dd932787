"""The GPU that a command means."""

from __future__ import annotations

from latune.cli.options import AUTO
from latune.cli.output import say
from latune.errors import LatuneError
from latune.gpu import STATIC_GPU, Gpu, find_gpu
from latune.tuner.target import local_gpu


def needed_gpu(command: str) -> Gpu:
    """The GPU in this machine, for a command that is of no use without one.

    Raises:
        LatuneError: there is none.
    """
    gpu = local_gpu()
    if gpu is None:
        raise LatuneError(f"{command} needs a CUDA GPU, and this machine has none: run it where there is one")
    return gpu


def chosen_gpu(name: str) -> Gpu:
    """The GPU that ``--gpu`` means: by name the catalogue's, or the machine's own where the catalogue lacks it.

    Raises:
        UnknownGpuError: neither has a GPU of that name.
    """
    here = local_gpu()
    if name == AUTO:
        return here or _stand_in()
    return here if here is not None and here.name == name else find_gpu(name)


def _stand_in() -> Gpu:
    gpu = find_gpu(STATIC_GPU)
    say(f"no GPU in this machine that kernels are generated for: {gpu.title} is meant; name another with --gpu")
    return gpu
