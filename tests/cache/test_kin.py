"""Plans of one dtype and decay carried over to another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from latune import paths
from latune.cache.device import DeviceCache
from latune.cache.entry import Entry
from latune.cache.kin import carried
from latune.cache.resolve import resolve
from latune.cache.store import read_file
from latune.codegen.render import plan_sha256, render
from latune.codegen.space import load_space
from latune.config import Config
from latune.gpu import find_gpu
from latune.plan import KERNELS, Plan, Step
from latune.problem import Problem

EntryOf = Callable[..., Entry]
ProblemOf = Callable[..., Problem]

H200 = find_gpu("h200")


def plan(decay_mode: str = "matrix", block_n: int = 64) -> Plan:
    choices = {"decay_mode": decay_mode, "loads": "tma", **({"decayed": "key"} if decay_mode == "matrix" else {})}
    return Plan((Step(kernel="o", config=Config.of("sequential", choices=choices, constexprs={"BLOCK_N": block_n})),))


def moved(problem_of: ProblemOf, known: dict[str, str], wanted: dict[str, str], own: Plan) -> Plan | None:
    return carried(own, problem_of(**known).bucket(), problem_of(**wanted).bucket())


@pytest.mark.parametrize(("known", "wanted"), [("bf16", "fp16"), ("fp16", "bf16")])
def test_between_dtypes_of_one_width_a_plan_stays_as_it_is(problem_of: ProblemOf, known: str, wanted: str) -> None:
    assert moved(problem_of, {"dtype": known}, {"dtype": wanted}, plan()) == plan()
    assert moved(problem_of, {"dtype": known}, {"dtype": "fp32"}, plan()) is None
    assert moved(problem_of, {"dtype": "fp32"}, {"dtype": known}, plan()) is None


def test_a_factored_decay_stays_with_its_dtype(problem_of: ProblemOf) -> None:
    factored = plan("factored")
    assert moved(problem_of, {}, {"dtype": "fp16"}, factored) is None
    assert moved(problem_of, {}, {}, factored) == factored
    without = moved(problem_of, {}, {"decay": "none"}, factored)
    assert without is not None and without.steps[0].config.choices == (("loads", "tma"),)
    assert moved(problem_of, {}, {"decay": "none", "dtype": "fp16"}, factored) == without, "nothing is factored in it"


def test_without_decay_a_plan_says_nothing_of_it_and_is_not_given_one(problem_of: ProblemOf) -> None:
    without = moved(problem_of, {}, {"decay": "none", "dtype": "fp16"}, plan())
    assert without is not None
    assert without.steps[0].config == Config.of("sequential", choices={"loads": "tma"}, constexprs={"BLOCK_N": 64})
    assert moved(problem_of, {"decay": "none"}, {}, without) is None
    assert moved(problem_of, {"decay": "none"}, {"decay": "none"}, without) == without


@pytest.mark.parametrize(
    ("wanted", "carried_over"),
    [
        ({"seqlen": 1024}, True),
        ({"seqlen": 2048}, True),
        ({"seqlen": 4096}, False),
        ({"seqlen": 512, "batch": 16}, True),
        ({"seqlen": 1024, "batch": 16}, False),
        ({"seqlen": 1024, "has_initial_state": True}, False),
        ({"seqlen": 1024, "needs_final_state": True}, False),
    ],
    ids=str,
)
def test_without_a_state_a_plan_serves_as_much_work_as_it_is_for(
    problem_of: ProblemOf, wanted: dict[str, int], carried_over: bool
) -> None:
    config = Config.of("parallel", choices={"decay_mode": "matrix", "loads": "tma"}, constexprs={"BLOCK_N": 64})
    own = Plan((Step(kernel="o", config=config),))
    assert moved(problem_of, {"seqlen": 1024, "batch": 2}, {"batch": 2, **wanted}, own) == (own if carried_over else None)


def test_kin_of_the_same_sizes_serve_before_longer_ones_and_what_cannot_be_carried_is_passed_over(
    entry_of: EntryOf, problem_of: ProblemOf
) -> None:
    entries = [
        entry_of(plan=plan("factored"), alternates=()),
        entry_of(problem_of(seqlen=8192), plan=plan(block_n=32), alternates=(plan("factored"), plan(block_n=128))),
        entry_of(problem_of(dtype="fp16", seqlen=32768), plan=plan(block_n=16), alternates=()),
    ]
    sha = entries[0].template_sha256
    found = resolve(problem_of(dtype="fp16"), H200, plan_sha256=lambda *_: sha, caches=[DeviceCache.of(H200, entries)])
    first, second, *_ = found.candidates
    assert (found.step, first[0], second[0]) == ("nearest", plan(block_n=32), plan(block_n=128))
    assert "(seqlen 8192 for 4096, dtype bf16 for fp16)" in found.why
    assert second[1].startswith("alternate 2 of")


SHIPPED = tuple(paths.shipped_cache().glob("nvidia-h*.json"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
@pytest.mark.parametrize("kind", [{"dtype": "fp16"}, {"decay": "none"}], ids=str)
def test_what_is_carried_of_the_shipped_caches_is_in_the_search_space_and_renders(path: Path, kind: dict[str, str]) -> None:
    gpu = find_gpu(path.stem.removeprefix("nvidia-"))
    spaces = {name: load_space(name) for name in {kernel.space for kernel in KERNELS.values()}}
    seen: set[tuple[object, ...]] = set()
    for bucket, entry in read_file(path, gpu).entries.items():
        problem = replace(bucket.problem(), **kind)
        own = carried(entry.plan, bucket, problem.bucket())
        key = (own, bucket.head_dim_k, bucket.head_dim_v)
        if own is None or key in seen:
            continue
        seen.add(key)
        for step in own.steps:
            space = spaces[KERNELS[step.kernel].space]
            assert space.feasible(step.config, problem, gpu, KERNELS[step.kernel]) is None, (str(problem), str(own))
        assert plan_sha256(problem.bucket(), own) == render(problem, own).code_sha256
    assert len(seen) > 50
