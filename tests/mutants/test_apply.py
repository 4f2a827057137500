"""Planted bugs: each file is well-formed and its diff still applies to the source (fast: part of `make check`)."""

from __future__ import annotations

import pytest

from sim.planted.mutants import ROOT, check_scenarios, folder, load_all, scenario_rows, sources_of
from sim.planted.patch import Mutant, PatchError, apply_hunks, mutated, parse_diff, parse_mutant, with_seed
from sim.planted.scenarios import Row, missing, parse_table, table

MUTANTS = load_all()


def test_there_are_enough() -> None:
    assert len(MUTANTS) >= 60


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_still_applies(mutant: Mutant) -> None:
    sources = sources_of(mutant)
    texts = mutated(mutant, sources)
    assert all(texts[path] != sources[path] for path in mutant.paths)
    assert all(path.startswith("thunderdb/") for path in mutant.paths), "a planted bug is in the engine, not in its judge"
    assert mutant.seed is not None, "no seed is known that catches it: thunderdb-sim mutants --run NAME --seeds 0..500 --record"


def test_runs_are_there() -> None:
    from sim.planted import cases, cases_restore

    known = {**cases.CASES, **cases_restore.CASES}
    for mutant in MUTANTS:
        kind, _, case = mutant.run.partition(" ")
        assert case in known if kind == "case" else (ROOT / mutant.run).is_file(), mutant.name


def test_results_name_every_bug() -> None:
    text = (folder() / "RESULTS.md").read_text(encoding="utf-8")
    assert [mutant.name for mutant in MUTANTS if f"| {mutant.name}: " not in text] == []


def test_every_scenario_has_a_bug_that_breaks_it() -> None:
    assert check_scenarios() == []
    rows = scenario_rows()
    assert table(rows) == (folder() / "SCENARIOS.md").read_text(encoding="utf-8"), "write it with --scenarios --record"
    assert all(row.seen for row in rows)


# -- The tool itself

TEXT = "a\nb\nc\nd\ne\nb\nc\nd\nf\n"
DIFF = "--- a/x.py\n+++ b/x.py\n@@ -2,3 +2,3 @@\n b\n-c\n+C\n d\n"


def test_nearest_place_wins() -> None:
    (hunk,) = parse_diff("n", DIFF)
    assert apply_hunks(TEXT, [hunk]) == "a\nb\nC\nd\ne\nb\nc\nd\nf\n"
    assert apply_hunks("z\n" * 4 + TEXT, [hunk]) == "z\n" * 4 + "a\nb\nC\nd\ne\nb\nc\nd\nf\n"


def test_context_must_be_exact() -> None:
    (hunk,) = parse_diff("n", DIFF)
    with pytest.raises(PatchError, match="not there any more"):
        apply_hunks(TEXT.replace("b", "b "), [hunk])


def test_two_places_equally_near_are_refused() -> None:
    (hunk,) = parse_diff("n", DIFF.replace("-2,3 +2,3", "-4,3 +4,3"))
    with pytest.raises(PatchError, match="two places"):
        apply_hunks(TEXT, [hunk])


def test_second_hunk_follows_the_first_ones_shift() -> None:
    diff = "+++ b/x.py\n@@ -1,2 +1,4 @@\n a\n+1\n+2\n b\n@@ -6,2 +8,2 @@\n b\n-c\n+C\n"
    assert apply_hunks(TEXT, list(parse_diff("n", diff))) == "a\n1\n2\nb\nc\nd\ne\nb\nC\nd\nf\n"


def test_the_table_of_scenarios() -> None:
    text = table([Row("b/two", "bug", 3, "a \\| b"), Row("a/one", "gone", None)])
    rows = parse_table(text)
    assert [(row.scenario, row.bug, row.seed, row.seen) for row in rows] == [
        ("a/one", "gone", None, ""), ("b/two", "bug", 3, "a \\| b")
    ]  # fmt: skip
    assert table(rows) == text and rows[1].path == "scenarios/b/two.yaml"
    bugs = [parse_mutant("bug", HEAD + DIFF)]
    assert missing(rows, ["b/two", "c/three"], bugs) == [
        "c/three: no planted bug is known to break it", "a/one: there is no such scenario",
        "a/one: there is no planted bug gone", "a/one: no seed is known with which gone breaks it",
    ]  # fmt: skip
    with pytest.raises(PatchError, match="no row of four cells"):
        parse_table("| a | b | seed |  |")


HEAD = "Title: t\nBreaks: W1\nSeen: it shows\n  in two lines\nRun: case x\nSeed: 3\nBudget: 9\n\n"


def test_header() -> None:
    mutant = parse_mutant("n", HEAD + DIFF)
    assert (mutant.seen, mutant.seed, mutant.budget, mutant.paths) == ("it shows in two lines", 3, 9, ("x.py",))
    assert parse_mutant("n", with_seed(HEAD + DIFF, 41)).seed == 41
    assert parse_mutant("n", HEAD.replace("Seed: 3", "Seed: ?") + DIFF).seed is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEAD.replace("Budget: 9\n", "") + DIFF, "lacks Budget"),
        (HEAD.replace("Seed: 3", "Seed: three") + DIFF, "whole numbers"),
        (HEAD.replace("Title", "Tittle") + DIFF, "no header line"),
        (HEAD + "+++ b/x.py\n", "no hunk"),
        (HEAD + DIFF.replace("+C\n", ""), "ends too early"),
        (HEAD + DIFF.replace("-c\n+C\n", " c\n"), "changes nothing"),
        ("Title: t\n", "no empty line"),
    ],
)
def test_malformed(text: str, said: str) -> None:
    with pytest.raises(PatchError, match=said):
        parse_mutant("n", text)


def test_a_mutant_must_compile() -> None:
    mutant = parse_mutant("n", HEAD + DIFF.replace("+C", "+C ("))
    with pytest.raises(PatchError, match="never closed"):
        mutated(mutant, {"x.py": TEXT})
