"""Which complete plans are raced, with costs of their kernels and of their arrangement in place of a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType

from composers import composer, kernels

from latune.measurement import Measurement
from latune.plan import Plan, Step
from latune.tuner.finalists import finalists


@dataclass
class Judge:
    """A ms for each step, and a little for each stage of the first.

    Attributes:
        chained_ms: added to a chained plan, by the number of stages of its first step.
        slow: the kernel whose plans take much longer than all others.
    """

    chained_ms: dict[int, float] = field(default_factory=dict)
    slow: str = ""
    ok: bool = True
    judged: list[Plan] = field(default_factory=list)
    prepared: list[Plan] = field(default_factory=list)

    def prepare(self, plans: Sequence[Plan]) -> None:
        self.prepared += plans

    def __call__(self, plan: Plan) -> Measurement:
        self.judged.append(plan)
        stages = plan.steps[0].config.num_stages
        cost_ms = len(plan.steps) + stages / 100 + 9 * (self.slow in kernels(plan))
        cost_ms += self.chained_ms.get(stages, 0.0) if plan.is_chained else 0.0
        return Measurement(outcome="ok", median_ms=cost_ms) if self.ok else Measurement(outcome="wrong_result", detail="off")


def chosen(judge: Judge, fake_builds: ModuleType, pinned: Sequence[Plan] = ()) -> list[Plan]:
    of_dq = [fake_builds.config(block_e=64, num_warps=4, num_stages=stages) for stages in (1, 3, 4)]
    return finalists(composer("bwd"), judge, {"dq": of_dq}, pinned)  # type: ignore[arg-type]


def test_a_runner_up_wins_by_another_arrangement(fake_builds: ModuleType) -> None:
    judge = Judge(chained_ms={1: 0.5, 2: 0.5, 3: -0.5, 4: 0.5})
    best = chosen(judge, fake_builds)[0]
    assert best.is_chained and best.steps[0].config.num_stages == 3 and len(best.steps) == 2
    assert judge.prepared == judge.judged and len(set(judge.judged)) == len(judge.judged)


def test_each_form_is_rearranged_however_slow(fake_builds: ModuleType) -> None:
    """No other is rearranged into one whose dk and dv come of one walk."""
    judge = Judge(slow="dkdv")
    chosen(judge, fake_builds)
    assert {kernels(plan) for plan in judge.judged if plan.is_chained} == {("dq", "dkdv"), ("dq", "dk", "dv"), ("dq", "dk_dv")}


def test_the_fastest_are_raced_with_the_default_and_what_is_pinned(fake_builds: ModuleType) -> None:
    backward, judge = composer("bwd"), Judge()
    (default,) = backward.compose({})
    slow = Plan(
        tuple(
            Step(kernel=name, config=fake_builds.config(block_e=64, num_warps=4, num_stages=4)) for name in ("dq", "dk", "dv")
        )
    )
    raced = chosen(judge, fake_builds, [slow])
    assert len(raced) == len(set(raced)) <= 14 and {default, slow} <= set(raced)
    times = {plan: judge(plan).median_ms for plan in tuple(judge.judged)}
    assert [times[plan] for plan in raced[:12]] == sorted(times.values())[:12]


def test_where_nothing_passes_the_default_is_left(fake_builds: ModuleType) -> None:
    assert chosen(Judge(ok=False), fake_builds) == composer("bwd").compose({})
