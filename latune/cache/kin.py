"""Plans of another dtype or decay, which serve all the same.

In a cache measured for an H200, of 32 buckets of fp16 and of 32 without decay, each had the winner that the bf16 bucket of the
same sizes with decay had, or had it second.
"""

from __future__ import annotations

from dataclasses import replace

from latune.plan import Plan, Step
from latune.problem import DTYPE_BYTES, Bucket

_OF_DECAY = ("decay_mode", "decayed")


def carried(plan: Plan, known: Bucket, wanted: Bucket) -> Plan | None:
    """The plan of one bucket as another one has it: to elements as wide, and from a decay to none; None where it cannot be had.

    A factored decay is bound to its dtype, whose range its factors may exceed.
    """
    if DTYPE_BYTES[known.dtype] != DTYPE_BYTES[wanted.dtype]:
        return None
    if known.decay != wanted.decay:
        return plan.with_steps(map(_without_decay, plan.steps)) if wanted.decay == "none" else None
    return None if known.dtype != wanted.dtype and _is_factored(plan) else plan


def _is_factored(plan: Plan) -> bool:
    return any(dict(step.config.choices).get("decay_mode") == "factored" for step in plan.steps)


def _without_decay(step: Step) -> Step:
    choices = tuple((name, value) for name, value in step.config.choices if name not in _OF_DECAY)
    return replace(step, config=replace(step.config, choices=choices))
