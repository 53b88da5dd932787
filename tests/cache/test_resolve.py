from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from latune import paths
from latune.cache import resolve as ladder
from latune.cache.device import DeviceCache
from latune.cache.entry import Entry, PlanSha256
from latune.cache.resolve import Resolution, resolve
from latune.cache.resources import Resources
from latune.cache.store import write_entries
from latune.config import Config
from latune.errors import RenderError
from latune.gpu import Gpu, find_gpu
from latune.plan import Plan, Step
from latune.problem import Bucket, Problem

EntryOf = Callable[..., Entry]
PlanOf = Callable[..., Plan]
ProblemOf = Callable[..., Problem]

H200, H100, H20, A100 = (find_gpu(name) for name in ("h200", "h100", "h20", "a100"))
CODE, OTHER_CODE = "a" * 64, "b" * 64


@pytest.fixture(autouse=True)
def _short_ladder(monkeypatch: pytest.MonkeyPatch, plan_of: PlanOf) -> None:
    """A default without a search space."""

    def default_plan(problem: Problem, gpu: Gpu) -> Plan:
        return plan_of(problem.direction, block_n=16, form={"fwd": 0, "bwd": 1}[problem.direction])

    monkeypatch.setattr(ladder, "default_plan", default_plan)


def on(gpu: Gpu, *entries: Entry) -> DeviceCache:
    return DeviceCache.of(gpu, entries)


def code_of(bucket: Bucket, plan: Plan) -> str:
    return CODE


def ask(problem: Problem, *caches: DeviceCache, plan_sha256: PlanSha256 = code_of) -> Resolution:
    return resolve(problem, H200, plan_sha256=plan_sha256, caches=caches)


def sized(shared_bytes: int) -> tuple[Resources, ...]:
    return (Resources(name="o", registers=128, spill_bytes=0, shared_bytes=shared_bytes, num_warps=8),)


@pytest.mark.parametrize("evidence", ["measured", "static"])
def test_the_exact_bucket_comes_first(entry_of: EntryOf, problem_of: ProblemOf, evidence: str) -> None:
    exact = entry_of(evidence=evidence)
    near = entry_of(problem_of(seqlen=8192))
    found = ask(problem_of(seqlen=4000), on(H200, exact, near), on(H100, exact))
    assert (found.step, found.plan, found.entry, found.gpu) == ("exact", exact.plan, exact, H200)
    assert found.why.startswith("exact bucket fwd bh32 n4096 d128 e128 bf16 decay=constant: ")
    assert f"{evidence} for NVIDIA H200, 0.3 ms" in found.why


@pytest.mark.parametrize(
    ("offered", "expected"),
    [
        ([{"seqlen": 1024}, {"seqlen": 8192}], {"seqlen": 8192}),
        ([{"seqlen": 65536}, {"batch": 4}], {"seqlen": 65536}),
        ([{"seqlen": 128}, {"batch": 4}], {"batch": 4}),
        ([{"seqlen": 8192, "batch": 64}, {"seqlen": 8192, "batch": 4}], {"seqlen": 8192, "batch": 4}),
        ([{"has_initial_state": True}, {"seqlen": 128}], {"seqlen": 128}),
        ([{"has_initial_state": True}, {"has_initial_state": True, "seqlen": 8192}], {"has_initial_state": True}),
        ([{"dtype": "fp32"}, {"decay": "none"}, {"head_dim_v": 64}, {"seqlen": 64}], {"seqlen": 64}),
        ([{"dtype": "fp16"}, {"seqlen": 8192}], {"dtype": "fp16"}),
        ([{"dtype": "fp16", "seqlen": 8192}, {"seqlen": 8192}], {"seqlen": 8192}),
    ],
)
def test_then_the_nearest_bucket(
    entry_of: EntryOf, problem_of: ProblemOf, offered: list[dict[str, object]], expected: dict[str, object]
) -> None:
    found = ask(problem_of(), on(H200, *(entry_of(problem_of(**changes)) for changes in offered)))
    assert found.step == "nearest"
    assert found.entry == entry_of(problem_of(**expected))


def test_why_says_how_far_the_nearest_bucket_is(entry_of: EntryOf, problem_of: ProblemOf) -> None:
    found = ask(problem_of(needs_final_state=True), on(H200, entry_of(problem_of(seqlen=1024))))
    assert "(seqlen 1024 for 4096, needs_final_state False for True)" in found.why
    assert "\n" not in found.why


@pytest.mark.parametrize(
    "changes", [{"dtype": "fp32"}, {"decay": "none"}, {"head_dim_k": 64}, {"head_dim_v": 64}, {"direction": "bwd"}]
)
def test_another_operator_is_never_near(entry_of: EntryOf, problem_of: ProblemOf, changes: dict[str, object]) -> None:
    other = entry_of(problem_of(**changes))
    assert ask(problem_of(), on(H200, other), on(H100, other)).step == "default"


