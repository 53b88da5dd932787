"""What the worker does on its GPU, through a real worker process and modules written by hand."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from latune.codegen.render import Source, render
from latune.config import Config
from latune.measurement import Measurement
from latune.plan import Plan, Step
from latune.problem import Problem
from latune.tuner import runner
from latune.tuner.jobs import Evaluate, Prepare, Race
from latune.tuner.resumed import Forms
from latune.tuner.runner import GpuRunner, compulsory_bytes, toolchain
from latune.tuner.target import local_gpu
from latune.tuner.timing import roof_ms, summarise
from latune.tuner.verify import Fixture, Launch, Verification
from latune.tuner.worker import Worker

PROBLEM = Problem(
    direction="fwd", decay="constant", dtype="fp32", batch=2, num_heads=4, seqlen=512, head_dim_k=64, head_dim_v=64
)
# Inputs of which copies need no memory.
ONE_SET = SimpleNamespace(bytes=1, copies=lambda count: [ONE_SET] * count)

RIGHT = '''
import torch

def forward(q, k, v, slopes, scale):
    """The quadratic form in float64."""
    rows = torch.arange(q.shape[2], device=q.device)
    distance = rows[:, None] - rows
    decay = torch.exp(-slopes.double()[:, None, None] * distance.clamp(min=0)).tril()
    o = torch.empty(v.shape, dtype=v.dtype, device=v.device)
    o.copy_(scale * ((q.double() @ k.double().mT) * decay) @ v.double())
    return (o,)
'''

KERNELS = """
import torch
import triton
import triton.language as tl

@triton.jit
def run_for_ever(p_o, one):
    i = tl.program_id(0)
    while one > 0:
        tl.atomic_add(p_o + i, 1.0)

@triton.jit
def write_far_away(p_o, far):
    tl.store(p_o + far + tl.program_id(0).to(tl.int64), 1.0)

@triton.jit
def take_too_much(p_o, SIZE: tl.constexpr):
    o = tl.arange(0, SIZE)
    x = tl.load(p_o + o[:, None] * SIZE + o[None, :])
    tl.store(p_o + o[:, None] * SIZE + o[None, :], tl.dot(x, x))
