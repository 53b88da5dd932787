"""Work done in forks ahead, and then here."""

from __future__ import annotations

import multiprocessing
import os
import threading
from concurrent.futures import as_completed
from functools import partial
from pathlib import Path

import pytest

from latune.cli.benchmark import forks
from latune.cli.benchmark.forks import ForkedAhead


@pytest.fixture(autouse=True)
def three_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks.os, "sched_getaffinity", lambda _: {0, 1, 2})


def note(folder: Path, number: int) -> int:
    (folder / f"{number}_{os.getpid()}").touch()
    return number


def test_each_is_done_in_a_fork_and_here(tmp_path: Path) -> None:
    ahead = ForkedAhead()
    futures = [ahead.submit(partial(note, tmp_path, number)) for number in range(5)]
    ahead.run()
    assert [future.result() for future in futures] == list(range(5))
    done = [path.name.split("_") for path in tmp_path.iterdir()]
    assert sorted(number for number, pid in done if int(pid) == os.getpid()) == [str(number) for number in range(5)]
    elsewhere = {number: pid for number, pid in done if int(pid) != os.getpid()}
    assert len(elsewhere) == 5 and len(set(elsewhere.values())) == 3


def test_a_failure_is_its_own_alone(tmp_path: Path) -> None:
    ahead = ForkedAhead()
    failing, *others = (ahead.submit(task) for task in (lambda: 1 // 0, *(partial(note, tmp_path, n) for n in range(5))))
    ahead.run()
    with pytest.raises(ZeroDivisionError):
        failing.result()
    assert [future.result() for future in others] == list(range(5)) and len(list(tmp_path.iterdir())) == 10


def test_a_fork_that_hangs_is_killed_and_its_work_done_here() -> None:
    parent, before = os.getpid(), multiprocessing.active_children()
    ahead = ForkedAhead(timeout_s=0.2)
    hanging = [ahead.submit(lambda: os.getpid() == parent or threading.Event().wait()) for _ in range(2)]
    ahead.run()
    assert [future.result() for future in hanging] == [True, True]
    assert multiprocessing.active_children() == before


def test_interrupted_it_leaves_no_future_to_wait_for_and_no_fork(tmp_path: Path) -> None:
    parent, before = os.getpid(), multiprocessing.active_children()

    def interrupt() -> None:
        if os.getpid() == parent:
            raise KeyboardInterrupt

    ahead = ForkedAhead()
    done, *left = (ahead.submit(task) for task in (partial(note, tmp_path, 0), interrupt, partial(note, tmp_path, 2)))
    with pytest.raises(KeyboardInterrupt):
        ahead.run()
    assert set(as_completed([done, *left], timeout=10)) == {done, *left}
    assert done.result() == 0 and all(future.cancelled() for future in left)
    assert multiprocessing.active_children() == before


def test_interrupted_while_forks_are_at_work_it_ends_them(monkeypatch: pytest.MonkeyPatch) -> None:
    parent, before = os.getpid(), multiprocessing.active_children()

    def joined(process: multiprocessing.Process, timeout: float | None = None) -> None:
        if timeout is not None:
            raise KeyboardInterrupt
        join(process)

    process_class = multiprocessing.get_context("fork").Process
    join = process_class.join
    monkeypatch.setattr(process_class, "join", joined)
    ahead = ForkedAhead()
    futures = [ahead.submit(lambda: os.getpid() == parent or threading.Event().wait()) for _ in range(2)]
    with pytest.raises(KeyboardInterrupt):
        ahead.run()
    assert all(future.cancelled() for future in futures)
    assert multiprocessing.active_children() == before


def test_one_task_needs_no_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "_do_in_forks", lambda *_: pytest.fail("a fork"))
    ahead = ForkedAhead()
    only = ahead.submit(lambda: 7)
    ahead.run()
    assert only.result() == 7
    ForkedAhead().run()
