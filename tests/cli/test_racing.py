"""What a run of `latune tune` does around races, with nothing raced."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from latune.cli import aside, racing, session
from latune.cli.pending import forward_first
from latune.cli.shapes import parse_shape, problems_of
from latune.errors import LatuneError
from latune.gpu import find_gpu
from latune.tuner.tune import Settings

A100 = find_gpu("a100")
PROBLEMS = problems_of([parse_shape("1,2,256,64")], direction="both", dtype="bf16", decay="constant")


def test_a_transfer_compiles_for_the_next_one_meanwhile(tmp_path, monkeypatch):
    """Whatever becomes of that: it goes wrong again when its turn comes."""
    foreseen, transferred, begun = [], [], threading.Semaphore(0)

    def foresee(problem, spaces, evaluate, starts):
        foreseen.append((problem, evaluate, starts))
        begun.release()
        raise LatuneError("not this one")

    def transfer(problem, spaces, evaluate, starts, *, seed):
        if not transferred:
            assert all(begun.acquire(timeout=60) for _ in PROBLEMS), "while the first one has its turn"
        transferred.append((problem, evaluate, starts))
        raise LatuneError("nor that one")

    monkeypatch.setattr(racing, "foresee_transfer", foresee)
    monkeypatch.setattr(racing, "begin_transfer", transfer)
    monkeypatch.setattr(session, "starts_of", lambda problem, gpu, folders: (problem, "starts", folders))
    target = SimpleNamespace(gpu=A100, worker=None, evidence="measured", evaluator=lambda *of: (*of, "evaluator"))
    racing.transfer(session.Session(target=target, output=tmp_path / "out"), PROBLEMS, {}, Settings(trials=1))
    assert foreseen == transferred and [problem for problem, *_ in transferred] == PROBLEMS


def test_eight_more_problems_are_compiled_for_ahead_of_the_first_race(tmp_path, monkeypatch):
    foreseen, at_first, begun = [], [], threading.Semaphore(0)
    shapes = [parse_shape(f"1,2,{length},64") for length in (256, 512, 1024, 2048, 4096)]
    problems = problems_of(shapes, direction="both", dtype="bf16", decay="none")
    ordered = forward_first(problems, 8)

    def foresee(problem, *_):
        foreseen.append(problem)
        begun.release()
        return lambda: None

    def transfer(problem, spaces, evaluate, starts, *, seed):
        if problem == ordered[0]:
            assert all(begun.acquire(timeout=60) for _ in range(9))
            at_first.extend(foreseen)
        raise LatuneError("not this one")

    monkeypatch.setattr(racing, "foresee_transfer", foresee)
    monkeypatch.setattr(racing, "begin_transfer", transfer)
    monkeypatch.setattr(session, "starts_of", lambda *_: [])
    target = SimpleNamespace(gpu=A100, worker=None, evidence="measured", evaluator=lambda *_: None)
    racing.race(session.Session(target=target, output=tmp_path), problems, {}, Settings())
    assert at_first == ordered[:9]


class Begun:
    """A transfer whose second race is compiled once ``others`` first races have been."""

    def __init__(self, raced, problem, others):
        self.raced, self.problem, self.others = raced, problem, others

    @property
    def has_compiled(self):
        return len({problem for number, problem in self.raced if number == 1}) > self.others

    def finish(self):
        self.raced.append((2, self.problem))
        if self.problem.seqlen == 512:
            raise LatuneError("its second race failed")
        return SimpleNamespace(interrupted=False, entry=None)


@pytest.fixture
def pipeline(tmp_path, monkeypatch):
    """Races what it is given; returns which race of which problem followed which, and the session."""

    def race(problems, settings=None, others=2, patched=None, **options):
        raced = []

        def begin(problem, spaces, evaluate, starts, *, seed):
            raced.append((1, problem))
            if problem.seqlen == 1024:
                raise LatuneError("its first race failed")
            return Begun(raced, problem, others)

        monkeypatch.setattr(racing, "foresee_transfer", lambda *_: lambda: None)
        monkeypatch.setattr(racing, "begin_transfer", begin)
        monkeypatch.setattr(session, "starts_of", lambda *_: [])
        monkeypatch.setattr(session.Session, "_hands_over", lambda *_: False)
        monkeypatch.setattr(session.Session, "_write", lambda run, problem, tuned: run.tuned.update({problem: tuned}))
        if patched != "_say_how_far":
            monkeypatch.setattr(racing, "_say_how_far", lambda *_: None)
        target = SimpleNamespace(gpu=A100, worker=None, evidence="measured", evaluator=lambda *_: None)
        run = session.Session(target=target, output=tmp_path)
        racing.race(run, problems, {}, settings or Settings(), **options)
        return raced, run

    return race


def problems_of_lengths(*lengths):
    shapes = [parse_shape(f"1,2,{length},64") for length in lengths]
    return problems_of(shapes, direction="both", dtype="bf16", decay="none")


def test_the_gpu_has_first_races_while_second_ones_compile(pipeline):
    problems = problems_of_lengths(256, 2048, 4096)
    forward, backward = problems[::2], problems[1::2]
    raced, run = pipeline(problems)
    firsts = [(1, problem) for problem in forward]
    seconds = [(2, problem) for problem in forward]
    assert raced[:6] == [*firsts, *seconds] and {problem for _, problem in raced[6:]} == set(backward)
    assert list(run.tuned) == problems, "as they were asked for"


def test_no_more_problems_than_told_are_between_their_races(pipeline):
    problems = problems_of_lengths(256, 2048, 4096)
    raced, _ = pipeline(problems, others=9, at_once=1)
    assert raced == [(race, problem) for problem in problems for race in (1, 2)]
    raced, _ = pipeline(problems, others=9, at_once=2)
    forward = problems[::2]
    assert raced[:3] == [(1, forward[0]), (1, forward[1]), (2, forward[0])]


def test_what_is_transferred_again_is_raced_in_the_order_of_its_age(monkeypatch, tmp_path):
    """Both directions of a shape, so that however short the runs are they get on."""
    asked = []
    monkeypatch.setattr(racing, "pending", lambda problems, *_, again: problems)
    monkeypatch.setattr(racing, "race", lambda *_, at_once: asked.append(at_once))
    run = session.Session(target=SimpleNamespace(gpu=A100, worker=None, evidence="measured"), output=tmp_path)
    racing.transfer(run, PROBLEMS, {}, Settings(fresh=True))
    racing.transfer(run, PROBLEMS, {}, Settings())
    assert asked[0] == 1 < asked[1]


def test_what_fails_in_either_race_stops_no_other(pipeline):
    problems = problems_of_lengths(256, 512, 1024)
    raced, run = pipeline(problems)
    assert list(run.tuned) == problems[:2]
    assert set(run.failed) == set(problems[2:])
    assert set(run.failed.values()) == {"its first race failed", "its second race failed"}
    assert len(raced) == 10 and len(set(raced)) == 10


def test_when_the_time_is_up_what_is_begun_is_finished(pipeline, monkeypatch, capsys):
    clock = iter([0.0, 5.0, 9.0, *[11.0] * 20])
    monkeypatch.setattr(racing, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    problems = problems_of_lengths(256, 2048, 4096)
    raced, run = pipeline(problems, Settings(time_budget_s=10.0), others=9)
    assert raced == [(race, problem) for race in (1, 2) for problem in (problems[0], problems[2])]
    assert f"the time is up, 4 problems are left, from {problems[4]} on" in capsys.readouterr().err
    assert list(run.tuned) == [problems[0], problems[2]]


@pytest.mark.parametrize("where", ["meet_the_device", "_say_how_far"])
def test_ctrl_c_beside_the_races_ends_the_run_as_within_one(pipeline, monkeypatch, where):
    """While the worker comes up, or between two races."""

    def interrupt(*_):
        raise KeyboardInterrupt

    problems = problems_of_lengths(256, 2048)
    monkeypatch.setattr(racing if where == "_say_how_far" else session.Session, where, interrupt)
    raced, run = pipeline(problems, patched=where)
    assert run.interrupted and len(run.tuned) == (where == "_say_how_far") and len(raced) <= 3


def test_plans_are_compiled_while_the_worker_comes_up(tmp_path, monkeypatch, capsys):
    begun = threading.Event()

    class Worker:
        def device(self):
            assert begun.wait(60)
            return SimpleNamespace(free_bytes=2**30, memory_bytes=2**33, title="NVIDIA A100")

    def transfer(problem, spaces, evaluate, starts, *, seed):
        assert "only 1 of 8 GiB are free" in capsys.readouterr().err
        raise LatuneError("not this one")

    monkeypatch.setattr(racing, "foresee_transfer", lambda *_: begun.set())
    monkeypatch.setattr(racing, "begin_transfer", transfer)
    monkeypatch.setattr(session, "starts_of", lambda *_: [])
    target = SimpleNamespace(gpu=A100, worker=Worker(), evidence="measured", evaluator=lambda *_: None)
    run = session.Session(target=target, output=tmp_path)
    racing.race(run, PROBLEMS[:1], {}, Settings())
    assert run.failed == {PROBLEMS[0]: "not this one"}


def test_after_ctrl_c_nothing_more_is_compiled_ahead(tmp_path, monkeypatch):
    foreseen, begun, ending = [], threading.Event(), threading.Event()

    class Executor(ThreadPoolExecutor):
        def shutdown(self, wait=True, *, cancel_futures=False):
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            ending.set()
            super().shutdown(wait=wait)

    def foresee(problem, *_):
        foreseen.append(problem)
        begun.set()
        assert ending.wait(60)

    def transfer(problem, spaces, evaluate, starts, *, seed):
        assert begun.wait(60)
        raise KeyboardInterrupt

    monkeypatch.setattr(aside, "ThreadPoolExecutor", Executor)
    monkeypatch.setattr(racing, "foresee_transfer", foresee)
    monkeypatch.setattr(racing, "begin_transfer", transfer)
    monkeypatch.setattr(session, "starts_of", lambda *_: [])
    target = SimpleNamespace(gpu=A100, worker=None, evidence="measured", evaluator=lambda *_: None)
    run = session.Session(target=target, output=tmp_path)
    problems = problems_of([parse_shape("1,2,256,64"), parse_shape("1,2,512,64")], direction="both", dtype="bf16", decay="none")
    racing.race(run, problems, {}, Settings())
    assert foreseen == [problems[0]] and run.interrupted


@pytest.mark.parametrize(
    ("evidence", "fresh", "which"),
    [
        ("measured", True, "that was searched, and stays: search them again, without --transfer"),
        ("measured", False, "already"),
        ("static", True, "already"),
    ],
)
def test_what_a_transfer_passes_over_is_said_with_the_reason(tmp_path, monkeypatch, capsys, evidence, fresh, which):
    monkeypatch.setattr(racing, "pending", lambda *_, again: [])
    target = SimpleNamespace(gpu=A100, worker=None, evidence=evidence)
    racing.transfer(session.Session(target=target, output=tmp_path), PROBLEMS, {}, Settings(fresh=fresh))
    assert capsys.readouterr().err.strip() == f"2 of 2 buckets have an entry {which}"
