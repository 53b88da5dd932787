"""The catalogue of GPUs and how a device is recognised in it."""

from __future__ import annotations

import pytest

from latune.errors import LatuneError, UnknownGpuError
from latune.gpu import ARCHITECTURES, CATALOGUE, Gpu, find_gpu, identify_gpu

MIB = 2**20


def identify(arch: int, sms: int, memory_bytes: int, title: str = "NVIDIA Something New") -> Gpu:
    return identify_gpu(arch=arch, sms=sms, memory_bytes=memory_bytes, l2_bytes=50 * MIB, title=title)


@pytest.mark.parametrize("gpu", CATALOGUE, ids=lambda gpu: gpu.name)
def test_every_gpu_is_found_by_its_names(gpu: Gpu) -> None:
    for name in (gpu.name, gpu.name.upper(), gpu.title, gpu.file_stem, f"NVIDIA {gpu.name}"):
        assert find_gpu(name) is gpu


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("H200", "h200"),
        ("nvidia_h200", "h200"),
        ("H100_PCIe", "h100-pcie"),
        ("RTX 4090", "rtx4090"),
        ("NVIDIA-RTX-PRO-6000", "rtxpro6000"),
        ("a100 40GB", "a100-40gb"),
    ],
)
def test_odd_spellings(written: str, name: str) -> None:
    assert find_gpu(written).name == name


@pytest.mark.parametrize(("written", "meant"), [("h2000", "h200"), ("L40", "l40s"), ("rtx-4090-ti", "rtx4090")])
def test_unknown_name_suggests_the_closest(written: str, meant: str) -> None:
    with pytest.raises(UnknownGpuError, match=f"did you mean '{meant}'") as caught:
        find_gpu(written)
    assert all(gpu.name in str(caught.value) for gpu in CATALOGUE)
    assert isinstance(caught.value, LatuneError)


@pytest.mark.parametrize("written", ["", "mi300x", "???"])
def test_any_unknown_name_is_one_kind_of_error(written: str) -> None:
    with pytest.raises(UnknownGpuError, match="expected one of"):
        find_gpu(written)


@pytest.mark.parametrize("title", ["NVIDIA H100 80GB HBM3", "H100 SXM5", ""])
def test_silicon_decides_not_the_drivers_name(title: str) -> None:
    assert identify(90, 132, 85_029_158_912, title).name == "h100"


@pytest.mark.parametrize(
    ("arch", "sms", "memory_mib", "name"),
    [
        (90, 132, 143_771, "h200"),
        (90, 132, 81_559, "h100"),
        (90, 114, 81_559, "h100-pcie"),
        (80, 108, 81_920, "a100"),
        (80, 108, 40_960, "a100-40gb"),
        (89, 128, 24_564, "rtx4090"),
        (89, 58, 23_034, "l4"),
        (120, 170, 32_607, "rtx5090"),
    ],
)
def test_same_chip_is_told_apart_by_memory(arch: int, sms: int, memory_mib: int, name: str) -> None:
    assert identify(arch, sms, memory_mib * MIB).name == name


@pytest.mark.parametrize("gpu", CATALOGUE, ids=lambda gpu: gpu.name)
def test_every_gpu_is_identified_at_its_nominal_figures(gpu: Gpu) -> None:
    assert identify(gpu.arch, gpu.sms, gpu.memory_gib * 2**30) is gpu


def test_unlisted_device_describes_itself() -> None:
    gpu = identify(90, 132, 95_830 * MIB, "NVIDIA H100 NVL")
    assert gpu not in CATALOGUE
    assert (gpu.name, gpu.title, gpu.file_stem) == ("h100-nvl", "NVIDIA H100 NVL", "nvidia-h100-nvl")
    assert (gpu.arch, gpu.sms, gpu.memory_gib, gpu.l2_mib) == (90, 132, 94, 50)
    assert "reported by the device" in gpu.source


def test_unlisted_devices_rates_scale_with_its_sms() -> None:
    whole, half = (identify(90, sms, 40 * 2**30) for sms in (132, 66))
    assert half.bandwidth_gbps == pytest.approx(whole.bandwidth_gbps / 2)
    assert half.matrix_tflops == pytest.approx(whole.matrix_tflops / 2)


@pytest.mark.parametrize(("arch", "taken_as"), [(87, 86), (103, 100), (121, 120)])
def test_unlisted_architecture_takes_the_limits_of_the_nearest_older_one(arch: int, taken_as: int) -> None:
    gpu = identify(arch, 20, 16 * 2**30, "Orin Something")
    assert gpu.architecture is ARCHITECTURES[taken_as]
    assert gpu.file_stem == "nvidia-orin-something"


def test_catalogue_is_consistent() -> None:
    assert len(CATALOGUE) > 10
    assert len({gpu.name for gpu in CATALOGUE}) == len({gpu.file_stem for gpu in CATALOGUE}) == len(CATALOGUE)
    for gpu in CATALOGUE:
        figures = (gpu.sms, gpu.memory_gib, gpu.l2_mib, gpu.bandwidth_gbps, gpu.matrix_tflops)
        assert gpu.arch in ARCHITECTURES and min(figures) > 0 and gpu.source, gpu.name
        assert gpu.file_stem.startswith("nvidia-") and " " not in gpu.file_stem


def test_architectures_leave_each_block_less_than_the_sm() -> None:
    for arch, limits in ARCHITECTURES.items():
        assert limits.shared_per_block_bytes == limits.shared_per_sm_bytes - 1024, arch
        assert limits.threads_per_sm % 32 == 0, arch
    consumer = {ARCHITECTURES[arch].shared_per_block_bytes for arch in (86, 89, 120)}
    assert consumer == {99 * 1024}


def test_json_holds_every_field() -> None:
    fields = find_gpu("h200").to_json()
    assert Gpu(**fields) == find_gpu("h200")


def test_what_no_code_is_generated_for_is_refused() -> None:
    with pytest.raises(UnknownGpuError, match=r"capability 8\.0 or later, got Tesla T4 \(7\.5\)"):
        identify(75, 40, 16 * 1024 * MIB, "Tesla T4")
