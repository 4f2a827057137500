"""What the bench of backups does between its measurements: run a program, time it, warm files up, say how far it is."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

_begun_s = time.monotonic()


def say(text: str) -> None:
    """Progress, on stderr."""
    print(f"[{time.monotonic() - _begun_s:7.1f} s] {text}", file=sys.stderr, flush=True)


class BackupFailed(Exception):
    """A backup or restore did not end well; the message holds what it said."""


def timed(action: Callable[[], object]) -> float:
    os.sync()  # B1
    begun = time.monotonic()
    action()
    return time.monotonic() - begun


def run(command: list[str], environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd="/")
    if done.returncode != 0:
        raise BackupFailed(f"{' '.join(command)} ended with {done.returncode}\n{(done.stdout + done.stderr)[-2000:]}")


def bytes_in(path: Path) -> int:
    """What files hold, without their holes."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(min(file.stat().st_size, file.stat().st_blocks * 512) for file in files)


def warm(path: Path) -> None:
    """Read all of it; a file of a running database may be gone before its turn comes."""
    subprocess.run(["sh", "-c", 'find "$0" -type f -exec cat {} + > /dev/null 2>&1', str(path)], check=False)


def give_away(path: Path) -> None:
    """To PostgreSQL's user, where root runs the bench."""
    if os.geteuid() == 0:
        subprocess.run(["chown", "-R", "postgres:postgres", str(path)], check=True)
