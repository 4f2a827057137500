"""Which faults struck what, and when: fault × file kind × engine phase, as counts under `fault|kind|phase`.

C1. A fault class that a scenario enables, and that never fires in a sweep of enough runs, fails the sweep: it would be tested
    by nobody, and nobody would know.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from sim.scenario.places import matters
from sim.scenario.scenario import Scenario, flat
from sim.scenario.steps import FAULTS, Step

ENOUGH_RUNS = 20
"""A swarm leaves kinds out, and some faults need luck: with fewer runs of a scenario nothing can be said."""

MANY_RUNS = 500
"""Of so many generated incidents it can be said where none of them has struck."""

_SHOWN_AS = {
    "stop": ("clean_stop",), "kill_then_power_cut": ("power_cut",), "reset": ("connection_reset",),
    "fsync_lies": ("lost_sync",), "store_errors": ("store_error", "store_truncated", "store_lag"),
}  # fmt: skip


def enabled(scenario: Scenario) -> list[str]:
    """The fault classes that a scenario turns on."""
    if scenario.incident:
        steps = [step for step in flat(scenario.timeline) if step.verb in FAULTS and step.verb != "heal"]
        return sorted({_kind(step) for step in steps})
    faults = scenario.faults
    found = [name for name, weight in faults.kinds.items() if weight]
    found += [name for name, chance in faults.disk.items() if chance]
    if any(name in ("sql", "either") for name in (scenario.workload.driver,)):
        found += [name for name, chance in faults.network.items() if chance]
    found += ["disk_full"] if faults.disk_full else []
    return sorted({*found})


def classes(scenario: Scenario) -> list[str]:
    """The fault classes of a timeline, as fine as the generator draws them: by kind of disk fault, and of damaged file."""
    found = set()
    for step in flat(scenario.timeline):
        if step.verb == "damage":
            found.add(f"damage {step.args['what']}")
        elif step.verb in FAULTS and step.verb != "heal":
            found.add(_kind(step))
    return sorted(found)


def _kind(step: Step) -> str:
    return str(step.args["kind"]) if step.verb == "disk_errors" else step.verb


def silent(enabled_in: Counter[str], coverage: Counter[str]) -> list[str]:
    """C1 over generated runs: the classes that were there in enough of them, and did not strike once."""
    missing = []
    for name, runs in sorted(enabled_in.items()):
        if name.startswith("damage "):
            kind = name.removeprefix("damage ")
            kind = {"hot_page": "page", "page_file": "page", "map_page": "page"}.get(kind, kind)
            struck = any(key.startswith("damage_") and key.split("|")[1] == kind for key in coverage)
        else:
            struck = _struck(name, {key.partition("|")[0] for key in coverage})
        if runs >= ENOUGH_RUNS and not struck:
            missing.append(f"{name} is enabled in {runs} runs, but never fired")
    return missing


def never_fired(scenario: Scenario, fired: Counter[str], coverage: Counter[str]) -> list[str]:
    """C1: the classes of `enabled` that did not strike once."""
    seen = {name for name, count in fired.items() if count} | {key.partition("|")[0] for key in coverage}
    return [fault for fault in enabled(scenario) if not _struck(fault, seen)]


def _struck(fault: str, seen: set[str]) -> bool:
    names = _SHOWN_AS.get(fault, (fault,))
    return any(one == name or one.startswith((f"{name}_", f"{name} ")) for one in seen for name in names)


def holes(coverage: Counter[str]) -> list[str]:
    """The places of places.MATTERS that nothing has struck."""
    return [place for place in matters() if not coverage[place]]


def table(coverage: Counter[str]) -> list[tuple[str, str, str, int]]:
    """Rows (fault, file kind, phase, count), sorted."""
    rows = []
    for key, count in coverage.items():
        fault, _, rest = key.partition("|")
        kind, _, phase = rest.partition("|")
        rows.append((fault, kind, phase, count))
    return sorted(rows)


def text(coverage: Counter[str]) -> str:
    """The table for people: a line for each fault and kind, phases in it."""
    lines: dict[tuple[str, str], list[str]] = {}
    for fault, kind, phase, count in table(coverage):
        lines.setdefault((fault, kind), []).append(f"{phase} {count}")
    return "\n".join(f"  {fault:22} {kind:11} {', '.join(phases)}" for (fault, kind), phases in lines.items())


def total(coverages: Iterable[dict[str, int]]) -> Counter[str]:
    found: Counter[str] = Counter()
    for one in coverages:
        found.update(one)
    return found
