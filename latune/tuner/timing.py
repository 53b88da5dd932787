"""How long a call takes, from samples wherever they come from: medians, intervals, when to stop."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Sample = Callable[[int], list[float]]
"""Draws that many samples, each the time of one call in ms."""

TIE = 1.01
"""Times whose ratio is no more than this are as good as each other."""

# Six is the fewest whose extremes are a 95% interval of the median.
RACE_SAMPLES = 6
_BATCH_SAMPLES = 64
# Streams that mostly read pass a copy's bandwidth by a few per cent.
_ROOF_SLACK = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """A median with the 95% confidence interval it was measured to.

    Attributes:
        gave_up: sampling stopped after the race, because the candidate was too slow to matter.
    """

    median_ms: float
    ci_low_ms: float
    ci_high_ms: float
    samples: int
    gave_up: bool = False


def median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """A 95% confidence interval of the median, by order statistics, so whatever the distribution.

    The k-th smallest and k-th largest of n values enclose the median unless fewer than k of them fall on one side
    of it, which a fair coin decides. Fewer than six values cannot reach 95%: their extremes are returned.
    """
    ordered, rank = sorted(values), 0
    tail, limit = 1, 2 ** len(values) / 40
    while tail <= limit:
        rank += 1
        tail += math.comb(len(values), rank)
    rank = max(rank, 1)
    return ordered[rank - 1], ordered[-rank]


def summarise(times_ms: Sequence[float], *, gave_up: bool = False) -> Timing:
    low, high = median_interval(times_ms)
    return Timing(median_ms=median(times_ms), ci_low_ms=low, ci_high_ms=high, samples=len(times_ms), gave_up=gave_up)


def measure(
    sample: Sample,
    *,
    give_up_above_ms: float | None = None,
    precision: float = 0.005,
    max_s: float = 1.0,
    max_samples: int = 1000,
    clock: Callable[[], float] = time.monotonic,
) -> Timing:
    """Samples until the median is known well enough, or is known to be hopeless.

    Args:
        give_up_above_ms: stop after the first few samples when their median is above this (twice the incumbent's).
        precision: stop when the 95% interval lies within this share of the median, on either side.
        max_s: seconds after which no further batch is begun.
        max_samples: the most samples drawn.
    """
    deadline = clock() + max_s
    times_ms = sample(RACE_SAMPLES)
    if give_up_above_ms is not None and median(times_ms) > give_up_above_ms:
        return summarise(times_ms, gave_up=True)
    while not _settled(times_ms, precision) and len(times_ms) < max_samples and clock() < deadline:
        times_ms = times_ms + sample(min(len(times_ms), _BATCH_SAMPLES, max_samples - len(times_ms)))
    return summarise(times_ms)


def _settled(times_ms: Sequence[float], precision: float) -> bool:
    low, high = median_interval(times_ms)
    return high - low <= 2 * precision * median(times_ms)


def interleave(arms: Sequence[Sample], *, rounds: int, seed: int, samples: int = 3) -> list[list[list[float]]]:
    """Samples every arm once a round, each round in its own random order, so that drift hits all alike.

    Returns:
        For each arm, for each round, its samples in ms.
    """
    order, shuffler = list(range(len(arms))), random.Random(seed)
    drawn: list[list[list[float]]] = [[] for _ in arms]
    for _ in range(rounds):
        shuffler.shuffle(order)
        for arm in order:
            drawn[arm].append(arms[arm](samples))
    return drawn


def paired_ratio(rounds_ms: Sequence[float], baseline_ms: Sequence[float]) -> tuple[float, float, float]:
    """How many times as long an arm takes as another of the same race: (median ratio, low, high at 95%).

    Args:
        rounds_ms: the arm's median of each round.
        baseline_ms: the other arm's, of the same rounds.
    """
    ratios = [time_ms / other_ms for time_ms, other_ms in zip(rounds_ms, baseline_ms, strict=True)]
    return median(ratios), *median_interval(ratios)


def faster_than_physics(median_ms: float, compulsory_bytes: int, copy_gbps: float) -> bool:
    """Whether the call moved its compulsory bytes faster than the device can copy: then it skipped work."""
    return is_under_roof(median_ms, roof_ms(compulsory_bytes, copy_gbps))


def is_under_roof(median_ms: float, roof_ms: float) -> bool:
    return median_ms < _ROOF_SLACK * roof_ms


def roof_ms(compulsory_bytes: int, copy_gbps: float) -> float:
    return compulsory_bytes / copy_gbps * 1e-6
