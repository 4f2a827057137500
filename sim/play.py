"""Runs a scenario of either kind with a seed."""

from __future__ import annotations

from sim.incident import disaster
from sim.runs import list_append, runner
from sim.runs.runner import Result
from sim.scenario.scenario import Scenario
from sim.world.trace import Sink


def play(scenario: Scenario, seed: int, record: bool | Sink = False, log: list[str] | None = None) -> Result:
    """An incident by its timeline, everything else by weights."""
    if scenario.workload.kind == "list_append":
        return list_append.run(scenario, seed, record, log)
    return (disaster if scenario.incident else runner).run(scenario, seed, record, log)
