"""For each scenario a planted bug that breaks its promise: the table tests/mutants/SCENARIOS.md, and the runs that prove it.

    thunderdb-sim mutants --scenarios                     every row: its bug, on its seed, fails the scenario; then other seeds
    thunderdb-sim mutants --scenarios --record            the same, and the table is written anew
    thunderdb-sim mutants --scenarios --run NAME          only the rows of this scenario, or of this bug

A scenario without a bug that it sees asserts nothing. To add one, write a row `| scenario | bug | ? |  |` and record.

T1. Every file below scenarios/ has a row; a row names a planted bug of tests/mutants/.
T2. A row's seed fails with the bug and passes without it (mutants.U1).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from sim.planted.patch import Mutant, PatchError
from sim.planted.results import Found, shown

BUDGET = 12
HEAD = """# For each scenario a planted bug that breaks its promise

Written by `thunderdb-sim mutants --scenarios --record`: the bug of a row, applied to a copy of the source, makes the scenario
fail with this seed, which the unchanged source passes. Other bugs break it, too.

| scenario | planted bug | seed | first seen as |
|---|---|---:|---|
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One scenario, by its path below scenarios/, and the bug that it sees; no seed yet: None."""

    scenario: str
    bug: str
    seed: int | None
    seen: str = ""

    @property
    def path(self) -> str:
        return f"scenarios/{self.scenario}.yaml"


def parse_table(text: str) -> list[Row]:
    """The rows of SCENARIOS.md. Raises: PatchError."""
    rows: list[Row] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.replace("\\|", "\0").strip("|").split("|")]
        if not line.startswith("|") or cells[0] == "scenario" or cells[0].startswith("---"):
            continue
        if len(cells) != 4 or not (cells[2] == "?" or cells[2].isdigit()):
            raise PatchError(f"SCENARIOS.md: {line!r} is no row of four cells with a seed")
        rows.append(Row(cells[0], cells[1], None if cells[2] == "?" else int(cells[2]), cells[3].replace("\0", "\\|")))
    return rows


def table(rows: Iterable[Row]) -> str:
    """SCENARIOS.md."""
    lines = [
        f"| {row.scenario} | {row.bug} | {'?' if row.seed is None else row.seed} | {row.seen.strip()} |"
        for row in sorted(rows, key=lambda row: (row.scenario, row.bug))
    ]
    return HEAD + "\n".join(lines) + "\n"


def missing(rows: Iterable[Row], scenarios: Iterable[str], mutants: Iterable[Mutant]) -> list[str]:
    """What is wrong with the table (T1)."""
    rows, known = list(rows), {mutant.name for mutant in mutants}
    named, files = {row.scenario for row in rows}, set(scenarios)
    problems = [f"{name}: no planted bug is known to break it" for name in sorted(files - named)]
    problems += [f"{name}: there is no such scenario" for name in sorted(named - files)]
    problems += [f"{row.scenario}: there is no planted bug {row.bug}" for row in rows if row.bug not in known]
    return problems + [f"{row.scenario}: no seed is known with which {row.bug} breaks it" for row in rows if row.seed is None]


def as_mutants(rows: Iterable[Row], mutants: Iterable[Mutant]) -> list[Mutant]:
    """The bugs of the rows, each to be run on its row's scenario. A name of a copy of its own goes with each."""
    by_name = {mutant.name: mutant for mutant in mutants}
    return [replace(by_name[row.bug], name=_name(row), run=row.path, seed=row.seed or 0, budget=BUDGET) for row in rows]


def _name(row: Row) -> str:
    return f"{row.bug}@{row.scenario.replace('/', '.')}"


def with_founds(rows: Iterable[Row], founds: Iterable[Found]) -> list[Row]:
    """The rows with the seeds and the words that were found."""
    by_name = {found.mutant.name: found for found in founds}
    result: list[Row] = []
    for row in rows:
        found = by_name.get(_name(row))
        if found is not None:
            row = replace(row, seed=found.seed if found.caught else None, seen=shown(found) if found.caught else "")
        result.append(row)
    return result


def sample(rows: list[Row], step: int) -> list[Row]:
    """Some rows, from all folders, with no bug twice: what a quick test replays."""
    found: dict[str, Row] = {}
    for row in rows[::step]:
        found.setdefault(row.bug, row)
    return list(found.values())
