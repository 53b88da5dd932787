"""What a run of `latune tune` does around searches, with nothing searched."""

from __future__ import annotations

import contextlib
import queue
import threading
from dataclasses import replace
from types import SimpleNamespace

from latune.cli import searching, session
from latune.cli.shapes import parse_shape, problems_of
from latune.errors import LatuneError
from latune.gpu import find_gpu
from latune.tuner.tune import Settings

A100 = find_gpu("a100")
PROBLEMS = problems_of([parse_shape("1,2,256,64")], direction="both", dtype="bf16", decay="constant")


def test_a_search_compiles_for_the_next_one_once_it_evaluates_something(tmp_path, monkeypatch):
    """The pass backward of the same shape is next; where an earlier run has made the search, there is nothing to wait for."""
    foreseen, searched, begun = queue.SimpleQueue(), [], threading.Semaphore(0)

    def foresee(problem, spaces, evaluate, starts, *, settings):
        foreseen.put((problem, evaluate, starts, settings.trials))
        begun.release()

    def search(problem, spaces, *, evaluate, starts, settings, on_trial):
        searched.append((problem, evaluate, starts, settings.trials))
        if problem.seqlen == 256:
            on_trial("event")
            on_trial("event")
            assert begun.acquire(timeout=60)
        raise LatuneError("not this one")

    class Silent(searching.TuningProgress):
        def on_trial(self, event):
            assert event == "event"

    monkeypatch.setattr(searching, "TuningProgress", Silent)
    monkeypatch.setattr(searching, "foresee_search", foresee)
    monkeypatch.setattr(searching, "tune_problem", search)
    monkeypatch.setattr(session, "starts_of", lambda problem, gpu, folders: (problem, "starts"))
    monkeypatch.setattr(searching, "_in_hand", lambda *_: contextlib.nullcontext(True))
    target = SimpleNamespace(
        gpu=A100, worker=None, evidence="measured", evaluator=lambda *of: SimpleNamespace(bandwidth_gbps=1.0, of=of)
    )
    forward, backward = PROBLEMS
    problems = [forward, replace(forward, seqlen=4096), backward, replace(backward, seqlen=4096)]
    searching.search(session.Session(target=target, output=tmp_path / "out"), problems, {}, Settings(trials=7))
    assert [problem for problem, *_ in searched] == problems
    assert [foreseen.get_nowait() for _ in range(foreseen.qsize())] == [searched[1], searched[3]]
