"""An evaluator that answers from a landscape: the recorded times, with the recorded noise."""

from __future__ import annotations

import statistics
from dataclasses import replace

import pytest

from latune.plan import Plan, Step
from latune.tuner.landscapes.recorded import RecordedEvaluator


def plan_of(point):
    return Plan((Step(kernel="o", config=point.config),))


def times_of(landscape, point, *, seed=0, count=200):
    evaluate = RecordedEvaluator(landscape, seed=seed)
    return [evaluate(plan_of(point)).median_ms for _ in range(count)]


def test_times_scatter_as_they_were_recorded_to(landscape):
    fast = next(point for point in landscape.points if point.raced_ms)
    slow = next(point for point in landscape.points if point.measurement.ok and not point.raced_ms)
    for point in (fast, slow):
        alone = times_of(landscape, point)
        assert 0.001 < statistics.pstdev(alone) / point.time_ms < 0.012
        assert statistics.median(alone) == pytest.approx(point.time_ms, rel=0.01)
        evaluate = RecordedEvaluator(landscape)
        raced = [evaluate.race([plan_of(point)])[0].median_ms for _ in range(200)]
        assert 0 < statistics.pstdev(raced) / point.time_ms < 0.002


def test_a_config_has_its_own_scatter(landscape):
    """What takes another time in each process is a choice of its own, and no doubt about others."""
    first, second = [point for point in landscape.points if point.raced_ms][:2]
    raced_ms = tuple(second.time_ms * share for share in (0.9, 1.0, 1.2))
    unsteady = replace(second, raced_ms=raced_ms)
    points = tuple(unsteady if point is second else point for point in landscape.points)
    landscape = replace(landscape, points=points)
    assert set(times_of(landscape, unsteady)) == {unsteady.measurement.median_ms, *raced_ms}
    assert set(times_of(landscape, first)) == {first.measurement.median_ms, *first.raced_ms}
    evaluate = RecordedEvaluator(landscape)
    races = [evaluate.race([plan_of(first), plan_of(unsteady)]) for _ in range(100)]
    for drawn, point in zip(zip(*races, strict=True), (first, unsteady), strict=True):
        assert {measurement.median_ms for measurement in drawn} == set(point.raced_ms)


def test_the_same_seed_draws_the_same_whatever_comes_in_between(landscape):
    first, second = [point for point in landscape.points if point.raced_ms][:2]
    alone = times_of(landscape, first, count=3)
    mixed = RecordedEvaluator(landscape)
    found = []
    for _ in range(3):
        mixed(plan_of(second))
        mixed.race([plan_of(first), plan_of(second)])
        found.append(mixed(plan_of(first)).median_ms)
    assert found == alone and len(set(times_of(landscape, first, count=50))) > 1
    assert times_of(landscape, first, seed=1, count=9) != times_of(landscape, first, count=9)


def test_what_failed_fails_again(landscape):
    failed = [point for point in landscape.points if not point.measurement.ok]
    evaluate = RecordedEvaluator(landscape)
    assert failed and {evaluate(plan_of(point)).outcome for point in failed} == {"out_of_resources"}
    assert [measurement.ok for measurement in evaluate.race([plan_of(failed[0])])] == [False]


def test_shares_are_of_the_best(landscape):
    shares = {point.config: landscape.share_of_best(point.config) for point in landscape.points}
    assert max(shares.values()) == 1 and min(shares.values()) == 0
    tied = {config for config in shares if landscape.in_tie(config)}
    assert tied == {config for config, share in shares.items() if share >= 1 / 1.01}
