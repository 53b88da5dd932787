"""Programs on an SM, against figures of CUDA's occupancy calculator."""

from __future__ import annotations

from types import ModuleType

import pytest

from latune.codegen.build import Build
from latune.gpu import find_gpu
from latune.tuner.occupancy import over_limit, programs_by_limit, resident_programs

H200, A10 = find_gpu("h200"), find_gpu("a10")


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ({"registers": 32, "shared_bytes": 0, "num_warps": 4}, 16),  # threads: 2048 / 128
        ({"registers": 16, "shared_bytes": 0, "num_warps": 1}, 32),  # blocks
        ({"registers": 255, "shared_bytes": 0, "num_warps": 4}, 2),  # registers: 65536 / (4 * 8192)
        ({"registers": 129, "shared_bytes": 0, "num_warps": 4}, 3),  # 129 * 32 registers, in units of 256
        ({"registers": 32, "shared_bytes": 100_000, "num_warps": 4}, 2),  # shared memory: 233472 / 101024
        ({"registers": 32, "shared_bytes": 232_448, "num_warps": 4}, 1),  # the most a block may have
        ({"registers": 255, "shared_bytes": 0, "num_warps": 16}, 0),
    ],
)
def test_what_limits_the_programs_of_an_sm(fake_builds: ModuleType, figures: dict[str, int], expected: int) -> None:
    assert resident_programs(fake_builds.kernel("o_kernel", **figures), H200) == expected


def test_each_limit_is_told_by_name(fake_builds: ModuleType) -> None:
    kernel = fake_builds.kernel("o_kernel", registers=129, shared_bytes=100_000, num_warps=4)
    assert programs_by_limit(kernel, H200) == {"blocks": 32, "threads": 16, "registers": 3, "shared memory": 2}


def test_an_sm_of_another_kind_holds_less(fake_builds: ModuleType) -> None:
    kernel = fake_builds.kernel("o_kernel", registers=32, shared_bytes=50_000, num_warps=4)
    assert (resident_programs(kernel, H200), resident_programs(kernel, A10)) == (4, 2)


def test_over_limit_names_the_limit(fake_builds: ModuleType) -> None:
    def why(**figures: int) -> str | None:
        return over_limit(Build(kernels=(fake_builds.kernel("o_kernel", **figures),)), A10)

    assert why(shared_bytes=99 * 1024) is None
    assert "101377 bytes of shared memory" in (why(shared_bytes=99 * 1024 + 1) or "")
    assert "16 warps of 255 registers" in (why(registers=255, num_warps=16, shared_bytes=0) or "")
