"""What a forward plan keeps for a backward plan, and what that makes of it."""

from __future__ import annotations

import pytest
from passes import AHEAD, BEHIND, PROBLEM, WALK, WHOLE, step

from latune.codegen.kept import keeping, resuming
from latune.plan import Plan


@pytest.mark.parametrize("chained", [False, True])
@pytest.mark.parametrize("behind", [BEHIND, WALK], ids=["two launches", "walk"])
def test_variants_are_chained_as_their_plans_are(behind: Plan, chained: bool) -> None:
    ahead, behind = (plan.chained() if chained else plan for plan in (AHEAD, behind))
    kept = keeping(ahead, behind, PROBLEM)
    assert kept is not None
    given = resuming(behind, kept, PROBLEM)
    assert given is not None and kept.is_chained == given.is_chained == chained


def test_a_forward_plan_keeps_checkpoints_for_a_backward_plan_that_reads_them() -> None:
    for ahead in (WHOLE, AHEAD):
        kept = keeping(ahead, WALK, PROBLEM)
        assert kept is not None
        config = ahead.steps[0].config
        assert kept.steps[0].config == config.with_choices(checkpoints="kept").with_constexprs(CHECKPOINT_ROWS=64)
        plan = resuming(WALK, kept, PROBLEM)
        assert plan is not None
        layout = dict(config.choices)["state_layout"]
        given = {"checkpoints": "given", "given_layout": layout}
        assert plan.steps[0].config == WALK.steps[0].config.with_choices(**given)


def test_checkpoints_of_other_rows_and_states_of_segments_are_of_no_use() -> None:
    longer = Plan((step("dqdkdv", algorithm="sequential", block_n=64),))
    assert keeping(Plan((step("o", algorithm="sequential", block_n=128),)), WALK, PROBLEM) is None
    of_checkpoints, of_segments = keeping(AHEAD, WALK, PROBLEM), keeping(AHEAD, BEHIND, PROBLEM)
    assert of_checkpoints is not None and of_segments is not None
    assert resuming(longer, of_checkpoints, PROBLEM) is None
    assert resuming(WALK, of_segments, PROBLEM) is None
    assert resuming(BEHIND, of_checkpoints, PROBLEM) is None
