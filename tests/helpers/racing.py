"""Races of entries' plans that no GPU has run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from entries import MEASURED_WITH

from latune.gpu import Gpu
from latune.measurement import Measurement
from latune.plan import Plan
from latune.tuner.jobs import Arm

Answer = float | tuple[float, ...] | str
"""What becomes of a plan: the time of all its rounds in ms, those of each, or another outcome than ok."""


@dataclass
class Racing:
    """Answers races with what is told, the last answer again and again; notes how many plans ran, and whether afresh."""

    gpu: Gpu
    answers: list[list[Answer]]
    races: list[tuple[int, bool]] = field(default_factory=list)

    @property
    def toolchain(self) -> dict[str, str | None]:
        return dict(MEASURED_WITH)

    def race_arms(self, plans: Sequence[Plan], *, fresh: bool = False, timeout_s: float) -> list[Arm]:
        self.races.append((len(plans), fresh))
        answers = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [_arm(answer) for answer in answers[: len(plans)]]


def _arm(answer: Answer) -> Arm:
    if isinstance(answer, str):
        return Arm(measurement=Measurement(outcome=answer, detail="as told"))
    rounds_ms = answer if isinstance(answer, tuple) else (answer,) * 10
    return Arm(measurement=Measurement(outcome="ok", median_ms=rounds_ms[0], samples=10), rounds_ms=rounds_ms)
