"""How far failures shrink: each planted bug is found by random seeds on its changed source and shrunk there; its test is run.

    thunderdb-sim shrink --planted NAME --time 300
    thunderdb-sim shrink --planted all --record --jobs 2       writes tests/mutants/SHRUNK.md, a row a bug, as they come

P1. The pytest file that shrinking writes must fail with the bug in the source, and pass without it.
P2. What a seed is shrunk from is the first one that fails with the bug and passes without it, as for RESULTS.md.
P3. The table says of which planted bugs it has no row, and why.
P4. Where only the scenario's author says what is right, the unchanged source is asked (reference.py); the row says so.
P5. The replay files are kept in tests/mutants/shrunk/: the source as it is passes each, and fails it with its bug (`checked`).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import yaml

from sim.planted.mutants import Controls, Copies, folder, hunt, load_all
from sim.planted.patch import Mutant
from sim.shrinking.reference import Reference
from sim.shrinking.shrunk import FAULTS, TRANSACTIONS

GENERATED = "--generated"
CHECK_S = 60.0
HEAD = (
    "| bug | found by | seed | faults | transactions | runs | CPU s | shrunk from | fails with it | passes without |",
    "|---|---|---:|---:|---:|---:|---:|---|---|---|",
)
_END = re.compile(
    r"(\d+) faults, (\d+) transactions \(of (\d+) and (\d+)\), after (\d+) runs, (\d+) s of CPU, from (.*?): (.*)"
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one failure shrank. `seed` is -1 where no seed was found."""

    name: str
    run: str
    seed: int
    faults: tuple[int, int] = (0, 0)
    """Before and after."""
    transactions: tuple[int, int] = (0, 0)
    tries: int = 0
    cpu_s: int = 0
    start: str = ""
    fails: bool = False
    passes: bool = False
    said: str = ""
    file: str = ""
    """The replay file's text."""

    @property
    def small(self) -> bool:
        few = self.faults[1] <= FAULTS and self.transactions[1] <= TRANSACTIONS
        return self.seed >= 0 and few and self.fails and self.passes

    @property
    def place(self) -> str:
        return "generated" if self.run == GENERATED else Path(self.run).stem

    def row(self) -> str:
        run = self.place
        if self.seed < 0:
            return f"| {self.name} | {run} | not found | | | | | | | |"
        if not self.tries:
            return f"| {self.name} | {run} | {self.seed} | | | | | {self.said} | | |"
        words = {True: "yes", False: "**no**"}
        return (
            f"| {self.name} | {run} | {self.seed} | {self.faults[0]} → {self.faults[1]} | "
            f"{self.transactions[0]} → {self.transactions[1]} | {self.tries} | {self.cpu_s} | {self.start} | "
            f"{words[self.fails]} | {words[self.passes]} |"
        )


def shrink_planted(
    mutants: list[Mutant], time_s: float, seeds: int, jobs: int, told: Callable[[Outcome], None]
) -> list[Outcome]:  # fmt: skip
    """Find and shrink planted bugs. Those of a directed case have no scenario to shrink."""
    with Copies() as copies, ThreadPoolExecutor(jobs) as pool:
        controls, lock = Controls(copies.clean), Lock()

        def one(mutant: Mutant) -> Outcome:
            first = mutant.seed or 0
            found = hunt(copies, controls, mutant, first, first + seeds)
            seed = found.seed
            outcome = Outcome(mutant.name, mutant.run, -1) if seed is None else _shrink(copies, mutant, seed, time_s)
            with lock:
                told(outcome)
            return outcome

        return list(pool.map(one, mutants))


def _shrink(copies: Copies, mutant: Mutant, seed: int, time_s: float) -> Outcome:
    root = copies.make(mutant)
    try:
        command = ["-m", "sim.cli", "shrink", mutant.run, "--seed", str(seed), "--time", str(time_s)]
        done = _python(root, [*command, "--out", str(root / "out"), "--good", str(copies.clean)])
        match = _END.search(done.stdout)
        if match is None:
            return Outcome(mutant.name, mutant.run, seed, said=" ".join(done.stderr[-200:].split()))
        test = next((root / "out").glob("test_*.py"))
        file = test.with_name(test.stem.removeprefix("test_") + ".yaml")
        text = file.read_text(encoding="utf-8").replace(file.name, f"tests/mutants/shrunk/{mutant.name}.yaml")
        run_it = ["-m", "pytest", "-q", "-p", "no:cacheprovider", str(test)]
        with_it, without = (_python(source, run_it).returncode for source in (root, copies.clean))
        faults, transactions = (int(match[3]), int(match[1])), (int(match[4]), int(match[2]))
        return Outcome(
            mutant.name, mutant.run, seed, faults, transactions, int(match[5]), int(match[6]), match[7], with_it == 1,
            without == 0, match[8], text,
        )  # fmt: skip
    finally:
        copies.drop(mutant)


