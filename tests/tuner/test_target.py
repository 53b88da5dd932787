"""Which GPU is tuned for, and who judges plans for it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from latune.errors import UnknownGpuError, WorkerError
from latune.gpu import find_gpu
from latune.problem import Problem
from latune.tuner import target
from latune.tuner.builders import ParallelBuilder
from latune.tuner.evaluators import StaticEvaluator
from latune.tuner.jobs import DeviceReport
from latune.tuner.standby import standing_by
from latune.tuner.target import local_gpu, open_target
from latune.tuner.worker import Worker

FORWARD = Problem(
    direction="fwd", decay="constant", dtype="bf16", batch=3, num_heads=32, seqlen=2000, head_dim_k=64, head_dim_v=64
)


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_the_target_is_static() -> None:
    with open_target(workers=3) as chosen:
        evaluate = chosen.evaluator(FORWARD)
        assert (chosen.gpu.name, chosen.evidence) == ("a100", "static")
        assert isinstance(evaluate, StaticEvaluator)
    with open_target("H200") as chosen:
        assert chosen.gpu.name == "h200"
    with pytest.raises(UnknownGpuError, match="h200"), open_target("h201"):
        pass


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The builders and workers that are begun, on a machine with an H200."""
    found: list[object] = []
    monkeypatch.setattr(target, "local_gpu", lambda device_index: find_gpu("h200"))
    monkeypatch.setattr(ParallelBuilder, "begin", lambda builder: found.append(builder))
    monkeypatch.setattr(Worker, "begin", lambda worker: found.append(worker))
    return found


@pytest.mark.parametrize("name", [None, "h200"])
def test_processes_come_up_beside_one_another(begun: list[object], name: str | None) -> None:
    with open_target(name, workers=1) as chosen:
        assert (chosen.gpu.name, chosen.evidence) == ("h200", "measured")
        assert {chosen.builder, chosen.worker} <= set(begun)


def test_processes_that_stand_by_are_taken(begun: list[object]) -> None:
    with standing_by(workers=1) as standby, open_target(standby=standby) as chosen:
        assert (chosen.builder, chosen.worker) == (standby.builder, standby.worker)
        assert {standby.builder, standby.worker} <= set(begun)


def test_where_the_gpu_that_is_meant_is_not_nothing_stands_by(begun: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[object] = []
    monkeypatch.setattr(ParallelBuilder, "close", lambda builder: closed.append(builder))
    monkeypatch.setattr(Worker, "close", lambda worker: closed.append(worker))
    with standing_by(workers=1) as standby, open_target("a100", workers=1, standby=standby) as chosen:
        assert (chosen.gpu.name, chosen.evidence) == ("a100", "static")
        assert closed == [standby.worker, standby.builder] and chosen.builder is not standby.builder


def test_a_judge_is_there_before_the_device_answers(begun: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(_: Worker) -> DeviceReport:
        raise WorkerError("not yet")

    monkeypatch.setattr(Worker, "device", silent)
    with open_target(workers=1) as chosen:
        evaluate = chosen.evaluator(FORWARD)
        with pytest.raises(WorkerError, match="not yet"):
            _ = evaluate.bandwidth_gbps


def test_a_gpu_that_nothing_is_generated_for_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def device(_: int | None) -> SimpleNamespace:
        return SimpleNamespace(name="NVIDIA", major=major, minor=0, multi_processor_count=132, **sizes)

    sizes = {"total_memory": 141 * 2**30, "L2_cache_size": 60 * 2**20}
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_properties", device)
    major = 9
    assert local_gpu() == find_gpu("h200")
    major = 7
    assert local_gpu() is None
    major = 9
    monkeypatch.setattr("torch.version.hip", "6.4")
    assert local_gpu() is None
