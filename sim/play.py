"""Runs a scenario of either kind with a seed."""

from __future__ import annotations

from sim import disaster, runner
from sim.runner import Result
from sim.scenario import Scenario


def play(scenario: Scenario, seed: int, record: bool = False, log: list[str] | None = None) -> Result:
    """An incident by its timeline, everything else by weights."""
    return (disaster if scenario.incident else runner).run(scenario, seed, record, log)
