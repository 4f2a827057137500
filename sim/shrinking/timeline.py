"""What to leave out of an incident: steps of its timeline, waiting, transactions.

I1. What a scenario's author expects of a step (`restore ended ok, expected refused`) goes by the steps before it. Where that is
    what failed, no step is left out: without its fault the right engine would fail as well. Unless the judge said that what was
    refused was possible, or that what went well was not, and says so of what is left; or another source is at hand that is
    right, and passes what is left (search.Q5).
I2. Where a refusal was expected, the work stays, too: damage to a log that nobody needs any more is refused by nobody. With the
    same exceptions.
I3. A step that loads data by hundreds of transactions goes first: once the clients work less, its transactions may be those
    that the failure needs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sim.shrinking import transactions
from sim.shrinking.reduce import ddmin
from sim.shrinking.search import Search, with_script

MS = 1_000_000
CEILINGS = (1, 3, 5, 10, 25, 50, 100, 200)
"""The smallest first: where little work fails, all that is tried afterwards is quick."""


def passes(search: Search) -> bool:
    """All that can be left out; return whether anything was."""
    before = search.scenario
    if not _may_work_less(search):
        _sooner(search)
        return search.scenario != before
    if _steps_may_go(search):
        _no_load(search)
    if search.scenario.workload.script is None:
        _less_work(search)
    if _steps_may_go(search):
        ddmin(search.scenario.timeline, lambda rest: _timeline(search, tuple(rest)), search.over)
    _sooner(search)
    if search.scenario.workload.script is None:
        _clients(search)
        _written_down(search)
    else:
        transactions.fewer(search)
        transactions.shorter(search)
    return search.scenario != before


def expected(kind: str) -> bool:
    """Whether it is its author's expectation that failed, and nobody else's word: by the signature."""
    words = kind.split()
    if words[-1:] in (["possible"], ["impossible"]):
        return False
    return words[:2] in (["it", "was"], ["the", "timeline"]) or "says" in words or ("ended" in words and "expected" in words)


def _steps_may_go(search: Search) -> bool:
    """I1."""
    return search.passes is not None or not expected(search.kind)


def _may_work_less(search: Search) -> bool:
    """I2."""
    return _steps_may_go(search) or "expected" not in search.kind or ", expected ok" in search.played.violations[0]


def _timeline(search: Search, steps: tuple[Any, ...]) -> bool:
    return bool(steps) and search.better(replace(search.scenario, timeline=steps), "steps")


def _no_load(search: Search) -> None:
    """I3."""
    steps = tuple(step for step in search.scenario.timeline if step.verb != "load")
    if steps != search.scenario.timeline:
        _timeline(search, steps)


def _sooner(search: Search) -> None:
    """No waiting for a time, or a short one."""
    for at in range(len(search.scenario.timeline)):
        tries: tuple[dict[str, Any], ...] = (
            {"at_ns": (-1, -1)},
            {"after_ns": (0, 0)},
            {"at_ns": (100 * MS,) * 2},
            {"after_ns": (100 * MS,) * 2},
        )
        for changes in tries:
            steps = search.scenario.timeline
            (name, value), now = next(iter(changes.items())), getattr(steps[at], next(iter(changes)))
            if now[0] > value[0] and now[0] > 0:
                _timeline(search, (*steps[:at], replace(steps[at], **{name: value}), *steps[at + 1 :]))


def _less_work(search: Search) -> None:
    changes: dict[str, Any]
    if search.scenario.sizes.data_bytes:  # as much is loaded in the set-up, in as many transactions
        search.better(replace(search.scenario, sizes=replace(search.scenario.sizes, data_bytes=0)), "little data")
    for name in ("transactions", "items", "accounts"):
        for ceiling in CEILINGS:
            work = search.scenario.workload
            now, changes = getattr(work, name) or 1_000_000, {name: ceiling}
            if ceiling < now and (name == "transactions" or ceiling >= 3):
                if search.better(replace(search.scenario, workload=replace(work, **changes)), f"{name} {ceiling}"):
                    break


def _clients(search: Search) -> None:
    work = search.scenario.workload
    if work.clients != (1, 1):
        search.better(replace(search.scenario, workload=replace(work, clients=(1, 1))), "one client")


def _written_down(search: Search) -> None:
    played = search.run(search.scenario, search.seed, recorded=True)
    if played is not None:
        lives = tuple(tuple(one for one in life if one.works) for life in played.script)
        search.better(with_script(search.scenario, lives), "as a script")
