"""Whether entries hold: by races of fake candidates in a real process, and by races that are made up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import pytest
from entries import MEASURED_WITH, valid_entry
from racing import Answer, Racing

from latune.cache.entry import Entry
from latune.cache.resolve import default_plan
from latune.codegen.render import Source
from latune.errors import WorkerError
from latune.gpu import Gpu, find_gpu
from latune.plan import Plan
from latune.problem import Problem
from latune.tuner import doctor, evaluators
from latune.tuner.doctor import Finding, Unchecked, check_up, examine, in_turns
from latune.tuner.evaluators import MeasuredEvaluator
from latune.tuner.worker import Worker

GPU = find_gpu("h200")
PROBLEM = Problem(
    direction="fwd", decay="constant", dtype="bf16", batch=4, num_heads=32, seqlen=2048, head_dim_k=128, head_dim_v=128
)
DEFAULT = default_plan(PROBLEM, GPU)


@pytest.fixture
def plans(fake_builds: ModuleType) -> list[Plan]:
    """The winner of an entry, and its two alternates."""
    return [fake_builds.one("o", fake_builds.config(num_warps=warps)) for warps in (8, 4, 2)]


@pytest.fixture
def entry(plans: list[Plan]) -> Entry:
    return valid_entry(PROBLEM, plans[0], alternates=tuple(plans[1:]))


class Builds:
    """Builds that no compiler made."""

    def __init__(self, fake_builds: ModuleType) -> None:
        self._build = fake_builds.build

    def prepare(self, problem: Problem, plans: Sequence[Plan], gpu: Gpu, *, urgent: bool = True) -> None:
        pass

    def __call__(self, problem: Problem, plan: Plan, gpu: Gpu) -> object:
        return self._build(problem, plan, gpu)


Examine = Callable[..., Finding]


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent)
        with Worker(runner="fake_runners:start_racing") as worker:
            yield worker


@pytest.fixture
def examined(
    worker: Worker, entry: Entry, plans: list[Plan], fake_builds: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> Examine:
    """Examines the entry; given what its winner, its alternates and the default do, as ``fake_runners.start_racing`` has it."""

    def examine_with(*fates: str) -> Finding:
        texts = dict(zip([*plans, DEFAULT], fates, strict=True))
        monkeypatch.setattr(evaluators, "render", lambda problem, plan: Source(text=texts[plan], sha256=plan.digest))
        return examine(entry, MeasuredEvaluator(PROBLEM, GPU, Builds(fake_builds), worker))  # type: ignore[arg-type]

    return examine_with


def test_an_entry_whose_winner_is_the_fastest_holds(examined: Examine) -> None:
    finding = examined("1.0", "1.1", "1.05", "2.0")
    assert (finding.verdict, finding.holds, finding.winner_ms, finding.detail) == ("holds", True, 1.0, "")
    assert finding.rival is not None and finding.rival.name == "alternate 2"
    assert finding.rival.ratio == pytest.approx(1 / 1.05)


def test_an_entry_that_an_alternate_beats_beyond_noise_is_beaten(examined: Examine, plans: list[Plan]) -> None:
    finding = examined("1.0 1.01", "0.95 0.97", "1.0", "2.0")
    assert (finding.verdict, finding.holds) == ("beaten", False)
    assert finding.rival is not None
    assert (finding.rival.name, finding.rival.plan) == ("alternate 1", plans[1])
    assert finding.rival.ratio_low == pytest.approx(1.01 / 0.97) and finding.rival.ratio_high == pytest.approx(1 / 0.95)


@pytest.mark.parametrize(
    ("winner", "other"),
    [
        pytest.param("1.0", "0.992", id="within a tie"),
        pytest.param("1.0 0.8 1.2", "0.9", id="within the noise of its rounds"),
    ],
)
def test_an_entry_that_another_plan_may_beat_holds(examined: Examine, winner: str, other: str) -> None:
    finding = examined(winner, other, "1.5", "2.0")
    assert finding.verdict == "holds" and finding.rival is not None and finding.rival.ratio > 1


def test_an_entry_whose_winner_is_wrong_fails(examined: Examine) -> None:
    finding = examined("wrong_result", "1.0", "1.0", "1.0")
    assert (finding.verdict, finding.winner_ms, finding.rival) == ("fails", None, None)
    assert finding.detail == "winner: wrong_result: o[0]: expected 1, got 2"


def test_a_plan_that_hangs_is_found_and_the_others_are_raced(examined: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_TIMEOUT_S", 1.0)
    finding = examined("1.0", "hang", "0.995", "1.2")
    assert (finding.verdict, finding.detail) == ("fails", "alternate 1: timeout: no answer within 1 s")
    assert finding.winner_ms == 1.0 and finding.rival is not None and finding.rival.name == "alternate 2"


def test_a_winner_that_ends_the_process_fails(examined: Examine) -> None:
    finding = examined("exit", "1.0", "0.9", "1.2")
    assert (finding.verdict, finding.winner_ms, finding.rival) == ("fails", None, None)
    assert finding.detail.startswith("winner: illegal_access: the worker process ended with exit status 7")


def test_versions_that_differ_are_told(examined: Examine, entry: Entry) -> None:
    finding = examined("1.0", "1.1", "1.1", "1.1")
    assert dict(entry.toolchain) == MEASURED_WITH
    assert finding.toolchain["triton"] == ("1.0", "2.0") and finding.toolchain["protocol"][0] == "measured-1"
    assert finding.toolchain.keys() == {"triton", "latune", "protocol"}


def test_the_default_beats_a_winner_too(entry: Entry) -> None:
    finding = examine(entry, Racing(GPU, [[1.0, 1.0, 1.0, 0.9]]))
    assert finding.verdict == "beaten" and finding.rival is not None
    assert (finding.rival.name, finding.rival.plan) == ("default", DEFAULT)


def test_a_rival_that_beats_for_sure_is_named_before_one_that_may_be_faster_yet(entry: Entry) -> None:
    finding = examine(entry, Racing(GPU, [[1.0, (0.5, 1.2) * 5, 0.9, 2.0]]))
    assert finding.verdict == "beaten" and finding.rival is not None and finding.rival.name == "alternate 2"


def test_an_entry_fails_with_an_alternate_and_not_with_the_default(entry: Entry) -> None:
    """Alternates run where there is nothing that the winner starts from; tuning anew mends no default."""
    finding = examine(entry, Racing(GPU, [[1.0, 1.1, "wrong_result", 1.2]]))
    assert (finding.verdict, finding.winner_ms, finding.detail) == ("fails", 1.0, "alternate 2: wrong_result: as told")
    assert finding.rival is not None and finding.rival.name == "alternate 1"
    finding = examine(entry, Racing(GPU, [[1.0, 1.1, 1.1, "wrong_result"]]))
    assert (finding.verdict, finding.detail) == ("holds", "default: wrong_result: as told")


def test_who_is_beaten_in_one_process_and_not_in_a_fresh_one_holds(entry: Entry) -> None:
    beaten, even = [1.0, 0.9, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]
    racing = Racing(GPU, [beaten, even])
    assert examine(entry, racing).verdict == "holds" and racing.races == [(4, False), (4, True)]
    racing = Racing(GPU, [beaten])
    assert examine(entry, racing).verdict == "beaten" and racing.races == [(4, False), (4, True)]
    racing = Racing(GPU, [even])
    assert examine(entry, racing).verdict == "holds" and racing.races == [(4, False)]


def test_a_default_that_the_entry_has_is_raced_once(entry: Entry) -> None:
    racing = Racing(GPU, [[1.0, 1.1, 1.1]])
    finding = examine(replace(entry, alternates=(DEFAULT,)), racing)
    assert racing.races == [(2, False)] and finding.rival is not None and finding.rival.name == "alternate 1"


def test_an_entry_of_other_code_fails_without_a_race(entry: Entry) -> None:
    racing = Racing(GPU, [[1.0]])
    finding = examine(replace(entry, template_sha256="0" * 64), racing)
    assert (finding.verdict, racing.races) == ("fails", []) and "of code 00000000" in finding.detail


def test_plans_that_only_fall_together_are_no_entrys_fault(entry: Entry) -> None:
    fallen: list[Answer] = ["timeout"] * 4
    with pytest.raises(WorkerError, match="fall when they take turns: as told"):
        examine(entry, Racing(GPU, [fallen, [1.0], [1.0], [1.0], [1.0], fallen]))


def entries(plan: Plan, count: int) -> list[Entry]:
    return [valid_entry(replace(PROBLEM, seqlen=1024 << index), plan) for index in range(count)]


@dataclass
class Clock:
    """Each race it is asked to time takes 20 s."""

    now_s: float = 0.0

    def racer_of(self, _: Problem) -> Racing:
        self.now_s += 20
        return Racing(GPU, [[1.0, 2.0]])

    def __call__(self) -> float:
        return self.now_s


@pytest.mark.parametrize(("begin_s", "deadline_s", "checked"), [(0, 55, 2), (0, 61, 3), (0, 1000, 4), (60, 55, 0)])
def test_no_entry_is_begun_that_is_likely_to_end_too_late(
    plans: list[Plan], begin_s: int, deadline_s: int, checked: int
) -> None:
    clock = Clock(begin_s)
    results = list(check_up(entries(plans[0], 4), clock.racer_of, deadline=deadline_s, clock=clock))
    assert [result.entry for result in results] == entries(plans[0], 4)[:checked]


def test_a_problem_that_does_not_fit_the_device_is_left_unchecked(plans: list[Plan]) -> None:
    def racer_of(problem: Problem) -> Racing:
        if problem.seqlen == 1024:
            raise WorkerError("cannot prepare it")
        return Racing(GPU, [[1.0, 2.0]])

    first, second = check_up(entries(plans[0], 2), racer_of, deadline=60.0, clock=lambda: 0.0)
    assert isinstance(first, Unchecked) and first.why == "cannot prepare it"
    assert isinstance(second, Finding) and second.holds


def test_entries_of_another_toolchain_come_first_and_sizes_take_turns(plans: list[Plan]) -> None:
    now = MEASURED_WITH
    short, long = replace(PROBLEM, seqlen=1024), replace(PROBLEM, seqlen=8192)
    alike = [replace(problem, dtype=dtype) for problem in (short, long) for dtype in ("bf16", "fp16")]
    same = [valid_entry(problem, plans[0]) for problem in alike]
    assert in_turns(same, now) == [same[0], same[2], same[1], same[3]]
    other = replace(same[3], toolchain={**now, "driver": "2.0"})
    assert in_turns([*same[:3], other], now) == [other, same[0], same[2], same[1]]
