"""One problem from spaces to an entry, with a landscape in place of a GPU."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest

from latune.cache.entry import Entry
from latune.cache.resources import Resources
from latune.codegen.expression import Expression
from latune.codegen.parameters import Constraint
from latune.codegen.render import render
from latune.codegen.space import load_space
from latune.codegen.templates import generator_sha256
from latune.errors import LatuneError
from latune.gpu import Gpu, find_gpu
from latune.measurement import Measurement
from latune.plan import FORMS, Plan, Step
from latune.problem import Problem
from latune.tuner.search import TrialEvent
from latune.tuner.transfer import begin_transfer
from latune.tuner.tune import Settings, Tuned, finals_of, foresee_search, study_name, tune, tune_problem

FORWARD = Problem(
    direction="fwd", decay="constant", dtype="bf16", batch=3, num_heads=32, seqlen=2000, head_dim_k=64, head_dim_v=64
)
BACKWARD = replace(FORWARD, direction="bwd")
TRIALS = 32


@dataclass
class Landscape:
    """An evaluator whose times are given by ``cost_ms`` of each step, and whose shared memory by ``BLOCK_N``."""

    gpu: Gpu = field(default_factory=lambda: find_gpu("a100"))
    evidence: str = "static"
    bandwidth_gbps: float = 2000.0
    ahead: Plan | None = None
    batch: int = 4
    triton: str = "3.9.0"
    flat: bool = False
    broken: bool = False
    interrupt_at: int = -1
    evaluated: list[Plan] = field(default_factory=list)
    raced: list[Plan] = field(default_factory=list)
    foreseen: list[tuple[int, Plan]] = field(default_factory=list)
    """Prepared before there was need, and how many evaluations had been made then."""

    @property
    def toolchain(self) -> Mapping[str, str | None]:
        versions = {"torch": "2.13.0", "triton": self.triton, "cuda": None, "driver": None}
        return {**versions, "latune": None, "protocol": "landscape-1"}

    def prepare(self, plans: Sequence[Plan], *, urgent: bool = True) -> None:
        assert plans or not urgent
        self.foreseen += [] if urgent else [(len(self.evaluated), plan) for plan in plans]

    def __call__(self, plan: Plan) -> Measurement:
        if len(self.evaluated) == self.interrupt_at:
            raise KeyboardInterrupt
        self.evaluated.append(plan)
        return self.judge(plan)

    def judge(self, plan: Plan) -> Measurement:
        if self.broken:
            return Measurement(outcome="wrong_result", detail="o differs from the reference")
        return Measurement(outcome="ok", median_ms=sum(self.cost_ms(step.config.values()) for step in plan.steps))

    def cost_ms(self, values: Mapping[str, str | int]) -> float:
        if self.flat:
            return 1.0
        tile = abs(int(values["BLOCK_N"]) - 64) / 64 + abs(int(values["num_stages"]) - 2) / 8
        return 1.0 + tile + (values["state_layout"] == "plain") / 4 + (values["algorithm"] != "sequential")

    def race(self, plans: Sequence[Plan]) -> list[Measurement]:
        self.raced += plans
        return [self.judge(plan) for plan in plans]

    def race_here(self, plans: Sequence[Plan]) -> list[Measurement]:
        return [self.judge(plan) for plan in plans]

    def at(self, problem: Problem) -> Landscape:
        return self

    def resources(self, plan: Plan) -> tuple[Resources, ...]:
        return tuple(
            Resources(
                name=f"{step.kernel}_kernel",
                registers=100,
                spill_bytes=0,
                shared_bytes=1024 * int(step.config.values()["BLOCK_N"]),
                num_warps=step.config.num_warps,
            )
            for step in plan.steps
        )


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(trials=TRIALS, storage=str(tmp_path / "studies.journal"))


def tuned(problem: Problem, evaluate: Landscape, settings: Settings, **options: object) -> Tuned:
    return tune_problem(problem, None, evaluate, settings, **options)  # type: ignore[arg-type]


def test_while_a_kernel_is_searched_the_next_ones_first_batch_is_compiled(settings: Settings) -> None:
    evaluate = Landscape()
    result = tuned(BACKWARD, evaluate, replace(settings, trials=16, patience=None))
    kernels = [plan.steps[0].kernel for plan in evaluate.evaluated]
    names = list(dict.fromkeys(kernels))
    assert names == list(result.searches) and len(names) >= 2
    for name, following in pairwise(names):
        begun = kernels.index(name)
        firsts = [plan for plan in evaluate.evaluated if plan.steps[0].kernel == following][:2]
        assert {(begun, plan) for plan in firsts} <= set(evaluate.foreseen)


def test_what_is_evaluated_first_can_be_compiled_before(settings: Settings) -> None:
    before, evaluate = Landscape(), Landscape()
    starts = [tuned(replace(BACKWARD, seqlen=8192), Landscape(), replace(settings, trials=4)).entry.plan]
    foresee_search(BACKWARD, None, before, starts, settings=settings)  # type: ignore[arg-type]
    tuned(BACKWARD, evaluate, settings, starts=starts)
    assert before.foreseen == [(0, plan) for plan in evaluate.evaluated[: len(before.foreseen)]] and before.foreseen


def test_the_entry_says_all_about_the_winner(settings: Settings) -> None:
    evaluate = Landscape()
    result = tuned(FORWARD, evaluate, settings)
    entry = result.entry
    values = entry.plan.steps[0].config.values()
    assert (values["BLOCK_N"], values["num_stages"], values["state_layout"]) == (64, 2, "transposed")
    assert entry.measurement.median_ms == 1.0
    assert (entry.bucket, entry.problem) == (FORWARD.bucket(), FORWARD)
    assert (entry.evidence, entry.template_sha256) == ("static", render(FORWARD, entry.plan).code_sha256)
    assert entry.roof_ms == pytest.approx(FORWARD.compulsory_bytes / 2000.0 * 1e-6)
    assert entry.resources == evaluate.resources(entry.plan)
    assert entry.study == study_name(FORWARD, evaluate, 0)
    assert f"-{generator_sha256()[:8]}-" in entry.study
    assert Entry.from_json(json.loads(json.dumps(entry.to_json()))) == entry
    assert sum(result.searches["o"].outcomes.values()) == TRIALS


def test_alternates_are_the_next_best_finalists(settings: Settings) -> None:
    result = tuned(FORWARD, Landscape(), settings)
    times = {plan: measurement.median_ms for plan, measurement in result.finalists}
    ordered = [times[plan] for plan in (result.entry.plan, *result.entry.alternates)]
    assert len(ordered) >= 4 and len(ordered) >= list(times.values()).count(ordered[0]), "no fewer than all that tie"
    assert ordered == sorted(times.values())[: len(ordered)]


def test_backward_is_one_complete_plan_of_three_searches(settings: Settings) -> None:
    evaluate = Landscape()
    result = tuned(BACKWARD, evaluate, settings)
    assert list(result.searches) == ["dq", "dkdv", "dqdkdv"]
    assert [len(found.trials) for found in result.searches.values()] == [TRIALS] * 3
    assert {plan.outputs for plan in evaluate.evaluated} == {("dq",), ("dk", "dv"), ("dq", "dk", "dv")}
    complete = {tuple(step.kernel for step in plan.steps) for plan in evaluate.evaluated} & set(FORMS["bwd"])
    assert complete == set(FORMS["bwd"]) - {("dq", "dk_dv")}, "heads of 64"
    assert tuple(step.kernel for step in result.entry.plan.steps) == ("dqdkdv",), "each kernel costs the same here"


def test_a_tie_goes_to_less_shared_memory_then_fewer_stages(settings: Settings) -> None:
    result = tuned(FORWARD, Landscape(flat=True), settings)
    raced = [plan.steps[0].config for plan, _ in result.finalists]
    least = min(int(config.values()["BLOCK_N"]) for config in raced)
    winner = result.entry.plan.steps[0].config
    assert winner.values()["BLOCK_N"] == least
    assert winner.num_stages == min(config.num_stages for config in raced if config.values()["BLOCK_N"] == least)


def test_runs_agree_and_the_second_evaluates_nothing(settings: Settings) -> None:
    first, again = Landscape(), Landscape()
    result = tuned(FORWARD, first, settings)
    assert tuned(FORWARD, again, settings).entry.plan == result.entry.plan
    assert (len(result.searches["o"].trials), len(again.evaluated)) == (TRIALS, 0)


def test_other_problems_seeds_and_toolchains_have_other_studies() -> None:
    names = {
        study_name(FORWARD, Landscape(), 0),
        study_name(FORWARD, Landscape(), 1),
        study_name(BACKWARD, Landscape(), 0),
        study_name(FORWARD, Landscape(triton="3.6.0"), 0),
        study_name(FORWARD, Landscape(gpu=find_gpu("h100")), 0),
    }
    assert len(names) == 5
    assert study_name(FORWARD, Landscape(), 0) == study_name(FORWARD, Landscape(), 0)


def test_a_study_is_of_what_the_forward_plan_ahead_hands_over_and_of_no_more(fake_builds: ModuleType) -> None:
    problem = replace(BACKWARD, batch=1, num_heads=8, seqlen=4096)

    def named(**changes: object) -> str:
        config = fake_builds.config(**{"algorithm": "split", "block_d": 64, "block_e": 64, "programs": 64, **changes})
        return study_name(problem, Landscape(ahead=fake_builds.one("o", config)), 0)

    alone = study_name(problem, Landscape(), 0)
    assert named() == named(num_stages=2, num_warps=4, block_n=32) == named(block_e=32, programs=128)
    others = {named(), named(programs=128), named(algorithm="scan"), named(layout="plain"), alone}
    assert len(others) == 5
    assert named(algorithm="sequential") == named(programs=8) == named(algorithm="remainder") == alone, "nothing is handed over"


def test_finalists_and_transfers_are_also_cut_as_the_forward_plan_ahead(settings: Settings, fake_builds: ModuleType) -> None:
    problem = replace(BACKWARD, batch=1, num_heads=8, seqlen=4096, head_dim_k=128, head_dim_v=128)
    config = fake_builds.config("plain", algorithm="split", block_e=32, programs=64, loads="pointer", num_stages=2)
    evaluate = Landscape(ahead=fake_builds.one("o", config))
    by_forward = Step(kernel="dq", config=config)
    winner = tuned(problem, evaluate, settings).entry.plan
    assert any(by_forward in plan.steps and len(plan.steps) > 1 for plan in evaluate.evaluated)
    assert by_forward not in winner.steps, "segments are dear here"
    transferred = begin_transfer(problem, None, evaluate, [winner]).finish()
    assert any(by_forward in plan.steps for plan, _ in transferred.finalists)


def test_a_study_has_a_name_that_a_database_takes() -> None:
    assert study_name(FORWARD, Landscape(triton="3.6.0+git"), 0).replace("-", "").replace(".", "").replace("_", "").isalnum()


def test_starts_are_tried_early_and_raced(settings: Settings) -> None:
    start = tuned(FORWARD, Landscape(flat=True), settings).finalists[1][0]
    evaluate = Landscape()
    other = Settings(trials=6, seed=9, storage=settings.storage)
    tuned(FORWARD, evaluate, other, starts=[start])
    assert evaluate.evaluated[1] == start
    assert start in evaluate.raced


def test_a_chained_start_is_tried_unchained_by_the_search(settings: Settings) -> None:
    start = tuned(FORWARD, Landscape(flat=True), settings).finalists[1][0]
    evaluate = Landscape()
    tuned(FORWARD, evaluate, Settings(trials=6, seed=9, storage=settings.storage), starts=[start.chained()])
    assert evaluate.evaluated[1] == start


def test_when_nothing_passes_the_error_counts_outcomes(settings: Settings) -> None:
    with pytest.raises(LatuneError, match=rf"no plan passed \(o: {TRIALS} wrong_result\); o differs from the reference"):
        tuned(FORWARD, Landscape(broken=True), settings)


def test_ctrl_c_ends_all_searches_and_keeps_the_best(settings: Settings) -> None:
    evaluate = Landscape(interrupt_at=10)
    result = tuned(BACKWARD, evaluate, settings)
    assert result.interrupted
    assert list(result.searches) == ["dq"]
    assert result.entry.plan in evaluate.raced
    assert not tuned(BACKWARD, Landscape(), settings).interrupted


def test_without_time_the_answer_comes_of_the_default(settings: Settings) -> None:
    evaluate = Landscape()
    hurried = Settings(trials=TRIALS, time_budget_s=0.0, storage=settings.storage)
    result = tuned(BACKWARD, evaluate, hurried)
    assert not any(found.trials for found in result.searches.values())
    default = evaluate.evaluated[0]
    assert default in evaluate.raced and len(default.steps) == 2
    assert {plan.steps[0] for plan in evaluate.raced} == {default.steps[0]}


def test_progress_names_kernel_and_incumbent(settings: Settings) -> None:
    events: list[TrialEvent] = []
    tuned(BACKWARD, Landscape(), settings, on_trial=events.append)
    assert [event.kernel for event in events] == ["dq"] * TRIALS + ["dkdv"] * TRIALS + ["dqdkdv"] * TRIALS
    best = [event.best.measurement.median_ms for event in events[:TRIALS] if event.best]
    assert best == sorted(best, reverse=True)


def test_tune_takes_an_evaluator_in_place_of_a_gpu(tmp_path: Path) -> None:
    entry = tune(FORWARD, None, Landscape(), trials=TRIALS, storage=str(tmp_path / "a.journal"))
    assert entry.measurement.median_ms == 1.0


@pytest.mark.usefixtures("no_gpu")
def test_a_static_search_compiles_every_candidate(tmp_path: Path) -> None:
    entry = tune(FORWARD, gpu="a100", trials=3, storage=str(tmp_path / "a.journal"))
    assert (entry.evidence, entry.measurement.samples) == ("static", 0)
    assert entry.resources[-1].registers > 16
    assert entry.resources[-1].name == "o_kernel"


def test_a_problem_that_is_tuned_is_not_raced_again(settings: Settings) -> None:
    first = tuned(FORWARD, Landscape(), settings)
    again = Landscape()
    second = tuned(FORWARD, again, settings)
    assert (again.evaluated, again.raced) == ([], [])
    assert (second.entry, second.finalists) == (first.entry, first.finalists)


@pytest.mark.parametrize("change", [{"trials": TRIALS + 8}, {"fresh": True}])
def test_more_trials_or_fresh_ones_end_in_a_race_of_their_own(settings: Settings, change: dict[str, object]) -> None:
    tuned(FORWARD, Landscape(), settings)
    again = Landscape()
    tuned(FORWARD, again, replace(settings, **change))
    assert again.raced


def test_what_is_kept_of_a_race_is_of_its_space(settings: Settings) -> None:
    first = tuned(FORWARD, Landscape(), settings).entry.plan
    own = load_space("stream")
    require = Expression.parse("BLOCK_N != 64", origin="here", parameters=("BLOCK_N",))
    narrow = replace(own, constraints=(*own.constraints, Constraint(require=require, why="of its own")))
    assert narrow.digest != own.digest
    again = Landscape()
    found = tune_problem(FORWARD, {"stream": narrow}, again, settings)  # type: ignore[arg-type]
    assert (
        again.raced and first.steps[0].config.values()["BLOCK_N"] == 64 != found.entry.plan.steps[0].config.values()["BLOCK_N"]
    )
    assert tuned(FORWARD, Landscape(), settings).entry.plan == first


def test_of_processes_that_tune_a_problem_one_races(settings: Settings) -> None:
    context = multiprocessing.get_context("fork")
    together, raced = context.Barrier(3), context.Value("i", 0)

    def part() -> None:
        evaluate = Landscape()
        together.wait()
        tuned(FORWARD, evaluate, settings)
        with raced.get_lock():
            raced.value += len(evaluate.raced) > 0

    processes = [context.Process(target=part) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert ([process.exitcode for process in processes], raced.value) == ([0, 0, 0], 1)


def test_who_comes_later_starts_from_the_same_plans(settings: Settings) -> None:
    plans = [tuned(FORWARD, Landscape(), settings).entry.plan, *tuned(FORWARD, Landscape(), settings).entry.alternates]
    elsewhere = replace(settings, seed=1, trials=12)
    interrupted = tuned(FORWARD, Landscape(interrupt_at=6), elsewhere, starts=plans[:2])
    resumed = tuned(FORWARD, Landscape(), elsewhere, starts=plans[2:])
    whole = tuned(FORWARD, Landscape(), replace(elsewhere, storage=f"{settings.storage}.whole.journal"), starts=plans[:2])
    assert interrupted.interrupted and resumed.searches["o"].trials == whole.searches["o"].trials
    other = tuned(FORWARD, Landscape(), replace(elsewhere, storage=f"{settings.storage}.other.journal"), starts=plans[2:])
    assert other.searches["o"].trials != whole.searches["o"].trials


def test_one_process_has_a_problem_in_hand(settings: Settings) -> None:
    ours, theirs = (finals_of(FORWARD, Landscape(), settings) for _ in range(2))
    with ours.in_hand() as first, theirs.in_hand() as second:
        assert (first, second) == (True, False)
    with theirs.in_hand() as second:
        assert second
