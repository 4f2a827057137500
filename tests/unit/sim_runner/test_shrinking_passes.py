"""What the passes over a script leave of it, asked of failures that are a condition on the script: no simulation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import pytest

from sim.scenario.scenario import Scenario, parse
from sim.scenario.script import Scripted
from sim.shrinking import timeline, transactions
from sim.shrinking.attempts import Played
from sim.shrinking.search import Search, with_script

BEGIN, COMMIT = ("begin", False, True), ("commit",)
INCIDENT = "timeline: [{checkpoint: }]\npromises: {rpo: 0}"


@dataclass
class Fails:
    """In place of runs: fails where the script is so."""

    when: Callable[[list[Scripted]], bool]
    cpu_s: float = 0.0
    count: int = 0

    def play(self, scenario: Scenario, _seed: int, _limit_s: float, _recorded: bool = False) -> Played:
        self.count += 1
        lines = [one for life in scenario.workload.script or () for one in life]
        return Played(("rpo: lost",) if self.when(lines) else (), 0, 0, 0.0)


def changes(lines: list[Scripted]) -> int:
    return sum(op[0] == "modify" for one in lines for op in one.do)


def update(number: int, *more: Any, client: int = 0) -> Scripted:
    return Scripted(client, number, "update", (BEGIN, ("modify", "items", number, {"ver": number}), *more, COMMIT))


def passed(lines: tuple[Scripted, ...], when: Callable[[list[Scripted]], bool]) -> list[Scripted]:
    attempts = Fails(when)
    scenario = with_script(parse(INCIDENT, "x.yaml"), (lines,))
    search = Search(cast(Any, attempts), scenario, 0, "rpo lost", attempts.play(scenario, 0, 1.0), 1e9, lambda _: None)
    assert search.same(search.played)
    transactions.fewer(search)
    transactions.shorter(search)
    assert attempts.count < 40 * len(lines)
    return list(search.script[0])


def test_what_is_needed_much_of_is_joined() -> None:
    """T1: twelve changes fill a leaf, in however many transactions."""
    (one,) = passed(tuple(update(number) for number in range(40)), lambda lines: changes(lines) >= 12)
    assert [op[0] for op in one.do].count("modify") == 12 and one.do[0] == BEGIN


def test_what_must_come_between_stays_between() -> None:
    reader = Scripted(1, 20, "read_items", (("begin", True, True), ("read", "items"), ("sleep", 9)))

    def when(lines: list[Scripted]) -> bool:
        at = next((number for number, one in enumerate(lines) if one.client == 1), -1)
        return at >= 0 and changes(lines[:at]) >= 7 and changes(lines[at:]) >= 5

    lines = (*(update(number) for number in range(20)), reader, *(update(number) for number in range(20, 40)))
    first, middle, last = passed(lines, when)
    assert (changes([first]), middle.client, changes([last])) == (7, 1, 5)


@pytest.mark.parametrize("op", [("mark", 1), ("sleep", 3), ("rollback",), ("vanish",)])
def test_what_ends_or_waits_is_left_alone(op: tuple[Any, ...]) -> None:
    lines = tuple(update(number, op) for number in range(4))
    found = passed(lines, lambda lines: changes(lines) == 4 and sum(op in one.do for one in lines) == 4)
    assert len(found) == 4


def test_where_each_must_commit_by_itself_nothing_is_joined() -> None:
    assert len(passed(tuple(update(number) for number in range(30)), lambda lines: len(lines) >= 6)) == 6


def test_a_load_goes_before_the_clients_work_less() -> None:
    """I3: else their one transaction would be too few without those of the load."""

    class NeedsWork(Fails):
        def play(self, scenario: Scenario, _seed: int, _limit_s: float, _recorded: bool = False) -> Played:
            loads = any(step.verb == "load" for step in scenario.timeline)
            return Played(("rpo: lost",) if loads or scenario.workload.transactions in (0, 10, 25) else (), 0, 0, 0.0)

    attempts = NeedsWork(lambda lines: True)
    scenario = parse("timeline: [{load: }, {checkpoint: }]\nsizes: {log: 1MB}\npromises: {rpo: 0}", "x.yaml")
    first = attempts.play(scenario, 0, 1.0)
    search = Search(cast(Any, attempts), scenario, 0, "rpo lost", first, 1e9, lambda _: None)
    timeline.passes(search)
    assert [step.verb for step in search.scenario.timeline] == ["checkpoint"]
    assert search.scenario.workload.transactions == 10
