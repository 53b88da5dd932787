"""``latune regret`` without a GPU: real compilations, ranked by the model."""

from __future__ import annotations

import json
import math

import pytest

from latune.cli import regret as command
from latune.cli import regrets
from latune.cli.regrets import RegretFile
from latune.gpu import find_gpu
from latune.tuner.regret import Regret

A100 = find_gpu("a100")

SHAPES = ("--gpu", "a100", "--shape", "1,2,200,32", "--shape", "1,3,300,32", "--direction", "fwd", "--trials", "3")


@pytest.fixture(autouse=True)
def _own_root(tmp_path, monkeypatch):
    monkeypatch.setenv("LATUNE_CACHE_DIR", str(tmp_path / "root"))


def test_it_measures_each_shape_once_and_sums_up(run, tmp_path, monkeypatch):
    path = tmp_path / "regret.json"
    result = run("regret", *SHAPES[:4], *SHAPES[6:], "--json", str(path))
    assert result.exit_code == 0, result.stderr
    document = json.loads(path.read_text(encoding="utf-8"))
    (only,) = document["regrets"]
    assert (document["evidence"], only["step"]) == ("static", "default")
    assert only["served_plan"].startswith("o: sequential") and only["tuned_plan"].startswith("o: ")
    assert document["worst"]["regret"] == document["median"] == only["served_ms"] / only["tuned_ms"] - 1 >= 0
    assert f"1 shapes: median regret {document['median']:.1%}" in result.stdout

    measured = []

    def measure(problem, served, *_):
        measured.append(str(problem))
        return Regret(**only | {"problem": str(problem), "served": served.why})

    monkeypatch.setattr(command, "_measure", measure)
    again = run("regret", *SHAPES, "--json", str(path))
    assert again.exit_code == 0 and "2 shapes: median regret" in again.stdout
    assert measured == ["fwd 1,3,300,32,32 bf16 decay=constant"]
    assert json.loads(path.read_text(encoding="utf-8"))["regrets"][0] == only

    kept = json.loads((tmp_path / "root" / "regrets" / "nvidia-a100-static.json").read_text(encoding="utf-8"))
    assert kept == json.loads(path.read_text(encoding="utf-8"))

    document["regrets"][0]["served"] = "an entry that is no longer there"
    path.write_text(json.dumps(document), encoding="utf-8")
    assert run("regret", *SHAPES[:4], *SHAPES[6:], "--json", str(path)).exit_code == 0
    assert measured[1:] == ["fwd 1,2,200,32,32 bf16 decay=constant"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "expected what `latune regret` wrote"),
        ('{"regrets": [{"problem": "x"}]}', "expected what `latune regret` wrote"),
        ('{"regrets": [], "gpu": "a100", "evidence": "static", "templates_sha256": "x"}', "or of other templates"),
        ('{"regrets": [], "gpu": "h100", "evidence": "measured", "templates_sha256": "x"}', "is of h100, measured"),
    ],
)
def test_a_file_of_something_else_is_not_written_over(run, tmp_path, text, words):
    path = tmp_path / "mine.json"
    path.write_text(text, encoding="utf-8")
    result = run("regret", *SHAPES, "--json", str(path))
    assert result.exit_code == 1 and words in result.stderr
    assert path.read_text(encoding="utf-8") == text


def test_a_file_that_is_no_text_is_named_in_a_short_line(run, tmp_path):
    path = tmp_path / "mine.json"
    path.write_bytes(b"\xff" * 50_000)
    result = run("regret", *SHAPES, "--json", str(path))
    assert result.exit_code == 1 and "UnicodeDecodeError" in result.stderr and len(result.stderr) < 1000


