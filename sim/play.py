"""Runs a scenario of either kind with a seed."""

from __future__ import annotations

from sim import disaster, list_append, runner
from sim.runner import Result
from sim.scenario import Scenario
from sim.trace import Sink


def play(scenario: Scenario, seed: int, record: bool | Sink = False, log: list[str] | None = None) -> Result:
    """An incident by its timeline, everything else by weights."""
    if scenario.workload.kind == "list_append":
        return list_append.run(scenario, seed, record, log)
    return (disaster if scenario.incident else runner).run(scenario, seed, record, log)
