"""The report: numbers that were measured, pages that stand alone, and promises that were broken, said so."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sim.cli import main
from sim.report.page import markdown, page
from sim.report.rows import Data, parse_mutants, percentile, rows_of, rpo_words, seconds
from sim.scenario.scenario import Scenario, parse

ROOT = Path(__file__).resolve().parents[3]
SCENARIO = "name: lost\nabout: a <machine> is lost\ntimeline: [{at: 1s, kill: }, {start: }]\npromises: {rpo: 1s, rto: 10s}"


def scenario(text: str = SCENARIO) -> Scenario:
    return parse(text, "scenarios/backup/lost.yaml")


def report(seed: int, rto_s: float, **more: Any) -> dict[str, Any]:
    base = {"scenario": "lost", "seed": seed, "rto_s": rto_s, "rpo_s": 0.25, "rpo_transactions": 2, "sim_s": 60.0, "cpu_s": 0.5,
            "events": 1000, "faults": {"kill": 1}, "coverage": {"kill|machine|serving": 1}, "violations": []}  # fmt: skip
    marks = [[1.0, "incident", ""], [3.0, "operator", "noticed"], [1.0 + rto_s, "service", "first service"]]
    return {**base, "marks": marks, **more}


def data(*reports: dict[str, Any]) -> Data:
    rows = rows_of([scenario()], reports)
    struck = Counter({"kill|machine|serving": 2})
    return Data(rows, struck, [("a bug", "lost", "crash/kill_loop", "3", "1.0")], "1 of 1 caught.",
                {"ThunderDB": "x"}, "0..2")  # fmt: skip


def test_percentiles_were_measured() -> None:
    values = [float(value) for value in range(1, 21)]
    assert [percentile(values, p) for p in (50, 95, 99, 100)] == [10.0, 19.0, 20.0, 20.0]
    assert percentile([], 50) == 0.0 and percentile([7.0], 50) == 7.0


def test_a_row_has_promise_and_measurement() -> None:
    (row,) = rows_of([scenario()], [report(1, 4.0), report(0, 9.0), report(2, 9.0)])
    assert (row.runs, row.rto(50), row.rto(100), row.worst_seed, row.folder) == (3, 9.0, 9.0, 0, "backup")
    assert (row.rpo_promise, row.rto_promise_s, row.rpo(100)) == ("≤ 1 s", 10.0, 0.25)
    assert row.command == "thunderdb-sim run scenarios/backup/lost.yaml --seed 0"
    assert [(phase.what, phase.from_s, phase.to_s) for phase in row.worst] == [("noticed", 0.0, 2.0), ("first write", 2.0, 9.0)]


def test_the_page_stands_alone() -> None:
    html = page(data(report(0, 4.0), report(1, 9.0)))
    assert not re.search(r"src=|href=['\"]?[^'#]|@import|url\(", html)
    assert "a &lt;machine&gt; is lost" in html and "<machine>" not in html
    for words in ("every promise held", "<svg", "kill", "a bug", "1 of 1 caught", "--seed 1", "@media print", "viewport"):
        assert words in html, words


def test_broken_promises_are_said() -> None:
    broken = data(report(0, 12.0, violations=["rto: 12 s, promised 10 s"]))
    assert "1 promises broken" in page(broken) and "✗ broken" in page(broken)
    assert "- lost, seed 0: rto: 12 s, promised 10 s" in markdown(broken)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.25, "250 ms"), (1.234, "1.23 s"), (45, "45 s"), (150, "2.5 min"), (900, "15 min"), (7200, "2.0 h")],
)
def test_durations_for_people(value: float, text: str) -> None:
    assert seconds(value) == text


def test_rpo_in_words() -> None:
    found = [rpo_words(0, -1), rpo_words(3, -1), rpo_words(-1, 10**9), rpo_words(-1, -1)]
    assert found == ["0", "≤ 3 transactions", "≤ 1 s", "no promise"]


def test_planted_bugs_are_read_from_their_results() -> None:
    folder = ROOT / "tests" / "mutants"
    results, scenarios = [(folder / name).read_text(encoding="utf-8") for name in ("RESULTS.md", "SCENARIOS.md")]
    summary, rows = parse_mutants(results, scenarios)
    assert "caught" in summary and len(rows) >= 57 and all(len(row) == 5 for row in rows)
    breaks = {row[0].partition(":")[0]: row[2] for row in rows}
    assert breaks["retention_ignores_holds"] == "operator/retention_races_a_restore" and not breaks["undo_without_clrs"] == ""


def test_the_command_writes_both(tmp_path: Path) -> None:
    lines = tmp_path / "sweep.jsonl"
    lines.write_text("\n".join(json.dumps(report(seed, 5.0 + seed)) for seed in range(3)) + "\n3 runs, 0 violations\n")
    file = tmp_path / "lost.yaml"
    file.write_text(SCENARIO)
    done = CliRunner().invoke(main, ["report", str(file), "--from", str(lines), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "3 runs, 0 violations" in done.output
    assert (tmp_path / "out" / "index.html").exists() and "| lost:" in (tmp_path / "out" / "report.md").read_text()
    lines.write_text('{"scenario": \n')
    assert CliRunner().invoke(main, ["report", str(file), "--from", str(lines)]).exit_code == 2
