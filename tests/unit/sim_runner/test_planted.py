"""The table of shrunk planted bugs: what counts as small, and that rows of other bugs stay."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from sim.planted import mutants, shrunk
from sim.planted.patch import Mutant
from sim.planted.shrunk import GENERATED, HEAD, Outcome, denominator, record, summary
from sim.planted.specific import YARDSTICK

POWER_CUT = "scenarios/power_cut.yaml"


def outcome(
    name: str, faults: int = 1, transactions: int = 4, fails: bool = True, passes: bool = True, run: str = POWER_CUT
) -> Outcome:
    return Outcome(name, run, 7, (10, faults), (390, transactions), 96, 4, "seed 7", fails, passes, "rpo")


def test_small_is_few_faults_few_transactions_and_a_test_that_tells() -> None:
    outcomes = [
        outcome("a", 5, 10), outcome("b", 6, 10), outcome("c", 5, 11), outcome("d", fails=False), outcome("e", passes=False),
        Outcome("f", POWER_CUT, -1), Outcome("g", POWER_CUT, 3, said="it broke"),
    ]  # fmt: skip
    assert [one.name for one in outcomes if one.small] == ["a"]
    assert summary([one.row() for one in outcomes]).startswith("1 of 7 with at most 5 faults and 10 transactions")
    assert {one.row().count("|") for one in outcomes} == {HEAD[0].count("|")}


def test_rows_of_other_bugs_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shrunk, "folder", lambda: tmp_path)
    record([outcome("b", 9), outcome("a")])
    record([outcome("b", 2), outcome("b", 3, run=GENERATED)])
    lines = (tmp_path / "SHRUNK.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| ") and line not in HEAD]
    assert rows == [outcome("a").row(), outcome("b", 3, run=GENERATED).row(), outcome("b", 2).row()]
    assert any(line.startswith("3 of 3 with at most") for line in lines)


def test_bugs_without_a_row_are_named_or_counted_by_how_they_are_found() -> None:
    runs = {"a": POWER_CUT, "b": POWER_CUT, "c": POWER_CUT, "d": "case history", "e": "case kill_backup", "f": "case splits"}
    mutants = [Mutant(name, "", "", "", run, 0, 9, "", ()) for name, run in runs.items()]
    rows = [outcome("a").row(), outcome("b", 9).row(), outcome("c", 2, run=GENERATED).row()]
    assert denominator(rows, mutants) == [
        "Of 6 planted bugs, random sweeps of a scenario find 3; of these 1 shrink so far.",
        "Without a row, not shrunk yet: c.",
        "With a row, but larger, or without a test that tells: b.",
        "The other 3 are found otherwise, and there is no file to shrink: 1 by a kill at every I/O, 1 by directed cases, "
        "1 by random histories of backups and restores.",
    ]


def test_the_most_specific_bug_of_no_scenario_is_refused() -> None:
    done = CliRunner().invoke(mutants.command, ["--specific", "crash/no_such_scenario"])
    assert done.exit_code == 2 and "no scenario 'crash/no_such_scenario'" in done.output
    assert set(YARDSTICK) <= set(mutants.scenario_names())