"""

FATES = {
    "skips": ("def forward(q, k, v, slopes, scale):\n    return (q.new_empty(v.shape),)", "wrong_result"),
    "unscaled": (RIGHT.replace("scale * (", "1.0 * ("), "wrong_result"),
    "overwrites its inputs": (RIGHT.replace("    return", "    v.zero_()\n    return"), "wrong_result"),
    "asks for too much": ("def forward(q, *rest):\n    return (q.new_empty(2**44),)", "out_of_resources"),
    "shared memory": (
        KERNELS + "def forward(q, *rest):\n    take_too_much[(1,)](q.new_empty(2**16), SIZE=256, num_warps=8)\n    return q",
        "out_of_resources",
    ),
    "does not compile": (
        KERNELS + "def forward(q, *rest):\n    take_too_much[(1,)](q, SIZE=3)\n    return (q,)",
        "compile_error",
    ),
    "hangs": (KERNELS + "def forward(q, *rest):\n    run_for_ever[(1,)](q, 2)\n    return (q,)", "timeout"),
    "writes far away": (
        KERNELS + "def forward(q, *rest):\n    write_far_away[(1,)](q, 2**44)\n    torch.cuda.synchronize()\n    return (q,)",
        "illegal_access",
    ),
}


def plan(*kernels: str) -> Plan:
    return Plan(tuple(Step(kernel=kernel, config=Config.of("sequential")) for kernel in kernels))


def source(text: str) -> Source:
    return Source.of(text)


def test_compulsory_bytes_of_a_whole_plan_are_the_problems() -> None:
    backward = replace(PROBLEM, direction="bwd", has_initial_state=True)
    assert compulsory_bytes(PROBLEM, plan("o")) == PROBLEM.compulsory_bytes
    assert compulsory_bytes(backward, plan("dq", "dkdv")) == backward.compulsory_bytes


def test_compulsory_bytes_of_one_kernel_are_its_own() -> None:
    rows = PROBLEM.batch_heads * PROBLEM.seqlen * 4 * 64
    backward = replace(PROBLEM, direction="bwd")
    assert compulsory_bytes(backward, plan("dq")) == 4 * rows
    assert compulsory_bytes(backward, plan("dkdv")) == 6 * rows


def test_toolchain_names_what_compiles_and_runs() -> None:
    versions = dict(toolchain())
    assert sorted(versions) == ["cuda", "driver", "torch", "triton"]
    assert all(versions.values())


def test_what_has_passed_is_verified_once_for_each_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def verify(launch: Launch, _: Plan, fixture: Fixture) -> Verification:
        module = launch.keywords["module"]
        asked.append(module)
        return Verification(ok=module != "wrong", errors=(("o", 1e-3),))

    undamaged = Fixture(problem=PROBLEM, cases=(SimpleNamespace(inputs=ONE_SET),), fingerprint=0)
    monkeypatch.setattr(Fixture, "damaged", lambda self: False)
    monkeypatch.setattr(runner, "verify", verify)
    monkeypatch.setattr(runner, "prepare", lambda *_: undamaged)
    monkeypatch.setattr(runner, "prepare_small", lambda *_: undamaged)
    monkeypatch.setattr(runner, "input_sets", lambda *_: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(L2_cache_size=1))
    here = GpuRunner(device=torch.device("cpu"))
    for problem in (PROBLEM, PROBLEM, replace(PROBLEM, seqlen=64)):
        here(Prepare(problem=problem, seed=0))
        for module in ("right", "right", "other", "wrong", "wrong"):
            assert here._verify(Forms(module), plan("o"), source(module)).ok == (module != "wrong")
    assert asked == 3 * ["right", "other", "wrong", "wrong"]


def test_small_cases_are_kept_for_problems_that_share_them_until_a_candidate_writes_into_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(L2_cache_size=1))
    narrow = replace(PROBLEM, head_dim_k=16, head_dim_v=16, seqlen=64)
    backward = replace(narrow, direction="bwd")
    here, held = GpuRunner(device=torch.device("cpu")), []

    def small(problem: Problem, seed: int = 0) -> list[int]:
        here(Prepare(problem=problem, seed=seed))
        assert here._prepared.problem == problem and here._prepared.timed.inputs.q.shape[2] == problem.seqlen
        held.append(here._prepared)
        return [id(case) for case in here._prepared.cases[:-1]]

    first, gradients = small(narrow), small(backward)
    assert small(replace(narrow, batch=1, num_heads=2, seqlen=32)) == first
    assert small(replace(backward, seqlen=32)) == gradients
    here._prepared.cases[0].inputs.q.zero_()
    assert not set(small(backward)) & set(gradients)
    assert small(narrow) == first
    for other, seed in ((replace(narrow, head_dim_v=32), 0), (replace(narrow, dtype="bf16"), 0), (narrow, 1)):
        assert not set(small(other, seed)) & set(first)


def test_nothing_is_warmed_up_any_more_when_the_first_job_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    warmed, taken = threading.Event(), threading.Event()

    def warm_up() -> None:
        assert taken.wait(60), "nobody takes the device while this goes on"
        warmed.set()

    monkeypatch.setattr(runner, "_warm_up", warm_up)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: taken.set())
    runner.start(0)
    assert warmed.is_set()


def test_a_disturbed_copy_does_not_condemn_what_a_later_one_does_not_exclude(monkeypatch: pytest.MonkeyPatch) -> None:
    later, copies = 4000.0, []
    monkeypatch.setattr(runner, "copy_gbps", lambda: copies.append(later) or (465.0 if len(copies) == 1 else later))
    here = GpuRunner(device=torch.device("cpu"), _fixture=Fixture(problem=PROBLEM, cases=(), fingerprint=0))

    def outcome(gbps: float) -> str:
        fast = summarise([roof_ms(PROBLEM.compulsory_bytes, gbps)] * 6)
        return here._judge(plan("o"), Verification(ok=True, errors=()), fast).outcome

    assert [outcome(400.0), len(copies)] == ["ok", 1]
    assert [outcome(3900.0), len(copies)] == ["ok", 2]
    assert [outcome(3900.0), len(copies)] == ["ok", 2]
    assert outcome(8000.0) == "faster_than_physics"
    later = 465.0
    assert [outcome(8000.0), outcome(3900.0)] == ["faster_than_physics", "ok"]


def test_what_is_warmed_up_is_all_that_deterministic_mode_imports() -> None:
    text = """
