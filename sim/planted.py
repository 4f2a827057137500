"""How far failures shrink: each planted bug is found by a random sweep on its changed source and shrunk there; its test is run.

    thunderdb-sim shrink --planted NAME --time 300
    thunderdb-sim shrink --planted all                     a Markdown table, a line a bug

P1. The pytest file that shrinking writes must fail with the bug in the source, and pass without it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sim.mutant_patch import Mutant
from sim.mutants import Controls, Copies, hunt

HEAD = (
    "| bug | seed | faults | transactions | tries | s | fails with it | passes without |",
    "|---|---:|---:|---:|---:|---:|---|---|",
)
_END = re.compile(r"(\d+) faults, (\d+) transactions, after (\d+) runs: (.*)")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one failure shrank. `seed` is -1 where no seed was found."""

    name: str
    seed: int
    faults: int = 0
    transactions: int = 0
    tries: int = 0
    took_s: float = 0.0
    fails: bool = False
    passes: bool = False
    said: str = ""

    @property
    def small(self) -> bool:
        return self.seed >= 0 and self.faults <= 5 and self.transactions <= 10 and self.fails and self.passes

    def row(self) -> str:
        if self.seed < 0:
            return f"| {self.name} | not found | | | | | | |"
        words = {True: "yes", False: "**no**"}
        return (
            f"| {self.name} | {self.seed} | {self.faults} | {self.transactions} | {self.tries} | {self.took_s:.0f} | "
            f"{words[self.fails]} | {words[self.passes]} |"
        )


def shrink_planted(mutants: list[Mutant], time_s: float, seeds: int) -> Iterator[Outcome]:
    """Find and shrink one planted bug after the other. Those of a directed case have no scenario to shrink."""
    with Copies() as copies:
        controls = Controls(copies.clean)
        for mutant in mutants:
            first = mutant.seed or 0
            found = hunt(copies, controls, mutant, first, first + seeds)
            yield Outcome(mutant.name, -1) if found.seed is None else _shrink(copies, mutant, found.seed, time_s)


def _shrink(copies: Copies, mutant: Mutant, seed: int, time_s: float) -> Outcome:
    root = copies.make(mutant)
    try:
        began = time.monotonic()
        command = ["-m", "sim.cli", "shrink", mutant.run, "--seed", str(seed), "--time", str(time_s)]
        command += ["--out", str(root / "out")]
        done = _python(root, command)
        took_s = time.monotonic() - began
        match = _END.search(done.stdout)
        if match is None:
            return Outcome(mutant.name, seed, said=done.stderr[-300:])
        test = next((root / "out").glob("test_*.py"))
        faults, transactions, tries = int(match[1]), int(match[2]), int(match[3])
        run_it = ["-m", "pytest", "-q", "-p", "no:cacheprovider", str(test)]
        with_it, without = (_python(source, run_it) for source in (root, copies.clean))
        return Outcome(
            mutant.name, seed, faults, transactions, tries, took_s, with_it.returncode == 1, without.returncode == 0, match[4]
        )
    finally:
        copies.drop(mutant)


def _python(root: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONHASHSEED": "0"}
    return subprocess.run([sys.executable, *arguments], cwd=root, env=environment, capture_output=True, text=True)