def test_then_a_sibling_gpu(entry_of: EntryOf, problem_of: ProblemOf) -> None:
    near, exact = entry_of(problem_of(seqlen=8192), study="near"), entry_of(study="exact")
    found = ask(problem_of(), on(H100, near), on(H20, exact), on(A100, exact))
    assert (found.step, found.entry, found.gpu) == ("sibling", exact, H200)
    assert "NVIDIA H20," in found.why
    assert "the same bucket" in found.why


@pytest.mark.parametrize(("asking", "expected"), [(H200, "h100"), (H20, "h100-pcie")])
def test_of_equal_siblings_the_most_alike_serves(entry_of: EntryOf, problem_of: ProblemOf, asking: Gpu, expected: str) -> None:
    caches = [on(gpu, entry_of(study=gpu.name)) for gpu in (H20, H100, find_gpu("h100-pcie")) if gpu != asking]
    found = resolve(problem_of(), asking, plan_sha256=code_of, caches=caches)
    assert found.entry == entry_of(study=expected)


def test_a_sibling_must_fit(entry_of: EntryOf, problem_of: ProblemOf) -> None:
    limit = H200.shared_per_block_bytes
    fitting = entry_of(problem_of(seqlen=512), resources=sized(limit))
    cases = {
        "too large": (entry_of(resources=sized(limit + 1)),),
        "one of two too large": (entry_of(resources=sized(1) + sized(limit + 1)),),
        "unknown": (entry_of(resources=()),),
    }
    for name, entries in cases.items():
        assert ask(problem_of(), on(H100, *entries)).step == "default", name
        assert ask(problem_of(), on(H100, *entries, fitting)).entry == fitting, name


def test_programs_that_wait_for_one_another_need_an_sm_each(entry_of: EntryOf, problem_of: ProblemOf) -> None:
    config = Config.of("relay", constexprs={"BLOCK_N": 64, "PROGRAMS": 132})
    waiting = entry_of(plan=Plan((Step(kernel="o", config=config),)), template_sha256=CODE)
    assert (ask(problem_of(), on(H100, waiting)).step, H100.sms) == ("sibling", 132)
    assert resolve(problem_of(), H20, plan_sha256=code_of, caches=[on(H100, waiting)]).step == "default"


def test_another_architecture_does_not_serve(entry_of: EntryOf, problem_of: ProblemOf) -> None:
    assert ask(problem_of(), on(A100, entry_of(resources=sized(1)))).step == "default"


def test_at_last_the_default(problem_of: ProblemOf, plan_of: PlanOf) -> None:
    found = ask(problem_of(direction="bwd"))
    assert (found.step, found.entry) == ("default", None)
    assert [step.kernel for step in found.plan.steps] == ["dq", "dk", "dv"]
    assert found.why == (
        "default of the search space: no other entry serves bwd bh32 n4096 d128 e128 bf16 decay=constant on NVIDIA H200"
    )


def test_candidates_go_down_the_ladder(entry_of: EntryOf, problem_of: ProblemOf, plan_of: PlanOf) -> None:
    def entry(step: int, **changes: object) -> Entry:
        plans = [plan_of(block_n=100 * step + number) for number in range(3)]
        return entry_of(problem_of(**changes), plan=plans[0], alternates=tuple(plans[1:]))

    found = ask(problem_of(), on(H200, entry(1), entry(2, seqlen=8192), entry(3, seqlen=64)), on(H100, entry(4)))
    blocks = [dict(plan.steps[0].config.constexprs)["BLOCK_N"] for plan, _ in found.candidates]
    assert blocks == [100, 101, 102, 200, 201, 202, 400, 401, 402, 16]
    whys = [why for _, why in found.candidates]
    assert whys[0] == found.why
    assert whys[1].startswith("alternate 1 of exact bucket fwd bh32") and " ms" not in whys[1]
    assert [why.split()[0] for why in whys[::3]] == ["exact", "nearest", "sibling", "default"]


def test_a_plan_is_a_candidate_once(entry_of: EntryOf, problem_of: ProblemOf, plan_of: PlanOf) -> None:
    found = ask(problem_of(), on(H200, entry_of(), entry_of(problem_of(seqlen=64))), on(H100, entry_of()))
    assert [plan for plan, _ in found.candidates] == [plan_of(block_n=64), plan_of(block_n=32), plan_of(block_n=16)]


