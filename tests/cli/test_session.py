"""What a run of `latune tune` says before anything is tuned."""

from __future__ import annotations

from types import SimpleNamespace

from entries import valid_entry

from latune.cache.store import write_entries
from latune.cli import session
from latune.cli.shapes import parse_shape, problems_of
from latune.gpu import find_gpu
from latune.ops.dispatch import resolve


def test_a_static_run_says_beforehand_where_what_ran_goes_on_serving(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LATUNE_CACHE_DIR", str(tmp_path))
    shapes = [parse_shape("4,32,8192,128"), parse_shape("1,2,256,32")]
    problems = problems_of(shapes, direction="fwd", dtype="bf16", decay="constant")
    h200 = find_gpu("h200")
    write_entries(h200, [valid_entry(problems[0], resolve(problems[0], h200).plan)])
    target = SimpleNamespace(gpu=h200, worker=None, evidence="static")
    session.Session(target=target, output=None).announce(problems)
    assert "1 of them has an entry that ran on one, which goes on serving" in capsys.readouterr().err
    session.Session(target=target, output=tmp_path / "out").announce(problems)
    assert "goes on serving" not in capsys.readouterr().err
