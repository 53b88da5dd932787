"""The grid: which configs lie next to which."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from latune.config import Config
from latune.tuner.grid import Grid


@pytest.fixture(scope="module")
def grid(synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Grid:
    return Grid(synthetic.space(tmp_path_factory.mktemp("grid")), synthetic.PROBLEM, synthetic.GPU, synthetic.KERNEL)


def near(config: Config, **changes: object) -> dict[str, object]:
    return {**config.values(), **changes}


def test_a_feasible_config_is_nearest_to_itself(grid: Grid) -> None:
    assert all(grid.nearest(config.values()) == config for config in grid.configs[::97])


def test_an_infeasible_point_goes_to_a_config_one_step_away(grid: Grid) -> None:
    values = near(grid.default, BLOCK_E=128, BLOCK_N=128)
    found = grid.nearest(values)
    assert found is not None
    assert found.values() in (near(grid.default, BLOCK_E=64, BLOCK_N=128), near(grid.default, BLOCK_E=128, BLOCK_N=64))


def test_a_repeat_goes_to_a_neighbour_and_nothing_is_left_at_the_end(grid: Grid) -> None:
    first = grid.nearest(grid.default.values(), {grid.default})
    assert first in grid.neighbours(grid.default)
    assert grid.nearest(grid.default.values(), set(grid.configs)) is None


def test_neighbours_are_one_step_along_an_ordinal_or_one_other_choice(grid: Grid) -> None:
    expected = [
        near(grid.default, state_layout="transposed", branched="none"),
        *(near(grid.default, BLOCK_E=value) for value in (16, 64)),
        *(near(grid.default, BLOCK_N=value) for value in (16, 64)),
        *(near(grid.default, num_warps=value) for value in (2, 8)),
        near(grid.default, num_stages=2),
        *(near(grid.default, algorithm="split", PROGRAMS=value) for value in (32, 64, 128, 256, 512, 1024)),
    ]
    found = [config.values() for config in grid.neighbours(grid.default)]
    assert sorted(map(str, map(sorted_items, found))) == sorted(map(str, map(sorted_items, expected)))


def sorted_items(values: dict[str, object]) -> list[tuple[str, object]]:
    return sorted(values.items())


def test_digest_follows_the_axes(synthetic: ModuleType, grid: Grid, tmp_path: Path) -> None:
    narrower = synthetic.space(tmp_path, synthetic.SPACE.replace("[16, 128]", "[32, 128]"))
    other = Grid(narrower, synthetic.PROBLEM, synthetic.GPU, synthetic.KERNEL)
    assert other.digest != grid.digest
    assert len(grid.digest) == 6
