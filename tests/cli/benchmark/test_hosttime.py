from __future__ import annotations

from itertools import accumulate, chain

import pytest
import torch

from latune.cli.benchmark.hosttime import HostTime, is_gpu_bound, wall_us
from latune.cli.benchmark.stopwatch import Stopwatch


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


@pytest.mark.gpu
def test_the_stopwatch_tells_host_from_gpu():
    stopwatch = Stopwatch()
    unit_us = stopwatch.unit_us()
    a, b, c = (torch.zeros(1, device="cuda") for _ in range(3))
    small = stopwatch.host(lambda: torch.add(a, b, out=c), unit_us)
    assert not small.gpu_bound and small.gpu_us < small.host_us and 0.5 < small.units < 2
    wide = torch.zeros(2**28, device="cuda")
    large = stopwatch.host(lambda: wide.add_(1), unit_us)
    assert large.gpu_bound and large.host_us is None and 0.5 < large.gpu_us / large.wall_us < 2
    asking = stopwatch.host(lambda: a.item(), unit_us)
    assert asking.gpu_us is None and asking.wall_us > 0


@pytest.mark.gpu
def test_a_step_of_both_passes_can_be_captured():
    leaf = torch.ones(64, 64, device="cuda", requires_grad=True)
    kept = (leaf * leaf).sum()
    host = Stopwatch().host(lambda: torch.autograd.grad((leaf * leaf).sum(), leaf), 10.0)
    assert host.gpu_us is not None and kept.requires_grad
