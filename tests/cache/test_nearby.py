"""Which entries lie near a problem."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from latune.cache.device import DeviceCache
from latune.cache.entry import Entry
from latune.cache.nearby import by_likeness
from latune.cache.resolve import starting_plans
from latune.cache.store import write_entries
from latune.gpu import find_gpu
from latune.plan import Plan
from latune.problem import Bucket, Problem

EntryOf = Callable[..., Entry]
PlanOf = Callable[..., Plan]
ProblemOf = Callable[..., Problem]


def test_likeness_counts_octaves_alike_and_other_dtypes_last(entry_of: EntryOf, problem_of: ProblemOf) -> None:
    changes: list[dict[str, object]] = [
        {"dtype": "fp16", "decay": "none"},
        {"dtype": "fp16"},
        {"seqlen": 8192, "batch": 8},
        {"batch": 8},
        {"seqlen": 8192},
        {},
    ]
    strangers: list[dict[str, object]] = [{"head_dim_k": 64}, {"direction": "bwd"}]
    entries = [entry_of(problem_of(**change)) for change in (*changes, *strangers)]
    found = by_likeness(entries, problem_of().bucket())
    assert [entry.bucket for entry in found] == [problem_of(**change).bucket() for change in reversed(changes)]


def test_starting_plans_are_winners_then_alternates_and_of_equals_this_gpus_first(
    entry_of: EntryOf, problem_of: ProblemOf, plan_of: PlanOf
) -> None:
    h200, h100 = find_gpu("h200"), find_gpu("h100")

    def entry(number: int, **changes: object) -> Entry:
        return entry_of(problem_of(**changes), plan=plan_of(block_n=number), alternates=(plan_of(block_n=10 * number),))

    caches = [
        DeviceCache.of(h100, [entry(1)]),
        DeviceCache.of(h200, [entry(2, seqlen=64), entry(3), entry(4, dtype="fp16")]),
    ]
    sha = entry_of().template_sha256
    plans = list(starting_plans(problem_of(), h200, plan_sha256=lambda *_: sha, caches=caches))
    assert plans == [plan_of(block_n=number) for number in (3, 1, 2, 4, 30, 10, 20, 40)]
    assert not list(starting_plans(problem_of(), h200, plan_sha256=lambda *_: "b" * 64, caches=caches))


def test_starting_plans_of_a_folder_come_before_equally_likely_ones(
    entry_of: EntryOf, problem_of: ProblemOf, plan_of: PlanOf, tmp_path: Path
) -> None:
    h200 = find_gpu("h200")
    kept = [
        entry_of(plan=plan_of(block_n=1), alternates=()),
        entry_of(problem_of(seqlen=64), plan=plan_of(block_n=2), alternates=()),
    ]
    known = [entry_of(plan=plan_of(block_n=3), alternates=())]
    write_entries(h200, kept, tmp_path)
    plans = starting_plans(
        problem_of(),
        h200,
        plan_sha256=lambda *_: entry_of().template_sha256,
        caches=[DeviceCache.of(h200, known)],
        folders=[tmp_path],
    )
    assert list(plans) == [plan_of(block_n=number) for number in (1, 3, 2)]


def test_starting_plans_are_asked_for_their_code_one_by_one(entry_of: EntryOf, problem_of: ProblemOf, plan_of: PlanOf) -> None:
    asked = []

    def code(bucket: Bucket, plan: Plan) -> str:
        asked.append(bucket.seqlen)
        return "b" * 64 if bucket.seqlen == 4096 else entry_of().template_sha256

    h200 = find_gpu("h200")
    cache = DeviceCache.of(h200, [entry_of(problem_of(seqlen=2**power), plan=plan_of(block_n=power)) for power in range(13)])
    plans = starting_plans(problem_of(), h200, plan_sha256=code, caches=[cache])
    assert [next(plans), next(plans)] == [plan_of(block_n=11), plan_of(block_n=10)]
    assert asked == [4096, 2048, 1024]
