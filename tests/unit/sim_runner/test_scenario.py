"""Scenario files: everything is checked, and an error says file, key and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.scenario.scenario import ScenarioError, json_schema, load, parse, with_promises

ROOT = Path(__file__).resolve().parents[3]
MS = 1_000_000


def error_of(text: str) -> str:
    with pytest.raises(ScenarioError) as caught:
        parse(text, "x.yaml")
    return caught.value.message


def test_every_scenario_of_the_house_loads() -> None:
    paths = sorted((ROOT / "scenarios").rglob("*.yaml"))
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
        ("name: x\nworkload:\n  rate: 5\n", ["x.yaml:3:", "workload.rate", "5/s"]),
        ("promises:\n  rto: 5\n", ["x.yaml:2:", "promises.rto", "needs its unit"]),
        ("promises: {rpo: 5}", ["promises.rpo", "transactions", "needs its unit"]),
        ("promises:\n  rpo: 0\n  rpo: 1s", ["x.yaml:3:", "twice"]),
        ("device: floppy", ["device", "floppy", "nvme, ssd, hdd"]),
        ("device: {profile: ssd, speed: 3}", ["device.speed", "bandwidth"]),
        ("topology: {nodes: [{name: a}, {name: b}]}", ["topology.nodes", "2 need the cluster"]),
        ("topology: {nodes: [{name: a, region: moon}]}", ["node a", "region moon", "home"]),
        ("topology: {stores: {'s3://x': tape}}", ["topology.stores.s3://x", "tape", "s3-cross-region"]),
        ("timeline: [{at: 1s}]", ["x.yaml:1:", "timeline[0]", "nothing", "machine_lost"]),
        ("timeline:\n- {at: 1s, kill: }\n- {earthquake: }", ["x.yaml:3:", "earthquake", "machine_lost"]),
        ("timeline:\n- {kill: , start: }", ["x.yaml:2:", "kill and start"]),
        ("timeline: [{after: 5, kill: }]", ["timeline[0].after", "needs its unit"]),
        ("timeline: [{kill: {gently: 1}}]", ["timeline[0].kill.gently"]),
        ("timeline: [{backup: {name: x, to: 's3://nowhere/x'}}]", ["line 1", "s3://nowhere/x", "topology.stores: none"]),
        ("timeline: [{region_lost: {region: moon}}]", ["no region 'moon'", "home"]),
        ("timeline: [{kill: }]\nfaults: {outages: 1}", ["x.yaml:2:", "faults", "timeline"]),
        ("settings:\n  page_size: 5KB", ["x.yaml:1:", "settings", "page_size"]),
        ("a: [", ["x.yaml", "YAML"]),
    ],
)
def test_an_error_names_key_value_and_what_is_allowed(text: str, words: list[str]) -> None:
    message = error_of(text)
    for word in words:
        assert word in message


def test_an_incident_is_read_step_by_step() -> None:
    scenario = parse(
        "topology: {stores: {'s3://b': s3}}\nscale: 1000\nsizes: {data: 100GB}\nworkload: {rate: 30/min}\n"
        "timeline:\n- {at: 1min, backup: {name: one, to: 's3://b/one'}}\n- {event: backup.copying, after: [1ms, 5ms], kill: }\n"
        "- repeat: {times: 3, steps: [{start: }, {io: 5, path: wal, power_cut: {fates: none}}]}\n"
        "promises: {rpo: 1s, rto: 10min}"
    )
    assert scenario.incident and scenario.workload.rate_per_s == 0.5
    backup, kill, repeat = scenario.timeline
    assert (backup.verb, backup.at_ns, backup.args) == ("backup", (60_000 * MS,) * 2, {"name": "one", "to": "s3://b/one"})
    assert (kill.event, kill.after_ns, kill.line) == ("backup.copying", (MS, 5 * MS), 7)
    assert [step.verb for step in repeat.steps] == ["start", "power_cut"] and repeat.steps[1].io == (5, 5)
    assert (scenario.promises.rpo, scenario.promises.rpo_ns, scenario.promises.rto_ns) == (-1, 1000 * MS, 600_000 * MS)


def test_the_json_schema_knows_every_key() -> None:
    schema = json_schema()
    assert {"timeline", "promises", "topology"} <= set(schema["properties"])
    step = schema["properties"]["timeline"]["items"]["properties"]
    assert "machine_lost" in step and "restore" in step and "target" in step["restore"]["properties"]


def test_a_missing_file_is_an_error_with_a_hint() -> None:
    with pytest.raises(ScenarioError) as caught:
        load("/nowhere/x.yaml")
    assert "/nowhere/x.yaml" in caught.value.message and caught.value.exit_code == 2


def test_promises_can_be_replaced() -> None:
    scenario = with_promises(parse("promises: {rto: 3s}"), ["rto=1ms", "rpo=2 transactions"])
    assert (scenario.promises.rto_ns, scenario.promises.rpo) == (MS, 2)
    for wrong in ("rto", "rta=1s", "rto=fast"):
        with pytest.raises(ScenarioError):
            with_promises(scenario, [wrong])
