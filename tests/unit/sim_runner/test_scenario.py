"""Scenario files: everything is checked, and an error says file, key and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.scenario import ScenarioError, load, parse, with_promises

ROOT = Path(__file__).resolve().parents[3]
MS = 1_000_000


def error_of(text: str) -> str:
    with pytest.raises(ScenarioError) as caught:
        parse(text, "x.yaml")
    return caught.value.message


def test_every_scenario_of_the_house_loads() -> None:
    paths = sorted((ROOT / "scenarios").glob("*.yaml"))
    assert ROOT / "scenarios" / "power_cut.yaml" in paths
    for path in paths:
        assert load(str(path)).name == path.stem


def test_durations_sizes_and_ranges() -> None:
    scenario = parse("device: {sync: 250us}\nfaults: {after: [5ms, 1s], down: 7ms}\nworkload: {large: [1KB, 2KB], clients: 3}")
    assert scenario.device == {"sync_ns": 250_000}
    assert scenario.faults.after_ns == (5 * MS, 1000 * MS)
    assert scenario.faults.down_ns == (7 * MS, 7 * MS)
    assert scenario.workload.large_bytes == (1024, 2048)
    assert scenario.workload.clients == (3, 3)


def test_settings_are_the_daemons_own() -> None:
    assert parse("settings: {page_size: 4KB, recovery_target: 'off'}").config().page_size == 4096
    assert "page_size" in error_of("settings: {page_size: 5KB}")
    assert "settings.pagesize" in error_of("settings: {pagesize: 4KB}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("wrkload: {}", ["x.yaml", "wrkload", "workload"]),
        ("faults: {kinds: {meteor: 1}}", ["faults.kinds.meteor", "power_cut"]),
        ("faults: {swarm: 2}", ["faults.swarm", "2", "0 to 1"]),
        ("faults: {after: [9ms, 1ms]}", ["faults.after", "low <= high"]),
        ("faults: {after: soon}", ["faults.after", "soon", "20ms"]),
        ("faults: {disk: {gremlins: 0.1}}", ["faults.disk.gremlins", "disk_full"]),
        ("workload: {driver: odbc}", ["workload.driver", "odbc", "engine, sql, either"]),
        ("workload: {clients: many}", ["workload.clients", "many", "whole number"]),
        ("workload: [1]", ["workload", "a map"]),
        ("topology: {nodes: 3}", ["topology.nodes", "3"]),
        ("promises: {rto: -1s}", ["promises.rto", "-1s"]),
        ("- 1", ["x.yaml", "workload"]),
        ("a: [", ["x.yaml", "YAML"]),
    ],
)
def test_an_error_names_key_value_and_what_is_allowed(text: str, words: list[str]) -> None:
    message = error_of(text)
    for word in words:
        assert word in message


def test_a_missing_file_is_an_error_with_a_hint() -> None:
    with pytest.raises(ScenarioError) as caught:
        load("/nowhere/x.yaml")
    assert "/nowhere/x.yaml" in caught.value.message and caught.value.exit_code == 2


def test_promises_can_be_replaced() -> None:
    scenario = with_promises(parse("promises: {rto: 3s}"), ["rto=1ms", "rpo=2"])
    assert (scenario.promises.rto_ns, scenario.promises.rpo) == (MS, 2)
    for wrong in ("rto", "rta=1s", "rto=fast"):
        with pytest.raises(ScenarioError):
            with_promises(scenario, [wrong])
