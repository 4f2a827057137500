"""The promises of the simulator's commands, as a user runs them: sweeps hold, seeds repeat, every crash boundary recovers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
POWER_CUT = "scenarios/power_cut.yaml"
SCENARIOS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "scenarios").glob("*.yaml"))


def sim(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "sim.cli", *arguments], cwd=ROOT, capture_output=True, text=True)


def said(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stdout + done.stderr)[-4000:]


def swept(file: str, seeds: str, jobs: int) -> list[dict[str, Any]]:
    """The reports of a sweep, by seed, each run in two processes; it must have found nothing."""
    done = sim("sweep", file, "--seeds", seeds, "--jobs", str(jobs), "--twice")
    assert done.returncode == 0, said(done)
    *lines, last = done.stdout.splitlines()
    assert last == f"{len(lines)} runs, 0 violations"
    return sorted((json.loads(line) for line in lines), key=lambda report: int(report["seed"]))


# -- Sweeps


def test_more_seeds_of_power_cut_lose_nothing() -> None:
    """tests/sim/test_power_cut.py runs the first ones, and in the long run 2,000."""
    reports = swept(POWER_CUT, "24..42", 1)
    assert len(reports) == len({report["trace_hash"] for report in reports}) == 18
    assert all((report["verdict"], report["rpo_transactions"], report["rpo_s"]) == ("ok", 0, 0) for report in reports)
    assert all(report["transactions"] and report["events"] > 500 for report in reports)


@pytest.mark.parametrize("file", [file for file in SCENARIOS if file != POWER_CUT])
def test_some_seeds_of_every_other_scenario(file: str) -> None:
    assert len(swept(file, "0..4", 1)) == 4


@pytest.mark.long
@pytest.mark.parametrize("file", [file for file in SCENARIOS if file != POWER_CUT])
def test_many_seeds_of_every_other_scenario(file: str) -> None:
    assert len(swept(file, "0..100", 2)) == 100


def test_a_sweep_without_a_run_is_a_failure() -> None:
    done = sim("sweep", POWER_CUT, "--seeds", "3..3")
    assert done.returncode != 0, said(done)


# -- One run


def test_a_run_reports_what_the_manual_says() -> None:
    done = sim("run", POWER_CUT, "--seed", "3", "--json")
    assert done.returncode == 0, said(done)
    report = json.loads(done.stdout)
    promised = "scenario seed verdict trace_hash rpo_transactions rpo_s rto_s sim_s wall_s events faults".split()
    assert [name for name in promised if name not in report] == []
    assert (report["scenario"], report["seed"], report["verdict"]) == ("power_cut", 3, "ok")
    assert report["rto_s"] > 0


def test_a_promise_that_cannot_be_kept_is_a_violation_with_its_replay_line() -> None:
    done = sim("run", POWER_CUT, "--seed", "3", "--promise", "rto=1us")
    assert done.returncode == 1, said(done)
    assert re.search(r"thunderdb-sim run scenarios/power_cut.yaml --seed 3 .*--promise rto=1us", said(done)), said(done)


# -- Every boundary


def test_a_sample_of_all_crash_boundaries_recovers() -> None:
    done = sim("exhaustive", "--operations", "40", "--sample", "120", "--jobs", "1", "--json")
    assert done.returncode == 0, said(done)
    summary = json.loads(done.stdout)
    assert summary["violations"] == []
    assert summary["branches"] >= 100
    assert summary["states"] > summary["branches"], "every branch is recovered from more than one state of the disk"