def test_a_cached_problem_does_not_ask_for_the_default(
    entry_of: EntryOf, problem_of: ProblemOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Plan:
        raise AssertionError("the default was asked for")

    monkeypatch.setattr(ladder, "default_plan", fail)
    found = ask(problem_of(), on(H200, entry_of()))
    assert next(found.candidates) == (found.plan, found.why)
    with pytest.raises(AssertionError, match="asked for"):
        list(found.candidates)


def test_entries_of_other_code_are_ignored(entry_of: EntryOf, problem_of: ProblemOf) -> None:
    stale = entry_of(template_sha256=OTHER_CODE)
    near = entry_of(problem_of(seqlen=8192), template_sha256=OTHER_CODE)
    fresh = entry_of(problem_of(seqlen=64))
    assert ask(problem_of(), on(H200, stale, near), on(H100, stale, near)).step == "default"
    assert ask(problem_of(), on(H200, stale, near, fresh), on(H100, stale)).entry == fresh
    assert ask(problem_of(), on(H200, stale, near), on(H100, stale, fresh)).entry == fresh
    assert ask(problem_of(), on(H200, stale), on(H100, stale), on(H20, fresh)).entry == fresh


def test_entries_that_can_no_longer_be_rendered_are_ignored(entry_of: EntryOf, problem_of: ProblemOf, plan_of: PlanOf) -> None:
    def render(bucket: Bucket, plan: Plan) -> str:
        if plan == plan_of(block_n=64):
            raise RenderError("a value is missing")
        return CODE

    fresh = entry_of(problem_of(seqlen=64), plan=plan_of(block_n=128))
    found = ask(problem_of(), on(H200, entry_of(), fresh), on(H100, entry_of()), plan_sha256=render)
    assert (found.step, found.entry) == ("nearest", fresh)


def test_only_what_would_serve_is_asked_for_its_code(entry_of: EntryOf, problem_of: ProblemOf) -> None:
    """A cache of the user's GPU holds thousands of entries, and each answer may cost a rendering."""
    stale = {4096, 8192, 2048}
    asked = []

    def code(bucket: Bucket, plan: Plan) -> str:
        asked.append(bucket.seqlen)
        return OTHER_CODE if bucket.seqlen in stale else CODE

    grid = [entry_of(problem_of(seqlen=2**power)) for power in range(5, 20)]
    caches = on(H200, *grid), on(H100, *grid)
    assert ask(problem_of(seqlen=32), *caches, plan_sha256=code).step == "exact"
    assert asked == [32]
    asked.clear()
    assert ask(problem_of(), *caches, plan_sha256=code).entry == entry_of(problem_of(seqlen=1024))
    assert asked == [4096, 2048, 8192, 1024]
    asked.clear()
    stale |= {entry.bucket.seqlen for entry in grid}
    only_sibling = on(H100, *(entry_of(problem_of(seqlen=seqlen)) for seqlen in (1024, 3 * 2**20, 2048)))
    stale -= {1024}
    assert ask(problem_of(), only_sibling, plan_sha256=code).step == "sibling"
    assert asked == [2048, 1024]


@pytest.mark.parametrize("seqlen", [4096, 1024])
def test_a_stale_entry_of_the_users_hides_no_shipped_one(
    tmp_path: Path, entry_of: EntryOf, problem_of: ProblemOf, monkeypatch: pytest.MonkeyPatch, seqlen: int
) -> None:
    monkeypatch.setenv("LATUNE_CACHE_DIR", str(tmp_path / "user"))
    monkeypatch.setattr(paths, "shipped_cache", lambda: tmp_path / "shipped")
    kept = problem_of(seqlen=seqlen)
    write_entries(H200, [entry_of(kept, study="user", template_sha256=OTHER_CODE)])
    write_entries(H200, [entry_of(kept, study="shipped")], tmp_path / "shipped")
    assert resolve(problem_of(), H200, plan_sha256=code_of).entry == entry_of(kept, study="shipped")
    found = resolve(problem_of(), H200, plan_sha256=lambda *_: OTHER_CODE)
    assert found.entry == entry_of(kept, study="user", template_sha256=OTHER_CODE)


def test_by_default_the_files_are_read(
    tmp_path: Path, entry_of: EntryOf, problem_of: ProblemOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATUNE_CACHE_DIR", str(tmp_path / "user"))
    monkeypatch.setattr(paths, "shipped_cache", lambda: tmp_path / "shipped")
    assert resolve(problem_of(), H200, plan_sha256=code_of).step == "default"
    write_entries(H100, [entry_of()], tmp_path / "shipped")
    assert resolve(problem_of(), H200, plan_sha256=code_of).step == "sibling"
    write_entries(H200, [entry_of(problem_of(seqlen=64))], tmp_path / "shipped")
    assert resolve(problem_of(), H200, plan_sha256=code_of).step == "nearest"
    write_entries(H200, [entry_of()])
    assert resolve(problem_of(), H200, plan_sha256=code_of).step == "exact"


def test_importing_it_stays_light() -> None:
    code = "import latune.cache.resolve, sys, json; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    loaded = set(json.loads(run.stdout))
    assert "latune" in loaded
    assert not loaded & {"yaml", "jinja2", "pydantic", "filelock", "optuna", "click", "rich"}
