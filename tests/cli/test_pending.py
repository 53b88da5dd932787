"""What a transfer passes over, and what comes first of the rest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from entries import valid_entry

from latune import paths
from latune.cache.device import DeviceCache
from latune.cache.entry import Entry
from latune.cache.store import cache_path
from latune.cli.pending import forward_first, next_race, pending
from latune.config import Config
from latune.gpu import find_gpu
from latune.plan import Plan, Step
from latune.problem import Problem

A100 = find_gpu("a100")
MEASURING, PREDICTING = (SimpleNamespace(gpu=A100, evidence=evidence) for evidence in ("measured", "static"))
FORWARD = Problem(direction="fwd", decay="none", dtype="bf16", batch=1, num_heads=2, seqlen=256, head_dim_k=64, head_dim_v=64)
BACKWARD = replace(FORWARD, direction="bwd")
BOTH = [FORWARD, BACKWARD]


def step(kernel: str) -> Step:
    choices = {"state_layout": "plain", "loads": "pointer", "decayed": "value"}
    return Step(
        kernel=kernel,
        config=Config.of("sequential", choices=choices, constexprs=dict.fromkeys(("BLOCK_D", "BLOCK_E", "BLOCK_N"), 64)),
    )


def entry(problem: Problem, evidence: str = "measured", day: int = 1, **changes: str) -> Entry:
    plan = Plan(tuple(map(step, {"fwd": ("o",), "bwd": ("dq", "dk", "dv")}[problem.direction])))
    fields = {"evidence": evidence, "tuned_at": f"2026-01-{day:02}T00:00:00Z"}
    return valid_entry(problem, plan, **fields, **changes)


@pytest.fixture(autouse=True)
def shipped(own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the shipped cache, empty."""
    monkeypatch.setattr(paths, "shipped_cache", lambda: tmp_path / "shipped")
    return tmp_path / "shipped"


def write(folder: Path, *entries: Entry) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    cache_path(folder, A100).write_text(DeviceCache.of(A100, entries).to_text(), encoding="utf-8")


def test_what_has_an_entry_is_passed_over(own_cache: Path) -> None:
    assert pending(BOTH, MEASURING) == BOTH
    write(own_cache / "cache", entry(FORWARD))
    assert pending(BOTH, MEASURING) == [BACKWARD]
    assert pending(BOTH, MEASURING, [own_cache / "elsewhere"]) == BOTH, "a folder to write to is all that counts"


def test_an_entry_of_other_code_is_none(own_cache: Path, shipped: Path) -> None:
    write(own_cache / "cache", *(entry(problem, template_sha256="0" * 64) for problem in BOTH))
    assert pending(BOTH, MEASURING) == BOTH
    write(shipped, entry(FORWARD))
    assert pending(BOTH, MEASURING) == [BACKWARD], "the shipped one is of this code"


@pytest.mark.parametrize(
    ("evidence", "once", "again"), [("static", True, True), ("transferred", False, True), ("measured", False, False)]
)
def test_what_is_worth_less_than_a_transfer_is_not(own_cache: Path, evidence: str, once: bool, again: bool) -> None:
    write(own_cache / "cache", *(entry(problem, evidence) for problem in BOTH))
    assert pending(BOTH, MEASURING) == BOTH * once
    assert pending(BOTH, MEASURING, again=True) == BOTH * again
    assert pending(BOTH, PREDICTING, again=True) == [], "a model's answer is worth no more than any of these"


def test_what_was_transferred_longest_ago_comes_first_and_forward_before_its_backward(own_cache: Path) -> None:
    short, long = (replace(FORWARD, seqlen=seqlen) for seqlen in (256, 512))
    days = {short: 3, replace(short, direction="bwd"): 2, long: 1, replace(long, direction="bwd"): 4}
    write(own_cache / "cache", *(entry(problem, "transferred", day) for problem, day in days.items()))
    new = replace(FORWARD, seqlen=1024)
    in_order = [new, long, replace(long, direction="bwd"), short, replace(short, direction="bwd")]
    assert pending([*days, new], MEASURING, again=True) == in_order


def shapes(*lengths: int) -> list[Problem]:
    return [replace(problem, seqlen=length) for length in lengths for problem in BOTH]


def test_forward_problems_come_first_of_a_few_in_a_row() -> None:
    first, second, third, fourth, fifth, sixth = problems = shapes(256, 512, 1024)
    assert forward_first(problems, 4) == [first, third, second, fourth, fifth, sixth]
    assert forward_first([], 4) == []


def test_first_races_fill_the_time_in_which_second_ones_compile() -> None:
    done, at_work = SimpleNamespace(has_compiled=True), SimpleNamespace(has_compiled=False)
    forward, backward, longer, _ = problems = shapes(256, 512)
    assert next_race(problems, {}) == forward
    left = problems[1:]
    assert next_race(left, {forward: at_work}) == longer, "a backward problem waits for its forward one"
    assert next_race(left, {forward: at_work, longer: done}) == longer
    assert next_race([backward], {forward: at_work}) == forward, "there is nothing else"
    assert next_race([backward, longer], {}) == backward, "its forward one is tuned, or has failed"
