"""Studies of searches: whatever ends one, or befalls its file, loses nothing but what was in flight."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from latune.errors import StudyError
from latune.measurement import Measurement
from latune.plan import Plan


def test_ctrl_c_keeps_the_best_so_far(synthetic: ModuleType, tmp_path: Path) -> None:
    result = synthetic.run(tmp_path / "a.journal", interrupt_at(7, synthetic))
    assert result.stopped == "interrupted"
    assert len(result.trials) == 6
    assert result.best is not None


def interrupt_at(call: int, synthetic: ModuleType) -> Callable[[Plan], Measurement]:
    calls: list[Plan] = []

    def evaluate(plan: Plan) -> Measurement:
        calls.append(plan)
        if len(calls) == call:
            raise KeyboardInterrupt
        return synthetic.evaluate(plan)

    return evaluate


@pytest.mark.parametrize("batch", [1, 4])
def test_an_interrupted_search_ends_where_an_uninterrupted_one_does(synthetic: ModuleType, tmp_path: Path, batch: int) -> None:
    whole = synthetic.run(tmp_path / "whole.journal", batch=batch)
    for call in (2, 5, 20):
        synthetic.run(tmp_path / "parts.journal", interrupt_at(call, synthetic), batch=batch)
    resumed = synthetic.run(tmp_path / "parts.journal", batch=batch)
    assert resumed.resumed == 1 + 4 + 19
    assert resumed.trials == whole.trials


@pytest.mark.parametrize(("stay_at", "batch"), [(1, 1), (12, 1), (12, 4), (29, 4)])
def test_a_killed_search_loses_only_what_was_in_flight(synthetic: ModuleType, tmp_path: Path, stay_at: int, batch: int) -> None:
    journal = tmp_path / "killed.journal"
    begun = kill_at(synthetic, journal, stay_at, batch)
    assert len(begun) == stay_at

    again: list[str] = []

    def evaluate(plan: Plan) -> Measurement:
        again.append(plan.steps[0].config.digest)
        return synthetic.evaluate(plan)

    result = synthetic.run(journal, evaluate, batch=batch)
    assert result.resumed == stay_at - 1
    assert synthetic.digests(result) == begun[:-1] + again
    assert again[0] == begun[-1]
    assert result.trials == synthetic.run(tmp_path / "whole.journal", batch=batch).trials


def kill_at(synthetic: ModuleType, journal: Path, stay_at: int, batch: int) -> list[str]:
    """Runs the search in a process, kills it with SIGKILL inside an evaluation; returns those that had begun."""
    command = [sys.executable, str(synthetic.__file__), str(journal), "30", str(batch), str(stay_at)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        begun = [process.stdout.readline().strip() for _ in range(stay_at)]
        process.kill()
    assert all(begun), "the process ended before it was killed"
    return begun


def test_a_torn_last_line_is_cut_off(synthetic: ModuleType, tmp_path: Path) -> None:
    """By a process that is gone, and holds nothing any more."""
    journal = tmp_path / "a.journal"
    process = multiprocessing.get_context("fork").Process(target=synthetic.run, args=(journal,), kwargs={"trials": 5})
    process.start()
    process.join()
    whole = journal.read_bytes()
    journal.write_bytes(whole[: whole.rindex(b'"measurement"') + 20])
    result = synthetic.run(journal, trials=8)
    assert result.resumed == 4
    assert len(result.trials) == 8


def test_half_a_line_of_a_process_that_is_gone_costs_those_that_go_on_nothing(synthetic: ModuleType, tmp_path: Path) -> None:
    journal = tmp_path / "a.journal"

    def evaluate(plan: Plan) -> Measurement:
        if "half" not in seen:
            seen.append("half")
            with journal.open("ab") as stream:
                stream.write(b'{"op_code":4,"worker_id":"x","params":{"num_st')
        return synthetic.evaluate(plan)

    seen: list[str] = []
    result = synthetic.run(journal, evaluate, trials=8)
    assert seen and len(result.trials) == 8
    assert synthetic.run(journal, trials=8).resumed == 8


def test_a_damaged_study_is_set_aside_and_begun_anew(synthetic: ModuleType, tmp_path: Path) -> None:
    journal = tmp_path / "a.journal"
    synthetic.run(journal, trials=5)
    first, _, *rest = journal.read_bytes().splitlines(keepends=True)
    damaged = b"".join([first, b"garbage\n", *rest])
    journal.write_bytes(damaged)
    with pytest.warns(UserWarning, match=r"damaged and was set aside as a\.journal\.damaged-1"):
        assert synthetic.run(journal, trials=5).resumed == 0
    assert (tmp_path / "a.journal.damaged-1").read_bytes() == damaged


@pytest.mark.parametrize(
    "content",
    [b"SQLite format 3\0\1\2", b"my notes\nof today", b"no end", b'{"precious": 1}', b'{\n "entries": []\n}\n', b"{}\n{}\n"],
)
def test_a_file_that_is_no_journal_is_left_as_it_is(synthetic: ModuleType, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "study.db").write_bytes(content)
    with pytest.raises(StudyError, match=r"expected a journal at .* sqlite:///FILE"):
        synthetic.run(tmp_path / "unused.journal", storage=str(tmp_path / "study.db"), trials=2)
    assert (tmp_path / "study.db").read_bytes() == content


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"measurement":{', b'"measurement":{"extra":1,'),
        (b'"config":{', b'"config":{"extra":1,'),
        (b'"config":', b'"no_config":'),
        (b'"measurement":{', b'"measurement":"x","was":{'),
        (b'"op_code":4', b'"op_code":99'),
    ],
)
def test_evaluations_that_cannot_be_read_are_one_line_with_a_remedy(
    synthetic: ModuleType, tmp_path: Path, old: bytes, new: bytes
) -> None:
    """Such as another version's."""
    journal = tmp_path / "a.journal"
    synthetic.run(journal, trials=3)
    content = journal.read_bytes()
    assert old in content
    journal.write_bytes(content.replace(old, new))
    with pytest.raises(StudyError, match=r"cannot (read|keep) evaluations in .*a\.journal"):
        synthetic.run(journal, trials=3)


