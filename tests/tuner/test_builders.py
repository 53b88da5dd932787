"""Compiler processes: many at once, each plan once, and a plan that kills its process fails alone."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from latune.codegen.build import Build
from latune.errors import BuildError, WorkerError
from latune.gpu import find_gpu
from latune.plan import Plan
from latune.problem import Problem
from latune.tuner.builders import ParallelBuilder
from latune.tuner.jobs import Compile
from latune.tuner.process import Process

GPU = find_gpu("a100")
PROBLEM = Problem(
    direction="fwd", decay="constant", dtype="bf16", batch=1, num_heads=2, seqlen=64, head_dim_k=16, head_dim_v=16
)


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiler processes take over ``sys.path``."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[Process]:
    """The processes that are begun."""
    found: list[Process] = []
    begin = Process.begin
    monkeypatch.setattr(Process, "begin", lambda start: found.append(begin(start)) or found[-1])
    return found


def plan(fake_builds: ModuleType, block_n: int = 64, num_warps: int = 4) -> Plan:
    return fake_builds.one("o", fake_builds.config(block_n=block_n, num_warps=num_warps))


def made_by(build: object) -> str:
    """The id of the fake compiler that answered."""
    assert isinstance(build, str)
    return build


def test_each_plan_is_compiled_once(fake_builds: ModuleType) -> None:
    with ParallelBuilder(workers=1, runner="fake_compilers:start") as builder:
        builder.prepare(PROBLEM, [plan(fake_builds)], GPU)
        first = builder(PROBLEM, plan(fake_builds), GPU)
        assert builder(PROBLEM, plan(fake_builds), GPU) is first


def test_a_plan_is_compiled_once_its_build_is_there(fake_builds: ModuleType) -> None:
    known, unknown = plan(fake_builds), plan(fake_builds, num_warps=8)
    with ParallelBuilder(workers=1, runner="fake_compilers:start") as builder:
        assert not builder.has_compiled(PROBLEM, [known], GPU)
        builder(PROBLEM, known, GPU)
        assert builder.has_compiled(PROBLEM, [known], GPU)
        assert not builder.has_compiled(PROBLEM, [known, unknown], GPU)
        assert not builder.has_compiled(replace(PROBLEM, seqlen=128), [known], GPU)


def test_what_is_asked_for_comes_before_what_may_be_later(fake_builds: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled, under_way, go_on = [], threading.Event(), threading.Event()

    def compile_(self: ParallelBuilder, job: Compile) -> Build:
        compiled.append(job.plan)
        under_way.set()
        assert go_on.wait(60)
        return fake_builds.build(job.problem, job.plan, job.gpu)

    monkeypatch.setattr(ParallelBuilder, "_compile", compile_)
    first, later, later_still, wanted, soon = (plan(fake_builds, num_warps=2**power) for power in range(5))
    with ParallelBuilder(workers=1) as builder:
        builder.prepare(PROBLEM, [first], GPU)
        assert under_way.wait(60)
        builder.prepare(PROBLEM, [later, later_still, wanted], GPU, urgent=False)
        builder.prepare(PROBLEM, [soon, first], GPU)
        builder.prepare(PROBLEM, [wanted], GPU)
        builder.prepare(PROBLEM, [soon], GPU, urgent=False)
        go_on.set()
        builds = [builder(PROBLEM, one, GPU) for one in (later_still, later, wanted, soon, first)]
    assert len({id(build) for build in builds}) == 5
    assert compiled[:3] == [first, soon, wanted] and sorted(compiled[3:]) == sorted([later, later_still])


def test_plans_that_share_kernels_do_not_compile_them_side_by_side(
    fake_builds: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor do those of other buckets of the same kernels; the second finds in Triton's cache what the first has left there."""
    a, b, c = (fake_builds.one("o", fake_builds.config(num_warps=warps)) for warps in (1, 2, 4))
    longer = replace(PROBLEM, seqlen=4096, num_heads=8)
    compiled: list[Compile] = []
    go_on = {plan_: threading.Event() for plan_ in (a, b, c)}
    go_on[c].set()
    both_at_work = threading.Barrier(3)

    def compile_(self: ParallelBuilder, job: Compile) -> Build:
        compiled.append(job)
        if job.problem == PROBLEM:
            both_at_work.wait(60)
        assert go_on[job.plan].wait(60)
        return fake_builds.build(job.problem, job.plan, job.gpu)

    monkeypatch.setattr(ParallelBuilder, "_compile", compile_)
    with ParallelBuilder(workers=2) as builder:
        builder.prepare(PROBLEM, [a, b], GPU)
        both_at_work.wait(60)
        builder.prepare(longer, [a, c], GPU)
        go_on[b].set()
        builder(longer, c, GPU)
        go_on[a].set()
        builder(longer, a, GPU)
    of_a = Compile(problem=PROBLEM, plan=a, gpu=GPU).kernels
    assert compiled[2].plan == c and compiled[3].kernels == of_a
    assert not Compile(problem=replace(PROBLEM, dtype="fp16"), plan=a, gpu=GPU).kernels & of_a


def test_threads_that_ask_for_one_plan_share_its_build(fake_builds: ModuleType) -> None:
    with ParallelBuilder(workers=2, runner="fake_compilers:start") as builder:
        builds = []
        asking = [threading.Thread(target=lambda: builds.append(builder(PROBLEM, plan(fake_builds), GPU))) for _ in range(8)]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join(60)
    assert len(builds) == 8 and len({id(build) for build in builds}) == 1


