"""How sure a race is of its winner."""

from __future__ import annotations

import math
import random

import pytest

from latune.measurement import Measurement
from latune.tuner.ties import certainty


def measured(median_ms: float, spread: float = 0.0) -> Measurement:
    """With a 95% interval of ``spread`` of the median to either side."""
    low, high = median_ms * math.exp(-spread), median_ms * math.exp(spread)
    return Measurement(outcome="ok", median_ms=median_ms, ci_low_ms=low, ci_high_ms=high, samples=60)


def test_a_lone_winner_is_sure() -> None:
    assert certainty(measured(1.0, 0.5), []) == 1.0


@pytest.mark.parametrize(("rival_ms", "expected"), [(0.98, 0.0), (1 / 1.01 + 1e-6, 1.0), (2.0, 1.0)])
def test_without_noise_it_is_one_or_the_other(rival_ms: float, expected: float) -> None:
    assert certainty(measured(1.0), [measured(rival_ms)]) == expected


def test_noise_leaves_a_doubt() -> None:
    """Of a rival exactly a tie ahead, half; of one as fast, little; the wider the intervals, the more."""
    assert certainty(measured(1.01, 0.004), [measured(1.0, 0.004)]) == pytest.approx(0.5)
    narrow, wide = (certainty(measured(1.0, spread), [measured(1.0, spread)]) for spread in (0.005, 0.02))
    assert 0.99 < narrow < 1
    assert 0.5 < wide < narrow


def test_every_rival_counts() -> None:
    one = certainty(measured(1.0, 0.01), [measured(1.0, 0.01)])
    assert certainty(measured(1.0, 0.01), [measured(1.0, 0.01)] * 3) == pytest.approx(1 - 3 * (1 - one))
    assert certainty(measured(1.01, 0.01), [measured(1.0, 0.01)] * 3) == 0.0


def test_it_is_no_more_than_the_share_of_cases_in_which_it_holds() -> None:
    """Medians drawn around true times: how often the winner's true time is within a tie of the best one's."""
    draw, spread = random.Random(0), 0.01
    right, claimed = [], []
    for _ in range(2000):
        true_ms = [math.exp(draw.gauss(0, 0.015)) for _ in range(4)]
        seen = [measured(time_ms * math.exp(draw.gauss(0, spread / 1.96)), spread) for time_ms in true_ms]
        winner = min(range(4), key=lambda index: seen[index].median_ms or 0)
        claimed.append(certainty(seen[winner], [other for index, other in enumerate(seen) if index != winner]))
        right.append(true_ms[winner] <= 1.01 * min(true_ms))
    assert 0.8 < sum(claimed) / 2000 <= sum(right) / 2000 + 0.01
