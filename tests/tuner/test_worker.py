"""The worker process and its fates, each with a real process; no GPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from waiting import wait_until

from latune.config import Config
from latune.errors import WorkerError
from latune.measurement import Measurement
from latune.plan import Plan, Step
from latune.problem import Problem
from latune.tuner.worker import Worker

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]
PROBLEM = Problem(direction="fwd", decay="none", dtype="bf16", batch=1, num_heads=1, seqlen=64, head_dim_k=16, head_dim_v=16)
PLAN = Plan(())
PARENT = """
import sys
sys.path[:0] = {path!r}
from latune.plan import Plan
from latune.problem import Problem
from latune.tuner.worker import Worker
worker, problem = Worker(runner="fake_runners:start"), {problem!r}
print(worker.evaluate(problem, Plan(()), "fine").detail.split()[0], flush=True)
worker.evaluate(problem, Plan(()), {fate!r})
sys.stdin.read()
"""


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    monkeypatch.syspath_prepend(HERE)
    with Worker(3, runner="fake_runners:start") as worker:
        yield worker


def evaluate(worker: Worker, fate: str, timeout_s: float = 60.0) -> Measurement:
    return worker.evaluate(PROBLEM, PLAN, fate, timeout_s=timeout_s)  # type: ignore[arg-type]


def served_by(measurement: Measurement) -> int:
    assert measurement.ok, measurement
    return int(measurement.detail.split()[0])


def gone(pid: int) -> bool:
    """No such process, or one that only waits to be reaped: its first thread may end before the others do."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return fields[0] == "Z" and int(fields[17]) <= 1
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_process_persists_and_prepares_a_problem_once(worker: Worker) -> None:
    first, second = evaluate(worker, "fine"), evaluate(worker, "fine")
    assert served_by(first) == served_by(second) != os.getpid()
    assert first.detail == second.detail
    assert first.detail.endswith(f"prepared {PROBLEM}")


def test_a_problem_can_be_prepared_ahead_of_its_first_job(worker: Worker) -> None:
    worker.prepare(PROBLEM)
    assert worker.load.busy_s > 0
    assert evaluate(worker, "fine").detail.endswith(f"prepared {PROBLEM}")


def test_what_is_prepared_in_a_process_that_died_idle_is_prepared_by_the_next_job(worker: Worker) -> None:
    first = served_by(evaluate(worker, "fine"))
    os.kill(first, signal.SIGKILL)
    assert worker._process is not None
    worker._process.popen.wait()
    worker.prepare(replace(PROBLEM, seqlen=2 * PROBLEM.seqlen))
    again = evaluate(worker, "fine")
    assert served_by(again) != first and again.detail.endswith(f"prepared {PROBLEM}")


def test_it_knows_how_busy_it_has_been(worker: Worker) -> None:
    worker.device()
    assert worker.load.elapsed_s == 0, "what describes the device is no job about a problem"
    evaluate(worker, "fine")
    once = worker.load.busy_s
    assert once == worker.load.elapsed_s > 0
    evaluate(worker, "fine")
    assert once < worker.load.busy_s <= worker.load.elapsed_s


def test_a_problem_is_prepared_anew_behind_another_forward_plan(worker: Worker) -> None:
    ahead = Plan((Step(kernel="o", config=Config.of("sequential")),))
    for _ in range(2):
        behind = worker.evaluate(PROBLEM, PLAN, "fine", ahead=ahead)  # type: ignore[arg-type]
        assert behind.detail.endswith(f"prepared {PROBLEM} behind o")
    assert evaluate(worker, "fine").detail.endswith(f"behind o; {PROBLEM}")
    (raced,) = worker.race(PROBLEM, [(PLAN, "fine")], ahead=ahead)  # type: ignore[list-item]
    assert raced.detail.endswith(f"behind o; {PROBLEM}; {PROBLEM} behind o")


