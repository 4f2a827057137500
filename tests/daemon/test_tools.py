"""The README's demo and the kill rounds, short, as a user starts them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.daemon


def run(*arguments: str, timeout_s: float) -> str:
    done = subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=timeout_s)
    assert done.returncode == 0, (
        f"{' '.join(arguments)} ended with {done.returncode}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
    )
    return done.stdout


def test_demo_loses_nothing() -> None:
    output = run("tools.demo", "--rounds", "1", "--seconds", "2", timeout_s=170)
    assert "Phase 1 (Analysis)" in output and "Phase 3 (Undo)" in output
    assert "Proved: all" in output
    assert "Backup verification: PASSED" in output and "row by row" in output
    assert output.count("RTO: ") == 2 and "RPO: " in output


@pytest.mark.parametrize("mode", ["simple", "extended", "prepared"])
def test_kill_rounds_under_pgbench(pgbench: str, mode: str) -> None:
    arguments = ("--rounds", "2", "--scale", "2", "--least", "1", "--most", "2", "--mode", mode)
    assert "PASSED: 2 rounds" in run("tools.pgbench_kill", *arguments, timeout_s=170)


@pytest.mark.long
def test_twenty_kill_rounds(pgbench: str) -> None:
    assert "PASSED: 20 rounds" in run("tools.pgbench_kill", "--rounds", "20", "--scale", "10", timeout_s=1200)
