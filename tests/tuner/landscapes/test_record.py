"""Recording a landscape: everything once, nothing lost, the fastest several times."""

from __future__ import annotations

import random

import pytest

from latune.errors import LandscapeError
from latune.tuner.landscapes.file import Recording, read_landscape, write_landscape
from latune.tuner.landscapes.record import record


def part_of(path):
    return path.with_name(f"{path.name}.part")


def stop_after(count):
    def on_point(_, done, __):
        if done == count:
            raise KeyboardInterrupt

    return on_point


def test_it_measures_every_config_once_and_in_no_order_of_the_space(grid, judge, tmp_path):
    path = tmp_path / "o.jsonl.gz"
    seen = []
    landscape = record(grid, judge, path, on_point=lambda point, done, total: seen.append((point.config, done, total)))
    assert sorted(judge.asked) == sorted(grid.configs) and judge.asked != list(grid.configs)
    assert set(judge.prepared) == set(grid.configs)
    assert seen == [(config, number, len(grid.configs)) for number, config in enumerate(judge.asked, start=1)]
    assert [point.config for point in landscape.points] == list(grid.configs)
    assert read_landscape(path) == landscape and not part_of(path).exists()


def test_the_fastest_are_raced_three_times(grid, judge, landscape):
    raced = {point.config: point for point in landscape.points if point.raced_ms}
    assert len(raced) > 1 and {len(point.raced_ms) for point in raced.values()} == {3}
    slowest_raced = max(point.measurement.median_ms for point in raced.values())
    others = [point.measurement.median_ms for point in landscape.points if point.measurement.ok and not point.raced_ms]
    assert slowest_raced <= min(others) and slowest_raced <= 1.1 * min(point.measurement.median_ms for point in raced.values())
    assert landscape.best_ms == pytest.approx(1.0, rel=0.002)
    assert not any(point.resources for point in landscape.points if not point.measurement.ok)


@pytest.mark.parametrize("first_line", [b"", b'{"schema":1,"problem":{"op'])
def test_a_run_that_was_killed_as_it_began_is_begun_again(grid, judge, tmp_path, first_line):
    path = tmp_path / "o.jsonl.gz"
    part_of(path).write_bytes(first_line)
    assert record(grid, judge, path) == read_landscape(path)
    assert len(judge.asked) == len(grid.configs)
    part_of(path).write_bytes(b"my notes")
    with pytest.raises(LandscapeError, match="expected a landscape"):
        record(grid, judge, path)
    assert part_of(path).read_bytes() == b"my notes"


def test_what_is_kept_is_not_written_again(grid, judge, tmp_path, monkeypatch):
    """Whoever is killed as he goes on has lost nothing."""
    path = tmp_path / "o.jsonl.gz"
    with pytest.raises(KeyboardInterrupt):
        record(grid, judge, path, on_point=stop_after(20))
    kept = part_of(path).read_bytes()
    part_of(path).write_bytes(kept + b'{"config"')
    written = []
    monkeypatch.setattr(Recording, "_write", lambda *lines, **mode: written.append(lines))
    record(grid, judge, path, time_budget_s=0)
    assert part_of(path).read_bytes() == kept and written == []


@pytest.mark.parametrize("cut", [0, 1, 40])
def test_it_goes_on_from_what_a_killed_run_has_kept(grid, judge, synthetic, tmp_path, cut):
    path = tmp_path / "o.jsonl.gz"
    with pytest.raises(KeyboardInterrupt):
        record(grid, judge, path, on_point=stop_after(20))
    kept = part_of(path).read_bytes()
    part_of(path).write_bytes(kept[: len(kept) - cut])
    again = type(judge)(synthetic)
    landscape = record(grid, again, path)
    lost = 1 if cut else 0
    assert len(again.asked) == len(grid.configs) - 20 + lost
    assert set(judge.asked[: 20 - lost]).isdisjoint(again.asked)
    assert read_landscape(path) == landscape


def test_a_run_whose_time_is_up_measures_nothing_more(grid, judge, tmp_path):
    path = tmp_path / "o.jsonl.gz"
    assert record(grid, judge, path, time_budget_s=0) is None
    assert judge.asked == [] and not path.exists() and part_of(path).exists()


def test_fresh_forgets_what_was_kept(grid, judge, tmp_path):
    path = tmp_path / "o.jsonl.gz"
    with pytest.raises(KeyboardInterrupt):
        record(grid, judge, path, on_point=stop_after(5))
    record(grid, judge, path, fresh=True)
    assert len(judge.asked) == 5 + len(grid.configs)


def test_what_another_toolchain_recorded_is_not_mixed_in(grid, judge, tmp_path):
    path = tmp_path / "o.jsonl.gz"
    with pytest.raises(KeyboardInterrupt):
        record(grid, judge, path, on_point=stop_after(5))
    kept = part_of(path).read_bytes()
    judge.toolchain["driver"] = "590"
    assert record(grid, judge, path, time_budget_s=0) is None
    judge.toolchain["triton"] = "3.7.0"
    with pytest.raises(LandscapeError, match=r"another Triton.*--fresh"):
        record(grid, judge, path)
    assert part_of(path).read_bytes().count(b"\n") == kept.count(b"\n")


def test_no_folder_is_a_clear_error(grid, judge, tmp_path):
    with pytest.raises(LandscapeError, match=r"cannot write .*missing.*; give a path"):
        record(grid, judge, tmp_path / "missing" / "o.jsonl.gz")
    assert judge.asked == []


def test_the_file_depends_on_the_landscape_alone(landscape, tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    write_landscape(landscape, first)
    write_landscape(landscape, second)
    assert first.read_bytes() == second.read_bytes() and {path.name for path in tmp_path.iterdir()} == {"a", "b"}
    # Where gzip would put the time.
    assert first.read_bytes()[4:8] == bytes(4)


def test_a_damaged_file_is_a_clear_error(landscape, tmp_path):
    path = tmp_path / "o.jsonl.gz"
    write_landscape(landscape, path)
    whole = path.read_bytes()
    order = random.Random(0)
    for _ in range(40):
        path.write_bytes(whole[: order.randrange(len(whole))])
        with pytest.raises(LandscapeError, match="expected a landscape of schema 1"):
            read_landscape(path)
    path.write_bytes(b"{}")
    with pytest.raises(LandscapeError, match="record it anew"):
        read_landscape(path)


def test_a_landscape_that_lacks_configs_is_refused(landscape, tmp_path):
    path = tmp_path / "o.jsonl.gz"
    write_landscape(type(landscape)(**{**vars_of(landscape), "points": landscape.points[:-1]}), path)
    with pytest.raises(LandscapeError, match=f"expected the {len(landscape.points)} configs of its space"):
        read_landscape(path)


def vars_of(landscape):
    return {name: getattr(landscape, name) for name in landscape.__dataclass_fields__}