def test_a_config_that_two_runs_evaluated_counts_once(synthetic: ModuleType, tmp_path: Path) -> None:
    journal = tmp_path / "a.journal"
    first = synthetic.run(journal, trials=5)
    lines = journal.read_bytes().splitlines(keepends=True)
    last = next(line for line in reversed(lines) if b'"measurement"' in line)
    journal.write_bytes(b"".join([*lines, last]))
    again = synthetic.run(journal, trials=8)
    assert (again.resumed, len(set(synthetic.digests(again)))) == (5, 8)
    assert again.trials[:5] == first.trials


@pytest.mark.parametrize(
    ("storage", "words"),
    [
        ("foo://bar", ["'foo://bar'", "NoSuchModuleError", "--storage"]),
        ("sqlite:////proc/x.db", ["OperationalError", "--storage"]),
        ("/dev/null/studies", ["NotADirectoryError", "--storage"]),
        (None, ["NotADirectoryError", "LATUNE_CACHE_DIR"]),
    ],
)
def test_a_storage_that_cannot_be_used_is_one_line_with_a_remedy(
    synthetic: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: str | None, words: list[str]
) -> None:
    monkeypatch.setenv("LATUNE_CACHE_DIR", "/dev/null/cache")
    with pytest.raises(StudyError) as error:
        synthetic.run(tmp_path / "unused.journal", storage=storage, trials=2)
    assert [word for word in words if word not in str(error.value)] == [], str(error.value)


def test_a_folder_with_a_dot_in_its_name_is_a_folder(synthetic: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "v1.2").mkdir()
    synthetic.run(tmp_path / "unused.journal", storage=str(tmp_path / "v1.2"), trials=2)
    assert [path.suffix for path in (tmp_path / "v1.2").glob("*.journal")] == [".journal"]


def test_any_seed_is_one(synthetic: ModuleType, tmp_path: Path) -> None:
    assert len(synthetic.run(tmp_path / "a.journal", trials=20, seed=10**12).trials) == 20


def test_more_trials_go_on_with_the_same_study(synthetic: ModuleType, tmp_path: Path) -> None:
    short = synthetic.run(tmp_path / "a.journal", trials=10)
    longer = synthetic.run(tmp_path / "a.journal", trials=25)
    assert longer.resumed == 10
    assert longer.trials[:10] == short.trials
    assert len(set(synthetic.digests(longer))) == 25
    assert synthetic.run(tmp_path / "a.journal", trials=25).resumed == 25


def test_fresh_forgets(synthetic: ModuleType, tmp_path: Path) -> None:
    synthetic.run(tmp_path / "a.journal", trials=10)
    assert synthetic.run(tmp_path / "a.journal", trials=10, fresh=True).resumed == 0


def test_a_database_keeps_a_study_too(synthetic: ModuleType, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    first = synthetic.run(tmp_path / "unused.journal", storage=url, trials=6)
    assert synthetic.run(tmp_path / "unused.journal", storage=url, trials=6).trials == first.trials
    assert not (tmp_path / "unused.journal").exists()


def test_studies_live_under_the_cache_root(synthetic: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATUNE_CACHE_DIR", str(tmp_path / "cache"))
    synthetic.run(tmp_path / "unused.journal", storage=None, trials=2)
    assert [path.name.split("-")[0] for path in (tmp_path / "cache" / "studies").glob("*.journal")] == ["synthetic"]


def test_a_constraint_of_today_hides_trials_of_yesterday(synthetic: ModuleType, tmp_path: Path) -> None:
    journal = tmp_path / "a.journal"
    before = synthetic.run(journal, trials=30)
    stricter = synthetic.SPACE.replace("BLOCK_E * BLOCK_N <= 8192", "BLOCK_E * BLOCK_N <= 2048")
    after = synthetic.run(journal, trials=30, space=synthetic.space(tmp_path, stricter))
    kept = [trial for trial in before.trials if trial in after.trials]
    assert 0 < after.resumed == len(kept) < 30
