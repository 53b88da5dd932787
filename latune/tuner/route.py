"""Which configs a search evaluates, and after which results.

A space of no more configs than trials is enumerated. Of a larger one, the starting points come first (the space's
default, then what the caller knows), then what TPE proposes, and last a polish: the untried neighbours of the best
three, of which the best three may then be others. A search with patience comes to its polish as soon as so many trials
have brought nothing, and ends when that has brought nothing either. What comes next depends on the seed, on the number of
trials and on what has been evaluated, on nothing else, so that a search killed and resumed ends where an uninterrupted one
does. One that goes on with more trials than it had has larger batches from there on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice

from latune.config import Config
from latune.tuner.grid import Grid
from latune.tuner.study import Trial, propose
from latune.tuner.timing import TIE

# Of the trials, for the polish.
_POLISH_SHARE = 0.25
_POLISHED = 3
# Configs are chosen a batch at a time, for compilers to work beside one another. So many batches leave enough to learn
# from; the number of compilers has no say, so that a seed chooses the same configs on every machine.
_BATCHES = 8
_SEED_STRIDE = 100_003
# NumPy's generators take seeds of 32 bits.
_SEEDS = 2**32


def rank(trials: Sequence[Trial]) -> tuple[Trial, ...]:
    """The correct ones, fastest first."""
    ok = [trial for trial in trials if trial.measurement.ok]
    return tuple(sorted(ok, key=lambda trial: (_median_ms(trial), trial.config)))


def _median_ms(trial: Trial) -> float:
    assert trial.measurement.median_ms is not None, "an ok measurement has a median"
    return trial.measurement.median_ms


def _batch_of(trials: int) -> int:
    return max(trials // _BATCHES, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A function of these fields and of the results so far alone.

    A batch is chosen while the one before it is evaluated, from the results of those before that: so it can be compiled
    meanwhile.

    Attributes:
        starts: tried first; those that are not in the grid are passed over.
        batch: how many configs are chosen at once.
        patience: after the starts, so many trials in a row that improve the best by no more than a tie bring the polish, and
            end the search where nothing is left of that; None: neither before its time.
    """

    grid: Grid
    starts: tuple[Config, ...]
    trials: int
    seed: int
    batch: int
    patience: int | None = None
    # A batch is asked for while the one before it is evaluated, and again when its turn has come.
    _chosen: dict[tuple[object, ...], list[Config]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def of(
        cls,
        grid: Grid,
        *,
        trials: int,
        seed: int,
        starts: Sequence[Config] = (),
        batch: int | None = None,
        patience: int | None = None,
    ) -> Route:
        """From the default of the grid's space, what is known besides, and what the space's file says has won somewhere.

        Args:
            batch: None: what so many trials leave enough batches of.

        Raises:
            SpaceError: the space has no config for this case.
        """
        every = (grid.default, *starts, *grid.starts)
        return cls(grid=grid, starts=every, trials=trials, seed=seed, batch=batch or _batch_of(trials), patience=patience)

    @property
    def total(self) -> int:
        return min(self.trials, len(self.grid.configs))

    def following(self, trials: Sequence[Trial]) -> dict[Config, int]:
        """The untried rest of the batch that these trials have reached, with their places; empty at the end of the route.

        Args:
            trials: in the route's order.
        """
        number = len(trials) // self.batch
        begun = number * self.batch
        first = trials[begun - 1].place + 1 if begun else 0
        tried = {trial.config for trial in trials}
        batch = enumerate(self._batch(number, trials), start=first)
        rest = [(config, place) for place, config in batch if config not in tried]
        return dict(rest[: max(self.total - len(trials), 0)])

    def ahead(self, trials: Sequence[Trial]) -> list[Config]:
        """The batch after the one that these trials have reached."""
        return self._batch(len(trials) // self.batch + 1, trials)

    def is_settled(self, trials: Sequence[Trial]) -> bool:
        """Whether the last of them, as many as there is patience, have brought nothing to speak of."""
        if self.patience is None or len(self.grid.configs) <= self.trials:
            return False
        starts = {config for config in self.starts if config in self.grid}
        before, best = (rank(part)[:1] for part in (trials[: -self.patience], trials))
        if len(trials) < len(starts) + self.patience or not before:
            return False
        return _median_ms(before[0]) <= TIE * _median_ms(best[0])

    def _batch(self, number: int, trials: Sequence[Trial]) -> list[Config]:
        """Of that number, counted from 0, after the trials of all batches before the last one before it."""
        begun = number * self.batch
        known = trials[: max(begun - self.batch, 0)]
        pending: list[Config] = []
        if number:
            done = [trial.config for trial in trials[len(known) : begun]]
            pending = done if len(done) == self.batch else self._batch(number - 1, trials)
        size = max(min(self.batch, self.total - begun), 0)
        chosen = self._choose(known, pending, size)
        if not chosen and number and len(trials) >= begun:
            # What was settled when the last batch was chosen, that may have unsettled, or changed the best three.
            return self._choose(trials[:begun], [], size)
        return chosen

    def _choose(self, trials: Sequence[Trial], pending: Sequence[Config], size: int) -> list[Config]:
        key = (*trials, *pending, size)
        if key not in self._chosen:
            self._chosen[key] = list(islice(self._untried(trials, pending), size))
        return self._chosen[key]

    def _untried(self, trials: Sequence[Trial], pending: Sequence[Config]) -> Iterator[Config]:
        seen = {*(trial.config for trial in trials), *pending}
        for config in chain(self.starts, self._searched(trials, pending)):
            if config in self.grid and config not in seen:
                seen.add(config)
                yield config

    def _searched(self, trials: Sequence[Trial], pending: Sequence[Config]) -> Iterator[Config]:
        """After these trials, while what is pending is evaluated."""
        if len(self.grid.configs) <= self.trials:
            yield from self.grid.configs
            return
        chosen = len(trials) + len(pending)
        is_settled = self.is_settled(trials)
        if is_settled or chosen + self.batch > self.trials * (1 - _POLISH_SHARE):
            around = [config for trial in rank(trials)[:_POLISHED] for config in self.grid.neighbours(trial.config)]
            yield from around
            if is_settled and {*(trial.config for trial in trials), *pending}.issuperset(around):
                return
        # A seed of its own for each batch: what is proposed does not depend on how often the search was resumed.
        yield from propose(self.grid, trials, pending, seed=(self.seed * _SEED_STRIDE + chosen) % _SEEDS)
