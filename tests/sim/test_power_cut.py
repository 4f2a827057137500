"""power_cut over seeds: no violation, the same bytes in every process, and every kind of fault really fired."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILE = "scenarios/power_cut.yaml"
JOBS = str(min(2, os.cpu_count() or 1))


def sweep(seeds: str, hash_seed: str = "0", jobs: str = JOBS, *more: str) -> tuple[int, dict[int, dict[str, Any]], str]:
    """(exit code, report by seed, last line and replay lines)"""
    done = subprocess.run(
        [sys.executable, "-m", "sim.cli", "sweep", FILE, "--seeds", seeds, "--jobs", jobs, *more],
        cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": hash_seed}, capture_output=True, text=True,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    reports = [json.loads(line) for line in lines[:-1]]
    return done.returncode, {report["seed"]: report for report in reports}, "\n".join([*lines[-1:], done.stderr])


def test_no_violation_and_every_fault_fires() -> None:
    code, reports, text = sweep("0..24", "0", JOBS, "--twice")
    assert code == 0, text
    assert len({report["trace_hash"] for report in reports.values()}) == len(reports) == 24
    assert all(report["twin"] == report["trace_hash"] for report in reports.values())
    fired: Counter[str] = Counter()
    for report in reports.values():
        fired.update(report["faults"])
    for kind in (
        "power_cut", "kill", "sync_error", "disk_full", "stall", "clean_stop", "struck_in_recovery", "unsynced_torn",
        "unsynced_lost", "at_boundary",
    ):  # fmt: skip
        assert fired[kind], f"{kind} never fired"
    assert {report["driver"] for report in reports.values()} == {"engine", "sql"}


@pytest.mark.parametrize("seed", [175, 176, 604, 858, 3167])
def test_seeds_that_found_something(seed: int) -> None:
    """Each ended in a violation once, of the engine or of the harness (docs/simulation-runs.md)."""
    code, reports, text = sweep(f"{seed}..{seed + 1}", jobs="1")
    assert code == 0 and reports[seed]["verdict"] == "ok", text


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_ctrl_c_keeps_what_is_done(jobs: str) -> None:
    command = [sys.executable, "-m", "sim.cli", "sweep", FILE, "--seeds", "0..100000", "--jobs", jobs]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as running:
        assert running.stdout is not None
        first = running.stdout.readline()
        running.send_signal(signal.SIGINT)
        lines = running.stdout.read().splitlines()
    assert json.loads(first)["verdict"] == "ok"
    assert running.returncode == 0
    assert lines[-1] == f"{len(lines)} runs, 0 violations"


@pytest.mark.long
def test_two_thousand_seeds() -> None:
    code, reports, text = sweep("0..2000")
    assert code == 0 and len(reports) == 2000, text


@pytest.mark.long
def test_a_thousand_seeds_under_two_hash_seeds() -> None:
    _, first, _ = sweep("0..1000", "1")
    _, second, _ = sweep("0..1000", "2")
    assert {seed: report["trace_hash"] for seed, report in first.items()} == {
        seed: report["trace_hash"] for seed, report in second.items()
    }


@pytest.mark.long
def test_exhaustive() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sim.cli", "exhaustive", FILE, "--jobs", JOBS, "--json"],
        cwd=ROOT, capture_output=True, text=True,
    )
    outcome = json.loads(done.stdout)
    assert done.returncode == 0, outcome["violations"]
    assert outcome["operations"] >= 200 and outcome["states_by_depth"][1] > 1000
