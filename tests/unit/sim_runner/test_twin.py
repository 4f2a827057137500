"""Two reports of one run: what must be equal, and what may differ."""

from __future__ import annotations

from typing import Any

from sim.twin import request_of, same

REPORT: dict[str, Any] = {"seed": 7, "trace_hash": "a", "verdict": "ok", "violations": [], "wall_s": 1.0, "cpu_s": 0.5}


def test_only_real_time_may_differ() -> None:
    report = dict(REPORT)
    same(report, REPORT | {"wall_s": 2.0, "cpu_s": 0.7}, "diverge …")
    assert report == REPORT | {"twin": "a"}


def test_another_hash_or_an_answer_to_another_question_is_a_violation() -> None:
    for other in ({"trace_hash": "b"}, {"seed": 8}):
        report = dict(REPORT)
        same(report, REPORT | other, "thunderdb-sim diverge x.yaml")
        assert report["verdict"] == "violation"
        assert report["violations"] == [f"another process gives another {next(iter(other))}: thunderdb-sim diverge x.yaml"]


def test_a_twin_finds_the_file_from_its_own_folder_and_needs_none_for_a_generated_run() -> None:
    first, second = request_of(["scenarios/power_cut.yaml", "--generated"], [])["paths"]
    assert first.startswith("/") and second == "--generated"
