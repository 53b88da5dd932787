"""Medians, their intervals, and when sampling stops; samples come from lists, not from a GPU."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import count

import pytest

from latune.tuner import timing


def sampler(draw: Callable[[], float], batches: list[int] | None = None) -> timing.Sample:
    """Samples drawn one by one; notes the size of each batch."""

    def sample(number: int) -> list[float]:
        if batches is not None:
            batches.append(number)
        return [draw() for _ in range(number)]

    return sample


def noisy(seed: int, centre: float = 1.0, spread: float = 0.1) -> Callable[[], float]:
    source = random.Random(seed)
    return lambda: source.gauss(centre, spread)


def test_median() -> None:
    assert timing.median([3.0, 1.0, 2.0]) == 2.0
    assert timing.median([4.0, 1.0, 2.0, 3.0]) == 2.5


@pytest.mark.parametrize(
    ("number", "rank"),
    # Ranks k of the 95% interval (x_k, x_{n+1-k}) in the tables of the sign test.
    [(1, 1), (5, 1), (6, 1), (8, 1), (9, 2), (10, 2), (20, 6), (25, 8), (50, 18), (100, 40)],
)
def test_interval_takes_the_ranks_of_the_sign_test(number: int, rank: int) -> None:
    values = [float(value) for value in range(1, number + 1)]
    random.Random(0).shuffle(values)
    assert timing.median_interval(values) == (rank, number + 1 - rank)


def test_interval_covers_the_median_of_a_skewed_distribution() -> None:
    source, trials, inside = random.Random(0), 2000, 0
    for _ in range(trials):
        low, high = timing.median_interval([source.expovariate(0.6931471805599453) for _ in range(30)])
        inside += low <= 1.0 <= high
    assert 0.95 <= inside / trials <= 0.98


def test_measure_stops_at_once_when_samples_agree() -> None:
    batches: list[int] = []
    result = timing.measure(sampler(lambda: 2.0, batches))
    assert batches == [timing.RACE_SAMPLES]
    assert (result.median_ms, result.ci_low_ms, result.ci_high_ms, result.samples) == (2.0, 2.0, 2.0, timing.RACE_SAMPLES)


def test_measure_samples_until_the_median_is_known() -> None:
    result = timing.measure(sampler(noisy(1, spread=0.02)), max_samples=100_000, clock=lambda: 0.0)
    assert result.ci_low_ms <= result.median_ms <= result.ci_high_ms
    assert result.ci_high_ms - result.ci_low_ms <= 0.01 * result.median_ms
    assert timing.RACE_SAMPLES < result.samples < 1000


def test_measure_gives_up_only_above_the_bound() -> None:
    slow = timing.measure(sampler(noisy(2, centre=3.0)), give_up_above_ms=2.0)
    assert (slow.gave_up, slow.samples) == (True, timing.RACE_SAMPLES)
    near = timing.measure(sampler(noisy(2, centre=1.5)), give_up_above_ms=2.0)
    assert not near.gave_up
    assert near.samples > timing.RACE_SAMPLES


def test_measure_stops_at_the_sample_cap_exactly() -> None:
    batches: list[int] = []
    result = timing.measure(sampler(noisy(3), batches), precision=0.0, max_samples=100, clock=lambda: 0.0)
    assert result.samples == sum(batches) == 100


def test_measure_stops_at_the_time_cap() -> None:
    ticks: Iterator[int] = count()
    batches: list[int] = []
    timing.measure(sampler(noisy(4), batches), precision=0.0, max_s=3, max_samples=10**9, clock=lambda: float(next(ticks)))
    assert len(batches) == 3  # the clock reads 0 at the start, then 1, 2, 3 before each further batch


def test_interleave_meets_every_arm_once_a_round_in_changing_order() -> None:
    calls: list[int] = []

    def arm(index: int) -> timing.Sample:
        def sample(number: int) -> list[float]:
            calls.append(index)
            return [float(index)] * number

        return sample

    drawn = timing.interleave([arm(index) for index in range(3)], rounds=8, seed=0, samples=2)
    assert drawn == [[[float(index)] * 2] * 8 for index in range(3)]
    orders = [tuple(calls[start : start + 3]) for start in range(0, 24, 3)]
    assert all(sorted(order) == [0, 1, 2] for order in orders)
    assert len(set(orders)) > 1


def test_paired_ratio_sees_through_common_drift() -> None:
    drift = [1.0 + 0.1 * step for step in range(20)]
    noise = random.Random(0)
    baseline = [value * noise.uniform(0.999, 1.001) for value in drift]
    slower = [1.01 * value * noise.uniform(0.999, 1.001) for value in drift]
    ratio, low, high = timing.paired_ratio(slower, baseline)
    assert 1.0 < low <= ratio <= high < 1.02


def test_faster_than_physics() -> None:
    # 4.27 GB at 4270 GB/s take one millisecond.
    assert timing.roof_ms(4_270_000_000, 4270.0) == pytest.approx(1.0)
    assert timing.faster_than_physics(0.5, 4_270_000_000, 4270.0)
    assert not timing.faster_than_physics(0.97, 4_270_000_000, 4270.0)
    assert not timing.faster_than_physics(1.2, 4_270_000_000, 4270.0)
