from __future__ import annotations

from dataclasses import replace

import pytest

from latune.cli.progress import TuningProgress
from latune.config import Config
from latune.measurement import Measurement
from latune.problem import Problem
from latune.tuner.search import Trial, TrialEvent

FWD = Problem(direction="fwd", decay="constant", dtype="bf16", batch=1, num_heads=16, seqlen=1024, head_dim_k=64, head_dim_v=64)
BWD = replace(FWD, direction="bwd")
CONFIG = Config.of("sequential")
MEASURED = Measurement(outcome="ok", median_ms=0.02, samples=9)
# FWD moves 8 MiB: .0083886 ms.
GBPS = 1000.0


def _event(problem: Problem, kernel: str, index: int, total: int, best: bool = True) -> TrialEvent:
    trial = Trial(config=CONFIG, measurement=MEASURED) if best else None
    return TrialEvent(problem=problem, kernel=kernel, index=index, total=total, config=CONFIG, measurement=MEASURED, best=trial)


@pytest.fixture
def clock():
    class Clock:
        now_s = 0.0

        def __call__(self) -> float:
            return self.now_s

    return Clock()


def _progress(clock, bar=False):
    return TuningProgress([FWD, BWD], trials=10, bandwidth_gbps=GBPS, bar=bar, clock=clock)


def test_lines_come_first_last_and_every_ten_seconds(clock, capsys):
    with _progress(clock) as progress:
        for index in range(1, 11):
            clock.now_s += 3
            progress.on_trial(_event(FWD, "o", index, 10, best=index > 1))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" trials")[0].split()[-1] for line in lines] == ["1/10", "5/10", "9/10", "10/10"]
    assert lines[0] == "[1/2] fwd 1,16,1024,64 o 1/10 trials, none correct yet"
    assert lines[-1] == "[1/2] fwd 1,16,1024,64 o 10/10 trials, best 0.02 ms, 42% of the roof"


def test_the_total_follows_what_is_learnt(clock):
    progress = _progress(clock)
    assert (progress.done, progress.total) == (0, 30)
    progress.on_trial(_event(FWD, "o", 4, 6))
    assert (progress.done, progress.total) == (4, 26)
    progress.finish(FWD)
    assert (progress.done, progress.total) == (4, 24)
    progress.on_trial(_event(BWD, "dq", 8, 8))
    assert (progress.done, progress.total) == (12, 22)
    progress.finish(BWD)
    assert progress.done == progress.total == 12


def test_a_bar_goes_to_stderr_alone(clock, capsys):
    with _progress(clock, bar=True) as progress:
        progress.on_trial(_event(BWD, "dkdv", 3, 10))
    assert capsys.readouterr().out == ""
