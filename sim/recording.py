"""Runs a scenario and writes down what its clients did (sim/scenario/script.py)."""

from __future__ import annotations

from sim.clients.scribe import Book
from sim.incident import disaster
from sim.runs import list_append, runner
from sim.runs.runner import Result
from sim.scenario.scenario import Scenario
from sim.scenario.script import Script

Lives = tuple[tuple[int, int], ...]
"""For each life: when its clients began, and when it ended (or the run did)."""


def record(scenario: Scenario, seed: int) -> tuple[Result, Script, Lives]:
    """The run's result, its script, and its lives."""
    book = Book()
    if scenario.incident:
        incident = disaster.Incident(scenario, seed)
        incident.site.book = book
        return incident.result(), book.script(), ()
    made = (list_append.ListRun if scenario.workload.kind == "list_append" else runner.Run)(scenario, seed)
    made.book = book
    result = made.result()
    ends = [*made.ends_ns, result.sim_ns]
    return result, book.script(), tuple((began_ns, ends[at]) for at, began_ns in enumerate(made.begins_ns))