def test_a_failure_a_crash_and_a_stall_fail_their_plans_alone(fake_builds: ModuleType, fake_compilers: ModuleType) -> None:
    faults = fake_compilers.COMPILE_ERROR, fake_compilers.CRASH, fake_compilers.STALL
    bad = [plan(fake_builds, block_n) for block_n in faults]
    good = [plan(fake_builds, num_warps=warps) for warps in (2, 4)]
    with ParallelBuilder(workers=2, runner="fake_compilers:start", timeout_s=1.0) as builder:
        builder.prepare(PROBLEM, [good[0], *bad, good[1]], GPU)
        for plan_, message in zip(bad, ("no such layout", "SIGABRT", "no answer within 1 s"), strict=True):
            with pytest.raises(BuildError, match=message):
                builder(PROBLEM, plan_, GPU)
        assert all(made_by(builder(PROBLEM, plan_, GPU)).isdigit() for plan_ in good)


def test_what_no_plan_is_to_blame_for_is_no_failure_of_one(fake_builds: ModuleType, fake_compilers: ModuleType) -> None:
    """A search would keep that for good."""
    with ParallelBuilder(workers=1, runner="fake_compilers:start") as builder:
        with pytest.raises(WorkerError, match=r"No space left on device; mend that"):
            builder(PROBLEM, plan(fake_builds, fake_compilers.DISK_FULL), GPU)
        assert made_by(builder(PROBLEM, plan(fake_builds), GPU)).isdigit()


def test_processes_are_reused_and_end_with_the_builder(fake_builds: ModuleType) -> None:
    with ParallelBuilder(workers=1, runner="fake_compilers:start") as builder:
        makers = {made_by(builder(PROBLEM, plan(fake_builds, num_warps=warps), GPU)) for warps in (1, 2, 4)}
    assert len(makers) == 1
    assert not Path(f"/proc/{makers.pop()}").exists()


def test_processes_that_are_begun_come_up_before_there_is_need(fake_builds: ModuleType, begun: list[Process]) -> None:
    with ParallelBuilder(workers=2, runner="fake_compilers:start") as builder:
        builder.begin()
        assert len(begun) == 2
        makers = {made_by(builder(PROBLEM, plan(fake_builds, num_warps=warps), GPU)) for warps in (1, 2, 4)}
        assert makers <= {str(process.popen.pid) for process in begun} and len(begun) == 2
    assert not any(process.alive for process in begun)


def test_compilers_give_way_to_what_feeds_the_gpu(fake_builds: ModuleType, begun: list[Process]) -> None:
    with ParallelBuilder(workers=1, runner="fake_compilers:start") as builder:
        builder(PROBLEM, plan(fake_builds), GPU)
        niceness = os.getpriority(os.PRIO_PROCESS, begun[0].popen.pid)
    assert niceness > os.getpriority(os.PRIO_PROCESS, 0)


def test_a_process_that_dies_while_it_comes_up_is_replaced_unseen(fake_builds: ModuleType, begun: list[Process]) -> None:
    with ParallelBuilder(workers=1, runner="fake_compilers:start") as builder:
        builder.begin()
        begun[0].popen.kill()
        maker = made_by(builder(PROBLEM, plan(fake_builds), GPU))
    assert [str(process.popen.pid) for process in begun[1:]] == [maker]


def test_a_compiler_that_cannot_come_up_is_an_error(fake_builds: ModuleType) -> None:
    with ParallelBuilder(workers=1, runner="fake_compilers:no_such_runner") as builder:
        builder.begin()
        with pytest.raises(WorkerError, match="no_such_runner"):
            builder(PROBLEM, plan(fake_builds), GPU)


def test_a_compiler_that_died_idle_is_replaced_unseen(fake_builds: ModuleType) -> None:
    with ParallelBuilder(workers=1, runner="fake_compilers:start") as builder:
        first = made_by(builder(PROBLEM, plan(fake_builds), GPU))
        os.kill(int(first), signal.SIGKILL)
        assert made_by(builder(PROBLEM, plan(fake_builds, num_warps=2), GPU)) not in ("", first)


def test_leaving_does_not_wait_for_a_compiler_that_stalls(fake_builds: ModuleType, fake_compilers: ModuleType) -> None:
    with ParallelBuilder(workers=1, runner="fake_compilers:start", timeout_s=600.0) as builder:
        made_by(builder(PROBLEM, plan(fake_builds), GPU))
        builder.prepare(PROBLEM, [plan(fake_builds, fake_compilers.STALL), plan(fake_builds, num_warps=2)], GPU)


def test_the_real_compiler_reports_figures_and_refusals(fake_builds: ModuleType) -> None:
    fine = fake_builds.one("o", fake_builds.config("plain", block_n=16, block_e=16, num_warps=4, num_stages=1, loads="pointer"))
    incomplete = fake_builds.one("o", fake_builds.config(block_e=None, loads="pointer"))
    with ParallelBuilder(workers=1) as builder:
        kernel = builder(PROBLEM, fine, GPU).kernels[0]
        with pytest.raises(BuildError, match="BLOCK_E"):
            builder(PROBLEM, incomplete, GPU)
    assert (kernel.name, kernel.programs, kernel.num_warps) == ("o_kernel", 2, 4)
    assert 16 <= kernel.registers <= 255
