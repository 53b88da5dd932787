"""What the floors above keep in cache files, read back strictly: no key too few or too many, no type but the right one.

All raise a ``ValueError`` that names the key at fault.
"""

from __future__ import annotations

import functools
import reprlib
from dataclasses import fields
from typing import TypeVar

from latune.cache.node import Node, known_again
from latune.config import Config
from latune.gpu import ARCHITECTURES, CATALOGUE, Gpu
from latune.measurement import Measurement
from latune.plan import Plan, Step
from latune.problem import Bucket, Problem

Call = TypeVar("Call", Bucket, Problem)


@functools.cache
def _keys(kind: type) -> tuple[str, ...]:
    return tuple(member.name for member in fields(kind))


def read_gpu(node: Node) -> Gpu:
    found = node.fields(*_keys(Gpu))
    gpu = Gpu(
        **{name: found[name].text() for name in ("name", "title", "source")},
        **{name: found[name].integer(1) for name in ("arch", "sms", "memory_gib")},
        l2_mib=found["l2_mib"].number(),
        **{name: found[name].positive() for name in ("bandwidth_gbps", "matrix_tflops")},
    )
    if gpu.arch not in ARCHITECTURES:
        raise ValueError(f"{node.where}.arch: expected one of {', '.join(map(str, ARCHITECTURES))}, got {gpu.arch}")
    for listed in CATALOGUE:
        if listed.name == gpu.name or listed.file_stem == gpu.file_stem:
            _check_identity(node.where, listed, gpu)
    # In the file 40 MiB are 40, as they are in the catalogue, not 40.0.
    return next((listed for listed in CATALOGUE if listed == gpu), gpu)


def _check_identity(where: str, listed: Gpu, gpu: Gpu) -> None:
    """A board may differ from its model in memory, but what has its name or its file has both, and its architecture."""
    for name in ("name", "file_stem", "arch"):
        expected, value = getattr(listed, name), getattr(gpu, name)
        if value != expected:
            raise ValueError(f"{where}: expected the {name} {expected!r} of {listed.title}, got {reprlib.repr(value)}")


def read_bucket(node: Node) -> Bucket:
    bucket = _read_call(node, Bucket, "batch_heads")
    node.make(bucket.problem)
    return bucket


def read_problem(node: Node) -> Problem:
    return _read_call(node, Problem, "batch", "num_heads")


def _read_call(node: Node, kind: type[Call], *heads: str) -> Call:
    """A bucket or a problem, which say otherwise how many heads there are."""
    found = node.fields(*_keys(kind))
    return node.make(
        kind,
        **{name: found[name].text() for name in ("op", "direction", "decay", "dtype")},
        **{name: found[name].integer(1) for name in (*heads, "seqlen", "head_dim_k", "head_dim_v")},
        **{name: found[name].flag() for name in ("has_initial_state", "needs_final_state", "varlen")},
    )


def read_plan(node: Node) -> Plan:
    return Plan.from_steps([_step(step) for step in node.items()])


def _step(node: Node) -> Step:
    found = node.fields("kernel", "config")
    return node.make(Step, kernel=found["kernel"].text(), config=_config(found["config"]))


@known_again
def _config(node: Node) -> Config:
    found = node.fields(*_keys(Config))
    return Config.of(
        found["algorithm"].word(),
        choices={name: choice.word() for name, choice in found["choices"].mapping().items()},
        constexprs={name: number.integer(1) for name, number in found["constexprs"].mapping().items()},
        num_warps=found["num_warps"].integer(1),
        num_stages=found["num_stages"].integer(),
        options={name: number.integer() for name, number in found["options"].mapping().items()},
    )


def read_measurement(node: Node) -> Measurement:
    found = node.fields(*_keys(Measurement))
    return node.make(
        Measurement,
        **{name: found[name].text() for name in ("outcome", "detail")},
        **{name: found[name].optional(Node.number) for name in ("median_ms", "ci_low_ms", "ci_high_ms")},
        samples=found["samples"].integer(),
        errors=tuple(sorted((name, error.number()) for name, error in found["errors"].mapping().items())),
    )
