"""Whole runs, sweeps and the exhaustive mode, small: they pass, they repeat, and they can fail."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from sim.cli import main
from sim.runs import exhaustive
from sim.runs.runner import run
from sim.scenario.scenario import Scenario, load
from sim.sweep import parse_seeds

ROOT = Path(__file__).resolve().parents[3]
FILE = str(ROOT / "scenarios" / "power_cut.yaml")


def small(driver: str) -> Scenario:
    scenario = load(FILE)
    workload = replace(scenario.workload, driver=driver, clients=(2, 3), accounts=10, items=20)
    faults = replace(scenario.faults, outages=(1, 2), after_ns=(2_000_000, 20_000_000))
    return replace(scenario, workload=workload, faults=faults)


@pytest.mark.parametrize("driver", ["engine", "sql"])
def test_a_run_repeats_and_another_seed_differs(driver: str) -> None:
    scenario = small(driver)
    first, second, other = run(scenario, 3), run(scenario, 3), run(scenario, 4)
    assert first.violations == [] and other.violations == []
    assert (first.trace_hash, first.events, first.sim_ns) == (second.trace_hash, second.events, second.sim_ns)
    assert first.trace_hash != other.trace_hash
    assert first.transactions > 0 and first.driver == driver
    assert first.events_by_kind["log_append"] > 0
    assert ("message" in first.events_by_kind) == (driver == "sql")


@pytest.mark.parametrize("driver", ["engine", "sql"])
def test_clients_that_have_done_all_their_work_notice_the_death_of_the_node(driver: str) -> None:
    """Over SQL the run waited for them for ever."""
    scenario = small(driver)
    faults = replace(scenario.faults, kinds={"power_cut": 1}, at_boundary=0.0)
    assert run(replace(scenario, faults=faults, workload=replace(scenario.workload, transactions=3)), 3).violations == []


def test_promises_are_asserted() -> None:
    result = CliRunner().invoke(main, ["run", FILE, "--seed", "7", "--promise", "rto=1us", "--json"])
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report["verdict"] == "violation" and report["rto_s"] > 1e-6
    assert f"thunderdb-sim run {FILE} --seed 7 --promise rto=1us" in result.stderr


def test_run_prints_what_is_promised_to_users() -> None:
    result = CliRunner().invoke(main, ["run", FILE, "--seed", "1", "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert list(report)[:10] == [
        "scenario", "seed", "verdict", "trace_hash", "rpo_transactions", "rpo_s", "rto_s", "sim_s", "wall_s", "events",
    ]  # fmt: skip
    assert report["verdict"] == "ok" and sum(report["faults"].values()) > 0


def test_wrong_usage_is_exit_2() -> None:
    invoke = CliRunner().invoke
    assert invoke(main, ["run", "nowhere.yaml"]).exit_code == 2
    assert invoke(main, ["run", FILE, "--promise", "rto=soon"]).exit_code == 2
    assert invoke(main, ["sweep", FILE, "--seeds", "a..b"]).exit_code == 2


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_sweep_prints_lines_and_the_sum(jobs: str) -> None:
    result = CliRunner().invoke(main, ["sweep", FILE, "--seeds", "10..13", "--jobs", jobs])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[-1] == "3 runs, 0 violations"
    assert sorted(json.loads(line)["seed"] for line in lines[:-1]) == [10, 11, 12]


def test_a_sweep_with_violations_fails_and_says_how_to_repeat_it() -> None:
    result = CliRunner().invoke(main, ["sweep", FILE, "--seeds", "7..8", "--jobs", "1", "--promise", "rto=1us"])
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-1] == "1 runs, 1 violations"
    assert f"thunderdb-sim run {FILE} --seed 7 --promise rto=1us" in result.stderr


def test_a_sweep_that_ran_nothing_fails() -> None:
    result = CliRunner().invoke(main, ["sweep", FILE, "--seeds", "5..5"])
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-1] == "0 runs, 0 violations"


def test_seeds() -> None:
    assert list(parse_seeds("3..6")) == [3, 4, 5]
    assert list(parse_seeds("9")) == [9]


def test_list_names_the_scenarios() -> None:
    result = CliRunner().invoke(main, ["list"])
    assert result.exit_code == 0 and "power_cut.yaml" in result.stdout


@pytest.fixture(scope="module")
def recording() -> exhaustive.Recording:
    return exhaustive.record(exhaustive.small_config(load(FILE)), seed=2, operations=16)


def test_exhaustive_passes_and_counts(recording: exhaustive.Recording) -> None:
    explorer = exhaustive.Explorer(recording, depth=2, mixes=1, sample=0.05)
    for position in range(0, len(recording.branches), 9):
        explorer.branch(position)
    found = explorer.found
    assert found.violations == []
    assert found.by_depth[0] > 10 and found.by_depth[1] > 10
    assert found.recovered <= found.states == sum(found.by_depth)


def test_exhaustive_sees_a_lost_commit(recording: exhaustive.Recording) -> None:
    """If one commit more than is there had been acknowledged at each boundary, the explorer must say so."""
    more = [exhaustive.Allowed(allowed.most + 1, allowed.most + 1) for allowed in recording.allowed]
    explorer = exhaustive.Explorer(replace(recording, allowed=more), depth=1, mixes=0)
    explorer.branch(len(recording.branches) // 2)
    assert any("what came back is the state after" in violation for violation in explorer.found.violations)
