"""Processes that are begun before there is anything to judge."""

from __future__ import annotations

from pathlib import Path

import pytest

from latune.errors import WorkerError
from latune.tuner import standby
from latune.tuner.process import Process
from latune.tuner.standby import standing_by
from latune.tuner.worker import Worker


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[Process]:
    """The processes that are begun; their runners come up at once."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setattr(standby, "VERIFIED_COMPILER", "fake_compilers:start")
    found: list[Process] = []
    begin = Process.begin
    monkeypatch.setattr(Process, "begin", lambda start: found.append(begin(start)) or found[-1])
    return found


@pytest.mark.parametrize("there", [True, False])
def test_they_are_begun_where_there_may_be_a_gpu(
    begun: list[Process], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, there: bool
) -> None:
    device = tmp_path / "nvidiactl"
    if there:
        device.touch()
    monkeypatch.setattr(standby, "_DEVICES", (tmp_path / "dxg", device))
    with standing_by(workers=2):
        assert len(begun) == (3 if there else 0)
    assert not any(process.alive for process in begun)


def test_none_is_begun_twice(begun: list[Process], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standby, "_may_have_a_gpu", lambda: False)
    with standing_by(workers=2) as processes:
        processes.begin()
        processes.begin()
        assert len(begun) == 3
        processes.close()
        assert not any(process.alive for process in begun)


def test_they_end_when_what_they_stand_by_for_fails(begun: list[Process], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standby, "_may_have_a_gpu", lambda: True)
    with pytest.raises(KeyboardInterrupt), standing_by(workers=1):
        raise KeyboardInterrupt
    assert len(begun) == 2 and not any(process.alive for process in begun)


@pytest.mark.parametrize("visible", ["", "-1"])
def test_none_is_begun_where_gpus_are_hidden(begun: list[Process], monkeypatch: pytest.MonkeyPatch, visible: str) -> None:
    monkeypatch.setattr(standby, "_DEVICES", (Path("/dev/null"),))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with standing_by(workers=1):
        assert begun == []


def test_compilers_end_though_the_worker_does_not(begun: list[Process], monkeypatch: pytest.MonkeyPatch) -> None:
    def stuck(_: Worker) -> None:
        raise WorkerError("stuck in the GPU driver")

    monkeypatch.setattr(standby, "_may_have_a_gpu", lambda: False)
    monkeypatch.setattr(Worker, "close", stuck)
    monkeypatch.setattr(Worker, "begin", lambda _: None)
    with pytest.raises(WorkerError, match="stuck"), standing_by(workers=2) as processes:
        processes.begin()
    assert len(begun) == 2 and not any(process.alive for process in begun)
