"""What each part of a kernel with warps of their own is given, by names; those in capitals are known at compile time."""

from __future__ import annotations

from latune.codegen.step_view import StepView

_BARRIERS = ("filled", "free", "made", "used")


def parts(step: StepView) -> dict[str, list[str]]:
    """The arguments of each, in order (see specialized.jinja)."""
    decayed = step.decay != "none"
    inputs = [tensor.name for tensor in step.inputs]
    rings = [f"ring_{name}" for name in inputs]
    made = ["ring_p", *([f"ring_{step.z.name}_decayed"] if decayed else [])]
    slope = ["slope"] if decayed else []
    place = ["i_b", "i_h", "first_row", "column", "num_chunks"]
    ragged = decayed and step.ragged_state
    segment = ["segment_rows", "num_segments", "i_s"] if step.segmented else []
    rest = ["i_rest"] if step.remainder else []
    rows = ["CHECKPOINT_ROWS"] if step.uses_checkpoints else []

    load = [*inputs, *rings, "filled", "free", *place, "BLOCK_N"]
    score = [*(rings if decayed else rings[:2]), *made, *_BARRIERS, *slope, "scale"]
    walk = [step.out.name, *rings, *made, f"staged_{step.out.name}", *_BARRIERS, *slope, *step.states, "scale", *place]

    load += ["BLOCK_D"] if step.num_tiles > 1 else []
    score += ["first_row", "seqlen"] if ragged and not step.reverse else []
    score += ["num_chunks", "BLOCK_N", "BLOCK_D", *(["BLOCK_E"] if decayed else [])]
    walk += ["seqlen"] if step.states or ragged else []
    walk += ["i_bh", "D", "E"] if step.states else []
    walk += [*segment, *rest, "BLOCK_N", "BLOCK_D", "BLOCK_E"]
    return {"load": [*load, "STAGES"], "score": [*score, "STAGES"], "walk": [*walk, "STAGES", *rows]}
