"""How busy a worker is, by a clock that stands still but where a test moves it."""

from __future__ import annotations

from itertools import count

import pytest

from latune.tuner.load import Load


def test_what_had_no_job_yet_is_not_busy() -> None:
    assert Load().to_json() == {"busy_s": 0.0, "elapsed_s": 0.0, "share": 0.0}
    assert str(Load()) == "busy for 0% of 0 s"


def test_time_counts_from_the_first_job_to_the_end_of_the_last() -> None:
    """A tick passes with each look: jobs last one, and so do the pauses between them."""
    load = Load(_clock=map(float, count(100)).__next__)
    for _ in range(2):
        with load.working():
            pass
    assert load.to_json() == {"busy_s": 2.0, "elapsed_s": 3.0, "share": 2 / 3}
    assert str(load) == "busy for 67% of 3 s"


def test_a_job_that_fails_took_time_too() -> None:
    load = Load(_clock=map(float, count()).__next__)
    with pytest.raises(KeyboardInterrupt), load.working():
        raise KeyboardInterrupt
    assert load.busy_s == load.elapsed_s == 1.0
