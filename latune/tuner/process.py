"""One worker process as its parent sees it: started, asked, killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, Pipe
from typing import IO

from latune.errors import WorkerError
from latune.tuner.jobs import Failure, Job, Obstacle, Start, Taken

_STARTUP_TIMEOUT_S = 180.0
_DEATH_TIMEOUT_S = 60.0
_LOG_TAIL_BYTES = 4096
# Not multiprocessing.Process: its spawn runs the parent's main script again, which breaks a script without a main guard.
_BOOTSTRAP = """
import json, sys
sys.path[:] = json.loads(sys.argv[3])
from latune.tuner.child import serve
serve(int(sys.argv[1]), int(sys.argv[2]))
"""


class UntakenError(WorkerError):
    """The process was gone before it took the job: another one can be asked the same."""


@dataclass(slots=True, kw_only=True)
class Process:
    """A running worker process.

    Attributes:
        log: what the process prints; a file without a name, so that nothing is left behind.
    """

    popen: subprocess.Popen[bytes]
    connection: Connection
    log: IO[bytes]

    @classmethod
    def launch(cls, start: Start) -> Process:
        """Starts a process and waits until its runner is up.

        Raises:
            WorkerError: it ended, or gave no sign in time; with the last line it printed.
        """
        return cls.begin(start).wait_until_up(start)

    @classmethod
    def begin(cls, start: Start) -> Process:
        """Starts a process and goes on while its runner comes up."""
        process = cls._spawn()
        # It may have ended already; who waits for it is told.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            process.connection.send(start)
        return process

    def wait_until_up(self, start: Start) -> Process:
        """Waits for the runner of a process that was begun, which is returned; ends it when that does not come up.

        Raises:
            WorkerError: it ended, or gave no sign in time; with the last line it printed.
        """
        try:
            answer = self._answer(time.monotonic() + _STARTUP_TIMEOUT_S, _STARTUP_TIMEOUT_S)
        except BaseException:
            # Ctrl-C while it comes up, too, leaves no process behind.
            self.kill()
            raise
        if isinstance(answer, Failure):
            self.kill()
            raise WorkerError(f"the worker process for device {start.device_index} did not start: {answer.detail}")
        return self

    @classmethod
    def _spawn(cls) -> Process:
        ours, theirs = Pipe()
        log = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the process lives)
        path = json.dumps([str(folder) for folder in sys.path])
        # A session of its own: Ctrl-C is the parent's to handle, and compilers it started are killed with it.
        popen = subprocess.Popen(
            [sys.executable, "-c", _BOOTSTRAP, str(theirs.fileno()), str(os.getpid()), path],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        theirs.close()
        return cls(popen=popen, connection=ours, log=log)

    @property
    def alive(self) -> bool:
        return self.popen.poll() is None

    def ask(self, job: Job, timeout_s: float) -> object:
        """The answer to a job: a ``Failure`` too when the process dies over it or does not answer in time.

        Raises:
            UntakenError: the process was gone before.
            WorkerError: something is in the way that the job has not made.
        """
        printed_before = os.fstat(self.log.fileno()).st_size
        deadline = time.monotonic() + timeout_s
        # A process that is gone is found so below, too, together with what it printed.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(job)
        return self._answer(deadline, timeout_s, printed_before)

    def _answer(self, deadline: float, timeout_s: float, printed_before: int = 0) -> object:
        taken = False
        try:
            while isinstance(answer := self._receive(deadline), Taken):
                taken = True
        except TimeoutError:
            return Failure(outcome="timeout", detail=f"no answer within {timeout_s:g} s")
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            failure = self._with_log(Failure(outcome="illegal_access", detail=self._death()), printed_before)
            if not taken:
                raise UntakenError(failure.detail) from error
            return failure
        if isinstance(answer, Obstacle):
            raise WorkerError(f"neither compiled nor run: {answer.detail}; mend that, and the same command goes on from here")
        if isinstance(answer, Failure) and answer.outcome == "compile_error":
            return self._with_log(answer, printed_before)
        return answer

    def _receive(self, deadline: float) -> object:
        if not self.connection.poll(max(deadline - time.monotonic(), 0)):
            raise TimeoutError
        return self.connection.recv()

    def _death(self) -> str:
        code = self.popen.wait(_DEATH_TIMEOUT_S)
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"
        return f"the worker process {how}"

    def _with_log(self, failure: Failure, printed_before: int) -> Failure:
        """The failure with the last line the process has printed since then."""
        size = os.fstat(self.log.fileno()).st_size
        start = max(printed_before, size - _LOG_TAIL_BYTES)
        # pread: the file's position is shared with the process.
        lines = os.pread(self.log.fileno(), size - start, start).decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), None)
        return failure if last is None else replace(failure, detail=f"{failure.detail}; its log ends with: {last}")

    def kill(self) -> None:
        """Ends the process and whatever it started.

        Raises:
            WorkerError: it survives SIGKILL, as a process stuck in the driver does.
        """
        self.connection.close()
        if self.alive:
            os.killpg(self.popen.pid, signal.SIGKILL)
        try:
            self.popen.wait(_DEATH_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            raise WorkerError(f"process {self.popen.pid} is stuck in the GPU driver: reset the device or reboot") from error
        finally:
            self.log.close()
