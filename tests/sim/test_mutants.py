"""The simulator sees every planted bug: on its known seed here, from seed 0 in the long run; and nothing without one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sim.planted import mutants
from sim.planted.mutants import Controls, Copies, Found, hunt, hunt_all, load_all, results, scenario_rows
from sim.planted.patch import parse_mutant
from sim.planted.results import merged
from sim.planted.scenarios import as_mutants, sample
from sim.scenario.scenario import load

JOBS = min(2, os.cpu_count() or 1)

HARMLESS = """Title: a comment more
Breaks: nothing
Seen: never
Run: case log_hole
Seed: 0
Budget: 2

--- a/thunderdb/txn/ordertime.py
+++ b/thunderdb/txn/ordertime.py
@@ -1,1 +1,1 @@
-STEP_US = 1_000_000
+STEP_US = 1_000_000  # a second
"""
BROKEN = HARMLESS.replace("= 1_000_000  #", "= A_MILLION  #")


def lines(founds: list[Found]) -> list[str]:
    return [
        f"{found.mutant.name}: {found.trouble or f'survived {found.seeds} seeds'} {found.violation}"
        for found in founds
        if not found.caught
    ]


def test_every_planted_bug_is_caught_on_its_known_seed() -> None:
    founds = hunt_all(load_all(), known=True, jobs=JOBS, told=lambda found: None)
    assert lines(founds) == []


def test_some_scenarios_fail_with_the_bug_that_breaks_them() -> None:
    rows = [row for row in scenario_rows() if not load(str(mutants.ROOT / row.path)).long]
    chosen = sample(rows, 7)
    assert len({row.bug for row in chosen}) >= 6
    assert lines(hunt_all(as_mutants(chosen, load_all()), known=True, jobs=JOBS, told=lambda found: None)) == []


@pytest.mark.long
def test_every_scenario_fails_with_the_bug_that_breaks_it() -> None:
    founds = hunt_all(as_mutants(scenario_rows(), load_all()), known=True, jobs=JOBS, told=mutants.tell)
    assert lines(founds) == []


@pytest.mark.long
def test_every_planted_bug_is_caught_within_its_budget() -> None:
    founds = hunt_all(load_all(), known=False, jobs=JOBS, told=lambda found: print(found.mutant.name, found.seeds, flush=True))
    assert lines(founds) == []


def test_a_harmless_change_survives_and_a_broken_one_is_no_catch() -> None:
    with Copies() as copies:
        controls = Controls(copies.clean)
        harmless = hunt(copies, controls, parse_mutant("harmless", HARMLESS), 0, 2)
        assert (harmless.caught, harmless.seed, harmless.seeds, harmless.trouble) == (False, None, 2, "")
        broken = hunt(copies, controls, parse_mutant("broken", BROKEN), 0, 2)
        assert not broken.caught
        assert "A_MILLION" in broken.trouble
        stale = hunt(copies, controls, parse_mutant("stale", HARMLESS.replace("-STEP_US", "-STEP_OLD")), 0, 2)
        assert not stale.caught
        assert "does not apply" in stale.trouble


def test_a_seed_that_the_unchanged_source_fails_is_no_catch(monkeypatch: pytest.MonkeyPatch) -> None:
    mutant = next(mutant for mutant in load_all() if mutant.name == "hole_taken_for_tail")
    assert mutant.seed is not None
    with Copies() as copies:
        controls = Controls(copies.clean)
        monkeypatch.setattr(controls, "failure", lambda run, seed: "it fails anyway")
        assert not hunt(copies, controls, mutant, mutant.seed, mutant.seed + 1).caught


def test_results_show_survivors() -> None:
    mutant = parse_mutant("harmless", HARMLESS)
    text = results([Found(mutant, None, 7, 1.5), Found(mutant, 3, 4, 0.5, "Violation: a | b")])
    assert "1 of 2 caught" in text
    assert "**survived 7**" in text
    assert "a \\| b" in text


def test_results_take_in_single_rows() -> None:
    mutant = parse_mutant("harmless", HARMLESS)
    text = merged(results([Found(mutant, None, 7, 1.5)]), [Found(mutant, 3, 4, 0.5, "seen"), Found(
        parse_mutant("broken", BROKEN), 1, 2, 0.5, "too")])  # fmt: skip
    assert "2 of 2 caught" in text and "survived" not in text
    assert [line.split(":")[0] for line in text.splitlines() if line.startswith("| ")][1:] == ["| broken", "| harmless"]


def test_the_child_refuses_another_source(tmp_path: Path) -> None:
    with pytest.raises(mutants.MutantError, match="not from"):
        list(mutants.run_seeds(tmp_path, "case log_hole", 0, 1))
