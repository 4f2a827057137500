"""Lists through crashes: over many seeds no transaction sees what its isolation level forbids, and the check can fail."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from sim.incident.play import play
from sim.oracle.isolation import check
from sim.runs.list_append import ListRun
from sim.scenario.scenario import load
from sim.sweep import sweep

FOLDER = Path(__file__).resolve().parents[2] / "scenarios" / "isolation"
FILES = sorted(path.name for path in FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("name", FILES)
def test_levels_keep_their_promises(name: str) -> None:
    out, err = io.StringIO(), io.StringIO()
    totals = sweep([load(str(FOLDER / name))], range(100, 103), 1, 0.0, [], out, err, twice=True)
    assert (totals.runs, totals.violations) == (3, 0), err.getvalue()


@pytest.mark.long
@pytest.mark.parametrize("name", FILES)
def test_over_hundreds_of_seeds(name: str) -> None:
    scenario = load(str(FOLDER / name))
    assert [(seed, found) for seed in range(1000, 1400) if (found := play(scenario, seed).violations)] == []


def test_a_run_says_what_was_seen_of_what() -> None:
    """Enough happens in it: both levels, transactions that end in every way, reads that see others' appends, crashes."""
    run = ListRun(load(str(FOLDER / "lists_through_crashes.yaml")), 4)
    result = run.result()
    history = run.observer.settled()
    assert result.violations == [] and result.faults["power_cut"] + result.faults.get("kill", 0) > 0
    assert {txn.outcome for txn in history} == {"ok", "failed", "unknown"}
    assert {txn.level for txn in history} == {"read committed", "repeatable read"}
    assert sum(len(elements) for elements in run.observer.final.values()) > 100
    assert any(statement.locked and statement.reads for txn in history for statement in txn.statements)
    assert any(statement.back_to >= 0 for txn in history for statement in txn.statements)


def test_a_history_that_is_tampered_with_is_found_out() -> None:
    """One element less in one read, of thousands, is enough."""
    run = ListRun(load(str(FOLDER / "lists_through_crashes.yaml")), 4)
    run.result()
    history, final = run.observer.settled(), run.observer.final
    reads: list[tuple[Any, int]] = [
        (statement, key) for txn in history if txn.outcome == "ok" and txn.level == "repeatable read"
        for statement in txn.statements[:1] if not statement.appends for key, found in statement.reads.items() if len(found) > 8
    ]  # fmt: skip
    statement, key = reads[len(reads) // 2]
    statement.reads[key] = statement.reads[key][:-4]
    (anomaly,) = check(history, final)
    # Cut in the middle of what one transaction appended, it is an intermediate read; between two, a cycle.
    assert anomaly.name == "G1b" or ("→" in anomaly.what and anomaly.name in ("stale read", "G-single", "G-nonadjacent"))
