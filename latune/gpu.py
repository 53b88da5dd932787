"""A small catalogue of GPUs, and how the live device is recognised in it.

Devices are recognised by their silicon (architecture, number of SMs, memory), never by the driver's name for
them, which differs between boards and driver versions.
"""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass
from typing import Protocol

from latune.errors import UnknownGpuError

_KIB = 1024
_GIB = 1024**3


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU model.

    Attributes:
        name: what ``--gpu`` takes.
        title: the vendor's name, and the stem of the cache file.
        arch: compute capability times ten (90 for 9.0).
        sms: streaming multiprocessors enabled.
        memory_gib: nominal device memory.
        l2_mib: L2 cache.
        bandwidth_gbps: peak memory bandwidth, GB/s.
        matrix_tflops: dense bf16 matrix rate with fp32 accumulation, TFLOP/s.
        source: where the figures of this row come from; those of the architecture are in ``ARCHITECTURES``.
    """

    name: str
    title: str
    arch: int
    sms: int
    memory_gib: int
    l2_mib: float
    bandwidth_gbps: float
    matrix_tflops: float
    source: str

    @property
    def file_stem(self) -> str:
        """The cache file's name without its ending: ``nvidia-h200``."""
        return self.title.lower().replace(" ", "-").replace("/", "-")

    @property
    def architecture(self) -> Architecture:
        return ARCHITECTURES[self.arch]

    @property
    def shared_per_block_bytes(self) -> int:
        """The opt-in limit of shared memory a block may take."""
        return self.architecture.shared_per_block_bytes

    def to_json(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """Limits that all GPUs of one compute capability share."""

    shared_per_sm_bytes: int
    shared_per_block_bytes: int
    threads_per_sm: int
    blocks_per_sm: int
    registers_per_sm: int = 65536
    registers_per_thread: int = 255


# CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
ARCHITECTURES = {
    80: Architecture(shared_per_sm_bytes=164 * _KIB, shared_per_block_bytes=163 * _KIB, threads_per_sm=2048, blocks_per_sm=32),
    86: Architecture(shared_per_sm_bytes=100 * _KIB, shared_per_block_bytes=99 * _KIB, threads_per_sm=1536, blocks_per_sm=16),
    89: Architecture(shared_per_sm_bytes=100 * _KIB, shared_per_block_bytes=99 * _KIB, threads_per_sm=1536, blocks_per_sm=24),
    90: Architecture(shared_per_sm_bytes=228 * _KIB, shared_per_block_bytes=227 * _KIB, threads_per_sm=2048, blocks_per_sm=32),
    100: Architecture(shared_per_sm_bytes=228 * _KIB, shared_per_block_bytes=227 * _KIB, threads_per_sm=2048, blocks_per_sm=32),
    120: Architecture(shared_per_sm_bytes=100 * _KIB, shared_per_block_bytes=99 * _KIB, threads_per_sm=1536, blocks_per_sm=24),
}

_AMPERE = "NVIDIA A100 Tensor Core GPU Architecture whitepaper"
_GA102 = "NVIDIA Ampere GA102 GPU Architecture whitepaper"
_ADA = "NVIDIA Ada GPU Architecture whitepaper"
_HOPPER = "NVIDIA H100 Tensor Core GPU Architecture whitepaper"


def _gpu(name: str, title: str, arch: int, sms: int, gib: int, l2_mib: float, gbps: float, tflops: float, source: str) -> Gpu:
    return Gpu(
        name=name,
        title=title,
        arch=arch,
        sms=sms,
        memory_gib=gib,
        l2_mib=l2_mib,
        bandwidth_gbps=gbps,
        matrix_tflops=tflops,
        source=source,
    )


CATALOGUE = (
    _gpu("a100", "NVIDIA A100", 80, 108, 80, 40, 2039, 312, f"{_AMPERE}; bandwidth of the SXM4 80 GB board's datasheet"),
    _gpu("a100-40gb", "NVIDIA A100 40GB", 80, 108, 40, 40, 1555, 312, _AMPERE),
    _gpu("a30", "NVIDIA A30", 80, 56, 24, 24, 933, 165, "NVIDIA A30 datasheet"),
    _gpu("a10", "NVIDIA A10", 86, 72, 24, 6, 600, 125, "NVIDIA A10 datasheet"),
    _gpu("a40", "NVIDIA A40", 86, 84, 48, 6, 696, 149.7, "NVIDIA A40 datasheet"),
    _gpu("rtx3090", "NVIDIA RTX 3090", 86, 82, 24, 6, 936, 71, _GA102),
    _gpu("l4", "NVIDIA L4", 89, 58, 24, 48, 300, 121, "NVIDIA L4 datasheet"),
    _gpu("l40s", "NVIDIA L40S", 89, 142, 48, 96, 864, 362, "NVIDIA L40S datasheet"),
    _gpu("rtx4090", "NVIDIA RTX 4090", 89, 128, 24, 72, 1008, 165, _ADA),
    _gpu("h100", "NVIDIA H100", 90, 132, 80, 50, 3350, 989, f"{_HOPPER}; SXM5 board"),
    _gpu("h100-pcie", "NVIDIA H100 PCIe", 90, 114, 80, 50, 2039, 756, f"{_HOPPER}; PCIe board"),
    _gpu("h20", "NVIDIA H20", 90, 78, 96, 60, 4000, 148, "NVIDIA H20 datasheet"),
    _gpu("h200", "NVIDIA H200", 90, 132, 141, 60, 4800, 989, "NVIDIA H200 datasheet; L2 as the device reports it"),
    _gpu(
        "b200",
        "NVIDIA B200",
        100,
        148,
        180,
        126,
        7700,
        2250,
        "NVIDIA DGX B200 datasheet; SMs, L2 as reported",
    ),
    _gpu("rtx5090", "NVIDIA RTX 5090", 120, 170, 32, 96, 1792, 210, "NVIDIA RTX Blackwell GPU Architecture whitepaper"),
    _gpu(
        "rtxpro6000",
        "NVIDIA RTX PRO 6000",
        120,
        188,
        96,
        128,
        1792,
        503.8,
        "NVIDIA RTX Blackwell PRO GPU Architecture whitepaper",
    ),
)

STATIC_GPU = "a100"
"""What is tuned for where no GPU is named and none is in the machine."""


def find_gpu(name: str) -> Gpu:
    """The catalogue's GPU of that name, whatever its case, spaces, and a leading ``nvidia``.

    Raises:
        UnknownGpuError: with the known names and the closest match.
    """
    wanted = name.lower().replace(" ", "-").replace("_", "-").removeprefix("nvidia-")
    for gpu in CATALOGUE:
        if wanted in (gpu.name, gpu.file_stem.removeprefix("nvidia-")):
            return gpu
    known = [gpu.name for gpu in CATALOGUE]
    close = "".join(f"; did you mean {match!r}?" for match in difflib.get_close_matches(wanted, known, n=1))
    raise UnknownGpuError(f"unknown GPU {name!r}: expected one of {', '.join(known)}{close}")


def identify_gpu(*, arch: int, sms: int, memory_bytes: int, l2_bytes: int, title: str) -> Gpu:
    """The catalogue's GPU with this silicon, else a description of the device as it reports itself.

    Args:
        arch: compute capability times ten.
        sms: number of SMs.
        memory_bytes: device memory as the driver reports it (a few per cent under the nominal size).
        l2_bytes: size of the L2 cache.
        title: the driver's name for the device; used only for a device that is not in the catalogue.

    Raises:
        UnknownGpuError: its compute capability is below that of every GPU in the catalogue.
    """
    if arch < min(ARCHITECTURES):
        raise UnknownGpuError(
            f"expected a GPU of compute capability {min(ARCHITECTURES) / 10} or later, got {title} ({arch / 10}); "
            "on CPU tensors lightning_attn runs the PyTorch reference"
        )
    gib = memory_bytes / _GIB
    same_chip = [gpu for gpu in CATALOGUE if gpu.arch == arch and gpu.sms == sms]
    near = [gpu for gpu in same_chip if abs(gib - gpu.memory_gib) <= 0.15 * gpu.memory_gib]
    if near:
        return min(near, key=lambda gpu: abs(gib - gpu.memory_gib))
    return _unlisted_gpu(arch, sms, gib, l2_bytes / 2**20, title)


class DeviceProperties(Protocol):
    """What ``torch.cuda.get_device_properties`` returns, as far as it tells GPUs apart."""

    name: str
    major: int
    minor: int
    multi_processor_count: int
    total_memory: int
    L2_cache_size: int


def gpu_of(device: DeviceProperties) -> Gpu:
    """As ``identify_gpu``, of a device as torch describes it.

    Raises:
        UnknownGpuError: as there.
    """
    return identify_gpu(
        arch=10 * device.major + device.minor,
        sms=device.multi_processor_count,
        memory_bytes=device.total_memory,
        l2_bytes=device.L2_cache_size,
        title=device.name,
    )


def _unlisted_gpu(arch: int, sms: int, gib: float, l2_mib: float, title: str) -> Gpu:
    """A device outside the catalogue: rates scaled by SMs from a catalogued GPU of the nearest architecture."""
    known = max(ARCHITECTURES, key=lambda listed: (listed <= arch, -abs(listed - arch)))
    like = max((gpu for gpu in CATALOGUE if gpu.arch == known), key=lambda gpu: gpu.sms)
    share = sms / like.sms
    clean = "-".join(title.split()) if title.lower().startswith("nvidia") else f"NVIDIA-{'-'.join(title.split())}"
    return Gpu(
        name=clean.lower().removeprefix("nvidia-"),
        title=clean.replace("-", " "),
        arch=known,
        sms=sms,
        memory_gib=round(gib),
        l2_mib=l2_mib,
        bandwidth_gbps=like.bandwidth_gbps * share,
        matrix_tflops=like.matrix_tflops * share,
        source=f"reported by the device; rates scaled by SMs from {like.title}",
    )
