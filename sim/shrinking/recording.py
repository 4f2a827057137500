"""Runs a scenario and writes down what its clients did (sim/scenario/script.py)."""

from __future__ import annotations

from sim.clients.scribe import Book
from sim.incident.disaster import Incident
from sim.incident.play import run_of
from sim.runs.runner import Result
from sim.scenario.scenario import Scenario
from sim.scenario.script import Script

Lives = tuple[tuple[int, int], ...]
"""For each life: when its clients began, and when it ended (or the run did)."""


def record(scenario: Scenario, seed: int) -> tuple[Result, Script, Lives]:
    """The run's result, its script, and its lives (of an incident: none, its timeline tells them)."""
    book, run = Book(), run_of(scenario, seed)
    if isinstance(run, Incident):
        run.site.book = book
        return run.result(), book.script(), ()
    run.book = book
    result = run.result()
    ends = [*run.ends_ns, result.sim_ns]
    return result, book.script(), tuple((began_ns, ends[at]) for at, began_ns in enumerate(run.begins_ns))
