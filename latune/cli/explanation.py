"""All that is known of what serves a problem: its entry, what that takes, the searches behind it and what it loses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from latune.cache.entry import Entry
from latune.cache.resolve import Resolution
from latune.cache.resources import Resources
from latune.cache.store import read_entries
from latune.cli.differences import config_changes, plan_changes
from latune.cli.regrets import RegretFile
from latune.cli.resolutions import resolution_json
from latune.gpu import Gpu
from latune.ops.dispatch import problem_options, resolve
from latune.problem import Problem
from latune.tuner.occupancy import programs_by_limit
from latune.tuner.regret import Regret
from latune.tuner.stored import StoredStudy, stored_studies

LISTED_TRIALS = 5
"""Of each search, the fastest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Occupancy:
    """How many programs of a kernel live on one SM at a time, and what keeps it from more."""

    kernel: Resources
    programs: int
    limits: tuple[str, ...]

    @classmethod
    def of(cls, kernel: Resources, gpu: Gpu) -> Occupancy:
        by_limit = programs_by_limit(kernel, gpu)
        programs = min(by_limit.values())
        return cls(kernel=kernel, programs=programs, limits=tuple(name for name, fit in by_limit.items() if fit == programs))

    def to_json(self) -> dict[str, object]:
        return {**asdict(self.kernel), "programs_per_sm": self.programs, "limited_by": list(self.limits)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """The searches that an entry came from, as far as this machine has them; there is at least one."""

    entry: Entry
    studies: tuple[StoredStudy, ...]

    def to_json(self) -> dict[str, object]:
        return {
            "problem": str(self.entry.problem),
            "evidence": self.entry.evidence,
            "studies": [_study_json(study) for study in self.studies],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownRegret:
    """What a problem lost that was served as this one is: by the same entry, for the same bucket."""

    evidence: str
    regret: Regret

    def to_json(self) -> dict[str, object]:
        return {"evidence": self.evidence, "share": self.regret.share, **self.regret.to_json()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What serves a problem, and why.

    Attributes:
        searched: of the entry that serves; else of another one of the problem's bucket, such as a static one; None: of none.
    """

    problem: Problem
    resolution: Resolution
    occupancies: tuple[Occupancy, ...]
    searched: Searched | None
    regrets: tuple[KnownRegret, ...]

    @property
    def share_of_roof(self) -> float | None:
        """Of the entry's time, the time that cannot be beaten; None without either."""
        entry = self.resolution.entry
        if entry is None or entry.roof_ms is None or entry.measurement.median_ms is None:
            return None
        return entry.roof_ms / entry.measurement.median_ms

    @property
    def regret_command(self) -> str | None:
        """What measures the regret; None of a problem with states, which `latune regret` does not take."""
        if self.problem.has_initial_state or self.problem.needs_final_state:
            return None
        return f"latune regret {problem_options(self.problem, self.resolution.gpu)}"

    def to_json(self) -> dict[str, object]:
        entry = self.resolution.entry
        alternates = () if entry is None else entry.alternates
        return {
            **resolution_json(self.problem, self.resolution),
            "share_of_roof": self.share_of_roof,
            "alternates": [{"plan": plan.to_json(), "changes": plan_changes(entry.plan, plan)} for plan in alternates],
            "occupancy": [occupancy.to_json() for occupancy in self.occupancies],
            "searched": None if self.searched is None else self.searched.to_json(),
            "regrets": [known.to_json() for known in self.regrets],
            "regret": self.regret_command,
        }


def explain(problem: Problem, gpu: Gpu, storage: str | None = None) -> Explanation:
    """Gathers what is known; nothing is compiled or run.

    Args:
        storage: where searches were kept; see ``tuner.storage.open_storage``.

    Raises:
        LatuneError: the storage, or a file of kept regrets, cannot be read.
    """
    resolution = resolve(problem, gpu)
    kernels = () if resolution.entry is None else resolution.entry.resources
    return Explanation(
        problem=problem,
        resolution=resolution,
        occupancies=tuple(Occupancy.of(kernel, gpu) for kernel in kernels),
        searched=next(_searched(problem, resolution, storage), None),
        regrets=tuple(_regrets(resolution)),
    )


def _searched(problem: Problem, resolution: Resolution, storage: str | None) -> Iterator[Searched]:
    serving = [] if resolution.entry is None else [resolution.entry]
    for entry in (*serving, *read_entries(resolution.gpu).get(problem.bucket(), ())):
        studies = stored_studies(entry.study, storage)
        if studies:
            yield Searched(entry=entry, studies=tuple(studies))


def _regrets(resolution: Resolution) -> Iterator[KnownRegret]:
    """Those of problems that were served for the same reason, which names bucket and entry."""
    for evidence in ("measured", "static"):
        for regret in RegretFile.kept(resolution.gpu, evidence).by_problem.values():
            if regret.served == resolution.why:
                yield KnownRegret(evidence=evidence, regret=regret)


def _study_json(study: StoredStudy) -> dict[str, object]:
    ranked = study.ranked
    return {
        "name": study.name,
        "kernel": study.kernel,
        "trials": len(study.trials),
        "correct": len(ranked),
        "fastest": [
            {
                "config": trial.config.to_json(),
                "changes": config_changes(ranked[0].config, trial.config),
                "measurement": trial.measurement.to_json(),
            }
            for trial in ranked[:LISTED_TRIALS]
        ],
        "importance": study.importance,
    }
