"""`latune doctor` without a GPU: which entries it takes, what it reports, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import Result
from entries import MEASURED_WITH, valid_entry
from racing import Answer, Racing

from latune import paths
from latune.cache.device import DeviceCache
from latune.cache.entry import Entry
from latune.cache.resolve import default_plan
from latune.cache.store import cache_path, write_entries
from latune.cli import chosen_gpu
from latune.cli import doctor as command
from latune.errors import WorkerError
from latune.gpu import find_gpu
from latune.plan import Plan
from latune.problem import Problem
from latune.tuner.jobs import DeviceReport

H200 = find_gpu("h200")
# Of a bucket of the preset ``default``.
PROBLEM = Problem(
    direction="fwd", decay="constant", dtype="bf16", batch=4, num_heads=32, seqlen=2048, head_dim_k=128, head_dim_v=128
)
OTHER = replace(PROBLEM, seqlen=512)
OLDER = {**MEASURED_WITH, "driver": "0.9"}
REPORT = DeviceReport(
    title="NVIDIA H200",
    memory_bytes=100,
    free_bytes=100,
    copy_gbps=1.0,
    toolchain=tuple((name, "1.0") for name in ("torch", "triton", "cuda", "driver")),
)


def entry(problem: Problem, **changes: object) -> Entry:
    """Whose winner is as the default with a stage more."""
    (step,) = default_plan(problem, H200).steps
    deeper = replace(step, config=replace(step.config, num_stages=step.config.num_stages + 1))
    return valid_entry(problem, Plan((deeper,)), **changes)


@dataclass
class Machine:
    """A GPU on which the winner and the default of a problem take these times, 1 ms and 2 ms where none are told."""

    answers: dict[Problem, list[Answer] | Exception] = field(default_factory=dict)
    compiled: list[tuple[Problem, int]] = field(default_factory=list)

    @contextmanager
    def open_target(self, name: str, workers: int | None) -> Iterator[SimpleNamespace]:
        worker = SimpleNamespace(device=lambda: REPORT)
        yield SimpleNamespace(gpu=H200, builder=SimpleNamespace(prepare=self.prepare), worker=worker, evaluator=self.racer)

    def prepare(self, problem: Problem, plans: list[Plan], gpu: object, *, urgent: bool) -> None:
        assert not urgent
        self.compiled.append((problem, len(plans)))

    def racer(self, problem: Problem) -> Racing:
        answers = self.answers.get(problem, [1.0, 2.0])
        if isinstance(answers, BaseException):
            raise answers
        return Racing(H200, [answers])


Run = Callable[..., Result]


@pytest.fixture
def machine(run: Run, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """With two entries in the user's cache, one of them of the preset ``default``."""
    write_entries(H200, [entry(PROBLEM), entry(OTHER)])
    machine = Machine()
    monkeypatch.setattr(chosen_gpu, "local_gpu", lambda: H200)
    monkeypatch.setattr(command, "open_target", machine.open_target)
    return machine


def test_without_a_gpu_it_is_an_error_in_one_line(run: Run, own_cache: Path) -> None:
    result = run("doctor")
    assert result.exit_code == 1 and result.stdout == "" and len(result.stderr.splitlines()) == 1
    assert "doctor needs a CUDA GPU" in result.stderr


def test_entries_that_hold_are_listed_with_what_is_of_another_version(machine: Machine, run: Run) -> None:
    write_entries(H200, [entry(OTHER, toolchain=OLDER, tuned_at="2026-02-01T00:00:00Z")])
    result = run("doctor")
    assert result.exit_code == 0, result.stderr
    assert "checking 2 entries for NVIDIA H200, for at most 60 s" in result.stderr and "not checked" not in result.stderr
    rows = [line for line in result.stdout.splitlines() if " holds " in line]
    assert [row.split()[2] for row in rows] == ["n512", "n2048"]
    assert all("default" in row and "0.500 [0.500, 0.500]" in row for row in rows)
    assert ["driver 0.9 -> 1.0" in row for row in rows] == [True, False] and "the same" in rows[1]


def test_a_beaten_entry_and_one_that_fails_end_with_1_and_what_mends_them(machine: Machine, run: Run) -> None:
    machine.answers = {PROBLEM: [1.0, 0.9], OTHER: ["wrong_result", 1.0]}
    result = run("doctor", "--json")
    assert result.exit_code == 1 and "2 of 2 entries failed" in result.stderr
    found = {finding["bucket"]["seqlen"]: finding for finding in json.loads(result.stdout)["findings"]}
    assert (found[2048]["verdict"], found[2048]["winner_ms"], found[2048]["rival"]["name"]) == ("beaten", 1.0, "default")
    assert found[2048]["rival"]["winner_takes_times"] == dict.fromkeys(("median", "ci_low", "ci_high"), 1 / 0.9)
    assert found[2048]["rival"]["plan"] == default_plan(PROBLEM, H200).to_json()
    mend = "latune tune --gpu h200 --shape 4,32,2048,128,128 --dtype bf16 --direction fwd --decay constant --fresh"
    assert found[2048]["mend"] == mend and mend in result.stderr.splitlines()
    assert (found[512]["verdict"], found[512]["winner_ms"], found[512]["rival"]) == ("fails", None, None)
    assert found[512]["detail"] == "winner: wrong_result: as told"


