"""What processes that tune one problem agree on, where it cannot be read: it is made again."""

from __future__ import annotations

from pathlib import Path

import pytest
from entries import valid_entry

from latune.cache.resolve import default_plan
from latune.gpu import find_gpu
from latune.problem import Problem
from latune.tuner.finals import Finals, Result

PROBLEM = Problem(
    direction="fwd", decay="constant", dtype="bf16", batch=1, num_heads=4, seqlen=256, head_dim_k=64, head_dim_v=64
)
PLAN = default_plan(PROBLEM, find_gpu("h200"))
ENTRY = valid_entry(PROBLEM, PLAN)
RESULT = Result(entry=ENTRY, finalists=((PLAN, ENTRY.measurement),))


@pytest.mark.parametrize(
    "changes", [{"entry": {}}, {"entry": "x"}, {"finalists": [{}]}, {"finalists": None}, {"finalists": [{"plan": 1}]}], ids=str
)
def test_a_result_that_cannot_be_read_is_raced_again(tmp_path: Path, changes: dict[str, object]) -> None:
    finals = Finals("fwd", str(tmp_path / "a.journal"))
    finals._study.set_user_attr("result", {"trials": {"o": 3}, "spaces": {}, **RESULT.to_json(), **changes})
    races = []

    def race() -> Result:
        races.append(1)
        return RESULT

    assert [finals.result({"o": 3}, {}, race) for _ in range(2)] == [RESULT, RESULT]
    assert len(races) == 1


@pytest.mark.parametrize("kept", [{}, {"plans": "x"}, {"plans": [[{"kernel": "o"}]]}], ids=str)
def test_starts_that_cannot_be_read_are_made_again(tmp_path: Path, kept: dict[str, object]) -> None:
    finals = Finals("fwd", str(tmp_path / "a.journal"))
    finals._study.set_user_attr("starts", kept)
    assert finals.starts([PLAN]) == finals.starts([]) == [PLAN]
