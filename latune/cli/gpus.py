"""``latune gpus``: which GPUs there are to tune for."""

from __future__ import annotations

import click

from latune.cli.options import json_option
from latune.cli.output import print_json, print_table
from latune.gpu import CATALOGUE, Gpu
from latune.tuner.target import local_gpu

_COLUMNS = ("name", "title", "arch", "SMs", "memory GiB", "L2 MiB", "GB/s", "TFLOP/s", "local")


@click.command()
@json_option
def gpus(as_json: bool) -> None:
    """Lists the known GPUs and marks the one in this machine.

    TFLOP/s is the dense bf16 matrix rate; --json adds the source of each figure.
    """
    here = local_gpu()
    listed = CATALOGUE if here is None or here in CATALOGUE else (*CATALOGUE, here)
    if as_json:
        print_json([{**gpu.to_json(), "local": gpu == here} for gpu in listed])
        return
    print_table(_COLUMNS, [_row(gpu, gpu == here) for gpu in listed], right=_COLUMNS[3:8])


def _row(gpu: Gpu, local: bool) -> list[str]:
    figures = [gpu.sms, gpu.memory_gib, f"{gpu.l2_mib:g}", f"{gpu.bandwidth_gbps:g}", f"{gpu.matrix_tflops:g}"]
    return [gpu.name, gpu.title, f"sm_{gpu.arch}", *map(str, figures), "here" if local else ""]
