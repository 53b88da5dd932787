"""How well a strategy searches a landscape, over many seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from latune.config import Config
from latune.tuner.landscapes.landscape import Landscape
from latune.tuner.landscapes.recorded import RecordedEvaluator
from latune.tuner.landscapes.strategies import STRATEGIES, chosen


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A strategy on a landscape.

    Attributes:
        configs: of the landscape.
        trials: for each seed, how many it took.
        shares: for each seed, the best config's time over that of the chosen one; 0 where none was found.
        ties: seeds whose chosen config is within a tie of the best.
    """

    landscape: str
    strategy: str
    configs: int
    trials: tuple[int, ...]
    shares: tuple[float, ...]
    ties: int

    @property
    def median(self) -> float:
        return statistics.median(self.shares)

    @property
    def worst(self) -> float:
        return min(self.shares)

    @property
    def tied(self) -> float:
        """Of the seeds, those that chose as good as the best."""
        return self.ties / len(self.shares)

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "median": self.median, "worst": self.worst}


def score(landscape: Landscape, strategy: str, *, trials: int, seeds: Sequence[int]) -> Score:
    """Searches the landscape once for each seed, which is the noise's seed too, with so many trials at most."""
    made: list[int] = []
    picked: list[Config | None] = []
    for seed in seeds:
        evaluate = RecordedEvaluator(landscape, seed=seed)
        found = STRATEGIES[strategy](landscape.grid, evaluate, trials, seed)
        made.append(len(found))
        picked.append(chosen(landscape, found, evaluate))
    return Score(
        landscape=str(landscape),
        strategy=strategy,
        configs=len(landscape.points),
        trials=tuple(made),
        shares=tuple(0.0 if config is None else landscape.share_of_best(config) for config in picked),
        ties=sum(config is not None and landscape.in_tie(config) for config in picked),
    )
