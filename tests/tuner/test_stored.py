"""What is read of earlier searches, wherever they were kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from latune import paths
from latune.errors import StudyError
from latune.measurement import Measurement
from latune.plan import Plan
from latune.tuner.stored import FEWEST_TRIALS, stored_studies

Storage = Callable[[Path], str | None]


@pytest.fixture(autouse=True)
def own_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATUNE_CACHE_DIR", str(tmp_path / "root"))


@pytest.mark.parametrize(
    "storage",
    [
        pytest.param(lambda folder: None, id="the user's root"),
        pytest.param(lambda folder: str(folder / "v1.2"), id="a folder"),
        pytest.param(lambda folder: str(folder / "all.journal"), id="a journal"),
        pytest.param(lambda folder: f"sqlite:///{folder / 'all.db'}", id="a database"),
    ],
)
def test_studies_of_one_problem_are_read_by_kernel(synthetic: ModuleType, tmp_path: Path, storage: Storage) -> None:
    (tmp_path / "v1.2").mkdir()
    where = storage(tmp_path)
    searches = {
        name: synthetic.run(tmp_path / "space" / "unused.journal", storage=where, study_name=name, trials=4, seed=seed)
        for seed, name in enumerate(["fwd-s1-o", "bwd-s1-dq", "bwd-s1-dk_dv", "bwd-s10-dq"])
    }
    found = {study.kernel: study for study in stored_studies("bwd-s1", where)}
    assert list(found) == ["dk_dv", "dq"]
    assert {kernel: study.trials for kernel, study in found.items()} == {
        kernel: searches[f"bwd-s1-{kernel}"].trials for kernel in ("dk_dv", "dq")
    }
    assert found["dq"].ranked == searches["bwd-s1-dq"].ranked and found["dq"].name.startswith("bwd-s1-dq-")
    assert stored_studies("bwd-s2", where) == []


@pytest.mark.parametrize("storage", [None, "{}/missing", "{}/missing.journal", "sqlite:///{}/missing.db"])
def test_where_nothing_is_kept_there_is_nothing_and_nothing_is_made(tmp_path: Path, storage: str | None) -> None:
    assert stored_studies("fwd-s0", storage and storage.format(tmp_path)) == []
    assert list(tmp_path.iterdir()) == []


def test_a_database_may_be_named_by_its_uri(synthetic: ModuleType, tmp_path: Path) -> None:
    where = f"sqlite:///file:{tmp_path / 'studies.db'}?uri=true"
    synthetic.run(tmp_path / "unused.journal", storage=where, study_name="fwd-s0-o", trials=2)
    assert [study.kernel for study in stored_studies("fwd-s0", where)] == ["o"]


def test_a_storage_that_cannot_be_read_is_an_error() -> None:
    with pytest.raises(StudyError, match="NoSuchModuleError"):
        stored_studies("fwd-s0", "foo://bar")


def test_a_damaged_study_is_none(synthetic: ModuleType, tmp_path: Path) -> None:
    synthetic.run(tmp_path / "unused.journal", storage=None, study_name="fwd-s0-o", trials=2)
    (journal,) = paths.studies().glob("*.journal")
    first, *rest = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([first, b"garbage\n", *rest]))
    with pytest.warns(UserWarning, match="damaged and was set aside"):
        assert stored_studies("fwd-s0") == []


def test_what_a_search_depends_on_is_told_of_enough_trials(synthetic: ModuleType, tmp_path: Path) -> None:
    def by_rows(plan: Plan) -> Measurement:
        values = plan.steps[0].config.values()
        if values["num_stages"] == 1:
            return Measurement(outcome="out_of_resources", detail="too many tiles in flight")
        return Measurement(outcome="ok", median_ms=1 + abs(math.log2(values["BLOCK_N"]) - 6))

    def stored(trials: int):
        result = synthetic.run(tmp_path / "a.journal", by_rows, trials=trials, study_name="fwd-s0-o")
        (study,) = stored_studies("fwd-s0", str(tmp_path / "a.journal"))
        return study, len(result.ranked)

    study, correct = stored(FEWEST_TRIALS)
    assert correct < FEWEST_TRIALS == len(study.trials) and study.importance is None
    study, correct = stored(2 * FEWEST_TRIALS)
    assert correct >= FEWEST_TRIALS and study.importance is not None
    assert sum(study.importance.values()) == pytest.approx(1)
    name, share = next(iter(study.importance.items()))
    assert name == "BLOCK_N" and share > 0.5
    assert study.importance.keys() == {"algorithm", "state_layout", "BLOCK_E", "BLOCK_N", "PROGRAMS", "num_warps", "num_stages"}