def test_a_process_that_died_idle_is_replaced_by_one_behind_the_same_forward_plan(worker: Worker) -> None:
    ahead = Plan((Step(kernel="o", config=Config.of("sequential")),))
    first = worker.evaluate(PROBLEM, PLAN, "fine", ahead=ahead)  # type: ignore[arg-type]
    os.kill(served_by(first), signal.SIGKILL)
    assert worker._process is not None
    worker._process.popen.wait()
    again = worker.evaluate(PROBLEM, PLAN, "fine", ahead=ahead)  # type: ignore[arg-type]
    assert served_by(again) != served_by(first)
    assert again.detail.endswith(f"prepared {PROBLEM} behind o")


def test_a_successor_stands_by_and_takes_over(worker: Worker) -> None:
    first = served_by(evaluate(worker, "fine"))
    waiting = worker._successor
    assert waiting is not None and waiting.alive and waiting.popen.pid != first
    worker.restart()
    assert served_by(evaluate(worker, "fine")) == waiting.popen.pid
    assert gone(first)


def test_a_successor_that_died_is_replaced(worker: Worker) -> None:
    evaluate(worker, "fine")
    assert worker._successor is not None
    os.kill(worker._successor.popen.pid, signal.SIGKILL)
    dead = worker._successor.popen.pid
    worker.restart()
    assert served_by(evaluate(worker, "fine")) != dead


def test_closing_ends_the_successor_too(worker: Worker) -> None:
    evaluate(worker, "fine")
    assert worker._successor is not None
    waiting = worker._successor.popen.pid
    worker.close()
    assert wait_until(lambda: gone(waiting))


def test_device_is_asked_on_the_given_index_and_remembered(worker: Worker) -> None:
    report = worker.device()
    worker.restart()
    assert report.title == "fake 3"
    assert worker.device() is report


@pytest.mark.parametrize(
    ("fate", "outcome", "detail"),
    [
        ("exit", "illegal_access", "exit status 7"),
        ("segfault", "illegal_access", "SIGSEGV"),
        ("illegal", "illegal_access", "AcceleratorError: CUDA error: an illegal memory access was encountered"),
        ("bug", "illegal_access", "KeyError: 'our own mistake'"),
    ],
)
def test_fallen_process_is_replaced_and_prepared_again(worker: Worker, fate: str, outcome: str, detail: str) -> None:
    before = served_by(evaluate(worker, "fine"))
    failed = evaluate(worker, fate)
    assert (failed.outcome, detail in failed.detail) == (outcome, True), failed
    after = evaluate(worker, "fine")
    assert served_by(after) != before
    assert after.detail.endswith(f"prepared {PROBLEM}")
    assert wait_until(lambda: gone(before))


def test_hanging_candidate_is_killed_at_its_deadline(worker: Worker) -> None:
    before = served_by(evaluate(worker, "fine"))
    failed = evaluate(worker, "hang", timeout_s=0.1)
    assert (failed.outcome, failed.detail) == ("timeout", "no answer within 0.1 s")
    assert gone(before)
    assert served_by(evaluate(worker, "fine")) != before


@pytest.mark.parametrize(
    ("fate", "outcome", "detail"),
    [
        ("oom", "out_of_resources", "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"),
        ("compile", "compile_error", "CompilationError: shapes do not match"),
        ("pass_manager", "compile_error", "PassManager::run failed; its log ends with: error: Failures have been detected"),
        ("wrong_result", "wrong_result", "prepared"),
    ],
)
def test_harmless_failure_keeps_the_process(worker: Worker, fate: str, outcome: str, detail: str) -> None:
    before = served_by(evaluate(worker, "fine"))
    failed = evaluate(worker, fate)
    assert (failed.outcome, detail in failed.detail) == (outcome, True), failed
    assert served_by(evaluate(worker, "fine")) == before


def test_log_of_an_earlier_job_is_not_quoted(worker: Worker) -> None:
    evaluate(worker, "pass_manager")
    assert "log ends with" not in evaluate(worker, "compile").detail


