"""Run Debian's pgbench against a server under test and read what it says."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tools.harness.server import Server

TPS = re.compile(r"^tps = ([\d.]+)", re.M)
LATENCY = re.compile(r"^latency average = ([\d.]+) ms", re.M)
PROCESSED = re.compile(r"^number of transactions actually processed: (\d+)", re.M)
FAILED = re.compile(r"^number of failed transactions: (\d+)", re.M)
DONE_IN = re.compile(r"^done in ([\d.]+) s", re.M)

# The same four sums that TPC-B promises, as one number each.
SUMS = {
    "accounts": "SELECT sum(abalance) FROM pgbench_accounts",
    "tellers": "SELECT sum(tbalance) FROM pgbench_tellers",
    "branches": "SELECT sum(bbalance) FROM pgbench_branches",
    "history": "SELECT coalesce(sum(delta), 0) FROM pgbench_history",
}


class PgbenchFailed(Exception):
    """pgbench ended with an error; the message holds what it printed."""


@dataclass(frozen=True, slots=True)
class Run:
    tps: float
    latency_ms: float
    processed: int
    failed: int
    status: int
    output: str


def program() -> str:
    """Raises: FileNotFoundError, saying what to install."""
    found = shutil.which("pgbench") or next((str(p) for p in sorted(Path("/usr/lib/postgresql").glob("*/bin/pgbench"))), None)
    if found is None:
        raise FileNotFoundError("pgbench is not installed (Debian: apt-get install postgresql-contrib)")
    return found


def arguments(server: Server, *options: str) -> list[str]:
    return [program(), "-h", "127.0.0.1", "-p", str(server.port), "-U", server.user, *options, server.database]


def _first(pattern: re.Pattern[str], text: str) -> float:
    match = pattern.search(text)
    return float(match[1]) if match else 0.0


def initialise(server: Server, scale: int, timeout_s: float = 3600) -> float:
    """`pgbench -i -s SCALE`; return the seconds of pgbench's own `done in`."""
    done = subprocess.run(arguments(server, "-i", "-q", "-s", str(scale)), capture_output=True, text=True, timeout=timeout_s)
    if done.returncode != 0:
        raise PgbenchFailed(f"pgbench -i -s {scale} on {server.name} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return _first(DONE_IN, done.stderr + done.stdout)


def run(server: Server, *options: str, timeout_s: float = 3600, may_fail: bool = False, cwd: Path | None = None) -> Run:
    """Run with pgbench's options (`-n` is given). Raises: PgbenchFailed on any error unless `may_fail`."""
    done = subprocess.run(arguments(server, "-n", *options), capture_output=True, text=True, timeout=timeout_s, cwd=cwd)
    text = done.stdout + done.stderr
    result = Run(
        _first(TPS, text), _first(LATENCY, text), int(_first(PROCESSED, text)), int(_first(FAILED, text)), done.returncode, text
    )
    if not may_fail and (done.returncode != 0 or result.failed):
        raise PgbenchFailed(f"pgbench {' '.join(options)} on {server.name} ended with {done.returncode}\n{text[-3000:]}")
    return result


def sums(server: Server) -> dict[str, int]:
    """The four sums, which are equal in a database that kept TPC-B's promise."""
    with server.connect(autocommit=True) as connection:
        return {name: int((connection.execute(query).fetchone() or (0,))[0] or 0) for name, query in SUMS.items()}
