"""The plan of an incident: the timeline with everything drawn that a seed decides in advance.

D1. A plan holds single values only, so it can be written down as a timeline of its own, and runs the same whatever is later
    added to the scenario or to the drawing of it.
D2. Each step has its own stream of draws, by its place, so that one more step does not move the others' draws.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sim.scenario.scenario import Operator, Scenario
from sim.scenario.schema import Range
from sim.scenario.steps import Step
from sim.world.rand import Stream, derive


def draw_steps(scenario: Scenario, seed: int) -> tuple[Step, ...]:
    """The steps that this seed takes, repetitions unrolled."""
    return tuple(_draw(scenario.timeline, seed, "step"))


def _draw(steps: tuple[Step, ...], seed: int, place: str) -> list[Step]:
    drawn: list[Step] = []
    for number, step in enumerate(steps):
        stream = Stream(derive(seed, f"{place}.{number}"))
        if step.verb == "repeat":
            for turn in range(stream.between(*step.args["times"])):
                drawn += _draw(step.steps, seed, f"{place}.{number}.{turn}")
        else:
            at, after, io = (one(stream, ends) for ends in (step.at_ns, step.after_ns, step.io))
            drawn.append(replace(step, at_ns=at, after_ns=after, io=io))
    return drawn


def one(stream: Stream, ends: Range) -> Range:
    """A range with one value left."""
    value = stream.between(*ends)
    return value, value


def fixed(scenario: Scenario, seed: int) -> Scenario:
    """The scenario with nothing left to draw in advance (D1)."""
    stream = Stream(derive(seed, "operator"))
    operator = Operator(one(stream, scenario.operator.notices_ns), one(stream, scenario.operator.acts_ns))
    clients = one(Stream(derive(seed, "clients")), scenario.workload.clients)
    return replace(
        scenario, timeline=draw_steps(scenario, seed), operator=operator, workload=replace(scenario.workload, clients=clients)
    )


def describe(step: Step) -> dict[str, Any]:
    """A step for people."""
    shown: dict[str, Any] = {"step": step.verb, **step.args}
    if step.at_ns[0] >= 0:
        shown["at_s"] = step.at_ns[0] / 1e9
    return shown
