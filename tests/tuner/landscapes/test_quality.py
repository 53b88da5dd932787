"""What searches find on landscapes recorded on GPUs: latune's way within a seventh of the space, and better than by others."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from latune.plan import KERNELS
from latune.tuner.landscapes.file import read_landscape
from latune.tuner.landscapes.landscape import Landscape
from latune.tuner.landscapes.score import Score, score

FILES = sorted((Path(__file__).parents[2] / "data" / "landscapes").glob("*.jsonl.gz"))
SEEDS = range(20)
# Plain TPE is slow, and of streams proposes again and again what the space forbids, which takes it seconds.
SLOW_SEEDS, SLOWEST_SEEDS = range(5), range(2)
SHARE = 0.15


@pytest.fixture(scope="module", params=FILES, ids=lambda path: path.name.removesuffix(".jsonl.gz"))
def recorded(request: pytest.FixtureRequest) -> Landscape:
    return read_landscape(request.param)


def found(landscape: Landscape, strategy: str, seeds: range = SEEDS) -> Score:
    return score(landscape, strategy, trials=min(int(SHARE * len(landscape.points)), 100), seeds=seeds)


def test_there_are_landscapes() -> None:
    assert FILES


def test_a_search_finds_the_best_of_what_was_recorded(recorded: Landscape) -> None:
    ours = found(recorded, "latune")
    assert max(ours.trials) <= SHARE * ours.configs
    assert ours.median >= 0.98 and ours.worst >= 0.95 and ours.tied >= 0.95, ours
    slow = KERNELS[recorded.kernel].space == "stream"
    for other in (found(recorded, "tpe", SLOWEST_SEEDS if slow else SLOW_SEEDS), found(recorded, "random")):
        assert statistics.mean(ours.shares) > statistics.mean(other.shares), other
