"""What a run writes down is that run, event by event; and whatever is left out of it, the right engine passes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from sim.incident.play import play
from sim.oracle.oracle import Plus
from sim.scenario.faults_plan import draw
from sim.scenario.generate import document, generated
from sim.scenario.plan import fixed
from sim.scenario.replay import document_of
from sim.scenario.scenario import Scenario, ScenarioError, build, load, parse
from sim.scenario.schema import wrap
from sim.scenario.script import Script, Scripted, decoded, dump
from sim.shrinking.recording import record
from sim.world.rand import Stream

SCENARIOS = Path(__file__).resolve().parents[3] / "scenarios"


def small(name: str) -> Scenario:
    scenario = load(str(SCENARIOS / name))
    faults = replace(scenario.faults, after_ns=(2_000_000, 20_000_000), outages=(2, 3))
    return replace(scenario, faults=faults, workload=replace(scenario.workload, items=20, accounts=10))


def under(scenario: Scenario, script: Script) -> Scenario:
    return replace(scenario, workload=replace(scenario.workload, script=script))


def replays(scenario: Scenario, seed: int, raw: dict[str, object]) -> int:
    """Record a run, write it into a file, play the file; return how many transactions it had."""
    result, script, _ = record(scenario, seed)
    document = json.loads(json.dumps(document_of(raw, under(scenario, script), seed)))
    again = build(wrap(document, "replay"))
    assert again.workload.script == script
    replayed = play(again, again.seed)
    assert (replayed.trace_hash, replayed.violations) == (result.trace_hash, result.violations), seed
    return sum(one.works for life in script for one in life)


@pytest.mark.parametrize("driver", ["engine", "sql"])
def test_a_file_with_a_script_is_the_run_that_it_was_written_from(driver: str) -> None:
    """Every event of it. What a client waits when its life ends is in the script, too: it moves the draws of the scheduler."""
    scenario = small("power_cut.yaml")
    raw = yaml.safe_load((SCENARIOS / "power_cut.yaml").read_text())
    scenario = replace(scenario, faults=replace(scenario.faults, after_ns=(2_000_000, 12_000_000), outages=(1, 2)))
    for seed in range(20):
        drawn = replace(scenario, plan=replace(draw(scenario, seed), driver=driver, last_life_ns=2_000_000))
        assert replays(drawn, seed, raw) >= 5


@pytest.mark.parametrize("transactions", [6, 25])
def test_clients_that_have_nothing_left_to_do_wait_as_they_did(transactions: int) -> None:
    raw = yaml.safe_load((SCENARIOS / "pressure.yaml").read_text())
    scenario = small("pressure.yaml")
    for seed in range(4):
        little = replace(scenario, workload=replace(scenario.workload, transactions=transactions))
        assert replays(replace(little, plan=draw(little, seed)), seed, raw)


@pytest.mark.parametrize(
    "name", ["isolation/lists_through_crashes.yaml", "crash/crash_during_restart.yaml", "corruption/rot_found_by_scrub.yaml",
             "disk/fsync_fails.yaml", "backup/hand_made_copy.yaml"]
)  # fmt: skip
def test_incidents_and_lists_are_written_down_as_they_were(name: str) -> None:
    raw = yaml.safe_load((SCENARIOS / name).read_text())
    scenario = small(name)
    for seed in range(2):
        drawn = fixed(scenario, seed) if scenario.incident else replace(scenario, plan=draw(scenario, seed))
        assert replays(drawn, seed, raw) >= 5


def test_generated_incidents_are_written_down_as_they_were() -> None:
    assert sum(replays(fixed(generated(seed), seed), seed, document(seed)) for seed in range(8)) >= 60


def test_writing_it_down_changes_nothing() -> None:
    for name in ("power_cut.yaml", "isolation/lists_through_crashes.yaml"):
        scenario = small(name)
        result, script, lives_ns = record(scenario, 1)
        assert result.violations == [] and sum(len(life) for life in script) >= 30
        assert len(lives_ns) == len(script) and all(began <= ended for began, ended in lives_ns)
        assert play(scenario, 1).trace_hash == result.trace_hash


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
