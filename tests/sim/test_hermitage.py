"""The classical anomalies in the simulator: what each level prevents and what it allows, in the usual order and in others."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest

from sim.runs.hermitage import CASES, LEVELS, Case, SimDriver, drawn, orders, play

RC, RR = LEVELS


@pytest.fixture(scope="module")
def driver() -> Iterator[SimDriver]:
    found = SimDriver()
    yield found
    found.close()


SEEN: dict[tuple[str, str], list[str]] = {
    ("G0", RC): ["T0 SELECT id, value FROM test -> 1,12; 2,22"],
    ("G0", RR): ["T2 UPDATE test SET value = 12 WHERE id = 1 -> error 40001", "T0 SELECT id, value FROM test -> 1,11; 2,21"],
    ("G1a", RC): ["T2 SELECT id, value FROM test -> 1,10; 2,20"],
    ("G1a", RR): ["T2 SELECT id, value FROM test -> 1,10; 2,20"],
    ("G1b", RC): ["T2 SELECT id, value FROM test -> 1,10; 2,20", "T2 SELECT id, value FROM test -> 1,11; 2,20"],
    ("G1b", RR): ["T2 SELECT id, value FROM test -> 1,10; 2,20"],
    ("G1c", RC): ["T1 SELECT value FROM test WHERE id = 2 -> 20", "T2 SELECT value FROM test WHERE id = 1 -> 10"],
    ("G1c", RR): ["T1 SELECT value FROM test WHERE id = 2 -> 20", "T2 SELECT value FROM test WHERE id = 1 -> 10"],
    ("OTV", RC): ["T3 SELECT value FROM test WHERE id = 2 -> 19", "T3 SELECT value FROM test WHERE id = 2 -> 18"],
    ("OTV", RR): ["T3 SELECT value FROM test WHERE id = 1 -> 11", "T2 COMMIT -> ROLLBACK"],
    ("PMP", RC): ["T1 SELECT id, value FROM test WHERE value % 3 = 0 -> 3,30"],
    ("PMP", RR): ["T1 SELECT id, value FROM test WHERE value % 3 = 0 -> no row"],
    ("PMP-write", RC): ["T2 DELETE FROM test WHERE value = 20 -> DELETE 0", "T2 SELECT id, value FROM test -> 1,20; 2,30"],
    ("PMP-write", RR): ["T2 DELETE FROM test WHERE value = 20 -> error 40001"],
    ("P4", RC): ["T2 UPDATE test SET value = 12 WHERE id = 1 -> UPDATE 1", "T0 SELECT id, value FROM test -> 1,12; 2,20"],
    ("P4", RR): ["T2 UPDATE test SET value = 12 WHERE id = 1 -> error 40001", "T0 SELECT id, value FROM test -> 1,11; 2,20"],
    ("G-single", RC): ["T1 SELECT value FROM test WHERE id = 2 -> 18"],
    ("G-single", RR): ["T1 SELECT value FROM test WHERE id = 2 -> 20"],
    ("G-single-predicate", RC): ["T1 SELECT id, value FROM test WHERE value % 3 = 0 -> 1,12"],
    ("G-single-predicate", RR): ["T1 SELECT id, value FROM test WHERE value % 3 = 0 -> no row"],
    ("G-single-write", RC): ["T1 DELETE FROM test WHERE value = 20 -> DELETE 0"],
    ("G-single-write", RR): ["T1 DELETE FROM test WHERE value = 20 -> error 40001"],
    ("G2-item", RC): ["T0 SELECT id, value FROM test -> 1,11; 2,21"],
    ("G2-item", RR): ["T0 SELECT id, value FROM test -> 1,11; 2,21"],
    ("G2", RC): ["T0 SELECT id, value FROM test -> 1,10; 2,20; 3,30; 4,42"],
    ("G2", RR): ["T0 SELECT id, value FROM test -> 1,10; 2,20; 3,30; 4,42"],
}
"""Lines of the transcript in the usual order that decide: prevented, or allowed (write skew is, at both levels)."""


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", CASES)
def test_what_a_level_prevents_and_what_it_allows(name: str, level: str, driver: SimDriver) -> None:
    transcript = play(CASES[name], level, CASES[name].usual, driver)
    assert [line for line in SEEN[name, level] if line not in transcript] == [], transcript


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("G2")])
def test_any_order_ends_as_some_serial_order_or_is_refused(name: str, driver: SimDriver) -> None:
    """At REPEATABLE READ everything but write skew: the rows at the end are those of the committed ones, one after another."""
    case = CASES[name]
    serial: dict[frozenset[int], set[str]] = {}
    for order in drawn(case, 7, 12):
        transcript = play(case, RR, order, driver)
        assert all("waits" not in line or _answered(transcript, line) for line in transcript), (order, transcript)
        refused = frozenset(session for session in set(order) if f"T{session} COMMIT -> ROLLBACK" in transcript)
        assert refused or not any("error" in line for line in transcript), transcript
        if refused not in serial:
            serial[refused] = _serial(case, refused, driver)
        assert transcript[-1] in serial[refused], (order, transcript)


def _serial(case: Case, refused: frozenset[int], driver: SimDriver) -> set[str]:
    """What is there in the end when no session begins before another one has ended, and the refused have done nothing."""
    kept = Case(case.name, case.about, tuple((who, "ROLLBACK" if who in refused else sql) for who, sql in case.steps))
    one_by_one = [order for order in orders(kept) if sum(a != b for a, b in pairwise(order)) == kept.sessions - 1]
    return {play(kept, RR, order, driver)[-1] for order in one_by_one}


def _answered(transcript: list[str], waiting: str) -> bool:
    """A statement that waited has an answer later on."""
    start = waiting.removesuffix("waits")
    return any(line.startswith(start) and not line.endswith("waits") for line in transcript)


@pytest.mark.parametrize("sql", ["BEGIN ISOLATION LEVEL SERIALIZABLE", "SET default_transaction_isolation = 'serializable'"])
def test_serializable_is_refused(sql: str, driver: SimDriver) -> None:
    driver.send(1, sql)
    first = driver.settle()[1]
    driver.send(1, "SELECT id FROM test")
    then = driver.settle()[1]
    assert "error 0A000" in (first, then), (first, then)
    driver.send(1, "RESET default_transaction_isolation")
    driver.settle()


def test_every_order_is_drawn_once() -> None:
    case = CASES["P4"]
    found = list(orders(case))
    assert len(found) == len(set(found)) == 20 and case.usual in found
    assert set(drawn(case, 1, 50)) <= set(found)
