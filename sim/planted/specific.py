"""Which planted bug breaks what a scenario is about: of those that it sees, the one that the fewest others see.

    thunderdb-sim mutants --specific crash/kill_then_power_cut               every bug on this scenario, the most specific first
    thunderdb-sim mutants --specific crash/kill_then_power_cut --record      that one becomes its row in SCENARIOS.md

A bug that every scenario sees, in its set-up perhaps, says nothing of what this one asserts.

R1. How far a bug reaches is how many scenarios of YARDSTICK, one or two of each folder, see it with the first SEEDS seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from sim.planted.mutants import Controls, Copies, hunt
from sim.planted.patch import Mutant
from sim.planted.results import Found

YARDSTICK = (
    "power_cut", "crash/kill_loop", "disk/stalling_disk", "corruption/rot_found_by_scrub", "archive/segment_deleted",
    "backup/crash_during_backup", "operator/second_pitr", "operator/retention_races_a_restore",
    "isolation/lists_through_crashes",
)  # fmt: skip
SEEDS = 2
TRIED = 3
"""So many seeds of the scenario itself."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A bug that the scenario sees, and how many others do."""

    found: Found
    reach: int


def specific(scenario: str, mutants: list[Mutant], jobs: int, told: Callable[[Seen], None]) -> list[Seen]:
    """The bugs that a scenario sees, the most specific one first; equal ones by the seed that it takes, then by name."""
    with Copies() as copies, ThreadPoolExecutor(jobs) as pool:
        controls = Controls(copies.clean)

        def one(mutant: Mutant) -> Seen | None:
            found = _on(copies, controls, mutant, scenario, TRIED)
            if not found.caught:
                return None
            others = [name for name in YARDSTICK if name != scenario]
            seen = Seen(found, sum(_on(copies, controls, mutant, name, SEEDS).caught for name in others))
            told(seen)
            return seen

        found = [seen for seen in pool.map(one, mutants) if seen is not None]
    return sorted(found, key=lambda seen: (seen.reach, seen.found.seed or 0, seen.found.mutant.name))


def _on(copies: Copies, controls: Controls, mutant: Mutant, scenario: str, seeds: int) -> Found:
    there = replace(mutant, run=f"scenarios/{scenario}.yaml")
    return replace(hunt(copies, controls, there, 0, seeds), mutant=mutant)
