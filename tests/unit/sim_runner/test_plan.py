"""Plans: the same seed gives the same one; swarm leaves kinds out, never all of them."""

from __future__ import annotations

from dataclasses import replace

from sim.scenario.faults_plan import draw, fates_of
from sim.scenario.scenario import parse
from sim.world.fates import AllLanded, NoneLanded

TEXT = """
workload: {mix: {transfer: 5, insert: 3, ddl: 1}, driver: either}
faults:
  outages: [2, 5]
  kinds: {power_cut: 5, kill: 2, kill_then_power_cut: 2, stop: 1, sync_error: 1}
  fates: {all: 1, none: 1, mixed: 2}
  disk: {stall: 0.1}
  disk_full: 0.3
  swarm: 0.4
"""


def test_the_same_seed_draws_the_same_plan() -> None:
    scenario = parse(TEXT)
    assert [draw(scenario, seed) for seed in range(20)] == [draw(scenario, seed) for seed in range(20)]
    assert draw(scenario, 1) != draw(scenario, 2)


def test_over_seeds_everything_comes_up() -> None:
    scenario = parse(TEXT)
    plans = [draw(scenario, seed) for seed in range(200)]
    outages = [outage for plan in plans for outage in plan.outages]
    assert {outage.kind for outage in outages} == {"power_cut", "kill", "kill_then_power_cut", "stop", "sync_error"}
    assert {outage.strike.fates for outage in outages} == {"all", "none", "mixed"}
    assert {plan.driver for plan in plans} == {"engine", "sql"}
    assert {len(plan.outages) for plan in plans} == {2, 3, 4, 5}
    assert any(outage.full_at_ns >= 0 for outage in outages)
    assert any(plan.disk == {} for plan in plans) and any(plan.disk for plan in plans)
    assert any(len(outage.in_recovery) >= 2 for outage in outages)
    assert any(plan.at_creation for plan in plans)


def test_swarm_leaves_kinds_out_but_never_all() -> None:
    scenario = parse(TEXT)
    scenario = replace(scenario, faults=replace(scenario.faults, swarm=1.0))
    plan = draw(scenario, 3)
    assert plan.outages and plan.mix


def test_a_kill_before_a_power_cut_is_struck_in_its_recovery() -> None:
    scenario = parse(TEXT)
    for seed in range(100):
        for outage in draw(scenario, seed).outages:
            if outage.kind == "kill_then_power_cut":
                assert not outage.strike.power and outage.in_recovery[0].power


def test_fates_by_name() -> None:
    assert isinstance(fates_of("all"), AllLanded)
    assert isinstance(fates_of("none"), NoneLanded)
    assert fates_of("mixed") is None
