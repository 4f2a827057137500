"""A sample of the corpus: seeds that failed once, and the first ones that struck what no other does."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sim.scenario import coverage
from sim.scenario.places import matters
from sim.sweep import read_corpus, sweep

ROOT = Path(__file__).resolve().parents[2]
CORPUS = read_corpus(str(ROOT / "tests" / "corpus" / "generated.txt"))
SAMPLE = CORPUS[:51]


@pytest.mark.parametrize("part", range(4))
def test_the_corpus_holds(part: int) -> None:
    """Each seed twice, here and in another process."""
    out, err = io.StringIO(), io.StringIO()
    totals = sweep([None], SAMPLE[part::4], 1, 0.0, [], out, err, twice=True)
    assert (totals.runs, totals.violations) == (len(SAMPLE[part::4]), 0), err.getvalue()
    assert out.getvalue().count('"twin": "') == totals.runs


def test_the_corpus_strikes_wherever_it_matters() -> None:
    lines = (ROOT / "tests" / "corpus" / "generated.txt").read_text(encoding="utf-8").splitlines()
    seeds = [int(line.split()[0]) for line in lines if " strikes " in line]
    out, err = io.StringIO(), io.StringIO()
    totals = sweep([None], seeds, 2, 0.0, [], out, err)
    assert (totals.runs, totals.violations) == (len(seeds), 0), err.getvalue()
    missed = coverage.holes(totals.coverage[0])
    assert len(missed) <= len(matters()) // 10, f"what these seeds do has moved; look for others: {missed}"


def test_ctrl_c_keeps_what_is_done(tmp_path: Path) -> None:
    lines = tmp_path / "lines.jsonl"
    command = [sys.executable, "-m", "sim.cli", "sweep", "--generated", "--minutes", "5", "--jobs", "2", "--json", str(lines)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for _ in range(600):
        if lines.exists() and lines.read_text().count("\n") >= 2:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert "interrupted" in err and "faults by file and phase" in err
    assert "0 violations" in out and not out.startswith("0 runs")
    assert lines.read_text().count('"verdict": "ok"') >= 2