import sys
from latune.tuner import runner
runner.hash_triton = lambda: None
runner._warm_up()
import torch
before = set(sys.modules)
torch.use_deterministic_algorithms(True, warn_only=True)
print(*(name for name in set(sys.modules) - before))
"""
    assert subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True).stdout.split() == []


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker() as worker:
        yield worker


def evaluate(worker: Worker, text: str, give_up_above_ms: float | None = None) -> Measurement:
    return worker.evaluate(PROBLEM, plan("o"), source(text), give_up_above_ms=give_up_above_ms, timeout_s=30)


@pytest.mark.gpu
def test_device_describes_itself(worker: Worker) -> None:
    report = worker.device()
    gpu = local_gpu()
    assert gpu is not None
    assert 0.5 * gpu.bandwidth_gbps < report.copy_gbps < 1.05 * gpu.bandwidth_gbps
    assert 0 < report.free_bytes <= report.memory_bytes


@pytest.mark.gpu
def test_right_module_is_measured(worker: Worker) -> None:
    measurement = evaluate(worker, RIGHT)
    assert measurement.ok, measurement.detail
    assert measurement.ci_low_ms <= measurement.median_ms <= measurement.ci_high_ms
    assert dict(measurement.errors)["o"] < 1e-6
    gave_up = evaluate(worker, RIGHT, give_up_above_ms=measurement.median_ms / 10)
    assert "too slow to matter" in gave_up.detail
    assert gave_up.samples < 10


@pytest.mark.gpu
@pytest.mark.parametrize("fate", FATES)
def test_bad_module_is_data_and_the_next_one_is_fine(worker: Worker, fate: str) -> None:
    text, outcome = FATES[fate]
    measurement = evaluate(worker, text)
    assert measurement.outcome == outcome, measurement
    assert measurement.detail
    after = evaluate(worker, RIGHT)
    assert after.ok, after


@pytest.mark.gpu
def test_a_plan_that_reads_checkpoints_is_verified_and_timed_from_kept_ones(worker: Worker) -> None:
    problem = replace(PROBLEM, direction="bwd", dtype="bf16")
    choices = {"state_layout": "plain", "loads": "pointer", "decay_mode": "matrix", "decayed": "key"}
    walk = Plan((Step(kernel="dqdkdv", config=Config.of("sequential", choices=choices, constexprs={"BLOCK_N": 64})),))
    candidates = [(walk, render(problem, walk))]
    (raced,) = worker.race(problem, candidates, rounds=10)
    for measurement in (raced, worker.evaluate(problem, *candidates[0])):
        assert measurement.ok, measurement.detail
        assert set(dict(measurement.errors)) == {"dq", "dk", "dv"}


@pytest.mark.gpu
def test_race_ties_a_module_with_itself_and_refuses_a_wrong_one(worker: Worker) -> None:
    wrong = FATES["skips"][0]
    candidates = [(plan("o"), source(text)) for text in (RIGHT, wrong, RIGHT)]
    first, refused, second = worker.race(PROBLEM, candidates, rounds=10)
    assert refused.outcome == "wrong_result"
    assert first.ok
    assert second.ok
    assert first.median_ms == pytest.approx(second.median_ms, rel=0.25)
    assert first.ci_low_ms <= second.ci_high_ms, (first, second)
    assert second.ci_low_ms <= first.ci_high_ms, (first, second)


def test_candidates_are_loaded_behind_the_forward_plan_that_the_problem_was_prepared_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    behind: list[Plan | None] = []
    damaged = iter([True, True, False, False, False])

    def load(problem: Problem, one: Plan, text: Source, ahead: Plan | None) -> Forms:
        behind.append(ahead)
        return Forms(text)

    fixture = Fixture(problem=PROBLEM, cases=(SimpleNamespace(inputs=ONE_SET),), fingerprint=0)
    monkeypatch.setattr(Fixture, "damaged", lambda self: next(damaged))
    monkeypatch.setattr(Forms, "load", load)
    monkeypatch.setattr(runner, "verify", lambda *_: Verification(ok=False, errors=()))
    monkeypatch.setattr(runner, "prepare", lambda *_: fixture)
    monkeypatch.setattr(runner, "prepare_small", lambda *_: None)
    monkeypatch.setattr(runner, "input_sets", lambda *_: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(L2_cache_size=1))
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    here, ahead = GpuRunner(device=torch.device("cpu")), plan("o")
    here(Prepare(problem=PROBLEM, seed=0, ahead=ahead))
    for _ in range(2):
        assert here(Evaluate(plan=plan("dq"), source=source("a"), give_up_above_ms=None)).outcome == "wrong_result"
    assert here(Race(candidates=((plan("dq"), source("b")),), rounds=1, seed=0))[0].measurement.outcome == "wrong_result"
    assert behind == [ahead] * 3, "after inputs that were written over have been made anew, too"
    here(Prepare(problem=PROBLEM, seed=0))
    here(Evaluate(plan=plan("dq"), source=source("a"), give_up_above_ms=None))
    assert behind.pop() is None


def test_the_errors_of_a_candidate_are_the_largest_of_its_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {"alone": (("dq", 2e-3), ("dk", 1e-3)), "given": (("dq", 1e-3), ("dk", 3e-3))}
    cases = {"alone": ("a", "b"), "given": ("b",)}
    monkeypatch.setattr(Forms, "launches", lambda self, every: cases.items())

    def verify(form: str, _: Plan, fixture: Fixture) -> Verification:
        assert fixture.cases == cases[form]
        return Verification(ok=True, errors=seen[form])

    monkeypatch.setattr(runner, "verify", verify)
    here = GpuRunner(device=torch.device("cpu"), _fixture=Fixture(problem=PROBLEM, cases=("a", "b"), fingerprint=0))
    assert here._verify_all(Forms(None), plan("dq")).errors == (("dq", 2e-3), ("dk", 3e-3))
