"""Times that are as good as each other, and how sure a race is of its winner."""

from __future__ import annotations

import math
from collections.abc import Sequence

from latune.measurement import Measurement
from latune.plan import Plan
from latune.tuner.timing import TIE

Raced = Sequence[tuple[Plan, Measurement]]

# Standard deviations from the middle of a normal distribution to the ends of its 95% interval.
_INTERVAL_SIGMAS = 1.96


def median_ms(pair: tuple[Plan, Measurement]) -> float:
    assert pair[1].median_ms is not None, "an ok measurement has a median"
    return pair[1].median_ms


def within_a_tie(ranked: Raced, tie: float = TIE) -> list[tuple[Plan, Measurement]]:
    """The plans that tie with the first, the fastest of all."""
    return [pair for pair in ranked if median_ms(pair) <= tie * median_ms(ranked[0])]


def certainty(winner: Measurement, rivals: Sequence[Measurement]) -> float:
    """The probability, at least, that none of the rivals is faster than the winner by more than a tie.

    Logarithms of medians are taken to be normal, as wide as their 95% intervals say. Times of one race rise and fall
    together, which makes differences smaller than that; and what each rival leaves in doubt is added up (Bonferroni).
    """
    return max(1.0 - sum(_faster(rival, winner) for rival in rivals), 0.0)


def _faster(rival: Measurement, winner: Measurement) -> float:
    """The probability that the rival is faster by more than a tie."""
    assert rival.median_ms is not None and winner.median_ms is not None, "an ok measurement has a median"
    ahead = math.log(winner.median_ms / rival.median_ms) - math.log(TIE)
    sigma = math.hypot(_sigma(rival), _sigma(winner))
    return 0.5 * math.erfc(-ahead / (sigma * math.sqrt(2))) if sigma else float(ahead > 0)


def _sigma(measurement: Measurement) -> float:
    """Of the logarithm of the median; zero where there is no interval."""
    low, high = measurement.ci_low_ms, measurement.ci_high_ms
    return math.log(high / low) / (2 * _INTERVAL_SIGMAS) if low and high else 0.0
