"""What ``latune tune`` does: problems in, entries of the cache out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click
import torch

from latune.cli import racing, searching
from latune.cli.chosen_gpu import chosen_gpu
from latune.cli.crew import crew
from latune.cli.session import Session
from latune.codegen.space import Space, load_space
from latune.codegen.space_file import read_space_file
from latune.problem import Problem
from latune.tuner.effort import Effort
from latune.tuner.standby import Standby
from latune.tuner.target import open_target
from latune.tuner.tune import Settings


def tune_problems(
    problems: Sequence[Problem],
    standby: Standby,
    *,
    gpu_name: str,
    effort: Effort,
    transfer: bool,
    trials: int | None,
    time_budget_s: float | None,
    seed: int,
    storage: str | None,
    fresh: bool,
    output: Path | None,
    space_files: Sequence[Path],
    workers: int,
    jobs: int,
) -> Session:
    """What the run has come to; the arguments are the options of the command.

    Raises:
        LatuneError: nothing can be tuned, or written.
        click.UsageError: the options do not go with this machine, or with one another.
    """
    check_gpus(workers)
    spaces = _spaces(space_files)
    searches = effort.searches and not transfer
    with open_target(chosen_gpu(gpu_name).name, seed=seed, workers=jobs, standby=standby) as target:
        settings = Settings(
            trials=trials or effort.trials[target.evidence],
            patience=effort.patience,
            seed=seed,
            storage=storage,
            fresh=fresh,
            time_budget_s=time_budget_s,
        )
        # What searches nothing keeps nothing but entries.
        judge = target.remembering(storage, fresh=fresh) if searches else target
        session = Session(target=judge, output=output)
        tune_all = searching.search if searches else racing.transfer if transfer else racing.race
        announced = session.announce(problems)
        with crew(workers, [*sys.argv[1:], "--workers", "1", "--jobs", str(jobs), "--gpu", target.gpu.name]):
            tune_all(session, announced, spaces, settings)
    return session


def check_gpus(workers: int) -> None:
    """Whether so many processes find a GPU each, all of one kind; where there is none, all compile."""
    if workers == 1 or not torch.cuda.is_available():
        return
    gpus = torch.cuda.device_count()
    if workers > gpus:
        raise click.BadParameter(
            f"expected at most {gpus}, as many as there are GPUs here, got {workers}", param_hint="--workers"
        )
    kinds = {torch.cuda.get_device_name(index) for index in range(workers)}
    if len(kinds) > 1:
        raise click.UsageError(
            f"expected --workers of GPUs of one kind, got {' and '.join(sorted(kinds))}; tune each kind by itself, with "
            "CUDA_VISIBLE_DEVICES naming its GPUs"
        )


def _spaces(files: Sequence[Path]) -> dict[str, Space]:
    kernels = [read_space_file(path).kernel for path in files]
    if len(set(kernels)) < len(kernels):
        raise click.BadParameter(f"expected one file for each kernel, got {', '.join(kernels)}", param_hint="--space")
    return {kernel: load_space(kernel, path) for kernel, path in zip(kernels, files, strict=True)}
