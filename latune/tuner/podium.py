"""Raced plans -> the winner among them, and its entry for the cache."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from latune.cache.entry import Entry, utc_now
from latune.cache.standing import Standing
from latune.codegen.render import plan_sha256
from latune.codegen.segment_states import states_key
from latune.codegen.templates import generator_sha256
from latune.measurement import Measurement
from latune.plan import Plan
from latune.problem import Problem
from latune.tuner.evaluators import Evaluator
from latune.tuner.ties import Raced, certainty, median_ms, within_a_tie
from latune.tuner.timing import TIE, roof_ms

# Whoever wins by its name alone must not lose a tie's worth to a race's noise.
_CLOSE = 1 + (TIE - 1) / 2


def ranked(raced: Iterable[tuple[Plan, Measurement]]) -> list[tuple[Plan, Measurement]]:
    """The plans that passed, fastest first."""
    return sorted((pair for pair in raced if pair[1].ok), key=lambda pair: (median_ms(pair), pair[0]))


def podium(problem: Problem, raced: Raced, evaluate: Evaluator) -> list[tuple[Plan, Measurement]]:
    """As ``ranked``, with the winner moved to the top: of the plans within a tie of the fastest, the one that serves best.

    A bucket's plan serves its smaller problems too, and where those leave SMs idle plans differ that tie on this one: they
    are raced once more, on the bucket's smallest problem. Among those that tie there, too, the canonical one of the fastest
    wins.
    """
    order = ranked(raced)
    tied = within_a_tie(order)
    if len(tied) > 1:
        plans = [plan for plan, _ in tied]
        again = evaluate.at(problem.bucket().smallest_problem()).race_here(plans)
        serving = {plan for plan, _ in within_a_tie(ranked(zip(plans, again, strict=True)))}
        tied = [pair for pair in tied if pair[0] in serving] or tied
    winner = min(within_a_tie(tied, _CLOSE), key=lambda pair: _canonical(pair[0], evaluate), default=None)
    return [*([winner] if winner else []), *(pair for pair in order if pair is not winner)]


def with_alternates(placed: Raced, count: int) -> list[Plan]:
    """The winner, the ``count`` next best and, where all of these read checkpoints, the best that serves without any."""
    chosen, others = ([plan for plan, _ in part] for part in (placed[: 1 + count], placed[1 + count :]))
    if any(not plan.reads_checkpoints for plan in chosen):
        return chosen
    return [*chosen, *[plan for plan in others if not plan.reads_checkpoints][:1]]


def entry_of(
    problem: Problem, placed: Raced, evaluate: Evaluator, *, alternates: int, seed: int, evidence: str | None = None
) -> Entry:
    """The cache's entry for the winner.

    Args:
        placed: of ``podium``; at least one plan.
        alternates: how many of the others it has, as ``with_alternates`` counts them.
        evidence: None: the evaluator's.
    """
    (plan, measurement), evidence = placed[0], evidence or evaluate.evidence
    return Entry(
        bucket=problem.bucket(),
        batch=problem.batch,
        num_heads=problem.num_heads,
        seqlen=problem.seqlen,
        plan=plan,
        alternates=tuple(with_alternates(placed, alternates)[1:]),
        measurement=measurement,
        standing=None if evidence == "static" else standing(placed),
        evidence=evidence,
        resources=evaluate.resources(plan),
        roof_ms=roof_ms(problem.compulsory_bytes, evaluate.bandwidth_gbps),
        toolchain=evaluate.toolchain,
        template_sha256=plan_sha256(problem.bucket(), plan),
        tuned_at=utc_now(),
        study=study_name(problem, evaluate, seed),
    )


def standing(placed: Raced) -> Standing:
    """Of the first of ``podium`` among all of it."""
    (_, winner), *others = placed
    rivals = [measurement for _, measurement in others]
    ties = len(within_a_tie(ranked(placed))) - 1
    return Standing(rivals=len(rivals), ties=ties, certainty=certainty(winner, rivals))


def study_name(problem: Problem, evaluate: Evaluator, seed: int) -> str:
    """Names all that stored evaluations depend on: they are of use to no other problem, toolchain or generator of code."""
    shape = "x".join(map(str, (problem.batch, problem.num_heads, problem.seqlen, problem.head_dim_k, problem.head_dim_v)))
    flags = [flag for flag in ("has_initial_state", "needs_final_state", "varlen") if getattr(problem, flag)]
    toolchain = evaluate.toolchain
    # torch, CUDA and driver have no part in what is only compiled.
    drivers = [f"{name}{toolchain[name]}" for name in ("torch", "cuda", "driver") if evaluate.evidence == "measured"]
    versions = [str(toolchain["protocol"]), f"triton{toolchain['triton']}", *drivers, generator_sha256()[:8]]
    handed = states_key(evaluate.ahead, problem) if evaluate.ahead else ()
    parts = [problem.direction, shape, problem.dtype, problem.decay, *flags, *handed, evaluate.gpu.name, *versions, f"s{seed}"]
    return re.sub(r"[^\w.-]", "-", "-".join(parts))


def _canonical(plan: Plan, evaluate: Evaluator) -> tuple[int, int, int, str]:
    """Less shared memory, then fewer stages, then fewer launch options, then the order of the text: reruns agree."""
    shared_bytes = max(kernel.shared_bytes for kernel in evaluate.resources(plan))
    num_stages = max(step.config.num_stages for step in plan.steps)
    num_options = sum(len(step.config.options) for step in plan.steps) + plan.is_chained
    return shared_bytes, num_stages, num_options, json.dumps(plan.to_json(), sort_keys=True)
