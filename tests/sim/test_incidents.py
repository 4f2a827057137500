"""Every incident of scenarios/: its promises hold, and what it says is broken really is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sim.scenario.scenario import load

ROOT = Path(__file__).resolve().parents[2]
FILES = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "scenarios").rglob("*.yaml"))]
INCIDENTS = [file for file in FILES if load(str(ROOT / file)).incident]
QUICK = [file for file in INCIDENTS if not load(str(ROOT / file)).long]


def swept(files: list[str], seeds: str) -> None:
    """Without a violation, and twice: another hash seed, time zone and directory give the same bytes."""
    done = subprocess.run(
        [sys.executable, "-m", "sim.cli", "sweep", *files, "--seeds", seeds, "--jobs", "2", "--twice"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    reports = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"scenario"')]
    assert {report["scenario"] for report in reports} == {Path(file).stem for file in files}
    assert all(report["verdict"] == "ok" and report["twin"] == report["trace_hash"] for report in reports)


def test_there_are_enough_of_them() -> None:
    assert len(INCIDENTS) >= 40 and len(QUICK) >= len(INCIDENTS) - 3


def test_one_seed_of_every_incident() -> None:
    swept(QUICK, "100..101")


@pytest.mark.long
def test_twenty_seeds_of_every_incident() -> None:
    swept(QUICK, "0..20")


@pytest.mark.long
def test_the_days() -> None:
    swept([file for file in INCIDENTS if file not in QUICK], "0..1")
