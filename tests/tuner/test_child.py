"""How exceptions are read; with torch's and Triton's own classes."""

from __future__ import annotations

import pytest
import torch
from triton.compiler.errors import CompilationError
from triton.runtime.errors import OutOfResources

from latune.errors import BuildError
from latune.tuner.child import outcome_of


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (OutOfResources(300_000, 232_448, "shared memory"), "out_of_resources"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"), "out_of_resources"),
        (torch.AcceleratorError("CUDA error: out of memory", 2), "out_of_resources"),
        (RuntimeError("Triton Error [CUDA]: out of memory"), "out_of_resources"),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered", 700), "illegal_access"),
        (torch.AcceleratorError("CUDA error: something new", 999), "illegal_access"),
        (RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"), "illegal_access"),
        (RuntimeError("CUDA error: misaligned address"), "illegal_access"),
        (RuntimeError("CUDA error: device-side assert triggered"), "illegal_access"),
        (RuntimeError("CUDA error: unspecified launch failure"), "illegal_access"),
        (CompilationError("tl.dot(a, b)", None, "out of memory of the author"), "compile_error"),
        (RuntimeError("PassManager::run failed"), "compile_error"),
        (RuntimeError("Triton Error [CUDA]: too many blocks in cooperative launch"), "out_of_resources"),
        (RuntimeError("Internal Triton PTX codegen error\n`ptxas` stderr:\nfatal"), "compile_error"),
        (RuntimeError("Triton Error [CUDA]: device kernel image is invalid"), "compile_error"),
        (BuildError("does not compile"), "compile_error"),
        (SyntaxError("invalid syntax"), "compile_error"),
        (RuntimeError("expected q and k on one device"), None),
        (KeyError("out of memory"), None),
    ],
)
def test_outcome_of(error: Exception, outcome: str | None) -> None:
    assert outcome_of(error) == outcome
