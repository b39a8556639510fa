"""WorkerProcess: one life of the worker, from its start to its last line in the log."""

import contextlib
import logging
import os
import re
import socket
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import IO

from service.encoder.frames import Kind, Link, Setup

logger = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "service.encoder.worker")
MAX_BODY = 64 * 2**20
MAX_LINE = 4000
END_S = 5.0
_LOG_LINE = re.compile(r"(DEBUG|INFO|WARNING|ERROR|CRITICAL) ([\w.]+) (.*)", re.DOTALL)


class WorkerProcess:
    """A started worker and the link to it. Whoever starts it must live on: the worker dies with that thread.

    Raises ``OSError`` where no process can be started.
    """

    def __init__(self, setup: Setup) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self.link = Link(ours, MAX_BODY)
            try:
                self._process = subprocess.Popen(  # noqa: S603 - our own module, by our own interpreter
                    [*COMMAND, str(theirs.fileno()), str(os.getpid())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    pass_fds=(theirs.fileno(),),
                    process_group=0,  # Ctrl-C at a terminal goes to the group of the service
                    env=_environment(),
                )
            except OSError:
                self.link.close()
                raise
        self.pid = self._process.pid
        assert self._process.stdout is not None  # noqa: S101 - a pipe
        self._log = threading.Thread(
            target=_relay, args=(self._process.stdout, self.pid), name="encoder-log", daemon=True
        )
        self._log.start()
        with contextlib.suppress(OSError):  # it ended at once: whoever receives will see
            self.link.send(Kind.SETUP, asdict(setup))

    def kill(self) -> int:
        """End it now, if it has not ended, and wait for that; its exit status, negative for a signal."""
        self._process.kill()
        return self._gone()

    def end(self) -> int:
        """Let it end, which it does once the link is closed; kill it where it does not."""
        self.link.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            logger.warning("event=encoder_killed pid=%d reason=did_not_end", self.pid)
            self._process.kill()
        return self._gone()

    def _gone(self) -> int:
        status = self._process.wait()
        self.link.close()
        self._log.join(END_S)  # a process that it started may hold the pipe open
        return status


def _environment() -> dict[str, str]:
    """Ours; the worker finds this package where we did, and its idle threads leave the processor to the others."""
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    passive = {"OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE")}
    return {**os.environ, **passive, "PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}


def _relay(stream: IO[bytes], pid: int) -> None:
    """The worker's log lines into ours, and whatever else it or a library in it wrote."""
    with stream:
        while raw := stream.readline(MAX_LINE):
            line = raw.decode(errors="replace").rstrip()
            if match := _LOG_LINE.fullmatch(line):
                level, name, message = match.groups()
                logging.getLogger(name).log(logging.getLevelNamesMapping()[level], "%s", message)
            elif line:
                logger.warning("event=encoder_output pid=%d line=%r", pid, line)
