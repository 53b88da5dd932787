"""The CUDA context of the calling thread: without one no TMA descriptor can be encoded."""

from __future__ import annotations

import threading

import torch


class _Thread(threading.local):
    has_context = False


_thread = _Thread()


def ensure_context(device_index: int) -> None:
    """Gives the thread the context of its current device, once; allowed while a graph is captured.

    A thread that has made no CUDA call yet has none: what it is served by PyTorch's allocator takes no call, nor does the
    device guard of a thread that autograd started. Triton sees to a context as it launches, but it encodes descriptors
    before that.

    Args:
        device_index: of the device that is current already.
    """
    if not _thread.has_context:
        # It is device guards alone that make no call where the device is current.
        torch.cuda.set_device(device_index)
        _thread.has_context = True
