"""A small space whose times are known in closed form, and an evaluator of it that counts what it is asked."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from latune.cache.entry import TOOLCHAIN
from latune.cache.resources import Resources
from latune.config import Config
from latune.measurement import Measurement
from latune.plan import Plan
from latune.tuner.grid import Grid
from latune.tuner.landscapes.file import read_landscape
from latune.tuner.landscapes.landscape import Landscape
from latune.tuner.landscapes.record import record

SMALLER = (
    ("BLOCK_E: {kind: constexpr, powers_of_two: [16, 256]", "BLOCK_E: {kind: constexpr, powers_of_two: [32, 256]"),
    ("[32, 1024]", "[32, 64]"),
    ("powers_of_two: [2, 8]", "powers_of_two: [4, 8]"),
)


class Judge:
    """Measures with a noise of 1% alone and of 0.2% in a race."""

    evidence = "measured"
    bandwidth_gbps = 1000.0
    ahead = None

    def __init__(self, synthetic) -> None:
        self.gpu = synthetic.GPU
        self.toolchain = dict.fromkeys(TOOLCHAIN) | {"triton": "3.6.0", "protocol": "measured-2", "driver": "580"}
        self.asked: list[Config] = []
        self.raced: list[Config] = []
        self.prepared: list[Config] = []
        self._measure = synthetic.evaluate
        self._noise = random.Random(0)

    def prepare(self, plans: Sequence[Plan], *, urgent: bool = True) -> None:
        self.prepared += [plan.steps[0].config for plan in plans]

    def __call__(self, plan: Plan) -> Measurement:
        self.asked.append(plan.steps[0].config)
        return self._noisy(plan, 0.01)

    def race(self, plans: Sequence[Plan]) -> list[Measurement]:
        self.raced += [plan.steps[0].config for plan in plans]
        return [self._noisy(plan, 0.002) for plan in plans]

    def resources(self, plan: Plan) -> tuple[Resources, ...]:
        return (Resources(name="o_kernel", registers=128, spill_bytes=0, shared_bytes=1024, num_warps=4),)

    def _noisy(self, plan: Plan, spread: float) -> Measurement:
        found = self._measure(plan)
        return replace(found, median_ms=found.median_ms * self._noise.uniform(1 - spread, 1 + spread)) if found.ok else found


@pytest.fixture
def judge(synthetic) -> Judge:
    return Judge(synthetic)


@pytest.fixture(scope="session")
def grid(synthetic, tmp_path_factory) -> Grid:
    text = synthetic.SPACE
    for wide, narrow in SMALLER:
        text = text.replace(wide, narrow)
    return Grid(synthetic.space(tmp_path_factory.mktemp("space"), text), synthetic.PROBLEM, synthetic.GPU, synthetic.KERNEL)


@pytest.fixture(scope="session")
def landscape(synthetic, grid, tmp_path_factory) -> Landscape:
    path = tmp_path_factory.mktemp("landscape") / "o.jsonl.gz"
    record(grid, Judge(synthetic), path)
    return read_landscape(path)
