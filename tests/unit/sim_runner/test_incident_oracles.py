"""What the oracles of an incident must not excuse, and what counts as a fault that struck."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable

import pytest

from sim.incident.disaster import Incident
from sim.incident.judge import Opinion
from sim.incident.site import Loss
from sim.oracle.oracle import PUT, Work
from sim.oracle.truth import Commit
from sim.runs.runner import Result
from sim.scenario import coverage
from sim.scenario.scenario import parse
from thunderdb.base.errors import InvariantViolated

HEAD = (
    "topology: {stores: {'s3://b': s3, 's3://a': s3}}\n"
    "settings: {page_size: 4KB, buffer_pool_size: 4MB, wal_segment_size: 1MB, max_wal_size: 4MB,\n"
    "  wal_archive_enabled: true, wal_archive_dir: 's3://a/db'}\nworkload: {clients: 1, rate: 10/s, accounts: 8, items: 20}\n"
    "promises: {rpo: any, rto: 1min, outcome: judge}\n"
)
SERVE = "timeline: [{at: 1s, switch: }, {serve: {for: 3s}}]"


def played(text: str, at_ns: int = 0, happens: Callable[[Incident], None] | None = None) -> tuple[Incident, Result]:
    found = Incident(parse(HEAD + text, "x.yaml"), 1)
    if happens is not None:
        found.site.world.kernel.at(at_ns, lambda: happens(found))
    return found, found.result()


def test_a_database_that_stops_though_its_disk_is_well_is_a_violation() -> None:
    _, result = played(SERVE, 2_000_000_000, lambda found: found.site._failed(InvariantViolated("two and two are five")))
    assert result.violations == [
        "Violation: the node stopped, though its disk was well: InvariantViolated: two and two are five"
    ]  # fmt: skip


@pytest.mark.parametrize("sync", [True, False])
def test_a_clean_stop_that_loses_what_was_acknowledged_is_a_violation(sync: bool) -> None:
    def acknowledge(found: Incident) -> None:
        """As if the log had held one more commit, behind where it is found to end."""
        site, work = found.site, Work(1, sync=sync, outcome="acked")
        settle = site.settle

        async def settled(end_lsn: int) -> Loss:
            site.recorder.records.append(Commit(1 << 55, 1 << 61, 1 << 40, ((PUT, "bank", (1,)),), work))
            return await settle(end_lsn)

        site.settle = settled  # type: ignore[method-assign]

    _, result = played(SERVE, 0, acknowledge)
    assert result.violations == ["Violation: 1 acknowledged transactions lost by a clean stop"]
    stopped = "timeline: [{at: 1s, switch: }, {serve: {for: 3s}}, {stop: }, {start: }]"
    found, _ = played(stopped, 0, acknowledge)
    assert found.judge.problems == ["line 6: start: 1 acknowledged transactions lost by a restart"]
    found, _ = played(stopped.replace("stop:", "kill:"), 0, acknowledge)
    assert found.judge.problems == (["line 6: start: 1 acknowledged transactions lost by a restart"] if sync else [])


def test_what_the_archiver_said_to_have_shipped_must_be_there() -> None:
    found, result = played(SERVE)
    assert result.violations == [] and found.judge.evidence.pushed
    objects = found.site.world.store.objects
    (url, *_) = [one for one in objects if one.endswith("00000001")]
    data, when = objects[url]
    objects[url] = (data + b"more", when)
    assert found.judge.verdict() == [f"{url} was archived, and has been overwritten with something else"]
    found.judge.problems.clear()
    del objects[url]
    assert found.judge.verdict() == ["000000010000000000000001 was said to be archived, and is not there"]
    found.judge.problems.clear()
    found.site.spoiled.append(url)
    assert found.judge.verdict() == []


def test_a_backup_by_schedule_that_is_refused_for_no_reason_is_a_violation() -> None:
    text = "backups: {to: 's3://b', every: 2s}\ntimeline: [{at: 1s, backup: {name: x, to: 's3://b/auto0'}}, {serve: {for: 4s}}]"
    _, result = played(text)
    assert "the backup auto0 by schedule" in result.violations[0]


def test_a_backup_by_schedule_that_meets_an_outage_is_tried_at_its_next_time() -> None:
    text = (
        "backups: {to: 's3://b', every: 3s}\n"
        "timeline: [{at: 2s, store_outage: {store: 's3://b', for: 2s}}, {serve: {for: 6s}}]"
    )
    found, result = played(text)
    assert result.violations == [] and sorted(found.actions.places) == ["auto1"]


def test_a_verify_that_dies_leaves_the_store_as_fast_as_it_was() -> None:
    found, result = played(
        "scale: 100\ntimeline: [{at: 1s, backup: {name: x, to: 's3://b/x'}}, {verify: {backup: x, expect: any}, wait: false},\n"
        "  {after: 10ms, kill: }, {start: }]"
    )
    assert result.violations == []
    speeds = {bucket.profile.bytes_a_second for bucket in found.site.world.store.buckets.values()}
    assert len(speeds) == 1


def test_a_refusal_that_the_judge_calls_wrong_is_more_than_its_authors_word() -> None:
    found, result = played("timeline: [{at: 1s, backup: {name: x, to: 's3://b/x'}}, {restore: {from: x}}]")
    assert result.violations == []
    step, refused = found.steps[-1], "line 7: restore ended refused, expected ok: no"
    must = Opinion(True, began_ns=found.site.world.now_ns, damages=found.site.damages)
    assert found.judge.agrees(step, must, refused) == "; possible"
    assert found.judge.agrees(step, must, refused.replace("refused, expected ok", "ok, expected refused")) == ""
    assert found.judge.agrees(step, Opinion(), refused) == ""
    assert found.judge.agrees(step, Opinion(False, "it rots"), "any") == "; impossible: it rots"
    assert found.judge.agrees(step, Opinion(False, "it rots"), "restore says 'no', expected words 'rot'") == ""
    found.site.damaged = True
    assert found.judge.agrees(step, must, refused) == ""


@pytest.mark.parametrize(("sleeps", "violations"), [([], 0), ([["sleep", 20_000_000_000]], 1)])
def test_a_script_is_owed_service_while_it_asks_for_some(sleeps: list[list[object]], violations: int) -> None:
    """It shrinks to a transaction now and one much later; the time between them is no outage."""
    change = ["modify", "items", 1, {"ver": 7}]
    script = [
        {"client": 0, "at_ns": at_ns, "kind": "update", "do": [["begin", False, True], change, *sleeps, ["commit"]]}
        for at_ns in (0, 30_000_000_000)
    ]
    text = f"workload: {json.dumps({'clients': 1, 'items': 20, 'script': [script]})}\npromises: {{rpo: any, service: 2s}}\n"
    found = Incident(parse(text + "timeline: [{checkpoint: }, {at: 15s, checkpoint: }]", "x.yaml"), 1)
    assert [one.split(" for")[0] for one in found.result().violations] == ["Violation: no service"] * violations


@pytest.mark.parametrize(("store", "struck"), [("s3://b", False), ("s3://a", True)])
def test_an_outage_that_no_request_meets_has_not_struck(store: str, struck: bool) -> None:
    found, result = played(f"timeline: [{{at: 1s, store_outage: {{store: '{store}', for: 2s}}}}, {{serve: {{for: 3s}}}}]")
    assert any(key.startswith("store_outage|store|") for key in result.coverage) == struck
    missing = [] if struck else ["store_outage"]
    assert coverage.never_fired(found.scenario, Counter(result.faults), Counter(result.coverage)) == missing


def test_damage_that_changes_nothing_has_not_struck() -> None:
    hole = "damage: {what: archive, which: first, how: hole}"
    found, result = played(f"timeline: [{{at: 1s, switch: }}, {{after: 2s, {hole}}}, {{{hole}}}]")
    assert result.violations == []
    assert result.coverage["damage_hole|archive|serving"] == len(found.breakage.damaged) == 1


def test_faults_are_not_taken_for_each_other() -> None:
    outage, errors = Counter({"store_outage|store|serving": 5}), Counter({"store_error_after|store|serving": 1})
    enabled = Counter({"store_errors": coverage.ENOUGH_RUNS, "region_lost": coverage.ENOUGH_RUNS})
    machine = Counter({"machine_lost|machine|serving": 9, "region_lost|machine|serving": 1})
    assert [line.split(" ")[0] for line in coverage.silent(enabled, outage)] == ["region_lost", "store_errors"]
    assert coverage.silent(enabled, errors + machine) == []
    scenario = parse(HEAD + "timeline: [{at: 1s, store_errors: {before: 0.5, for: 1s}}]", "x.yaml")
    assert coverage.enabled(parse("timeline: [{at: 1s, disk_errors: {kind: stall, for: 1s}}]", "x.yaml")) == ["stall"]
    assert coverage.never_fired(scenario, Counter(), outage) == ["store_errors"]
    assert coverage.never_fired(scenario, Counter(), errors) == []
