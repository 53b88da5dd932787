"""What each part of a kernel with warps of their own is given, by names; those in capitals are known at compile time."""

from __future__ import annotations

from latune.codegen.step_view import StepView

_BARRIERS = ("filled", "free", "made", "used")
_KEPT_BARRIERS = ("kept_filled", "kept_free")


def parts(step: StepView) -> dict[str, list[str]]:
    """The arguments of each, in order."""
    return (_of_a_walk if step.fused else _of_a_stream)(step)


def _of_a_stream(step: StepView) -> dict[str, list[str]]:
    """See specialized.jinja and, where scores are not apart, producer.jinja."""
    decayed = step.decay != "none"
    inputs = [name for stream in step.streams for name in _names(stream)]
    outputs = [stream.out.name for stream in step.streams]
    which = ["i_out"] if len(step.streams) > 1 else []
    rings = _rings(step)
    made = ["ring_p", *([f"ring_{step.z.name}_decayed"] if decayed else [])] if step.scores_apart else ["staged_p"]
    barriers = _BARRIERS if step.scores_apart else _BARRIERS[:2]
    share = ["begin", "end", "chunks", "num_segments"]
    slope = ["slopes" if step.relayed else "slope"] if decayed else []
    place = [*share, "num_heads", "column"] if step.relayed else ["i_b", "i_h", "first_row", "column", "num_chunks"]
    ragged = decayed and step.ragged_state
    segment = [*([] if step.balanced else ["segment_rows"]), "num_segments", "i_s"] if step.segmented else []
    rest = ["i_rest"] if step.remainder else []
    rows = ["CHECKPOINT_ROWS"] if step.uses_checkpoints else []

    load = [*inputs, *rings, "filled", "free", *which, *place, "BLOCK_N"]
    score = [*(rings if decayed else rings[:2]), *made, *_BARRIERS, *slope, "scale"]
    walk = [*outputs, *rings, *made, f"staged_{step.out.name}", *barriers, *slope, *step.states, "scale", *which, *place]

    if step.cooperates:
        load += ["own_row", "own_chunks"]
        score += ["own_chunks"]
        walk += ["own_chunks"]
    load += ["BLOCK_D"] if step.num_tiles > 1 else []
    if step.relayed:
        score += [*share, *(["num_heads"] if decayed else []), *(["seqlen"] if ragged and not step.reverse else [])]
    else:
        score += [*(["first_row", "seqlen"] if ragged and not step.reverse else []), "num_chunks"]
    score += ["BLOCK_N", "BLOCK_D", *(["BLOCK_E"] if decayed else [])]
    walk += ["seqlen"] if step.segmented or ragged or step.uses_checkpoints else []
    head = ["i_p"] if step.relayed else [] if step.balanced and not step.has_states_of_heads else ["i_bh"]
    walk += [*head, "D", "E"] if step.states else []
    walk += [*segment, *rest, "BLOCK_N", "BLOCK_D", "BLOCK_E"]
    of_parts = {"load": [*load, "STAGES"], "score": [*score, "STAGES"], "walk": [*walk, "STAGES", *rows]}
    return {**of_parts, "scan": _of_a_scan(step)} if step.cooperates else of_parts


def _of_a_scan(step: StepView) -> list[str]:
    """See cooperation.jinja."""
    given = [step.state_in] if step.state_in else []
    slope = ["slope"] if step.decay != "none" else []
    scale = ["scale"] if step.reverse and given else []
    if step.balanced:
        place = [*(["i_bh"] if given else []), "i_s", "column", "seqlen", "num_segments", "BLOCK_N"]
    else:
        place = ["i_bh", "i_s", "column", "seqlen", "segment_rows", "num_segments"]
    return ["segment_states", *given, *slope, *scale, *place, "D", "E", "BLOCK_E"]


def _of_a_walk(step: StepView) -> dict[str, list[str]]:
    """Of all gradients: see specialized_walk.jinja."""
    decayed = step.decay != "none"
    made = ["ring_p", "ring_dp", *(["ring_q_decayed"] if decayed else [])]
    if step.relayed:
        share = ["begin", "end", "pairs", "num_segments", "seqlen"]
        place = loaded = [*share, "num_heads"]
        chunks = [*share, *(["num_heads"] if decayed else []), "CHECKPOINT_ROWS"]
        slope, stored, rows = "slopes", ["i_p"], ["CHECKPOINT_ROWS"]
    else:
        place, loaded = ["i_b", "i_h", "last", "num_chunks"], ["i_b", "i_h", "i_bh", "last", "num_chunks"]
        chunks = ["num_chunks"]
        slope, stored, rows = "slope", ["seqlen", "i_bh"], []
    decay = [slope] if decayed else []
    of_states = [*stored, "D", "E"] if step.states_of_walk else []
    segment = ["segment_rows", "num_segments", "i_s"] if step.segmented else []
    rest = ["i_rest"] if step.remainder else []
    blocks = ["BLOCK_N", "BLOCK_D", "BLOCK_E", "STAGES"]

    load = [*_names(step), "checkpoints", *_rings(step), "ring_kept", "filled", "free", *_KEPT_BARRIERS]
    load += [*loaded, "BLOCK_N", "CHECKPOINT_ROWS", "STAGES"]
    score = [*_rings(step), *made, *_BARRIERS, *decay, "scale", *chunks, *blocks]
    walk = ["dk", "dv", *_rings(step), *made, "staged_dk", "staged_dv", *_BARRIERS, *decay, *step.states_of_walk, "scale"]
    walk += [*place, *of_states, *segment, *rest, *rows, *blocks]
    queries = ["dq", "ring_k", "ring_v", "ring_do", "ring_kept", "ring_dp", "staged_state", "staged_dq"]
    queries += [*_BARRIERS, *_KEPT_BARRIERS, *decay, "scale", *place, "CHECKPOINT_ROWS", *blocks]
    return {"load": load, "score": score, "walk": walk, "queries": queries}


def _names(step: StepView) -> list[str]:
    return [tensor.name for tensor in step.inputs]


def _rings(step: StepView) -> list[str]:
    return [f"ring_{tensor.name}" for tensor in step.inputs]
