"""Reducing lists with a toy predicate, and telling failures apart."""

from __future__ import annotations

import pytest

from sim.shrinking.reduce import ddmin, signature
from sim.shrinking.timeline import expected


@pytest.mark.parametrize("needed", [{0}, {499}, {3, 250, 251, 498}, {7, 77, 177, 277, 377, 477}, set()])
def test_what_is_needed_is_what_is_left(needed: set[int]) -> None:
    asked: list[list[int]] = []

    def fails(rest: list[int]) -> bool:
        asked.append(rest)
        return needed <= set(rest)

    assert ddmin(range(500), fails) == sorted(needed)
    assert len(asked) <= 30 * (len(needed) + 1), len(asked)


def test_the_order_is_kept_and_nothing_is_asked_of_an_empty_list() -> None:
    assert ddmin(["b", "a", "c"], lambda rest: "b" in rest and "c" in rest) == ["b", "c"]
    assert ddmin([], lambda rest: pytest.fail("asked")) == []


def test_the_result_is_minimal_where_entries_stand_in_for_each_other() -> None:
    """Either half would do; no entry of what is left can go."""
    found = ddmin(range(16), lambda rest: sum(rest) >= 40)
    assert sum(found) >= 40 and all(sum(found) - one < 40 for one in found)


def test_it_stops_when_it_is_told_to() -> None:
    asked = 0

    def fails(_: list[int]) -> bool:
        nonlocal asked
        asked += 1
        return False

    assert ddmin(range(1000), fails, lambda: asked >= 5) == list(range(1000))
    assert asked == 5


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("rpo: 3 acknowledged transactions lost, promised 0", "rpo: 17 acknowledged transactions lost, promised 0"),
        (
            "Violation: snapshot 8 of bank: bank[0] expected (0, 1000, 0, None) found (0, 957, 104000004, 'nn'…43)",
            "Violation: snapshot 117 of items: items[2] expected no row found (2, 9)",
        ),
        (
            "Corruption: page 17: damaged, and the log at 0/33FD8 cannot be read (writer.py:577 read < undo.py:40 undo)",
            "Corruption: page 4: damaged, and the log at 0/2BC cannot be read (writer.py:601 read < undo.py:44 undo)",
        ),
        ("isolation: G-single: commit of T666 -wr 4→ T662.0", "isolation: G-single: commit of T7 -rw 3→ T1 -wr 2→ T9"),
        (
            "Violation: what came back is no prefix of the 113 commits (109 must be there); closest 1 differ",
            "Violation: what came back is no prefix of the 4 commits (4 must be there); closest 2 differ",
        ),
    ],
)
def test_a_failure_is_the_same_with_other_numbers(one: str, other: str) -> None:
    assert signature(one) == signature(other)


def test_other_failures_are_others() -> None:
    texts = [
        "rpo: 3 acknowledged transactions lost, promised 0",
        "rto: 3.2 s, promised 1 s",
        "isolation: G-single: commit of T666 -wr 4→ T662.0",
        "isolation: G1b: 2 reads 4 up to 4, but 6 went on to 12",
        "Violation: what came back is no prefix of the 4 commits",
        "Violation: check: 1 problems: page 59 is allocated, but nothing leads to it",
        "Violation: check: 1 problems: index items_code: no entry 0163353800 for the row 8000003a",
        "Corruption: page 17: damaged (writer.py:577 read < undo.py:40 undo)",
        "Corruption: page 17: damaged (pool.py:57 get < redo.py:40 redo)",
        "InvariantViolated: page 17: damaged (pool.py:57 get < redo.py:40 redo)",
    ]
    assert len({signature(text) for text in texts}) == len(texts)


def test_what_the_judge_calls_possible_is_another_failure() -> None:
    text = "Violation: line 31: restore ended refused, expected ok: segment 000000010000000000000003 is not there"
    judged = signature(f"{text}; possible")
    assert judged == signature(text.replace("line 31", "line 2") + "; possible") == f"{signature(text)} possible"
    assert expected(signature(text)) and not expected(judged)


def test_what_the_judge_calls_impossible_is_another_failure() -> None:
    """Less work may make a refusal unnecessary; its author's word alone does not say so."""
    text = "Violation: line 31: restore ended ok, expected refused: "
    judged = signature(f"{text}; impossible: 000000010000000000000003 is not in the archive as it was")
    assert judged == signature(f"{text}; impossible: 000000010000000000000001 is not in the archive as it was")
    assert judged != signature(text)
