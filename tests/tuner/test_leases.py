"""Several processes on one study: no candidate twice, and none lost with a process that dies."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
from collections import Counter
from dataclasses import replace
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Barrier
from pathlib import Path
from types import ModuleType

import optuna
import pytest

from latune.codegen.space import Space
from latune.measurement import Measurement
from latune.plan import Plan
from latune.tuner import leases
from latune.tuner.leases import Holder, Lease

PROCESSES = 4
TRIALS = 40
DIES_IN = 7
_WORK = 200_000


@pytest.fixture
def study() -> optuna.Study:
    return optuna.create_study()


def test_one_has_a_candidate_until_it_releases_it(study):
    lease = Lease.take(study, "a")
    assert lease is not None and Lease.take(study, "a") is None and Lease.take(study, "b") is not None
    lease.release()
    assert Lease.take(study, "a") is not None


def test_of_two_that_ask_at_once_the_first_has_it(study, monkeypatch):
    """The second adds its lease after the first has looked and before the first has added its own."""
    found, holding = [], leases._holding

    def look(*arguments):
        monkeypatch.setattr(leases, "_holding", holding)
        seen = holding(*arguments)
        found.append(Lease.take(study, "a"))
        return seen

    monkeypatch.setattr(leases, "_holding", look)
    assert Lease.take(study, "a") is None and found[0] is not None
    found[0].release()
    assert Lease.take(study, "a") is not None


def test_a_dead_holder_holds_nothing():
    process = multiprocessing.get_context("fork").Process(target=signal.pause)
    process.start()
    holder = replace(Holder.here(), pid=process.pid, born=leases._born(process.pid))
    assert not holder.is_gone(1e6)
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert holder.is_gone(0), "it is dead, though its parent has not asked yet"
    process.join()
    assert holder.is_gone(0)


def test_a_number_that_another_process_has_by_now_is_not_the_holder():
    here = Holder.here()
    assert here.host == socket.gethostname() and not here.is_gone(1e6)
    assert replace(here, born="1").is_gone(0)


def test_a_holder_elsewhere_holds_as_long_as_an_evaluation_may_take():
    elsewhere = replace(Holder.here(), host="another")
    assert not elsewhere.is_gone(60) and elsewhere.is_gone(3600)


def searched(synthetic: ModuleType, space: Space, storage: str, log: Path, together: Barrier, begun: Synchronized) -> None:
    """One process's part, begun when all have come; whichever begins that evaluation dies within it."""
    together.wait()

    def evaluate(plan: Plan) -> Measurement:
        with begun.get_lock():
            begun.value += 1
            number = begun.value
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{plan.steps[0].config.digest}\n")
        if number == DIES_IN:
            os.kill(os.getpid(), signal.SIGKILL)
        sum(range(_WORK))
        return synthetic.evaluate(plan)

    synthetic.run(log.with_suffix(".journal"), evaluate, space=space, storage=storage, trials=TRIALS, batch=8)


@pytest.mark.parametrize("kind", ["journal", "database"])
def test_processes_share_a_search_and_survive_one_of_them(synthetic, tmp_path, kind):
    whole = synthetic.run(tmp_path / "whole.journal", trials=TRIALS, batch=8)
    storage = str(tmp_path / "shared.journal") if kind == "journal" else f"sqlite:///{tmp_path / 'shared.db'}"
    log = tmp_path / "log"
    context, space = multiprocessing.get_context("fork"), synthetic.space(tmp_path)
    arguments = (synthetic, space, storage, log, context.Barrier(PROCESSES), context.Value("i", 0))
    processes = [context.Process(target=searched, args=arguments) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sorted(process.exitcode for process in processes) == [-signal.SIGKILL, 0, 0, 0]
    begun = Counter(log.read_text(encoding="utf-8").split())
    assert sum(begun.values()) == TRIALS + 1 and max(begun.values()) == 2, "but for the killed one's, each is evaluated once"
    after = synthetic.run(tmp_path / "unused.journal", storage=storage, trials=TRIALS, batch=8)
    assert (after.resumed, after.trials) == (TRIALS, whole.trials)
