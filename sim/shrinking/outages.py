"""What to leave out of a run with outages drawn by weight: outages and lives, transactions, statements.

A life is what happens between two outages: the script has a list of transactions for each, the last one without an outage.

L1. An outage at an I/O boundary is counted from a moment, and is another one with each write that is left out; so it is first
    tried at the time at which it struck.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sim.scenario.faults_plan import Outage, Plan
from sim.scenario.script import Script
from sim.shrinking import transactions
from sim.shrinking.reduce import ddmin
from sim.shrinking.search import Search, with_script

MS = 1_000_000
Change = Callable[[], bool]


def written_down(search: Search) -> None:
    """Go on with the script of the run, cut behind the life that failed (M1 of shrink.py)."""
    played = search.run(search.scenario, search.seed, recorded=True)
    if played is None:
        return
    scenario, script = search.scenario, played.script
    plan: Plan = scenario.plan
    ends = plan.outages[: len(played.lives_ns)]
    cut = replace(plan, outages=ends)
    lives = tuple(tuple(one for one in life if one.works) for life in script)
    if not search.better(with_script(replace(scenario, plan=cut), script), "as a script", 20):
        return
    search.better(with_script(search.scenario, lives))
    timed = tuple(_timed(one, *played.lives_ns[at]) for at, one in enumerate(ends))
    if not search.better(replace(search.scenario, plan=replace(cut, outages=timed)), "outages by time"):
        for at in range(len(timed)):
            outages = search.scenario.plan.outages
            search.better(_with_outages(search, (*outages[:at], timed[at], *outages[at + 1 :])), "an outage by time")


def _timed(outage: Outage, began_ns: int, ended_ns: int) -> Outage:
    """L1."""
    if not outage.strike.boundary or outage.kind in ("stop", "sync_error"):
        return outage
    return replace(outage, after_ns=max(0, ended_ns - began_ns), strike=replace(outage.strike, boundary=0))


def passes(search: Search) -> bool:
    """All that can be left out; return whether anything was."""
    before = search.scenario
    scripted = search.scenario.workload.script is not None
    if scripted:
        _lives(search)
        transactions.halves(search)
    _faults(search)
    _sizes(search)
    if scripted:
        transactions.fewer(search)
        transactions.shorter(search)
        transactions.plainer(search)
        _sooner(search)
    return search.scenario != before


# -- Lives


def _lives(search: Search) -> None:
    """Without an outage: without the life before it too, joined to the one behind it, or without the one behind."""
    at = 0
    while at < len(search.scenario.plan.outages) and not search.over():
        outages, script = search.scenario.plan.outages, _padded(search)
        rest = (*outages[:at], *outages[at + 1 :])
        moved = tuple(replace(one, at_ns=one.at_ns + outages[at].after_ns) for one in script[at + 1])
        joined = tuple(sorted((*script[at], *moved), key=lambda one: one.at_ns))
        later = rest
        if at < len(rest):
            longer = replace(rest[at], after_ns=rest[at].after_ns + outages[at].after_ns)
            later = (*rest[:at], longer, *rest[at + 1 :])
        tries = (
            (rest, (*script[:at], *script[at + 1 :])),
            (later, (*script[:at], joined, *script[at + 2 :])),
            (rest, (*script[:at], script[at], *script[at + 2 :])),
        )
        if not any(search.better(with_script(_with_outages(search, one), two), "an outage less") for one, two in tries):
            at += 1


def _padded(search: Search) -> Script:
    script, count = search.scenario.workload.script or (), len(search.scenario.plan.outages) + 1
    return (*script[:count], *((),) * (count - len(script)))


# -- Faults and sizes


def _faults(search: Search) -> None:
    """Of the plan: no faults of the disk or the network, no strikes in a restart, no full disk; then plainer outages."""

    def tried(**changes: Any) -> None:
        plan = search.scenario.plan
        if any(getattr(plan, name) != value for name, value in changes.items()):
            search.better(replace(search.scenario, plan=replace(plan, **changes)), f"no {' '.join(changes)}")

    tried(disk={}, reset=0.0, at_creation=())
    tried(reset=0.0)
    tried(at_creation=())
    for kind in list(search.scenario.plan.disk):
        tried(disk={name: chance for name, chance in search.scenario.plan.disk.items() if name != kind})
    tried(driver="engine")
    for at in range(len(search.scenario.plan.outages)):
        for changes in ({"in_recovery": (), "full_at_ns": -1, "cut_at_ns": -1}, {"full_at_ns": -1}, {"cut_at_ns": -1}):
            _outage(search, at, **changes)
        strikes = search.scenario.plan.outages[at].in_recovery

        def fails(rest: list[Any], at: int = at) -> bool:
            return _outage(search, at, in_recovery=tuple(rest))

        ddmin(strikes, fails, search.over)
        for kind, power in (("power_cut", True), ("kill", False)):
            strike = search.scenario.plan.outages[at].strike
            if search.scenario.plan.outages[at].kind not in ("power_cut", "kill"):
                _outage(search, at, kind=kind, strike=replace(strike, power=power))


def _sooner(search: Search) -> None:
    """Outages soon after what their lives have to do."""
    for at, outage in enumerate(search.scenario.plan.outages):
        busy_ns = max((one.at_ns for one in _padded(search)[at]), default=0)
        outages = search.scenario.plan.outages
        for after_ns in (busy_ns + MS, busy_ns + 5 * MS, busy_ns + 20 * MS):
            if after_ns < outage.after_ns and search.better(
                _with_outages(search, (*outages[:at], replace(outages[at], after_ns=after_ns), *outages[at + 1 :]))
            ):
                break


def _outage(search: Search, at: int, **changes: Any) -> bool:
    outages = search.scenario.plan.outages
    if all(getattr(outages[at], name) == value for name, value in changes.items()):
        return False
    new = (*outages[:at], replace(outages[at], **changes), *outages[at + 1 :])
    return search.better(_with_outages(search, new), f"outage {at} without {' '.join(changes)}")


def _sizes(search: Search) -> None:
    """The smallest tables that fail; the smallest are tried first."""
    for name, sizes in (("items", (1, 3, 10, 30)), ("accounts", (2, 5, 15))):
        for size in sizes:
            work = search.scenario.workload
            changes: dict[str, Any] = {name: size}
            if size < getattr(work, name) and search.better(
                replace(search.scenario, workload=replace(work, **changes)), f"{name} {size}"
            ):
                break


# -- Parts of a scenario


def _with_outages(search: Search, outages: tuple[Outage, ...]) -> Any:
    return replace(search.scenario, plan=replace(search.scenario.plan, outages=outages))
