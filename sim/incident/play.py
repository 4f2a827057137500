"""Runs a scenario of any kind with a seed."""

from __future__ import annotations

from sim.incident.disaster import Incident
from sim.runs.list_append import ListRun
from sim.runs.runner import Result, Run
from sim.scenario.scenario import Scenario
from sim.world.trace import Sink


def run_of(scenario: Scenario, seed: int, record: bool | Sink = False, log: list[str] | None = None) -> Run | Incident:
    """An incident by its timeline, lists, everything else by weights; `result()` plays it."""
    if scenario.workload.kind == "list_append":
        return ListRun(scenario, seed, record, log)
    return (Incident if scenario.incident else Run)(scenario, seed, record, log)


def play(scenario: Scenario, seed: int, record: bool | Sink = False, log: list[str] | None = None) -> Result:
    """Run it to its end. `log`, if given, collects the engine's events."""
    return run_of(scenario, seed, record, log).result()
