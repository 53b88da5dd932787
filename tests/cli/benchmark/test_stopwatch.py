"""What the stopwatch makes of calls on a GPU: of both passes, and of what no graph can hold."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from latune.cli.benchmark.stopwatch import Stopwatch
from latune.tuner.timing import median, roof_ms

pytestmark = pytest.mark.gpu

ELEMENTS = 64 * 2**20


@pytest.fixture(scope="module")
def stopwatch() -> Stopwatch:
    return Stopwatch()


def _doubling() -> Callable[[], object]:
    x = torch.ones(ELEMENTS, device="cuda")
    return lambda: 2 * x


def _its_gradient() -> Callable[[], object]:
    x = torch.ones(ELEMENTS, device="cuda", requires_grad=True)
    y, dy = 2 * x, torch.ones(ELEMENTS, device="cuda")
    return lambda: torch.autograd.grad(y, x, dy, retain_graph=True)


def _one_that_waits() -> Callable[[], object]:
    double = _doubling()

    def call() -> Tensor:
        o = double()
        torch.cuda.synchronize()
        return o

    return call


@pytest.mark.parametrize(("make", "replayed"), [(_doubling, True), (_its_gradient, True), (_one_that_waits, False)])
def test_a_sample_is_the_gpus_time_of_one_call(stopwatch: Stopwatch, make: Callable, replayed: bool) -> None:
    with stopwatch.stream():
        timer = stopwatch.timer([make() for _ in range(3)])
        times_ms = timer.sample(7)
    assert (timer.replayed, timer.calls) == ((True, 3) if replayed else (False, 1))
    expected_ms = roof_ms(8 * ELEMENTS, stopwatch.copy_gbps)
    assert len(times_ms) == 7 and 0.7 * expected_ms < median(times_ms) < 2 * expected_ms


def test_after_one_that_cannot_be_captured_others_are(stopwatch: Stopwatch) -> None:
    with stopwatch.stream():
        timers = [stopwatch.timer([make()]) for make in (_one_that_waits, _its_gradient)]
        host = stopwatch.host(_doubling(), stopwatch.unit_us())
    assert [timer.replayed for timer in timers] == [False, True]
    assert host.gpu_us is not None and host.gpu_bound
