"""How the hunts for planted bugs ended, as RESULTS.md has it: one row a bug."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sim.planted.patch import Mutant


@dataclass(frozen=True, slots=True)
class Found:
    """How a search ended. `seed` is None if the bug survived; `seeds` were run, in `cpu_s` seconds."""

    mutant: Mutant
    seed: int | None
    seeds: int
    cpu_s: float
    violation: str = ""
    trouble: str = ""

    @property
    def caught(self) -> bool:
        return self.seed is not None and not self.trouble


def results(founds: list[Found]) -> str:
    """RESULTS.md."""
    caught = sum(found.caught for found in founds)
    lines = [
        "# Planted bugs and the seeds that find them",
        "",
        "Written by `thunderdb-sim mutants --search --record`: each bug is applied to a copy of the source, and seeds run from",
        "0 until one fails that the unchanged source passes. *Seeds* is how many that took; *CPU* is their time in seconds.",
        "",
        f"{caught} of {len(founds)} caught.",
        "",
        "| bug | breaks | run | seeds | CPU s | first seen as |",
        "|---|---|---|---:|---:|---|",
    ]
    lines += [row(found) for found in sorted(founds, key=lambda found: found.mutant.name)]
    notes = [found.mutant for found in founds if found.mutant.note]
    if notes:
        lines += ["", "Notes:", "", *(f"- `{mutant.name}`: {mutant.note}" for mutant in notes)]
    return "\n".join(lines) + "\n"


def row(found: Found) -> str:
    """A line of the table."""
    mutant = found.mutant
    seeds = str(found.seeds) if found.caught else f"**survived {found.seeds}**"
    run = mutant.run.removeprefix("scenarios/").removesuffix(".yaml")
    return f"| {mutant.name}: {mutant.title} | {mutant.breaks} | {run} | {seeds} | {found.cpu_s:.1f} | {shown(found)} |"


def shown(found: Found) -> str:
    """What was first seen of the bug, short and fit for a cell."""
    text = (found.violation or found.trouble or "-").replace("|", "\\|").replace("\n", " ")
    return text if len(text) <= 110 else text[:107] + "…"


def merged(text: str, founds: list[Found]) -> str:
    """RESULTS.md with the rows of these put in, or in their place."""
    names = {found.mutant.name for found in founds}
    lines = text.splitlines()
    first = next(at for at, line in enumerate(lines) if line.startswith("|---")) + 1
    end = next((at for at in range(first, len(lines)) if not lines[at].startswith("|")), len(lines))
    kept = [line for line in lines[first:end] if line[2:].partition(":")[0] not in names]
    rows = sorted(kept + [row(found) for found in founds], key=lambda line: line[2:].partition(":")[0])
    survived = sum("**survived" in line for line in rows)
    head = re.sub(r"(?m)^\d+ of \d+ caught\.$", f"{len(rows) - survived} of {len(rows)} caught.", "\n".join(lines[:first]))
    return "\n".join([head, *rows, *lines[end:]]) + "\n"
