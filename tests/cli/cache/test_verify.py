"""`latune cache verify`: what it finds wrong without a compiler, and with one that answers as it is told."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
import triton
from entries import valid_entry
from passes import AHEAD, BEHIND

from latune import paths
from latune.cache.resources import Resources
from latune.cache.store import cache_path, write_entries
from latune.cli.cache import rebuilding
from latune.codegen.build import Build, KernelBuild
from latune.codegen.kept import handing_over
from latune.errors import BuildError
from latune.gpu import find_gpu
from latune.plan import Plan

A100, H200 = find_gpu("a100"), find_gpu("h200")
STATED = Resources(name="o_kernel", registers=168, spill_bytes=0, shared_bytes=98304, num_warps=8)
BUILT = KernelBuild(
    name="o_kernel", registers=168, spill_bytes=0, shared_bytes=98304, num_warps=8, programs=2, binary_sha256="0"
)


@pytest.fixture
def compiler(monkeypatch):
    """Refuses plans, answers by number of warps, else with what entries state; ``asked`` lists what it was asked to build."""
    found = SimpleNamespace(answers={}, asked=[], refused=())

    def build(problem, plan, gpu):
        if plan in found.refused:
            raise BuildError("no")
        answer = found.answers.get(plan.steps[0].config.num_warps, BUILT)
        if isinstance(answer, Exception):
            raise answer
        return Build(kernels=(answer,))

    class Compiler(SimpleNamespace):
        def prepare(self, problem, plans, gpu, *, urgent):
            found.asked += [(gpu.name, problem.seqlen, plan.steps[0].config.num_warps) for plan in plans]

        def __call__(self, problem, plan, gpu):
            return build(problem, plan, gpu)

    @contextmanager
    def open_compiler(workers):
        yield Compiler(workers=workers or 2)

    monkeypatch.setattr(rebuilding, "ParallelBuilder", open_compiler)
    return found


def with_warps(plan, num_warps):
    return Plan(tuple(replace(step, config=replace(step.config, num_warps=num_warps)) for step in plan.steps))


def verdicts(result):
    return {entry["bucket"]["seqlen"]: entry for file in json.loads(result.stdout)["files"] for entry in file["entries"]}


def test_what_needs_no_compiler_is_told_without_one(own_cache, run, entry_at):
    sound = entry_at(256)
    wrong = entry_at(512, roof_ms=9.0)
    path = write_entries(A100, [sound, wrong, entry_at(1024, template_sha256="0" * 64)])
    result = run("cache", "verify", "--no-build", "--json")
    assert result.exit_code == 1
    (file,) = json.loads(result.stdout)["files"]
    assert (file["path"], file["gpu"], file["fault"]) == (str(path), "a100", None)
    found = verdicts(result)
    assert [found[seqlen]["verdict"] for seqlen in (256, 512, 1024)] == ["ok", "contradiction", "stale"]
    assert found[256]["mend"] is None and "faster than physics" in found[512]["detail"]
    (line,) = result.stderr.splitlines()
    assert line.startswith(
        f"Error: 2 of 3 entries and 0 of 1 files failed; first {wrong.bucket} in {path}: contradiction, faster"
    )
    assert line.endswith("latune tune --gpu a100 --shape 1,2,512,64,64 --dtype bf16 --direction fwd --decay constant --fresh")
    table = run("cache", "verify", "--no-build").stdout
    assert " 3        2   failed" in table and "stale" in table and str(sound.bucket) not in table


def test_a_file_that_cannot_be_read_fails_and_the_others_are_checked(own_cache, run, entry_at):
    torn = cache_path(write_entries(A100, [entry_at(256)]).parent, H200)
    torn.write_text('{"schema": 1', encoding="utf-8")
    result = run("cache", "verify", "--no-build")
    assert result.exit_code == 1 and torn.exists()
    assert "0 of 1 entries and 1 of 2 files failed; first " in result.stderr and f"{torn}: damaged: Expecting" in result.stderr
    assert "restore it, or move it away and tune anew" in result.stderr
    assert "ok" in result.stdout and "damaged" in result.stdout


def test_by_default_user_and_shipped_files_are_checked_else_those_named(own_cache, run, entry_at, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "shipped_cache", lambda: tmp_path / "shipped")
    mine, shipped = write_entries(A100, [entry_at(256)]), write_entries(H200, [entry_at(512)], tmp_path / "shipped")
    read = [file["path"] for file in json.loads(run("cache", "verify", "--no-build", "--json").stdout)["files"]]
    assert read == [str(mine), str(shipped)]
    other = write_entries(H200, [entry_at(256, template_sha256="0" * 64)], tmp_path / "other").rename(tmp_path / "some name")
    result = run("cache", "verify", "--no-build", str(other))
    assert result.exit_code == 1 and result.stderr.rstrip().endswith(f" --fresh --output {tmp_path}")
    assert str(mine) not in result.stdout


def test_no_files_are_an_error_with_the_command_that_makes_them(own_cache, run):
    result = run("cache", "verify")
    assert result.exit_code == 1 and "no cache files in " in result.stderr and "`latune tune` writes them" in result.stderr


def test_equal_code_is_built_once_for_a_gpu_and_stale_code_never(own_cache, run, entry_at, compiler):
    other = with_warps(entry_at(256).plan, 2)
    entries = [
        entry_at(256),
        entry_at(512, alternates=(other,)),
        entry_at(1024, "bwd"),
        entry_at(2048, template_sha256="0" * 64),
    ]
    write_entries(A100, entries)
    write_entries(H200, entries[:1])
    result = run("cache", "verify", "--jobs", "3")
    assert result.exit_code == 1 and "1 of 5 entries" in result.stderr
    usual = entries[0].plan.steps[0].config.num_warps
    bwd = entries[2].plan.steps[0].config.num_warps
    assert sorted(compiler.asked) == sorted([("a100", 256, usual), ("a100", 512, 2), ("a100", 1024, bwd), ("h200", 256, usual)])
    assert "compiling 4 plans of 4 entries on 3 cores" in result.stderr
    assert "  1/4 a100 bwd 1,2,1024,64,64 bf16 decay=constant: ok" in result.stderr.splitlines()


@pytest.mark.parametrize(
    ("answer", "verdict", "detail"),
    [
        (BuildError("o_kernel does not compile for sm_80: no"), "compile_error", "o_kernel does not compile for sm_80: no"),
        (replace(BUILT, shared_bytes=200_000), "out_of_resources", "needs 200000 bytes of shared memory a block, NVIDIA A100"),
        (replace(BUILT, registers=255, num_warps=16), "out_of_resources", "16 warps of 255 registers a thread do not fit"),
        (replace(BUILT, registers=64), "other_resources", "o_kernel.registers 168 stated, 64 compiled"),
        (replace(BUILT, name="p_kernel"), "other_resources", "kernels o_kernel stated, p_kernel compiled"),
    ],
    ids=["compile error", "shared memory", "registers", "other registers", "other kernels"],
)
def test_winners_that_do_not_build_as_stated_fail(own_cache, run, entry_at, compiler, answer, verdict, detail):
    entry = entry_at(256)
    write_entries(A100, [replace(entry, toolchain={**entry.toolchain, "triton": triton.__version__}, resources=(STATED,))])
    compiler.answers[entry.plan.steps[0].config.num_warps] = answer
    result = run("cache", "verify", "--json")
    assert result.exit_code == 1
    found = verdicts(result)[256]
    assert found["verdict"] == verdict and detail in found["detail"] and found["mend"].endswith("--fresh")
    assert f": {verdict}, {found['detail']}; tune it anew: {found['mend']}" in result.stderr


def test_another_triton_may_use_other_resources(own_cache, run, entry_at, compiler):
    write_entries(A100, [entry_at(256)])
    compiler.answers[entry_at(256).plan.steps[0].config.num_warps] = replace(BUILT, registers=64)
    found = verdicts(run("cache", "verify", "--json"))[256]
    assert found["verdict"] == "ok" and f"with Triton {triton.__version__} than with 1.0" in found["detail"]


def test_an_alternate_that_does_not_build_fails_its_entry(own_cache, run, entry_at, compiler):
    plan = entry_at(256).plan
    write_entries(A100, [entry_at(256, alternates=(with_warps(plan, 1), with_warps(plan, 16)))])
    compiler.answers[16] = BuildError("no")
    found = verdicts(run("cache", "verify", "--json"))[256]
    assert (found["verdict"], found["detail"]) == ("compile_error", "alternate 2: no")


@pytest.mark.parametrize("direction", ["fwd", "bwd"])
def test_a_plan_that_does_not_build_as_it_hands_over_fails_its_entry(own_cache, run, entry_at, compiler, direction):
    plans = {"fwd": AHEAD, "bwd": BEHIND}
    entries = {name: valid_entry(entry_at(512, name).problem, plan) for name, plan in plans.items()}
    write_entries(A100, list(entries.values()))
    assert run("cache", "verify").exit_code == 0
    handed = dict(zip(entries, handing_over(AHEAD, BEHIND, entries["fwd"].problem), strict=True))
    compiler.refused = (handed[direction],)
    result = run("cache", "verify", "--json")
    (file,) = json.loads(result.stdout)["files"]
    (failed,) = [entry for entry in file["entries"] if entry["verdict"] != "ok"]
    assert (failed["bucket"]["direction"], failed["verdict"]) == (direction, "compile_error")
    what = {"fwd": "with what its backward pass starts from", "bwd": "from what its forward pass keeps"}
    assert failed["detail"] == f"{what[direction]}: no"


def test_plans_are_really_compiled(compiler_processes, own_cache, run, entry_at):
    """One that compiles, and an alternate that cannot even be generated."""
    entry = entry_at(256)
    config = entry.plan.steps[0].config
    lacking = replace(config, choices=tuple(choice for choice in config.choices if choice[0] != "loads"))
    alternate = Plan((replace(entry.plan.steps[0], config=lacking),))
    write_entries(A100, [entry])
    write_entries(H200, [entry_at(512, alternates=(alternate,))])
    result = run("cache", "verify", "--json")
    found = verdicts(result)
    assert result.exit_code == 1 and found[256]["verdict"] == "ok", result.stderr
    assert found[512]["verdict"] == "compile_error" and found[512]["detail"].startswith(
        "alternate 1: RenderError: cannot render o: "
    )
