"""Which GPU is tuned for, and who judges plans for it."""

from __future__ import annotations

import pytest

from latune.errors import UnknownGpuError
from latune.gpu import find_gpu
from latune.problem import Problem
from latune.tuner import target
from latune.tuner.builders import ParallelBuilder
from latune.tuner.evaluators import StaticEvaluator
from latune.tuner.jobs import DeviceReport
from latune.tuner.target import open_target
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


@pytest.mark.parametrize(("name", "evidence"), [(None, "measured"), ("h200", "measured"), ("a100", "static")])
def test_compilers_come_up_beside_the_worker(monkeypatch: pytest.MonkeyPatch, name: str | None, evidence: str) -> None:
    """Also where its GPU turns out not to be the one that is meant."""
    h200, begun = find_gpu("h200"), []

    class Machine(Worker):
        def device(self) -> DeviceReport:
            assert begun, "while the worker comes up"
            limits = {"arch": h200.arch, "sms": h200.sms, "memory_bytes": int(h200.memory_gib * 2**30), "l2_bytes": 50 * 2**20}
            return DeviceReport(title="NVIDIA H200", copy_gbps=4000.0, toolchain=(), free_bytes=0, **limits)

    monkeypatch.setattr(target, "_has_gpu", lambda: True)
    monkeypatch.setattr(target, "Worker", Machine)
    monkeypatch.setattr(ParallelBuilder, "begin", lambda builder: begun.append(builder))
    with open_target(name, workers=1) as chosen:
        assert (chosen.gpu.name, chosen.evidence) == (name or "h200", evidence)
        assert (chosen.builder in begun) == (evidence == "measured")
