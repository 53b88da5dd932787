from __future__ import annotations

import json

import pytest

from latune.cli.benchmark.case import LINEAR, SOFTMAX
from latune.cli.benchmark.peers import PEERS
from latune.cli.benchmark.records import LATUNE, read_records, to_records
from latune.cli.benchmark.summary import summarise
from latune.cli.benchmark.tables import print_summary
from latune.errors import LatuneError


def _result(peer, ratio, function=LINEAR, verdict="ok"):
    timed = ratio is not None
    return {
        "peer": peer,
        "function": function,
        "verdict": verdict,
        "median_ms": ratio if timed else None,
        "ci_low_ms": ratio if timed else None,
        "ci_high_ms": ratio if timed else None,
        "times_latune": {"median": ratio, "low": ratio, "high": ratio} if timed else None,
        "extra_bytes": 3 if timed else None,
        "output_bytes": 2 if timed else None,
    }


def _case(seqlen, results, direction="fwd"):
    sizes = {"batch": 1, "num_heads": 2, "seqlen": seqlen, "head_dim_k": 64, "head_dim_v": 32}
    return {"problem": f"{direction} {seqlen}", "direction": direction, "roof_ms": 0.1, **sizes, "results": results}


def _document(*cases):
    return {"gpu": {"title": "NVIDIA H200", "sms": 132}, "cases": list(cases)}


DOCUMENT = _document(
    _case(64, [_result(LATUNE, 1.0), _result("slow", 9.0), _result("fast", 2.0), _result("sdpa", 0.1, SOFTMAX)]),
    _case(128, [_result(LATUNE, 1.0), _result("slow", 8.0), _result("fast", None, verdict="unavailable")]),
    _case(256, [_result(LATUNE, None, verdict="wrong"), {**_result("slow", 3.0), "times_latune": None}]),
    _case(512, [_result(LATUNE, 1.0), _result("sdpa", 3.0, SOFTMAX)]),
    _case(64, [_result(LATUNE, 1.0), _result("fast", 0.5)], direction="bwd"),
)


def test_each_directions_mean_and_worst_are_against_the_fastest_peer_of_the_same_function():
    forward, backward = summarise(to_records(DOCUMENT))
    assert forward.geometric_mean == pytest.approx(4.0) and len(forward.leads) == 2
    assert forward.worst.to_json() == {"problem": "fwd 64", "shape": "1,2,64,64,32", "peer": "fast", "ratio": 2.0}
    assert backward.geometric_mean == pytest.approx(0.5) and backward.worst.ratio == 0.5


def test_what_is_left_out_is_named_with_its_reason(capsys):
    summaries = summarise(to_records(DOCUMENT))
    assert summaries[0].left_out == ["fwd 256: latune was not timed", "fwd 512: no peer was timed"]
    print_summary(summaries)
    shown = capsys.readouterr().out
    assert "fwd 256: latune was not timed" in shown and "4.00" in shown and "1,2,64,64,32" in shown


def test_a_run_without_a_comparison_has_no_mean(capsys):
    (summary,) = summarise(to_records(_document(_case(64, [_result(LATUNE, 1.0)]))))
    assert summary.to_json()["geometric_mean"] is None and summary.to_json()["worst"] is None
    print_summary([summary])
    assert "no peer was timed" in capsys.readouterr().out
    print_summary([])
    assert capsys.readouterr().out == ""


def test_latune_is_the_first_peer():
    assert PEERS[0].name == LATUNE


def test_a_document_is_read_back(tmp_path):
    path = tmp_path / "bench.json"
    path.write_text(json.dumps({**DOCUMENT, "later": 1}), encoding="utf-8")
    assert read_records(path) == to_records(DOCUMENT)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "the file"),
        ("{", "the file"),
        ('{"gpu": {"title": "x"}}', "cases: Field required"),
        ('{"gpu": {"title": "x"}, "cases": [{"problem": 1}]}', r"cases\.0\.problem"),
    ],
)
def test_another_document_is_an_error_that_says_where(tmp_path, text, message):
    path = tmp_path / "bench.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(LatuneError, match=message) as caught:
        read_records(path)
    assert str(path) in str(caught.value) and "latune bench --json FILE" in str(caught.value)


def test_a_missing_document_is_an_error(tmp_path):
    with pytest.raises(LatuneError, match=r"cannot read .* give a file that"):
        read_records(tmp_path / "bench.json")