def test_a_damaged_file_under_the_cache_root_is_set_aside_and_in_nobodys_way(tmp_path, capsys):
    kept = tmp_path / "root" / "regrets" / "nvidia-a100-static.json"
    fields = {"step": "exact", "served": "x", "served_ms": 1.1, "tuned_ms": 1.0, "served_plan": "o", "tuned_plan": "o"}
    RegretFile.kept(A100, "static").add(Regret(problem="x", **fields))
    sound = kept.read_text(encoding="utf-8")
    changes = [("tuned_ms", 0), ("tuned_ms", "x"), ("served_ms", None), ("served_ms", math.nan), ("problem", ["x"]), ("new", 1)]
    damaged = [json.loads(sound) | {"regrets": [{"problem": "x", **fields, name: value}]} for name, value in changes]
    for number, text in enumerate(['{"gpu":', *map(json.dumps, damaged)], start=1):
        kept.write_text(text, encoding="utf-8")
        assert RegretFile.kept(A100, "static").by_problem == {}
        assert (kept.parent / f"{kept.name}.damaged-{number}").read_text(encoding="utf-8") == text
        assert "set aside" in capsys.readouterr().err and not kept.exists()


def test_a_cache_root_that_is_no_folder_has_no_regrets(tmp_path, capsys):
    (tmp_path / "root").write_text("a file", encoding="utf-8")
    assert RegretFile.kept(A100, "static").by_problem == {}
    assert "no regret is known" in capsys.readouterr().err


def test_it_searches_anew_whatever_the_user_has_searched(run, tmp_path, monkeypatch):
    searched, searches = [], command.regret_of

    def regret_of(problem, served, evaluate, settings, **options):
        found = searches(problem, served, evaluate, settings, **options)
        searched.append(evaluate._known)
        return found

    monkeypatch.setattr(command, "regret_of", regret_of)
    tune = ("--gpu", "a100", "--shape", "1,2,200,32", "--direction", "fwd", "--trials", "3")
    assert run("tune", *tune, "--output", str(tmp_path / "out")).exit_code == 0
    studies = {path: path.read_bytes() for path in (tmp_path / "root" / "studies").glob("*.journal")}
    assert run("regret", *tune).exit_code == 0
    assert studies and len(searched[0]) >= 3
    assert {path: path.read_bytes() for path in (tmp_path / "root" / "studies").glob("*.journal")} == studies


def test_two_who_write_one_file_keep_what_both_have(tmp_path):
    fields = {"step": "exact", "served": "x", "served_ms": 1.1, "tuned_ms": 1.0, "served_plan": "o", "tuned_plan": "o"}
    first, second = RegretFile.kept(A100, "static"), RegretFile.kept(A100, "static")
    for file, problem in ((first, "a"), (second, "b"), (first, "c")):
        file.add(Regret(problem=problem, **fields))
    assert set(RegretFile.kept(A100, "static").by_problem) == {"a", "b", "c"}


def test_ctrl_c_keeps_what_is_measured(run, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "_measure", interrupt)
    result = run("regret", *SHAPES, "--json", str(tmp_path / "regret.json"))
    assert result.exit_code == 130 and "goes on from here" in result.stderr and result.stdout == ""


def test_a_file_that_cannot_be_written_is_known_before_the_search(run, tmp_path):
    result = run("regret", *SHAPES, "--json", str(tmp_path / "missing" / "regret.json"))
    assert result.exit_code == 1 and "there is no folder" in result.stderr


def test_what_was_kept_of_other_templates_is_forgotten(tmp_path, monkeypatch):
    fields = {"step": "exact", "served": "x", "served_ms": 1.1, "tuned_ms": 1.0, "served_plan": "o", "tuned_plan": "o"}
    old, new, newest = (Regret(problem=problem, **fields) for problem in ("old", "new", "newest"))
    RegretFile.kept(A100, "static").add(old)
    monkeypatch.setattr(regrets, "generator_sha256", lambda: "other")
    RegretFile.kept(A100, "static").add(new)
    RegretFile.kept(A100, "static").add(newest)
    assert RegretFile.kept(A100, "static").by_problem == {"new": new, "newest": newest}
    assert RegretFile.kept(A100, "measured").by_problem == {}
