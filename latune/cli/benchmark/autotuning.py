"""How peers that choose among configs by Triton's autotuner are made to: anew for each shape, in little time."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from triton import AsyncCompileMode, Config, KernelInterface
from triton.runtime import Autotuner

from latune.cli.benchmark.forks import ForkedAhead


def forget_choices() -> None:
    """Has every kernel that Triton's autotuner serves choose its config anew.

    Few of their keys hold batch, heads or length, so that the first shape of a process would choose for all that follow.
    """
    for module in list(sys.modules.values()):
        for value in list(getattr(module, "__dict__", {}).values()):
            _forget_choices_of(value)


def _forget_choices_of(kernel: object) -> None:
    """Of a kernel and those that it wraps; anything else has none. By type: a value's own ``__class__`` may load something."""
    if issubclass(type(kernel), Autotuner):
        kernel.cache.clear()
    if issubclass(type(kernel), KernelInterface):
        _forget_choices_of(getattr(kernel, "fn", None))


@contextmanager
def compiling_together() -> Iterator[None]:
    """Has the autotuner compile all configs of a kernel on all CPU cores before it times one after another.

    It compiles each when its turn comes, which for a peer of several kernels of fifty configs takes minutes.
    """
    pruned = Autotuner.prune_configs

    def compiled(kernel: Autotuner, kwargs: Mapping[str, object]) -> list[Config]:
        configs: list[Config] = pruned(kernel, kwargs)
        forks = ForkedAhead()
        with AsyncCompileMode(forks, ignore_errors=True):
            try:
                # A hook may change the arguments, and with them what is to be compiled.
                for config in (config for config in configs if config.pre_hook is None):
                    kernel.fn.run(**{**kernel.nargs, **kwargs, **config.all_kwargs(), "warmup": True})
            finally:
                forks.run()
        return configs

    Autotuner.prune_configs = compiled
    try:
        yield
    finally:
        Autotuner.prune_configs = pruned
