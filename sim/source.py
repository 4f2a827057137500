"""Where the scenario of a run comes from: a file, the same for each seed, or the generator, another one for each."""

from __future__ import annotations

from sim.measure import Report, measure
from sim.scenario import coverage, generate
from sim.scenario import scenario as scenarios
from sim.scenario.scenario import Scenario

Source = Scenario | None
"""A scenario, or None: the incident that is generated from the seed."""
GENERATED = "--generated"
KEPT = (
    "scenario", "seed", "verdict", "trace_hash", "rpo_transactions", "rto_s", "sim_s", "wall_s", "events", "cpu_s", "faults",
    "coverage", "classes", "transactions", "given_up", "violations",
)  # fmt: skip
"""What is kept of a generated run that went well: there are very many of them."""


def load(path: str, promises: list[str]) -> Source:
    """Raises: ScenarioError."""
    return None if path == GENERATED else scenarios.with_promises(scenarios.load(path), promises)


def place(source: Source) -> str:
    """How the command line names it."""
    return GENERATED if source is None else source.path


def measured(source: Source, seed: int) -> Report:
    """Run it with a seed."""
    if source is not None:
        return measure(source, seed)
    scenario = generate.generated(seed)
    report = {**measure(scenario, seed), "classes": coverage.classes(scenario)}
    return report if report["violations"] else {name: report[name] for name in KEPT}
