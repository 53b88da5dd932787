"""Plans of other buckets, and whether they serve all the same: of another dtype or decay, or of other sizes.

In a cache measured for an H200, of 32 buckets of fp16 and of 32 without decay, each had the winner that the bf16 bucket of the
same sizes with decay had, or had it second.
"""

from __future__ import annotations

from dataclasses import replace

from latune.codegen.segment_states import cut_alike
from latune.plan import Plan, Step
from latune.problem import DTYPE_BYTES, Bucket

_OF_DECAY = ("decay_mode", "decayed", "rows_read")
# Of heads times the square of the length: as much as one step of the grid of buckets, to twice the length.
_MOST_TIMES_THE_WORK = 4


def carried(plan: Plan, known: Bucket, wanted: Bucket) -> Plan | None:
    """The plan of one bucket as another one has it: to elements as wide, and from a decay to none; None where it cannot be had.

    A factored decay is bound to its dtype, whose range its factors may exceed. Without a state the work grows with the square
    of the length, and no state can be taken or left.
    """
    if plan.stateless and not _needs_no_state(known, wanted):
        return None
    if DTYPE_BYTES[known.dtype] != DTYPE_BYTES[wanted.dtype]:
        return None
    if known.decay != wanted.decay:
        return plan.with_steps(map(_without_decay, plan.steps)) if wanted.decay == "none" else None
    return None if known.dtype != wanted.dtype and _is_factored(plan) else plan


def _is_factored(plan: Plan) -> bool:
    return any(dict(step.config.choices).get("decay_mode") == "factored" for step in plan.steps)


def _needs_no_state(known: Bucket, wanted: Bucket) -> bool:
    work, known_work = (bucket.batch_heads * bucket.seqlen**2 for bucket in (wanted, known))
    return work <= _MOST_TIMES_THE_WORK * known_work and not (wanted.has_initial_state or wanted.needs_final_state)


def _without_decay(step: Step) -> Step:
    choices = tuple((name, value) for name, value in step.config.choices if name not in _OF_DECAY)
    return cut_alike(replace(step, config=replace(step.config, choices=choices)))
