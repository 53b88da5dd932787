from __future__ import annotations

import subprocess
import sys
import time
from itertools import accumulate, chain

import pytest
import torch

from latune.cli.benchmark.case import make_case
from latune.cli.benchmark.contest import contest
from latune.cli.benchmark.hosttime import HostTime, is_gpu_bound, wall_us
from latune.cli.benchmark.peers import PEERS
from latune.cli.benchmark.stopwatch import Stopwatch
from latune.problem import Problem


class Machine:
    """A host and a GPU that work side by side, and their clock in seconds."""

    def __init__(self, host_us: float, gpu_us: float) -> None:
        self.host_s, self.gpu_s = host_us * 1e-6, gpu_us * 1e-6
        self.now, self.free = 0.0, 0.0
        self.calls, self.rows = 0, 0

    def call(self) -> None:
        self.calls += 1
        self.now += self.host_s
        self.free = max(self.free, self.now) + self.gpu_s

    def synchronise(self) -> None:
        self.rows += 1
        self.now = max(self.now, self.free)


@pytest.mark.parametrize(("host_us", "gpu_us", "bound"), [(100, 5, False), (9, 2, False), (100, 300, True), (100, 95, True)])
def test_a_call_takes_as_long_as_the_slower_of_the_two_and_which_it_is_is_known(host_us, gpu_us, bound):
    machine = Machine(host_us, gpu_us)
    found = wall_us(machine.call, machine.synchronise, clock=lambda: machine.now)
    assert found == pytest.approx(max(host_us, gpu_us), rel=0.01)
    assert is_gpu_bound(gpu_us, found) is bound


@pytest.mark.parametrize(("host_us", "row"), [(2, 2000), (1000, 99), (3e6, 1)])
def test_rows_are_long_but_bounded(host_us, row):
    machine = Machine(host_us, 1)
    wall_us(machine.call, machine.synchronise, clock=lambda: machine.now)
    assert machine.calls == 1 + 5 * row and machine.rows == 2 * 6


def test_one_slow_row_does_not_count():
    ticks = accumulate([0.0, *chain.from_iterable((row_s, 1.0) for row_s in (0.2, 0.2, 0.2, 50.0, 0.2, 0.2))])
    assert wall_us(lambda: None, lambda: None, clock=lambda: next(ticks)) == pytest.approx(2e5)


def test_units_are_multiples_of_the_machines_own_pace():
    assert HostTime(unit_us=9.5, wall_us=19.0).units == 2
    bound = HostTime(unit_us=9.5, wall_us=300.0, gpu_us=290.0, gpu_bound=True)
    assert bound.host_us is None and bound.units is None and bound.to_json()["wall_us"] == 300.0


def spin() -> None:
    """Keeps the host busy for 2 ms."""
    until = time.perf_counter() + 2e-3
    while time.perf_counter() < until:
        pass


@pytest.mark.gpu
def test_the_stopwatch_tells_host_from_gpu():
    """By calls in which one of the two is busy for so long that other processes on the GPU make no difference."""
    stopwatch = Stopwatch()
    unit_us = stopwatch.unit_us()
    a, b, c = (torch.zeros(1, device="cuda") for _ in range(3))
    small = stopwatch.host(lambda: (spin(), torch.add(a, b, out=c)), unit_us)
    assert not small.gpu_bound and 2000 < small.host_us < 20_000 and small.gpu_us < small.host_us / 2
    assert 0 < unit_us < small.host_us and small.units == small.host_us / unit_us
    # In cycles; some 0.1 s.
    large = stopwatch.host(lambda: torch.cuda._sleep(200_000_000), unit_us)
    assert large.gpu_bound and large.host_us is None and 0.5 < large.gpu_us / large.wall_us < 2


ASKING = """
import torch
from latune.cli.benchmark.stopwatch import Stopwatch

x = torch.zeros(1, device="cuda")
host = Stopwatch().host(lambda: x.item(), 10.0)
assert host.gpu_us is None and host.wall_us > 0, host
"""


@pytest.mark.gpu
def test_a_call_that_waits_for_the_gpu_cannot_be_captured_and_is_timed_all_the_same():
    """In a process of its own: a capture that fails may leave PyTorch's allocator and generator in disorder."""
    subprocess.run([sys.executable, "-c", ASKING], check=True)


@pytest.mark.gpu
def test_a_step_of_both_passes_can_be_captured():
    """Beside a graph that is kept, of other leaves; what the step itself leaves in a cycle does no harm."""
    value = torch.ones(64, 64, device="cuda")
    other, leaf = (value.clone().requires_grad_() for _ in range(2))
    kept = (other * other).sum()

    def step():
        loss = (leaf * leaf).sum()
        cycle = [loss]
        cycle.append(cycle)
        return torch.autograd.grad(loss, leaf)

    host = Stopwatch().host(step, 10.0)
    assert host.gpu_us is not None and host.gpu_us > 0 and kept.requires_grad


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["latune", "fla chunk_simple_gla"])
def test_a_peers_step_of_both_passes_has_a_time_of_the_gpu(name):
    shape = {"batch": 1, "num_heads": 4, "seqlen": 256, "head_dim_k": 64, "head_dim_v": 64}
    problem = Problem(direction="bwd", decay="constant", dtype="bf16", **shape)
    (peer,) = (peer for peer in PEERS if peer.name == name)
    if peer.version is None:
        pytest.skip(f"{peer.package} is not installed")
    (result,) = contest(problem, make_case(problem, torch.device("cuda")), Stopwatch(), peers=[peer], rounds=1)
    assert result.verdict == "ok" and result.host.gpu_us is not None and result.host.wall_us > 0, result
