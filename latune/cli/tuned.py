"""What tuning one problem came to: a row of a table, and JSON."""

from __future__ import annotations

from collections import Counter

from latune.cli.output import milliseconds, plan_lines, share_of_roof
from latune.problem import Problem
from latune.tuner.tune import Tuned

COLUMNS = ("problem", "plan", "ms", "of roof", "evidence", "trials")

# Why a search ended before it had made all of its trials.
_ENDS = {
    "settled": "no more improvement expected",
    "exhausted": "no config is left",
    "time": "the time was up",
    "interrupted": "interrupted",
}


def row(problem: Problem, tuned: Tuned) -> list[str]:
    entry, outcomes = tuned.entry, _outcomes(tuned)
    median_ms = entry.measurement.median_ms
    counted = [f"{count} {outcome}" for outcome, count in outcomes.most_common()]
    ended = [f"{name} ended: {_ENDS[result.stopped]}" for name, result in tuned.searches.items() if result.stopped != "trials"]
    times = [milliseconds(median_ms), share_of_roof(entry.roof_ms, median_ms)]
    return [str(problem), plan_lines(entry.plan), *times, entry.evidence, "\n".join([*counted, *ended])]


def to_json(problem: Problem, tuned: Tuned) -> dict[str, object]:
    searches = {
        name: {"trials": len(result.trials), "outcomes": dict(result.outcomes), "stopped": result.stopped}
        for name, result in tuned.searches.items()
    }
    return {"problem": str(problem), "entry": tuned.entry.to_json(), "outcomes": dict(_outcomes(tuned)), "searches": searches}


def _outcomes(tuned: Tuned) -> Counter[str]:
    return sum((result.outcomes for result in tuned.searches.values()), Counter())
