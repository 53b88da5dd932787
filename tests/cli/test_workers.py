"""``latune tune --workers``: processes that tune together, without a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from latune.cache.store import read_cache
from latune.cli import crew, racing, searching
from latune.cli.tuning import check_gpus
from latune.gpu import find_gpu

SHAPES = ("--shape", "1,2,64,32", "--shape", "1,2,128,32", "--shape", "1,2,256,32")
TRIALS = 4


def test_two_processes_share_the_problems(own_cache):
    command = [sys.executable, "-m", "latune", "tune", "--gpu", "a100", *SHAPES, "--direction", "fwd", "--decay", "none"]
    command += ["--trials", str(TRIALS), "--workers", "2"]
    environment = {**os.environ, "LATUNE_CACHE_DIR": str(own_cache), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (log,) = (own_cache / "logs").iterdir()
    assert "tuning 3 problems" in log.read_text(encoding="utf-8") and str(log) in done.stderr
    assert len(read_cache(find_gpu("a100"), [own_cache / "cache"]).entries) == 3

    searches = [path for path in (own_cache / "studies").glob("*.journal") if "-s0-o-" in path.name]
    assert len(searches) == 3
    for path in searches:
        storage = JournalStorage(JournalFileBackend(str(path)))
        (study,) = storage.get_all_studies()
        trials = storage.get_all_trials(study._study_id)
        asked = Counter(str(trial.user_attrs["config"]) for trial in trials if "measurement" in trial.user_attrs)
        assert len(asked) == TRIALS and set(asked.values()) == {1}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--transfer",), "--transfer or --effort quick"),
        (("--effort", "quick"), "--transfer or --effort quick"),
        (("--fresh",), "--fresh"),
    ],
)
def test_what_each_process_would_do_for_itself_is_refused(run, options, named):
    result = run("tune", *SHAPES, "--workers", "2", *options)
    assert result.exit_code == 2 and f"expected --workers without {named}, which each" in result.stderr


def test_no_more_processes_than_gpus(run, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    result = run("tune", *SHAPES, "--workers", "3")
    assert result.exit_code == 2 and "expected at most 2" in result.stderr


def test_processes_are_for_gpus_of_one_kind(run, monkeypatch):
    """Each tunes what the others do, for the same entries."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.setattr("torch.cuda.get_device_name", ["NVIDIA H200", "NVIDIA H200", "NVIDIA A100"].__getitem__)
    result = run("tune", *SHAPES, "--workers", "3")
    assert result.exit_code == 2 and "of one kind, got NVIDIA A100 and NVIDIA H200; tune each kind by itself" in result.stderr
    check_gpus(2)


def test_a_storage_that_cannot_be_used_fails_each_problem_and_not_the_run(run, own_cache):
    result = run("tune", "--gpu", "a100", *SHAPES[:4], "--direction", "fwd", "--trials", "1", "--storage", "/dev/null/studies")
    assert result.exit_code == 1 and "2 of 2 problems not tuned" in result.stderr
    assert all(f"fwd 1,2,{length},32,32 bf16 decay=constant: cannot keep" in result.stderr for length in (64, 128))


@pytest.mark.parametrize(
    ("arguments", "goes_on"),
    [
        ((), "the same command goes on from here"),
        (("--fresh",), "the same command, without --fresh, goes on from here"),
        (("--transfer",), "the same command goes on from here"),
        (("--transfer", "--fresh"), "the same command begins anew"),
        (("--effort", "quick"), "the same command begins anew"),
    ],
)
def test_ctrl_c_says_what_the_next_run_will_do(run, own_cache, monkeypatch, arguments, goes_on):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(searching, "tune_problem", interrupt)
    monkeypatch.setattr(racing, "begin_transfer", interrupt)
    result = run("tune", "--gpu", "a100", *SHAPES[:2], "--direction", "fwd", *arguments)
    assert result.exit_code == 130 and goes_on in result.stderr


def test_hidden_gpus_stay_hidden(monkeypatch):
    for visible, second in ((None, "1"), ("4,6", "6"), ("", ""), ("-1", "-1")):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert crew._device(1) == second


def test_ctrl_c_between_two_problems_ends_the_run_as_within_one(run, own_cache, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(searching, "_in_hand", interrupt)
    result = run("tune", "--gpu", "a100", *SHAPES[:2], "--direction", "fwd", "--trials", "1")
    assert result.exit_code == 130 and "goes on from here" in result.stderr
