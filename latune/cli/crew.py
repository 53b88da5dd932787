"""Further processes of one ``latune tune``, each on a GPU of its own, which take problems and candidates that nobody has."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from latune import paths
from latune.cli.output import make_folder, say

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_ENDS_IN_S = 10.0


@contextmanager
def crew(processes: int, arguments: Sequence[str]) -> Iterator[None]:
    """Runs the command in all but one of so many processes besides this one, and ends those when the block does.

    The k-th has the k-th of the GPUs that are visible here, this one the first; where there are none, all compile. What they
    say goes to files under the user's cache root. One that dies is missed by nobody: what it had in hand others take up. If
    this one is killed, they go on until nothing is left.

    Args:
        arguments: of the command.
    """
    folder = paths.logs()
    with ExitStack() as stack:
        for number in range(1, processes):
            make_folder(folder)
            log = stack.enter_context((folder / f"tune-{os.getpid()}-{number}.log").open("w", encoding="utf-8"))
            command = [sys.executable, "-m", "latune", *arguments]
            environment = {**os.environ, _VISIBLE: _device(number)}
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
            stack.callback(_end, process)
            say(f"process {number + 1} of {processes}: {log.name}")
        yield


def _device(number: int) -> str:
    """The name of the GPU that a process of that number is to see; where GPUs are hidden from this one, they stay hidden."""
    visible = os.environ.get(_VISIBLE)
    if visible is None:
        return str(number)
    names = [name for name in visible.split(",") if name]
    return names[number] if number < len(names) else visible


def _end(process: subprocess.Popen[bytes]) -> None:
    """As by Ctrl-C, at which it ends its own processes; by force if it does not. It may have ended already."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(_ENDS_IN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
