"""Incidents from a timeline, small: they pass, they repeat, and their promises can fail."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from sim.incident.disaster import Incident, run
from sim.incident.judge import Opinion
from sim.report.rows import phases
from sim.scenario import coverage
from sim.scenario.plan import fixed
from sim.scenario.scenario import Scenario, parse, with_promises
from sim.world.costs import COSTS_NS
from sim.world.files import file_kind

ROOT = Path(__file__).resolve().parents[3]
SETTINGS = (
    "settings: {page_size: 4KB, buffer_pool_size: 4MB, wal_segment_size: 1MB, max_wal_size: 4MB}\n"
    "workload: {clients: 2, rate: 20/s, accounts: 8, items: 20}\n"
)


def incident(text: str) -> Scenario:
    return parse(SETTINGS + text, "x.yaml")


KILLED = "timeline: [{at: [1s, 2s], kill: }, {after: 3s, start: }, {serve: {for: 1s}}]\npromises: {rpo: 0, rto: 60s}"


def test_a_run_repeats_and_its_plan_gives_the_same_run() -> None:
    scenario = incident(KILLED)
    first, second, other = run(scenario, 3), run(scenario, 3), run(scenario, 4)
    assert first.violations == [] and other.violations == []
    assert first.trace_hash == second.trace_hash != other.trace_hash
    assert run(fixed(scenario, 3), 3).trace_hash == first.trace_hash


def test_what_is_measured() -> None:
    result = run(incident(KILLED.replace("promises", "operator: {notices: 4s, acts: 2s}\npromises")), 1)
    assert result.verdict == "ok", result.violations
    assert 9 < result.rto_ns / 1e9 < 9.5 + COSTS_NS["process.start"] / 1e9 and result.operator_ns == 6_000_000_000
    whats = [what for _, _, what in result.marks]
    assert [what for what in whats if what in ("kill", "noticed", "operator acts", "recovered", "first service")] == [
        "kill", "noticed", "operator acts", "recovered", "first service",
    ]  # fmt: skip
    assert "kill|machine|serving" in result.coverage
    course = phases([(at / 1e9, kind, what) for at, kind, what in result.marks])
    assert [(phase.what, phase.who) for phase in course][:2] == [("noticed", "people"), ("decided, machine ready", "people")]
    assert course[0].from_s == 0 and abs(course[-1].to_s - result.rto_ns / 1e9) < 1e-6


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (KILLED.replace("60s", "1s"), "rto: "),
        ("timeline: [{at: 1s, kill: }]", "without service"),
        ("timeline: [{at: 1s, kill: }, {start: {expect: refused}}]", "start ended ok, expected refused"),
        ("timeline: [{at: 1s, scrub: {expect: problems}}]", "scrub ended clean"),
        ("timeline: [{at: 1s, checkpoint: }]\npromises: {outcome: must_refuse}", "not"),
    ],
)
def test_promises_and_expectations_can_fail(text: str, words: str) -> None:
    result = run(incident(text), 1)
    assert result.verdict == "violation" and words in result.violations[0]


STORES = (
    "topology: {stores: {'s3://b': s3, 's3://a': s3}}\n"
    "settings: {page_size: 4KB, buffer_pool_size: 4MB, wal_segment_size: 1MB, max_wal_size: 4MB,\n"
    "  wal_archive_enabled: true, wal_archive_dir: 's3://a/db'}\nworkload: {clients: 1, rate: 10/s, accounts: 8, items: 20}\n"
)
LOST = (
    "timeline: [{at: 1s, backup: {name: x, to: 's3://b/x'}}, {after: 2s, switch: }, {after: 3s, switch: },\n"
    "  {after: 3s, machine_lost: }, {damage: {what: WHAT, which: newest, how: HOW}},\n"
    "  {restore: {from: x, target: latest, expect: ok or refused}}]\npromises: {rpo: any, outcome: judge, rto: 1min}"
)


@pytest.mark.parametrize(
    ("what", "how", "refused"),
    [("archive", "delete", True), ("archive", "flip", True), ("archive", "duplicate", False), ("backup", "flip", True)],
)
def test_the_judge_and_the_engine_agree(what: str, how: str, refused: bool) -> None:
    scenario = parse(STORES + LOST.replace("WHAT", what).replace("HOW", how), "x.yaml")
    found = Incident(scenario, 1)
    result = found.result()
    assert result.verdict == "ok", result.violations
    assert bool(result.refusals) == refused


def test_the_judge_objects() -> None:
    scenario = parse(STORES + LOST.replace("WHAT", "archive").replace("HOW", "delete"), "x.yaml")
    found = Incident(scenario, 1)
    step = scenario.timeline[-1]
    found.actions.refusals.append("I would rather not")
    found.judge.ended(step, Opinion(True), "refused")
    found.judge.ended(step, Opinion(False, "a segment is gone"), "ok")
    found.judge.ended(step, Opinion(True, floor_lsn=7), "ok")
    found.judge.ended(step, Opinion(), "refused")
    assert found.judge.problems == [
        "line 7: restore: refused, although nothing is wrong: I would rather not",
        "line 7: restore: succeeded, although a segment is gone",
        "line 7: restore: restored to 0x0, but the archive was said to be at 0x7",
    ]
    found.site.trouble.begin("store_outage")
    found.judge.ended(step, Opinion(True), "refused")
    assert len(found.judge.problems) == 3


def test_a_fault_that_never_fires_is_named() -> None:
    scenario = parse("faults: {kinds: {kill: 1, stop: 1}, disk: {stall: 0.1}, disk_full: 0.1}")
    assert coverage.enabled(scenario) == ["disk_full", "kill", "stall", "stop"]
    fired = Counter({"kill": 3, "clean_stop": 1, "disk_full": 0})
    assert coverage.never_fired(scenario, fired, Counter({"stall|segment|serving": 2})) == ["disk_full"]
    assert coverage.never_fired(incident(KILLED), Counter(), Counter()) == ["kill"]
    assert coverage.never_fired(incident(KILLED), Counter(), Counter({"kill at I/O|page|restart": 1})) == []


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/thunderdb/data/pages.000000", "page"), ("/var/lib/thunderdb/wal/000000010000000000000001", "segment"),
        ("/var/lib/thunderdb/data/control", "control"), ("/var/lib/thunderdb/wal", "directory"), ("", "any file"),
        ("/var/lib/thunderdb/data/.archived.tmp", "archived"), ("/var/lib/thunderdb/data/restore.json", "marker"),
        ("/mnt/nas/nightly/data/pages.000000", "backup"), ("/mnt/nas/archive/000000010000000000000001", "archive"),
    ],
)  # fmt: skip
def test_kinds_of_files(path: str, kind: str) -> None:
    assert file_kind(path) == kind


def test_a_lie_of_the_disk_is_seen_as_loss() -> None:
    lies = "timeline: [{at: 1s, fsync_lies: {path: wal}}, {after: 2s, power_cut: {fates: none}}, {start: }]\n"
    lost = run(incident(lies + "promises: {rpo: any, rto: 1min, outcome: judge}"), 1)
    assert lost.rpo_transactions > 0 or lost.refusals, lost.violations
    strict = run(with_promises(incident(lies), ["rto=1min"]), 1)
    assert strict.verdict == "violation"
