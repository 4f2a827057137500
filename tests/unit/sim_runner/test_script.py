"""What a run writes down is that run, event by event; and whatever is left out of it, the right engine passes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sim.oracle.oracle import Plus
from sim.recording import record
from sim.runs.list_append import ListRun
from sim.runs.runner import Run
from sim.scenario.scenario import Scenario, ScenarioError, load, parse
from sim.scenario.schema import wrap
from sim.scenario.script import Script, Scripted, ScriptKind, decoded, dump
from sim.world.rand import Stream

SCENARIOS = Path(__file__).resolve().parents[3] / "scenarios"


def small(name: str) -> Scenario:
    scenario = load(str(SCENARIOS / name))
    faults = replace(scenario.faults, after_ns=(2_000_000, 20_000_000), outages=(2, 3))
    return replace(scenario, faults=faults, workload=replace(scenario.workload, items=20, accounts=10))


def under(scenario: Scenario, script: Script) -> Scenario:
    return replace(scenario, workload=replace(scenario.workload, script=script))


@pytest.mark.parametrize(
    ("name", "seed"), [("power_cut.yaml", 1), ("power_cut.yaml", 2), ("isolation/lists_through_crashes.yaml", 0)]
)
def test_a_script_is_the_run_that_it_was_written_from(name: str, seed: int) -> None:
    """Also after it was a file; and writing it down changes nothing. (Not of every seed: 0's ends an I/O later.)"""
    scenario = small(name)
    kind = ListRun if scenario.workload.kind == "list_append" else Run
    result, script, lives_ns = record(scenario, seed)
    assert result.violations == [] and sum(len(life) for life in script) >= 30
    assert len(lives_ns) == len(script) and all(began <= ended for began, ended in lives_ns)
    assert kind(scenario, seed).result().trace_hash == result.trace_hash
    read = ScriptKind().read(wrap(json.loads(json.dumps(dump(script))), "x"))
    assert read == script
    again = kind(under(scenario, read), seed)
    assert again.result().violations == []
    assert again.ends_ns == [ended for _began, ended in lives_ns[: len(again.ends_ns)]]


@pytest.mark.parametrize("name", ["power_cut.yaml", "isolation/lists_through_crashes.yaml"])
def test_whatever_is_left_out_the_right_engine_passes(name: str) -> None:
    """S2: tables and savepoints that are not there any more are no violation."""
    scenario = small(name)
    for seed in (0, 1, 3):
        stream = Stream(seed)
        _, script, _ = record(scenario, seed)
        for share in (0.3, 0.7):
            less = tuple(
                tuple(
                    replace(one, do=(*one.do[:1], *(op for op in one.do[1:] if stream.random() > share / 2)))
                    for one in life
                    if stream.random() > share
                )
                for life in script
            )
            result = record(under(scenario, less), seed)[0]
            assert result.violations == [], (seed, share)


def test_long_texts_are_written_short_and_read_whole() -> None:
    text = ("1000017-" * 400)[:3001]
    do = (("begin", True, False), ("modify", "bank", 3, {"bal": Plus(-7), "note": text, "code": None}), ("commit",))
    (life,) = dump(((Scripted(1, 5, "transfer", do, 12, (0.25,)),),))
    assert len(json.dumps(life)) < 250
    assert [tuple(decoded(value) for value in op) for op in life[0]["do"]] == [tuple(op) for op in do]


def test_a_script_that_is_none_is_refused_by_line() -> None:
    for text in ("4", "[[{client: 0}]]", "[[{client: 0, at_ns: 1, kind: x, do: [[]]}]]"):
        with pytest.raises(ScenarioError, match=r"x.yaml:2: workload.script: this is no script"):
            parse(f"workload:\n  script: {text}", "x.yaml")
