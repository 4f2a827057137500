"""Replay files: a scenario together with its seed and with everything that the seed had decided in advance.

    {…a scenario…, seed: 7, plan: {…outages as they were drawn…}}     for outages drawn by weight
    {…a scenario…, seed: 7, timeline: [single values only]}           for an incident

R1. A replay file is a scenario file: `thunderdb-sim run --replay FILE` reads it with the same checks.
R2. What is drawn in advance is in the file, so that changes to the drawing do not change the run; the seed only feeds the noise
    (latencies, orders, keys).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sim.scenario.faults_plan import Outage, Plan, Strike, draw
from sim.scenario.plan import fixed
from sim.scenario.scenario import Scenario, Workload, flat
from sim.scenario.schema import Duration, Kind, RangeOf, ScenarioError, Value
from sim.scenario.script import dump
from sim.scenario.steps import FAULTS, VERBS, Step, when_keys

Document = dict[str, Any]


def document_of(raw: Document, scenario: Scenario, seed: int) -> Document:
    """The scenario's document with the plan of a seed in it (R2)."""
    found = {name: value for name, value in raw.items() if name not in ("seed", "plan")}
    found["seed"] = seed
    work, given = scenario.workload, found.get("workload") or {}
    changed = {name: getattr(work, name) for name in _COUNTS if getattr(work, name) != getattr(Workload(), name)}
    found["workload"] = {**{name: value for name, value in given.items() if name not in (*_COUNTS, "script")}, **changed}
    if work.script is not None:
        found["workload"]["script"] = dump(work.script)
    if not scenario.sizes.data_bytes and "sizes" in found:
        found["sizes"] = {name: value for name, value in found["sizes"].items() if name != "data"}
    if not scenario.incident:
        found["plan"] = asdict(scenario.plan or draw(scenario, seed))
        found["plan"]["outages"] = list(found["plan"]["outages"])
        return found
    single = fixed(scenario, seed)
    found["timeline"] = [dump_step(step) for step in single.timeline]
    found["operator"] = {"notices": _ns(single.operator.notices_ns[0]), "acts": _ns(single.operator.acts_ns[0])}
    found["workload"]["clients"] = single.workload.clients[0]
    return found


_COUNTS = ("transactions", "items", "accounts")
"""What shrinking changes of the workload."""


def dump_step(step: Step) -> Document:
    """A step as a timeline says it."""
    found: Document = {}
    keys = when_keys()
    plain = Step(step.verb)
    for name, key in keys.items():
        value = getattr(step, key.field)
        if value != getattr(plain, key.field):
            found[name] = _dump(key.kind, value)
    spec = VERBS[step.verb][1]
    args = {name: _dump(key.kind, step.args[key.field]) for name, key in spec.items() if key.field in step.args}
    found[step.verb] = args or None
    return found


def _dump(kind: Kind, value: Any) -> Any:
    if isinstance(kind, RangeOf):
        return _dump(kind.kind, value[0]) if value[0] == value[1] else [_dump(kind.kind, end) for end in value]
    if isinstance(kind, Duration):
        return _ns(value)
    return value


def _ns(value: int) -> str:
    for unit, size in (("h", 3600 * 10**9), ("min", 60 * 10**9), ("s", 10**9), ("ms", 10**6), ("us", 10**3)):
        if value and value % size == 0:
            return f"{value // size}{unit}"
    return f"{value}ns"


class PlanKind:
    """Reads the `plan` of a replay file."""

    def read(self, value: Value) -> Plan:
        try:
            data = value.plain()
            outages = tuple(_outage(one) for one in data["outages"])
            strikes = tuple(Strike(**one) for one in data["at_creation"])
            return Plan(**{**data, "outages": outages, "at_creation": strikes})
        except (TypeError, KeyError, ValueError) as error:
            raise value.error(f"this is no plan of a replay file: {error}") from None

    def json(self) -> dict[str, Any]:
        return {"type": "object", "description": "Written by thunderdb-sim; what the seed had decided in advance."}


def _outage(data: Mapping[str, Any]) -> Outage:
    in_recovery = tuple(Strike(**one) for one in data["in_recovery"])
    return Outage(**{**data, "strike": Strike(**data["strike"]), "in_recovery": in_recovery})


def faults_in(scenario: Scenario) -> int:
    """How many faults a run has: outages and strikes, or the fault steps of a timeline."""
    if scenario.incident:
        return sum(1 for step in flat(scenario.timeline) if step.verb in _FAULT_VERBS)
    plan = scenario.plan
    if plan is None:
        raise ScenarioError("a replay file without a plan")
    struck = sum(1 + len(one.in_recovery) + (one.full_at_ns >= 0) + (one.cut_at_ns >= 0) for one in plan.outages)
    return struck + len(plan.at_creation) + len(plan.disk) + (plan.reset > 0)


_FAULT_VERBS = frozenset(FAULTS) - {"heal"}
