"""What the daemon's start loads: everything else waits for the first query that needs it."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("heavy", ["duckdb", "numpy"])
def test_the_daemon_starts_without(heavy: str) -> None:
    probe = f"import sys, thunderdb.server.daemon, thunderdb.server.engine; sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0


def test_the_command_line_starts_without_the_daemon() -> None:
    probe = "import sys, thunderdb.server.cli; sys.exit(any(name in sys.modules for name in ('asyncio', 'sqlglot', 'aiohttp')))"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0