def test_of_a_shape_or_a_preset_only_its_entries_are_checked(machine: Machine, run: Run) -> None:
    def seqlens(*arguments: str) -> list[int]:
        found = json.loads(run("doctor", *arguments, "--json").stdout)["findings"]
        return [finding["bucket"]["seqlen"] for finding in found]

    assert seqlens("--shape", "8,16,500,128") == [512]
    assert seqlens("--preset", "default") == [2048]
    assert seqlens("--preset", "default", "--shape", "8,16,500,128") == [512, 2048]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--shape", "1,2,64,64"), "`latune tune --gpu h200 --shape 1,2,64,64` makes them"),
        (("--preset", "retnet"), "no entries for the preset retnet on NVIDIA H200"),
        (("--time-budget", "0.000001s"), "none of 2 entries was checked: the time was up: --time-budget gives more"),
    ],
)
def test_checking_nothing_is_an_error(machine: Machine, run: Run, arguments: tuple[str, ...], words: str) -> None:
    result = run("doctor", *arguments)
    assert result.exit_code == 1 and words in result.stderr and result.stdout == ""


def test_what_serves_is_checked_and_not_what_is_ignored(machine: Machine, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry of other code is passed over for a shipped one of this code, and fails where there is none."""
    stale = [entry(problem, template_sha256="0" * 64, tuned_at="2026-02-01T00:00:00Z") for problem in (PROBLEM, OTHER)]
    shipped = cache_path(paths.user_root() / "shipped", H200)
    shipped.parent.mkdir()
    shipped.write_text(DeviceCache.of(H200, [entry(PROBLEM)]).to_text(), encoding="utf-8")
    monkeypatch.setattr(paths, "shipped_cache", lambda: shipped.parent)
    write_entries(H200, stale)
    found = json.loads(run("doctor", "--json").stdout)["findings"]
    assert {finding["bucket"]["seqlen"]: finding["verdict"] for finding in found} == {2048: "holds", 512: "fails"}


def test_what_is_not_checked_is_said(machine: Machine, run: Run) -> None:
    machine.answers[PROBLEM] = WorkerError("cannot prepare it: free the device")
    result = run("doctor", "--json")
    assert result.exit_code == 0 and "1 of 2 entries are not checked (cannot prepare it: free the device): fwd" in result.stderr
    report = json.loads(result.stdout)
    assert [one["why"] for one in report["unchecked"]] == ["cannot prepare it: free the device"]
    assert len(report["findings"]) == 1


def test_the_time_may_be_too_short_for_all(machine: Machine, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    check_up = command.check_up
    monkeypatch.setattr(command, "check_up", lambda *of, **until: list(check_up(*of, **until))[:1])
    result = run("doctor", "--json")
    assert (
        result.exit_code == 0 and "1 of 2 entries are not checked (the time was up: --time-budget gives more)" in result.stderr
    )
    assert [one["bucket"]["seqlen"] for one in json.loads(result.stdout)["unchecked"]] == [2048]


def test_ctrl_c_ends_with_130_and_what_was_found(machine: Machine, run: Run) -> None:
    machine.answers[PROBLEM] = KeyboardInterrupt()  # type: ignore[assignment]
    result = run("doctor", "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 130 and report["interrupted"] and len(report["findings"]) == 1
    assert [one["why"] for one in report["unchecked"]] == ["interrupted"] and "are not checked (interrupted)" in result.stderr


def test_plans_are_compiled_ahead_of_their_turn(machine: Machine, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_AHEAD", 2)
    write_entries(H200, [entry(replace(PROBLEM, seqlen=seqlen)) for seqlen in (1024, 4096)])
    machine.answers[OTHER] = KeyboardInterrupt()  # type: ignore[assignment]
    assert run("doctor").exit_code == 130
    assert [(problem.seqlen, plans) for problem, plans in machine.compiled] == [(512, 2), (1024, 2)]
    machine.answers.clear(), machine.compiled.clear()
    assert run("doctor").exit_code == 0
    assert [problem.seqlen for problem, _ in machine.compiled] == [512, 1024, 2048, 4096]


def test_entries_of_this_toolchain_come_last(machine: Machine, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "measured_toolchain", lambda _: MEASURED_WITH)
    write_entries(H200, [entry(PROBLEM, toolchain=OLDER, tuned_at="2026-02-01T00:00:00Z")])
    found = json.loads(run("doctor", "--json").stdout)["findings"]
    assert [finding["bucket"]["seqlen"] for finding in found] == [2048, 512]
