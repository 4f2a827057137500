"""The isolation checker on histories made by hand: each anomaly is named, at the level that forbids it, and nothing else is."""

from __future__ import annotations

from typing import Any

import pytest

from sim.oracle.isolation import OK, READ_COMMITTED, REPEATABLE_READ, UNKNOWN, Statement, Txn, check, shortest_cycle
from sim.runs.list_append import elements_of
from sim.scenario.scenario import ScenarioError, parse

RC, RR = READ_COMMITTED, REPEATABLE_READ


def read(at: int = 0, locked: bool = False, **lists: tuple[int, ...]) -> Statement:
    return Statement(at, {ord(name): found for name, found in lists.items()}, locked=locked)


def append(at: int = 0, **elements: int) -> Statement:
    return Statement(at, {}, {ord(name): element for name, element in elements.items()})


def returning(at: int, name: str, element: int, found: tuple[int, ...]) -> Statement:
    return Statement(at, {ord(name): found}, {ord(name): element}, locked=True)


def txn(number: int, level: str, *statements: Statement, acked: int = -1, outcome: str = OK) -> Txn:
    return Txn(number, level, outcome, acked, list(statements))


def names(history: list[Txn], **final: tuple[int, ...]) -> list[str]:
    return [anomaly.name for anomaly in check(history, {ord(name): found for name, found in final.items()})]


def test_a_serial_history_is_right() -> None:
    history = [
        txn(1, RC, append(1, x=1), read(2, x=(1,)), append(3, x=2), acked=4),
        txn(2, RR, read(5, x=(1, 2), y=()), append(6, y=3), read(7, y=(3,)), acked=8),
    ]
    assert names(history, x=(1, 2), y=(3,)) == []


def test_an_acknowledged_append_that_is_gone() -> None:
    assert names([txn(1, RC, append(x=1), acked=1)], x=()) == ["lost append"]
    assert names([txn(1, RC, append(x=1), outcome=UNKNOWN)], x=()) == []


def test_of_an_unknown_transaction_all_or_nothing() -> None:
    history = [txn(1, RC, append(x=1), append(y=2), outcome=UNKNOWN)]
    assert names(history, x=(1,), y=(2,)) == []
    assert names(history, x=(1,), y=()) == ["torn"]


def test_g1a_aborted_read() -> None:
    failed = txn(1, RC, append(x=1), outcome="failed")
    assert names([failed, txn(2, RC, read(x=(1,)))], x=()) == ["G1a"]
    assert names([failed], x=(1,)) == ["G1a"]


def test_what_is_rolled_back_to_a_savepoint_is_never_seen() -> None:
    steps = (append(1, x=1), append(2, x=2), read(3, x=(1, 2)), Statement(4, back_to=1), read(5, x=(1,)), append(6, x=3))
    assert names([txn(1, RR, *steps)], x=(1, 3)) == []
    assert names([txn(1, RR, *steps), txn(2, RC, read(x=(1, 2)))], x=(1, 3)) == ["G1a"]
    assert names([txn(1, RR, *steps)], x=(1, 2, 3)) == ["G1a"]
    assert names([txn(1, RR, *steps[:4], read(5, x=(1, 2)))], x=(1,)) == ["internal"]


def test_g1b_intermediate_read() -> None:
    history = [txn(1, RC, append(x=1), append(x=2)), txn(2, RC, read(x=(1,)))]
    assert names(history, x=(1, 2)) == ["G1b"]


def test_g1c_circular_information_flow() -> None:
    history = [txn(1, RC, append(x=1), read(y=(2,))), txn(2, RC, append(y=2), read(x=(1,)))]
    assert names(history, x=(1,), y=(2,)) == ["G1c"]


def test_g0_dirty_write() -> None:
    history = [txn(1, RC, append(x=1), append(y=3)), txn(2, RC, append(x=2), append(y=4))]
    assert names(history, x=(1, 2), y=(4, 3)) == ["G0"]
    assert names(history, x=(1, 2), y=(3, 4)) == []


@pytest.mark.parametrize(("level", "found"), [(RC, []), (RR, ["G-single"])])
def test_read_skew(level: str, found: list[str]) -> None:
    history = [txn(1, RC, append(x=1), append(y=2)), txn(2, level, read(x=()), read(y=(2,)))]
    assert names(history, x=(1,), y=(2,)) == found


def test_read_skew_inside_one_statement_is_wrong_at_any_level() -> None:
    history = [txn(1, RC, append(x=1), append(y=2)), txn(2, RC, read(x=(), y=(2,)))]
    assert names(history, x=(1,), y=(2,)) == ["G-single"]


@pytest.mark.parametrize(("level", "found"), [(RC, []), (RR, ["G-single"])])
def test_lost_update(level: str, found: list[str]) -> None:
    """The first one's version is written over by somebody whose snapshot did not have it."""
    history = [txn(1, RC, append(x=1)), txn(2, level, read(x=()), append(x=2))]
    assert names(history, x=(1, 2)) == found


