"""A leak of the machine into a run is located: planted in a copy of the source, the first event that differs is named."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sim.planted.mutants import Copies
from sim.planted.patch import parse_mutant

ROOT = Path(__file__).resolve().parents[2]
FILE = "scenarios/crash/crash_during_checkpoint.yaml"
HEAD = "Title: {}\nBreaks: determinism\nSeen: another trace hash\nRun: scenarios/power_cut.yaml\nSeed: 0\nBudget: 1\n\n"

CLOCK = HEAD.format("a checkpoint carries the machine's time") + """--- a/thunderdb/recovery/checkpoint.py
+++ b/thunderdb/recovery/checkpoint.py
@@ -1,1 +1,1 @@
-        extra = CHECKPOINT_BEGIN_EXTRA.pack(next_txn, order_us, self.clock.wall_ns())
+        extra = CHECKPOINT_BEGIN_EXTRA.pack(next_txn, order_us, __import__("time").time_ns())
"""
ORDER = HEAD.format("tables are walked in the order of a set of their names") + """--- a/thunderdb/engine/catalog.py
+++ b/thunderdb/engine/catalog.py
@@ -1,1 +1,1 @@
-        return [self._tables[name] for name in sorted(self._tables)]
+        return [self._tables[name] for name in set(self._tables)]
"""


def run(root: Path, *words: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "sim.cli", *words],
        cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        (CLOCK, ("the record's bytes, by its checksum", "LOG_APPEND LSN", "recovery/checkpoint.py", "Checkpointer._begin")),
        (ORDER, ("The first that differs is event", "READ", "sim/clients/engine_session.py:", "read_state", "run 1:")),
    ],
    ids=["time", "order"],
)
def test_a_planted_leak_is_located(patch: str, words: tuple[str, ...]) -> None:
    with Copies() as copies:
        code, text = run(copies.make(parse_mutant("leak", patch)), "diverge", FILE, "--seed", "0")
    assert code == 1, text
    assert all(word in text for word in words), text


@pytest.mark.parametrize("which", [(FILE,), ("--generated",)], ids=["file", "generated"])
def test_equal_runs_are_equal(which: tuple[str, ...]) -> None:
    """By the very words that a sweep prints of a run that differs."""
    code, text = run(ROOT, "diverge", *which, "--seed", "9")
    found = re.fullmatch(r"(\d+) events, all equal; trace [0-9a-f]{32}\n", text)
    assert code == 0 and found is not None and int(found[1]) > 1000, text


def test_a_sweep_that_runs_everything_twice_sees_a_leak_and_says_how_to_locate_it() -> None:
    code, text = run(ROOT, "sweep", FILE, "--seeds", "0..1", "--twice", "--jobs", "1")
    assert code == 0 and '"twin": "' in text and "1 runs, 0 violations" in text, text
    with Copies() as copies:
        root = copies.make(parse_mutant("leak", CLOCK))
        code, text = run(root, "sweep", FILE, "--seeds", "0..1", "--twice", "--jobs", "2")
    assert code == 1 and "1 runs, 1 violations" in text, text
    assert f"another process gives another trace_hash: thunderdb-sim diverge {FILE} --seed 0" in text
