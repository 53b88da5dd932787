"""Studies that earlier searches have left: their trials, and which parameters tell the fast ones from the others."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState

from latune.tuner.route import rank
from latune.tuner.storage import open_storage, storage_errors, study_names
from latune.tuner.study import Trial, trials_of

FEWEST_TRIALS = 50
"""Correct ones, for the importance of parameters: PED-ANOVA looks at the best tenth, in which Optuna advises five at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredStudy:
    """The search of one kernel.

    Attributes:
        name: Optuna's.
        trials: every evaluation, in order.
        importance: of each parameter, as a share of all, by PED-ANOVA: how much its values among the best tenth of the
            correct trials differ from those among all; the largest first. None of fewer than ``FEWEST_TRIALS``. A trial
            counts with a parameter's first value where that does not apply to it.
    """

    name: str
    kernel: str
    trials: tuple[Trial, ...]
    importance: Mapping[str, float] | None

    @property
    def ranked(self) -> tuple[Trial, ...]:
        """The correct ones, fastest first."""
        return rank(self.trials)


def stored_studies(problem_study: str, storage: str | None = None) -> list[StoredStudy]:
    """The searches of a problem's kernels, by their names; none where the storage has none of them.

    Args:
        problem_study: as ``podium.study_name`` and entries have it.
        storage: see ``storage.open_storage``.

    Raises:
        StudyError: the storage cannot be read.
    """
    prefix = f"{problem_study}-"
    found = []
    with storage_errors(storage):
        for name in study_names(storage, prefix):
            opened = open_storage(storage, name)
            # A damaged journal was set aside on opening it.
            if name in optuna.get_all_study_names(opened):
                study = optuna.load_study(study_name=name, storage=opened)
                kernel, _, _ = name.removeprefix(prefix).rpartition("-")
                found.append(_stored(study, kernel))
    return found


def _stored(study: optuna.Study, kernel: str) -> StoredStudy:
    trials = tuple(trials_of(study))
    return StoredStudy(name=study.study_name, kernel=kernel, trials=trials, importance=_importance(study))


def _importance(study: optuna.Study) -> dict[str, float] | None:
    if len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) < FEWEST_TRIALS:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        evaluator = PedAnovaImportanceEvaluator()
    return get_param_importances(study, evaluator=evaluator)