def checked(copies: Copies, mutant: Mutant) -> list[str]:
    """What the kept replay file of a bug violates with the bug in the source (P5)."""
    file = folder() / "shrunk" / f"{mutant.name}.yaml"
    root = copies.make(mutant)
    try:
        with Reference(root) as source:
            document = yaml.safe_load(file.read_text(encoding="utf-8"))
            found = source.violations(document, document["seed"], CHECK_S)
        return ["it does not end"] if found is None else found
    finally:
        copies.drop(mutant)


def summary(rows: list[str]) -> str:
    """How many of a table's rows are small enough and have a test that tells."""
    small = sum(_is_small(row) for row in rows)
    return f"{small} of {len(rows)} with at most {FAULTS} faults and {TRANSACTIONS} transactions, and a test that tells."


def denominator(rows: list[str], mutants: list[Mutant]) -> list[str]:
    """Of all planted bugs: those that random sweeps find, with how they shrank, and those that have nothing to shrink (P3)."""
    cells = [[cell.strip() for cell in row.strip("| ").split("|")][:2] for row in rows]
    done = {name: _is_small(row) for row, (name, place) in zip(rows, cells, strict=True) if place != "generated"}
    swept = [mutant.name for mutant in mutants if not mutant.run.startswith("case ")]
    small = [name for name in swept if done.get(name)]
    found = f"{len(mutants)} planted bugs, random sweeps of a scenario find {len(swept)}"
    lines = [f"Of {found}; of these {len(small)} shrink so far."]
    for what, names in (
        ("Without a row, not shrunk yet", [name for name in swept if name not in done]),
        ("With a row, but larger, or without a test that tells", [name for name in swept if name in done and not done[name]]),
    ):
        lines += [f"{what}: {', '.join(names)}."] if names else []
    classes = Counter(_class(mutant.run) for mutant in mutants if mutant.run.startswith("case "))
    if classes:
        shown = ", ".join(f"{count} {name}" for name, count in sorted(classes.items()))
        lines.append(f"The other {sum(classes.values())} are found otherwise, and there is no file to shrink: {shown}.")
    return lines


def _class(run: str) -> str:
    name = run.removeprefix("case ")
    if name == "history":
        return "by random histories of backups and restores"
    return "by a kill at every I/O" if name.startswith("kill_") else "by directed cases"


def _is_small(row: str) -> bool:
    cells = [cell.strip() for cell in row.strip("| ").split("|")]
    if len(cells) < 10 or cells[8:] != ["yes", "yes"]:
        return False
    faults, transactions = (int(cell.rpartition("→")[2]) for cell in cells[3:5])
    return faults <= FAULTS and transactions <= TRANSACTIONS


def record(outcomes: list[Outcome]) -> None:
    """Write SHRUNK.md: these rows beside those that it has of other bugs; and the replay files of those that are small (P5)."""
    path = folder() / "SHRUNK.md"
    for outcome in outcomes:
        if outcome.small and outcome.run != GENERATED:
            (folder() / "shrunk").mkdir(exist_ok=True)
            (folder() / "shrunk" / f"{outcome.name}.yaml").write_text(outcome.file, encoding="utf-8")
    rows = {(outcome.name, outcome.place): outcome.row() for outcome in outcomes}
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            name, _, rest = line.removeprefix("| ").partition(" | ")
            if line.startswith("| ") and line not in HEAD:
                rows.setdefault((name, rest.partition(" | ")[0]), line)
    lines = [rows[name] for name in sorted(rows)]
    told = [summary(lines), "", *denominator(lines, load_all())]
    path.write_text(_ABOUT + "\n".join([*told, "", *HEAD, *lines]) + "\n", encoding="utf-8")


_ABOUT = """# How far failures of planted bugs shrink

Written by `thunderdb-sim shrink --planted all --record`: each bug is planted in a copy of the source, the first random seed
that fails with it and passes without it is shrunk there, and the pytest file that this writes is run on the source with the bug
and without it. Before → after; *transactions* are those of the clients, or those acknowledged with the three of the set-up,
whichever are more; *CPU* includes every run. *Shrunk from* is the seed that was found, or a run with little work that fails in
the same way; *judged by the good source*: only the scenario's author says that it is a failure, so each step of shrinking had
to pass on the unchanged source (`--good`).

"""


def _python(root: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONHASHSEED": "0"}
    return subprocess.run([sys.executable, *arguments], cwd=root, env=environment, capture_output=True, text=True)
