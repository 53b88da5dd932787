"""What is assumed of the installed Triton where it is called directly."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import pytest
import triton.backends.nvidia.driver as nvidia

from latune.codegen.build import compile_launch
from latune.codegen.launches import record_launches
from latune.codegen.load import load
from latune.codegen.render import render
from latune.config import Config
from latune.gpu import find_gpu
from latune.ops import direct
from latune.ops.direct import UnsupportedError
from latune.ops.recording import Descriptor
from latune.plan import Plan, Step
from latune.problem import Problem

CHOICES = {"decay_mode": "matrix", "decayed": "value"}
BLOCKS = {
    "tma": {"BLOCK_N": 32, "BLOCK_D": 64, "BLOCK_E": 32},
    "specialized": {"BLOCK_N": 64, "BLOCK_D": 64, "BLOCK_E": 64},
}
PROBLEM = Problem(
    direction="fwd", decay="constant", dtype="bf16", batch=1, num_heads=4, seqlen=256, head_dim_k=64, head_dim_v=64
)
DESCRIPTOR = Descriptor(0, (1, 4, 256, 64), (65536, 16384, 64, 1))


def compiled(gpu: str, loads: str = "tma"):
    """The forward kernel with four descriptors, really compiled; nothing of it is loaded."""
    choices = CHOICES | {"loads": loads, "state_layout": "transposed"}
    config = Config.of("sequential", choices=choices, constexprs=BLOCKS[loads], num_warps=4, num_stages=2)
    module = load(render(PROBLEM, Plan((Step(kernel="o", config=config),))))
    (launch,) = record_launches(module, PROBLEM)
    return compile_launch(launch, find_gpu(gpu))


@pytest.fixture
def launched(monkeypatch):
    """The (source, metadata) of launchers that are made."""
    made = []
    active = SimpleNamespace(launcher_cls=lambda source, metadata: made.append((source, metadata)))
    monkeypatch.setattr(direct, "driver", SimpleNamespace(active=active))
    direct.launcher.cache_clear()
    return made


@pytest.mark.parametrize(("loads", "num_warps"), [("tma", 4), ("specialized", 12)])
def test_a_launcher_of_encoded_descriptors_is_the_one_that_triton_makes_of_its_own(launched, loads, num_warps):
    kernel = compiled("h200", loads)
    direct.launcher(kernel)
    ((source, metadata),) = launched
    own = kernel.metadata.tensordesc_meta
    assert metadata.tensordesc_meta is None and metadata.num_warps == num_warps
    if hasattr(nvidia, "make_launcher"):
        wanted = nvidia.make_launcher({}, kernel.src.signature, own)
        assert nvidia.make_launcher(source.constants, source.signature, None) == wanted
    else:
        # Triton 3.7 knows of one type of descriptor only.
        rest = ["nvTmaDesc"] * (len(inspect.signature(nvidia.expand_signature).parameters) - 2)
        wanted = nvidia.expand_signature(kernel.src.signature.values(), own, *rest)
        assert nvidia.expand_signature(source.signature.values(), None, *rest) == wanted


@pytest.mark.parametrize("loads", BLOCKS)
def test_an_encoding_is_what_triton_hands_its_own_encoder(monkeypatch, loads):
    handed = []
    utils = SimpleNamespace(
        fill_tma_descriptor=lambda *args: handed.append(args), fill_tma_descriptor_tiled=lambda *args: handed.append(args)
    )
    runtime = SimpleNamespace(driver=SimpleNamespace(active=SimpleNamespace(utils=utils)))
    monkeypatch.setattr(nvidia, "triton", SimpleNamespace(runtime=runtime))
    base = SimpleNamespace(data_ptr=lambda: 4096)
    own = SimpleNamespace(
        base=base, shape=DESCRIPTOR.shape, strides=DESCRIPTOR.strides, padding="zero", round_f32_to_tf32=False
    )
    for metadata in direct.descriptor_metadata(compiled("h200", loads)):
        rest = [None] * (len(inspect.signature(nvidia.make_tensordesc_arg).parameters) - 2)
        nvidia.make_tensordesc_arg(own, metadata, *rest)
        assert handed.pop() == (4096, *direct.encoding(DESCRIPTOR, metadata))


def test_a_gpu_without_tma_is_not_supported(launched):
    with pytest.raises(UnsupportedError):
        direct.launcher(compiled("a100"))
    assert launched == []


def test_launchers_take_the_grid_the_stream_the_function_and_what_follows():
    names = list(inspect.signature(nvidia.CudaLauncher.__call__).parameters)
    assert names[1:6] == ["gridX", "gridY", "gridZ", "stream", "function"]
    following = ["kernel_metadata", "launch_metadata", "launch_enter_hook", "launch_exit_hook"]
    assert names[6:] in (["args"], [*following, "args"])