def test_a_read_that_does_not_repeat() -> None:
    history = [txn(1, RC, append(x=1)), txn(2, RR, read(x=()), read(x=(1,)))]
    assert names(history, x=(1,)) == ["G-single"]
    history[1].level = RC
    assert names(history, x=(1,)) == []


def test_write_skew_is_allowed() -> None:
    history = [txn(1, RR, read(y=()), append(x=1)), txn(2, RR, read(x=()), append(y=2))]
    assert names(history, x=(1,), y=(2,)) == []


def test_two_snapshots_that_see_two_commits_in_two_orders() -> None:
    """The long fork: each of two readers sees one of two writers and not the other one."""
    writers = [txn(1, RC, append(x=1)), txn(2, RC, append(y=2))]
    readers = [txn(3, RR, read(x=(1,), y=())), txn(4, RR, read(x=(), y=(2,)))]
    assert names(writers + readers, x=(1,), y=(2,)) == ["G-nonadjacent"]


def test_what_was_acknowledged_is_seen_by_what_is_sent_later() -> None:
    history = [txn(1, RC, append(1, x=1), acked=10), txn(2, RC, read(20, x=()))]
    assert names(history, x=(1,)) == ["stale read"]
    history[1].statements[0].sent_ns = 9
    assert names(history, x=(1,)) == []


def test_a_later_statement_of_repeatable_read_may_be_old() -> None:
    history = [txn(1, RC, append(1, x=1), acked=10), txn(2, RR, read(9, y=()), read(20, x=()))]
    assert names(history, x=(1,), y=()) == []
    history[1].level = RC
    assert names(history, x=(1,), y=()) == ["stale read"]


def test_versions_in_an_order_that_real_time_forbids() -> None:
    history = [txn(1, RC, append(1, x=1), acked=10), txn(2, RC, append(20, x=2), acked=30)]
    assert names(history, x=(1, 2)) == []
    assert names(history, x=(2, 1)) == ["out of real time"]


def test_returned_rows_are_the_newest_at_read_committed_and_the_snapshots_at_repeatable_read() -> None:
    other = txn(1, RC, append(x=1), append(y=2))
    first = read(y=())
    assert names([other, txn(2, RC, first, returning(1, "x", 3, (1, 3)))], x=(1, 3), y=(2,)) == []
    assert names([other, txn(2, RR, first, returning(1, "x", 3, (1, 3)))], x=(1, 3), y=(2,)) == ["G-single"]
    assert names([other, txn(2, RC, first, returning(1, "x", 3, (1,)))], x=(1, 3), y=(2,)) == ["internal"]


def test_reads_that_are_no_prefix_of_each_other() -> None:
    history = [txn(1, RC, append(x=1)), txn(2, RC, append(x=2)), txn(3, RC, read(x=(2,)))]
    assert names(history, x=(1, 2)) == ["incompatible order"]


def test_an_element_that_is_there_twice_or_came_from_nowhere() -> None:
    assert "duplicate" in names([txn(1, RC, append(x=1))], x=(1, 1))
    assert names([], x=(9,)) == ["G1a"]


def test_the_way_round_is_told() -> None:
    history = [txn(1, RC, append(x=1), read(y=(2,))), txn(2, RC, append(y=2), read(x=(1,)))]
    (found,) = check(history, {ord("x"): (1,), ord("y"): (2,)})
    assert "commit of T1 -wr 120→ T2.1" in str(found)


def test_cycles() -> None:
    def graph(*edges: tuple[int, int]) -> dict[Any, dict[Any, str]]:
        found: dict[Any, dict[Any, str]] = {}
        for one, two in edges:
            found.setdefault(("c", one, 0), {})[("c", two, 0)] = "ww"
        return found

    assert shortest_cycle(graph((1, 2), (2, 3), (1, 3))) == []
    assert len(shortest_cycle(graph((1, 2), (2, 3), (3, 4), (4, 1), (3, 1)))) == 3


def test_lists_as_they_are_stored() -> None:
    assert elements_of(",3,17") == (3, 17)
    assert elements_of("") == elements_of(None) == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("workload: {kind: list_append}", "go together"),
        ("promises: {isolation: true}", "go together"),
        ("workload: {kind: list_append, driver: engine}\npromises: {isolation: true}", "driver is sql"),
        ("workload: {kind: list_append, mix: {transfer: 1}}\npromises: {isolation: true}", "mix.transfer"),
        ("workload: {mix: {rewrite: 1}}", "mix.rewrite"),
        ("workload: {kind: list_append}\ntimeline: [{kill: }]\npromises: {isolation: true}", "not with a `timeline`"),
    ],
)
def test_a_scenario_that_cannot_be(text: str, said: str) -> None:
    with pytest.raises(ScenarioError, match=said):
        parse(text)