def test_process_that_died_idle_is_replaced_unseen(worker: Worker) -> None:
    before = served_by(evaluate(worker, "fine"))
    os.kill(before, signal.SIGKILL)
    assert served_by(evaluate(worker, "fine")) != before


def test_job_that_the_process_did_not_live_to_take_is_asked_of_another(worker: Worker) -> None:
    before = served_by(evaluate(worker, "fine"))
    os.kill(before, signal.SIGSTOP)
    handler = signal.signal(signal.SIGALRM, lambda *_: os.kill(before, signal.SIGKILL))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        after = evaluate(worker, "fine")
    finally:
        signal.signal(signal.SIGALRM, handler)
    assert served_by(after) != before
    assert after.detail.endswith(f"prepared {PROBLEM}")


def test_restart_gives_a_fresh_process(worker: Worker) -> None:
    before = served_by(evaluate(worker, "fine"))
    worker.restart()
    assert gone(before)
    assert served_by(evaluate(worker, "fine")) != before


def test_race_answers_every_candidate_in_order(worker: Worker) -> None:
    candidates = [(PLAN, "fine"), (PLAN, "wrong_result")]
    outcomes = [measurement.outcome for measurement in worker.race(PROBLEM, candidates, rounds=2)]  # type: ignore[arg-type]
    assert outcomes == ["ok", "wrong_result"]
    arms = worker.race_arms(PROBLEM, candidates, rounds=2)  # type: ignore[arg-type]
    assert [arm.rounds_ms for arm in arms] == [(1.0, 1.0)] * 2


def test_race_that_falls_is_the_same_failure_for_all(worker: Worker) -> None:
    candidates = [(PLAN, "fine"), (PLAN, "exit")]
    measurements = worker.race(PROBLEM, candidates, rounds=2)  # type: ignore[arg-type]
    assert [measurement.outcome for measurement in measurements] == ["illegal_access"] * 2


def test_interrupted_wait_does_not_leave_a_stale_answer(worker: Worker) -> None:
    before = served_by(evaluate(worker, "fine"))
    handler = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            evaluate(worker, "hang")
    finally:
        signal.signal(signal.SIGALRM, handler)
    assert gone(before)
    assert served_by(evaluate(worker, "fine")) != before


def test_process_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(HERE)
    with Worker(9, runner="fake_runners:start_broken") as worker, pytest.raises(WorkerError, match="RuntimeError: no device 9"):
        worker.device()


def test_problem_that_does_not_fit_is_raised_not_blamed_on_the_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(HERE)
    with Worker(runner="fake_runners:start_too_small") as worker, pytest.raises(WorkerError, match="cannot prepare fwd 1,1,64"):
        evaluate(worker, "fine")


def test_after_a_problem_that_does_not_fit_the_one_before_is_prepared_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(HERE)
    with Worker(runner="fake_runners:start_small") as worker:
        assert evaluate(worker, "fine").ok
        with pytest.raises(WorkerError, match="cannot prepare"):
            worker.prepare(replace(PROBLEM, seqlen=128))
        assert evaluate(worker, "fine").ok


@pytest.mark.parametrize("busy", [False, True])
def test_process_dies_with_a_killed_parent(busy: bool, tmp_path: Path) -> None:
    hanging = tmp_path / "hanging"
    script = PARENT.format(path=[str(HERE), str(CHECKOUT)], problem=PROBLEM, fate="hang" if busy else "fine")
    environment = os.environ | {"FAKE_HANGING": str(hanging)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", script], env=environment, **pipes) as parent:  # type: ignore[call-overload]
        child = int(parent.stdout.readline())
        assert wait_until(hanging.exists) if busy else not gone(child)
        parent.kill()
    assert wait_until(lambda: gone(child))


def test_close_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(HERE)
    with Worker(runner="fake_runners:start") as worker:
        pid = served_by(evaluate(worker, "fine"))
    assert gone(pid)
