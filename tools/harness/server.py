"""What benches, the demo and the kill rounds ask of a database server under test: start, kill, stop, connect, measure.

H1. Whoever starts a server stops it: `stop_all` runs at exit, also after Ctrl-C, and ends only processes started here.
H2. A kill is SIGKILL to the whole server, with no warning; `wait_dead` returns only once its port and memory are gone.
"""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import IO, Any

import psycopg

_started: list[Server] = []


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def ticks(pid: int) -> int:
    """User and system time of a process and of its children that have ended, in clock ticks."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(field) for field in fields[11:15])


def status_kb(pid: int, field: str) -> int:
    """One `kB` line of /proc/PID/status, 0 if the process is gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1])
    except (FileNotFoundError, ProcessLookupError):
        pass
    return 0


def children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(child) for child in text.split()]


class ServerFailed(Exception):
    """The server did not come up, or died when nobody killed it; the message ends with the tail of its log."""


class Server:
    """Base of ThunderDB and PostgreSQL under test. Subclasses say how to make and how to launch."""

    name = "server"
    user = "postgres"
    database = "postgres"

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.log_path = directory / "server.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    # --- for subclasses -------------------------------------------------------------------------------------------

    def command(self) -> list[str]:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return dict(os.environ)

    # --- life -----------------------------------------------------------------------------------------------------

    def start(self, timeout_s: float = 600.0) -> float:
        """Launch and wait for the answer to a first query; return the seconds from launch to that answer."""
        self._log = self.log_path.open("ab")
        begun = time.monotonic()
        self.process = subprocess.Popen(
            self.command(), stdout=self._log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=self.environment(),
            cwd=self.directory, start_new_session=True,
        )  # fmt: skip
        _started.append(self)
        while time.monotonic() - begun < timeout_s:
            if self.process.poll() is not None:
                raise ServerFailed(f"{self.name} ended with status {self.process.returncode} at start\n{self.log_tail()}")
            if self._answers():
                return time.monotonic() - begun
            time.sleep(0.01)
        self.kill()
        raise ServerFailed(f"{self.name} did not answer within {timeout_s:.0f} s\n{self.log_tail()}")

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                pass
            with psycopg.connect(self.dsn(), autocommit=True) as connection:
                return connection.execute("SELECT 1").fetchone() == (1,)
        except (OSError, psycopg.OperationalError):
            return False

    def kill(self) -> None:
        """SIGKILL, to every process of the server at once (H2)."""
        if self.process is None:
            return
        pids = [self.process.pid, *children(self.process.pid)]
        self._signal_all(signal.SIGKILL)
        self.process.wait()
        self._wait_dead(pids)
        self._forget()

    def pause(self) -> None:
        """SIGSTOP to every process of the server: files and caches stay as a kill would leave them now."""
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: int) -> None:
        if self.process is not None:
            for pid in [self.process.pid, *children(self.process.pid)]:
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    pass

    def stop(self, timeout_s: float = 120.0) -> int:
        """SIGTERM (a clean shutdown) and its exit status; SIGKILL if it takes too long."""
        if self.process is None:
            return 0
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServerFailed(f"{self.name} did not stop within {timeout_s:.0f} s of SIGTERM\n{self.log_tail()}") from None
        self._forget()
        return status

    def _wait_dead(self, pids: list[int]) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and any(status_kb(pid, "VmSize") for pid in pids):
            time.sleep(0.01)

    def _forget(self) -> None:
        self.process = None
        if self in _started:
            _started.remove(self)
        if self._log is not None:
            self._log.close()
            self._log = None

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    # --- looking at it --------------------------------------------------------------------------------------------

    def dsn(self) -> str:
        return f"host=127.0.0.1 port={self.port} user={self.user} dbname={self.database} connect_timeout=10"

    def connect(self, **options: Any) -> psycopg.Connection[Any]:
        return psycopg.connect(self.dsn(), **options)

    def one(self, query: str) -> Any:
        """The first column of a query's only row."""
        with self.connect(autocommit=True) as connection:
            row = connection.execute(query).fetchone()
        return row[0] if row else None

    def checkpoint(self) -> None:
        with self.connect(autocommit=True) as connection:
            connection.execute("CHECKPOINT")

    def peak_memory_kb(self) -> int:
        """VmHWM of the server process."""
        return status_kb(self.process.pid, "VmHWM") if self.process else 0

    def log_text(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def log_size(self) -> int:
        return self.log_path.stat().st_size if self.log_path.exists() else 0

    def log_since(self, size: int) -> str:
        return self.log_path.read_bytes()[size:].decode(errors="replace")

    def log_tail(self, lines: int = 20) -> str:
        return "\n".join(self.log_text().splitlines()[-lines:])


def stop_all() -> None:
    for server in list(_started):
        server.kill()


def _terminated(_signal: int, _frame: object) -> None:
    raise SystemExit(143)


def stop_whatever_happens() -> None:
    """For the main of a tool: SIGTERM unwinds like Ctrl-C, so that H1 holds then, too."""
    signal.signal(signal.SIGTERM, _terminated)


atexit.register(stop_all)
