"""What a backlog hands out next."""

from __future__ import annotations

import pytest

from latune.tuner.backlog import Backlog


@pytest.fixture
def backlog() -> Backlog[str]:
    """Of jobs named by their parts' letters; capitals are urgent."""
    backlog: Backlog[str] = Backlog()
    for job in ("ab", "bc", "d", "AE", "EF", "G"):
        backlog.add(job, frozenset(job.lower()), urgent=job.isupper())
    return backlog


def test_urgent_ones_come_first_and_of_these_what_shares_nothing_with_what_is_under_way(backlog: Backlog[str]) -> None:
    assert [backlog.take() for _ in range(6)] == ["AE", "G", "EF", "bc", "d", "ab"]


def test_when_a_job_is_done_what_shares_its_parts_is_held_back_no_longer(backlog: Backlog[str]) -> None:
    assert backlog.take() == "AE"
    backlog.done("AE")
    assert [backlog.take() for _ in range(5)] == ["EF", "G", "ab", "d", "bc"]


def test_one_that_becomes_urgent_comes_behind_those_that_are(backlog: Backlog[str]) -> None:
    backlog.hurry("d")
    backlog.hurry("G")
    backlog.hurry("unknown")
    assert [backlog.take() for _ in range(5)] == ["AE", "G", "d", "EF", "bc"]
    backlog.hurry("G")
    assert backlog.take() == "ab", "and nothing that is under way comes again"


def test_where_nothing_waits_there_is_nothing_to_take() -> None:
    with pytest.raises(ValueError, match="empty"):
        Backlog().take()
