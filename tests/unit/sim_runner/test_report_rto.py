"""The report on real daemons: what is beyond the bar is said, with the phase that explains it; and the one on calibration."""

from __future__ import annotations

from typing import Any

from sim.report import calibration as report_costs
from sim.report import rto as report_rto
from sim.world import costs


def entry(**more: Any) -> dict[str, Any]:
    found = {
        "name": "kill", "about": "kill -9", "acknowledged": 57_000, "lost": 0, "rpo_s": 0.0, "rto_s": 2.0,
        "rto_all_s": [1.9, 2.0], "simulated_rto_s": 2.2, "difference_percent": 10.0,
        "phases": [["process started", 0.5], ["log analysed", 1.5]],
        "simulated_phases": [["process started", 0.6], ["log analysed", 1.6]],
    }  # fmt: skip
    return found | more


def found(*entries: dict[str, Any]) -> dict[str, Any]:
    return {
        "date": "2026-11-22", "load": 0.2, "machine": "m", "transactions": 57_000, "rows": 10_000_000,
        "clients": 8, "rounds": 3,
        "disk": {"sync_ms": 1.0, "write_mb_s": 1000, "sync_mb_s": 900}, "calibrated": {"at": "2026-11-22"},
        "command": "python -m tools.rto_report", "scenarios": list(entries),
    }  # fmt: skip


def test_within_the_bar_and_beyond_it() -> None:
    assert report_rto.verdict(entry()) == "+10 %, within 25 %"
    off = entry(difference_percent=-60.0, simulated_phases=[["process started", 0.6], ["log analysed", 0.2]])
    assert report_rto.verdict(off) == "-60 %, beyond 25 %: mostly “log analysed”, 1.3 s shorter in the simulator"


def test_a_busy_machine_is_said() -> None:
    assert "say little" not in report_rto.conditions(found())
    assert "load 7.5" in report_rto.conditions(found() | {"load": 7.5})


def test_lost_commits_are_counted() -> None:
    assert report_rto.rpo(entry()) == "0 of 57,000"
    assert "80 of 57,000, the oldest 344 ms before" in report_rto.rpo(entry(lost=80, rpo_s=0.344))


def test_both_forms_hold_the_same_numbers() -> None:
    data = found(entry(), entry(name="pitr", difference_percent=-60.0))
    for text in (report_rto.markdown(data), report_rto.html(data)):
        for words in (
            "57,000 TPC-B transactions", "2.2 s", "within 25 %", "beyond 25 %", "log analysed 1.5 s", data["command"],
        ):  # fmt: skip
            assert words in text, words


def test_twenty_gigabytes_are_arithmetic_on_the_measured_costs() -> None:
    passes = {what: took for what, _how, took in report_costs.twenty_gigabytes()}
    records = 20e9 / report_costs.RECORD_BYTES
    least_s = records * costs.COSTS_NS["recovery.scan"] / 1e9
    assert least_s <= passes["analyse"] <= least_s + 20e9 * costs.COSTS_NS["log.byte"] / 1e9 + 0.001
    pages_s = 100e9 / 16384 * costs.COSTS_NS["recovery.page"] / 1e9
    assert abs(passes["bring pages up, while it serves"] - pages_s) < 0.01 * pages_s
    assert passes["apply, while it serves"] > least_s
    assert "20 GB of log" in report_costs.calibration_html()
    assert any("20 GB of log" in line for line in report_costs.calibration_markdown())
