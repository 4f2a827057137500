"""Every incident of scenarios/: its promises hold, and what it says is broken really is."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sim.incident.play import play
from sim.scenario.coverage import never_fired, total
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
    assert _silent(reports) == {}


def _silent(reports: list[dict[str, Any]]) -> dict[str, list[str]]:
    """By scenario, the faults of its timeline that met nothing in any of these runs."""
    found = {}
    for file in FILES:
        own = [report for report in reports if report["scenario"] == Path(file).stem]
        fired = sum((Counter(report["faults"]) for report in own), Counter())
        missing = never_fired(load(str(ROOT / file)), fired, total(report["coverage"] for report in own))
        if own and missing:
            found[file] = missing
    return found


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


@pytest.mark.parametrize("name", ["rot_beyond_repair", "rot_repaired_by_query", "rot_found_by_scrub"])
def test_a_damaged_database_that_starts_again_does_not_end_its_incident(name: str) -> None:
    """What the start itself had written was taken for lost, and the later steps never came."""
    result = play(load(str(ROOT / f"scenarios/corruption/{name}.yaml")), 0)
    assert not result.violations
    assert "cut_short" not in result.faults
