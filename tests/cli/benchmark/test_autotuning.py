"""Triton's autotuner as the bench has it: choices forgotten, configs compiled together."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import CompiledKernel
from triton.compiler.errors import CompileTimeAssertionFailure
from triton.runtime import Autotuner, driver

from latune.cli.benchmark import forks
from latune.cli.benchmark.autotuning import compiling_together, forget_choices

CONFIGS = [triton.Config({"BLOCK": block}, num_warps=warps) for block in (16, 32) for warps in (1, 2)]


def _kernel(x, n, BLOCK: tl.constexpr, EVEN: tl.constexpr):
    rows = tl.arange(0, BLOCK)
    tl.store(x + rows, tl.load(x + rows, mask=rows < n) + 1, mask=rows < n)


def _refuses_32(x, n, BLOCK: tl.constexpr, EVEN: tl.constexpr):
    tl.static_assert(BLOCK < 32)
    tl.store(x, n)


class Recorded(triton.KernelInterface):
    """Notes the runs it is asked for."""

    def __init__(self) -> None:
        self.fn = _kernel
        self.runs: list[tuple[bool, int, int]] = []

    def run(self, *args, grid, warmup, **kwargs):
        self.runs.append((warmup, kwargs["BLOCK"], kwargs["num_warps"]))


def tuner_of(kernel: triton.KernelInterface, configs: list[triton.Config]) -> Autotuner:
    def bench(call, quantiles):
        call()
        return [1.0, 1.0, 1.0]

    return Autotuner(kernel, ["x", "n", "BLOCK", "EVEN"], configs, ["n"], None, None, do_bench=bench)


@pytest.fixture
def h100(monkeypatch):
    """Triton takes an H100 to be there; it can compile for it, and launch nothing."""
    gpu = SimpleNamespace(
        get_current_target=lambda: GPUTarget("cuda", 90, 32), get_current_device=lambda: 0, get_current_stream=lambda _: 0
    )
    monkeypatch.setattr(type(driver), "active", gpu)


def test_autotuned_kernels_choose_anew_wherever_they_are(monkeypatch):
    config = CONFIGS[0]
    plain = triton.jit(_kernel)
    tuned = triton.autotune([config], key=[])(plain)
    wrapped = triton.heuristics({"EVEN": lambda _: True})(triton.autotune([config], key=["n"])(plain))
    for kernel in (tuned, wrapped.fn):
        kernel.cache[()] = config
    module = ModuleType("peer_kernels")
    vars(module).update(plain=plain, tuned=tuned, wrapped=wrapped)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    forget_choices()
    assert tuned.cache == wrapped.fn.cache == {}


def test_all_configs_are_compiled_before_the_first_is_timed():
    kernel = Recorded()
    with compiling_together():
        tuner_of(kernel, CONFIGS)[(1,)](torch.zeros(8), 8, EVEN=True)
    all_of_them = [(16, 1), (16, 2), (32, 1), (32, 2)]
    assert kernel.runs[:4] == [(True, *run) for run in all_of_them]
    assert kernel.runs[4:8] == [(False, *run) for run in all_of_them]


def test_a_config_whose_hook_changes_arguments_waits_for_its_turn():
    kernel, hooked = Recorded(), triton.Config({"BLOCK": 64}, num_warps=4, pre_hook=lambda _: None)
    with compiling_together():
        tuner_of(kernel, [*CONFIGS, hooked])[(1,)](torch.zeros(8), 8, EVEN=True)
    assert (True, 64, 4) not in kernel.runs and (False, 64, 4) in kernel.runs


def test_the_autotuner_is_its_old_self_afterwards():
    before, kernel = Autotuner.prune_configs, Recorded()
    with pytest.raises(RuntimeError, match="a peer's"), compiling_together():
        assert Autotuner.prune_configs is not before
        raise RuntimeError("a peer's")
    assert Autotuner.prune_configs is before
    tuner_of(kernel, CONFIGS)[(1,)](torch.zeros(8), 8, EVEN=True)
    assert not any(warmup for warmup, _, _ in kernel.runs)


def test_configs_are_compiled_in_forks_and_found_on_disk(h100, monkeypatch, tmp_path):
    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path))
    monkeypatch.setattr(forks.os, "sched_getaffinity", lambda _: {0, 1, 2})
    hits = []
    monkeypatch.setattr(triton.knobs.compilation, "listener", lambda *_, cache_hit, **__: hits.append(cache_hit))
    tuner = tuner_of(triton.jit(_kernel), CONFIGS)
    tuner.nargs = {"x": torch.zeros(8), "n": 8}
    with compiling_together():
        tuner.prune_configs({"grid": (1,), "warmup": False, "EVEN": True})
    assert hits == [True] * len(CONFIGS), "compiled here, they were not found"


def test_a_peer_that_refuses_its_arguments_leaves_nothing_waiting():
    class Refusing(Recorded):
        def run(self, *args, **kwargs):
            raise TypeError("no such argument")

    with pytest.raises(TypeError, match="no such"), compiling_together():
        tuner_of(Refusing(), CONFIGS)[(1,)](torch.zeros(8), 8, EVEN=True)


@pytest.mark.parametrize("heuristics", [False, True])
def test_what_is_compiled_is_what_will_be_launched(h100, heuristics):
    plain = triton.jit(_kernel)
    kernel = triton.heuristics({"EVEN": lambda args: args["n"] % 2 == 0})(plain) if heuristics else plain
    tuner = tuner_of(kernel, CONFIGS)
    tuner.nargs = {"x": torch.zeros(8), "n": 8}
    given = {"grid": (1,), "warmup": False, **({} if heuristics else {"EVEN": True})}
    with compiling_together():
        assert tuner.prune_configs(given) == CONFIGS
    compiled = plain.device_caches[0][0]
    assert len(compiled) == len(CONFIGS)
    assert all("cubin" in kernel.asm for kernel in compiled.values())
    plain.run(torch.zeros(8), 8, **{**given, "EVEN": True, "warmup": True}, **CONFIGS[0].all_kwargs())
    assert len(compiled) == len(CONFIGS), "nothing new to compile"


def test_a_config_that_does_not_compile_fails_when_its_turn_comes(h100):
    plain = triton.jit(_refuses_32)
    tuner = tuner_of(plain, CONFIGS)
    tuner.nargs = {"x": torch.zeros(8), "n": 8}
    given = {"grid": (1,), "warmup": False, "EVEN": True}
    with compiling_together():
        tuner.prune_configs(given)
    assert sum(isinstance(kernel, CompiledKernel) for kernel in plain.device_caches[0][0].values()) == 2
    with pytest.raises(CompileTimeAssertionFailure):
        plain.run(**tuner.nargs, **given, **CONFIGS[-1].all_kwargs())
