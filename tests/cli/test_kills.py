"""`latune tune` under SIGKILL: it loses no more than what was in flight, leaves no process, and ends as one left alone."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from waiting import wait_until

from latune.cache.entry import Entry
from latune.cache.store import read_cache
from latune.gpu import find_gpu

KILLS = 3
ARGUMENTS = ("--gpu", "a100", "--shape", "1,2,64,32", "--direction", "fwd", "--decay", "none", "--trials", "5", "--jobs", "1")


def begin(root: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "LATUNE_CACHE_DIR": str(root), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "latune", "tune", *ARGUMENTS]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def measured(root: Path) -> list[dict]:
    """What the search has stored, in order."""
    path = next((path for path in root.glob("studies/*-s0-o-*.journal") if path.stat().st_size), None)
    if path is None:
        return []
    storage = JournalStorage(JournalFileBackend(str(path)))
    (study,) = storage.get_all_studies()
    trials = [trial.user_attrs for trial in storage.get_all_trials(study._study_id) if "measurement" in trial.user_attrs]
    return [{name: trial[name] for name in ("config", "measurement", "place")} for trial in trials]


def entry_of(root: Path) -> Entry:
    """Without when it was made."""
    (entry,) = read_cache(find_gpu("a100"), [root / "cache"]).entries.values()
    return replace(entry, tuned_at="2026-01-01T00:00:00Z")


def left_behind(root: Path) -> list[str]:
    """Processes of the run that live on."""
    mark = f"LATUNE_CACHE_DIR={root}\0".encode()
    return [process.name for process in Path("/proc").glob("[0-9]*") if mark in _environment(process)]


def is_alone(root: Path) -> bool:
    return not left_behind(root)


def _environment(process: Path) -> bytes:
    try:
        return (process / "environ").read_bytes()
    except OSError:
        return b""


def killed(folder: Path, kills: int, *, seed: int = 0) -> tuple[int, int]:
    """Kills runs at random moments until about where they end, each begun anew once it is whole.

    Returns:
        How many were killed, and in how many runs.
    """
    whole, began = folder / "whole", time.monotonic()
    assert begin(whole).wait() == 0
    # The others find their kernels compiled.
    longest_s = 2 / 3 * (time.monotonic() - began)
    moments, done, runs = random.Random(seed), 0, 0
    while done < kills:
        root, runs = folder / f"run {runs}", runs + 1
        code = None
        while done < kills and code is None:
            process = begin(root)
            try:
                code = process.wait(moments.uniform(0, longest_s))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                done += 1
            assert wait_until(partial(is_alone, root)), left_behind(root)
            stored = measured(root)
            assert stored == measured(whole)[: len(stored)]
        assert (begin(root).wait() if code is None else code) == 0
        assert measured(root) == measured(whole) and entry_of(root) == entry_of(whole)
    return done, runs


def test_a_run_that_is_killed_loses_no_evaluation_that_was_made(tmp_path: Path) -> None:
    done, _ = killed(tmp_path, KILLS)
    assert done == KILLS
