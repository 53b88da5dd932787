"""A search that is killed at any moment, again and again, ends as one that is left alone."""

from __future__ import annotations

import itertools
import multiprocessing
import random
from pathlib import Path

from latune.measurement import Measurement
from latune.plan import Plan
from latune.tuner.landscapes.landscape import Landscape
from latune.tuner.landscapes.recorded import RecordedEvaluator
from latune.tuner.route import Route
from latune.tuner.search import SearchResult, search
from latune.tuner.study import Study, Trial

KILLS = 50
TRIALS = 60
LONGEST_S = 0.2
_WORK = 200_000


def run(landscape: Landscape, journal: Path, begun: Path) -> SearchResult:
    """The search; each evaluation leaves a line in ``begun`` before it begins."""
    recorded = RecordedEvaluator(landscape)

    def evaluate(plan: Plan) -> Measurement:
        with begun.open("a", encoding="utf-8") as file:
            file.write(f"{plan.steps[0].config.digest}\n")
        # As long as what is around it, so that kills fall into it too.
        sum(range(_WORK))
        return recorded(plan)

    route = Route.of(landscape.grid, trials=TRIALS, seed=3, batch=5)
    return search(route, evaluate, study_name="killed", storage=str(journal))


def lines_of(begun: Path) -> list[str]:
    return begun.read_text(encoding="utf-8").split() if begun.exists() else []


def test_fifty_kills_lose_no_more_than_what_was_in_flight(landscape, tmp_path):
    whole = run(landscape, tmp_path / "whole.journal", tmp_path / "whole.begun")
    moments, lost = random.Random(0), []
    for search_number in itertools.count():
        journal, begun = (tmp_path / f"{search_number}.{ending}" for ending in ("journal", "begun"))
        stored: list[Trial] = []
        while len(stored) < TRIALS and len(lost) < KILLS:
            asked_before, stored_before = len(lines_of(begun)), len(stored)
            kill(landscape, journal, begun, after_s=moments.uniform(0, LONGEST_S))
            stored = Study(landscape.grid, f"killed-{landscape.grid.digest}", str(journal)).trials
            assert stored == list(whole.trials[: len(stored)])
            lost.append(len(lines_of(begun)) - asked_before - (len(stored) - stored_before))
        resumed = run(landscape, journal, begun)
        assert resumed.trials == whole.trials and resumed.best == whole.best
        if len(lost) == KILLS:
            break
    assert set(lost) <= {0, 1}


def kill(landscape: Landscape, journal: Path, begun: Path, *, after_s: float) -> None:
    """Runs the search in a process, and kills that with SIGKILL."""
    process = multiprocessing.get_context("fork").Process(target=run, args=(landscape, journal, begun))
    process.start()
    process.join(after_s)
    process.kill()
    process.join()
