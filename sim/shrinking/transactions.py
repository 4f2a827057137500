"""What to leave out of a script: clients, transactions, statements, and whatever in them is not plain.

T1. What a failure needs much of (a leaf must fill up, a segment must close) it needs as statements, not as transactions: so
    neighbours that commit are joined into one, where that fails too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from sim.scenario.script import Op, Script, Scripted
from sim.shrinking.reduce import ddmin
from sim.shrinking.search import Search, with_script

MS = 1_000_000
_NOT_JOINED = frozenset({"mark", "back", "sleep", "vanish", "rollback", "checkpoint"})


def halves(search: Search) -> None:
    """Whole clients, whole lives."""
    for client in sorted({one.client for life in search.script for one in life}):
        others = tuple(tuple(one for one in life if one.client != client) for life in search.script)
        search.better(with_script(search.scenario, others), "a client less")
    for at in range(len(search.script)):
        if search.script[at]:
            search.better(with_script(search.scenario, (*search.script[:at], (), *search.script[at + 1 :])), "an idle life")


def fewer(search: Search) -> None:
    """Pieces of the list of all of them, then neighbours in one."""
    entries = [(at, one) for at, life in enumerate(search.script) for one in life]

    def fails(rest: list[tuple[int, Scripted]]) -> bool:
        return search.better(with_script(search.scenario, _laid(rest, len(search.script))), "transactions")

    ddmin(entries, fails, search.over)
    for life in range(len(search.script)):
        _join(search, life)


def _laid(entries: list[tuple[int, Scripted]], lives: int) -> Script:
    return tuple(tuple(one for at, one in entries if at == life) for life in range(lives))


def _join(search: Search, life: int) -> None:
    """T1: long pieces of neighbours first."""
    size = len(search.script[life])
    while size > 1 and not search.over():
        at = 0
        while at + 1 < len(search.script[life]) and not search.over():
            lines = search.script[life]
            piece = lines[at : at + size]
            end = next((number for number, one in enumerate(piece) if not _can_be_joined(one)), len(piece))
            if end < 2:
                at += 1
            elif not search.better(_with_life(search, life, (*lines[:at], _joined(piece[:end]), *lines[at + end :])), "joined"):
                at += end if size > 2 else 1
        size = min(size, len(search.script[life]) + 1) // 2


def _can_be_joined(one: Scripted) -> bool:
    names = [op[0] for op in one.do]
    return names[:1] == ["begin"] and names[-1] == "commit" and not _NOT_JOINED & set(names)


def _joined(lines: tuple[Scripted, ...]) -> Scripted:
    """One transaction with the statements of all; as a `mixed` one it goes on after a duplicate key."""
    do = (lines[0].do[0], *(op for one in lines for op in one.do[1:-1]), ("commit",))
    kind = lines[0].kind if len({one.kind for one in lines}) == 1 else "mixed"
    return replace(lines[0], kind=kind, do=do, cancel_ns=-1, habits=())


def shorter(search: Search) -> None:
    """Of each transaction, all but its BEGIN."""
    for life, number in _each(search):
        one = search.script[life][number]
        head = one.do[:1] if one.do[:1] and one.do[0][0] == "begin" else ()

        def fails(rest: list[Op], life: int = life, number: int = number, one: Scripted = one, head: Any = head) -> bool:
            return _changed(search, life, number, replace(one, do=(*head, *rest)))

        ddmin(one.do[len(head) :], fails, search.over)


def plainer(search: Search) -> None:
    """No cancelling, no habits, plain isolation, short texts, and no waiting."""
    for life, number in _each(search):
        for change in (_calm, _homely, _committed, _short):
            one = search.script[life][number]
            if change(one) != one:
                _changed(search, life, number, change(one))
    soon = tuple(tuple(replace(one, at_ns=MS * number) for number, one in enumerate(life)) for life in search.script)
    search.better(with_script(search.scenario, soon))


def _calm(one: Scripted) -> Scripted:
    return replace(one, cancel_ns=-1)


def _homely(one: Scripted) -> Scripted:
    return replace(one, habits=())


def _committed(one: Scripted) -> Scripted:
    return replace(one, do=(("begin", False, True), *one.do[1:])) if one.do and one.do[0][0] == "begin" else one


def _short(one: Scripted) -> Scripted:
    return replace(one, do=tuple(tuple(_shorter(value) for value in op) for op in one.do))


def _shorter(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: one[:8] if isinstance(one, str) else one for name, one in value.items() if name != "note"}
    return value


def _changed(search: Search, life: int, number: int, one: Scripted) -> bool:
    lines = search.script[life]
    return search.better(_with_life(search, life, (*lines[:number], one, *lines[number + 1 :])))


def _with_life(search: Search, life: int, lines: tuple[Scripted, ...]) -> Any:
    return with_script(search.scenario, (*search.script[:life], lines, *search.script[life + 1 :]))


def _each(search: Search) -> Iterator[tuple[int, int]]:
    for life, lines in enumerate(search.script):
        for number in range(len(lines)):
            if search.over():
                return
            yield life, number
