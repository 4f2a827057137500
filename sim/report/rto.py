"""The section of the report on real daemons: what tools/rto_report has measured, real and simulated side by side.

Z1. A difference beyond the bar is said in words, with the phase that explains most of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from sim.report.rows import seconds

FILE = "rto-report.json"
BAR_PERCENT = 25.0
BUSY = 1.0
"""A load average at the beginning beyond which times say little."""
NAMES = {"kill": "kill -9", "pitr": "point-in-time recovery", "lost": "directories lost"}
Found = Mapping[str, Any]


def verdict(one: Found) -> str:
    """Z1."""
    off = float(one["difference_percent"])
    if abs(off) <= BAR_PERCENT:
        return f"{off:+.0f} %, within {BAR_PERCENT:.0f} %"
    real, simulated = (_sums(one[key]) for key in ("phases", "simulated_phases"))
    apart = {what: simulated.get(what, 0.0) - real.get(what, 0.0) for what in {**real, **simulated}}
    phase = max(sorted(apart), key=lambda what: abs(apart[what]))
    more = "longer" if apart[phase] > 0 else "shorter"
    return f"{off:+.0f} %, beyond {BAR_PERCENT:.0f} %: mostly “{phase}”, {seconds(abs(apart[phase]))} {more} in the simulator"


def _sums(phases: list[list[Any]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for what, took in phases:
        found[what] = found.get(what, 0.0) + took
    return found


def rpo(one: Found) -> str:
    if not one["lost"]:
        return f"0 of {one['acknowledged']:,}"
    return f"{one['lost']:,} of {one['acknowledged']:,}, the oldest {seconds(one['rpo_s'])} before the fault"


def conditions(found: Found) -> str:
    disk, load = found["disk"], found.get("load", 0.0)
    busy = f" The machine was busy with other things (load {load}): these times say little." if load > BUSY else ""
    return (
        f"{found['date']}, {found['machine']}; {found['transactions']:,} TPC-B transactions on {found['rows']:,} accounts, "
        f"{found['clients']} clients, median of {found['rounds']} rounds; disk: sync {disk['sync_ms']} ms, "
        f"{disk['write_mb_s']:,} MB/s into the cache, {disk['sync_mb_s']:,} MB/s synced. Costs calibrated "
        f"{found['calibrated']['at']}.{busy}"
    )


def markdown(found: Found) -> str:
    lines = [
        conditions(found), "",
        "| what | acknowledged commits lost | RTO real | RTO simulated | difference |",
        "|---|---|---:|---:|---|",
    ]  # fmt: skip
    lines += [
        f"| {NAMES.get(one['name'], one['name'])}: {one['about']} | {rpo(one)} | {seconds(one['rto_s'])} | "
        f"{seconds(one['simulated_rto_s'])} | {verdict(one)} |"
        for one in found["scenarios"]
    ]
    for one in found["scenarios"]:
        rounds = ", ".join(seconds(value) for value in one["rto_all_s"])
        lines += ["", f"{NAMES.get(one['name'], one['name'])}, rounds: {rounds}."]
        for key, what in (("phases", "real"), ("simulated_phases", "simulated")):
            lines += [f"- {what}: " + ", ".join(f"{name} {seconds(took)}" for name, took in one[key] if took)]
    return "\n".join([*lines, "", f"    {found['command']}"])


def html(found: Found) -> str:
    """The section."""
    parts = [
        "<h2 id=real>Real daemons on a real disk, and the simulator beside them</h2>",
        f"<p>{escape(conditions(found))} Both start from the same bytes. RPO is counted against the clients’ own log of "
        "what was "
        "acknowledged; RTO runs from the fault to the first acknowledged write, process starts included.</p>",
    ]
    for one in found["scenarios"]:
        good = abs(float(one["difference_percent"])) <= BAR_PERCENT
        parts.append(
            f"<div class=worst><span class=name>{escape(NAMES.get(one['name'], one['name']))}</span> "
            f"<span class=about>{escape(one['about'])}</span><br><span>RTO real <b>{seconds(one['rto_s'])}</b>, simulated "
            f"<b>{seconds(one['simulated_rto_s'])}</b> (<b class={'good' if good else 'bad'}>{escape(verdict(one))}</b>); "
            f"acknowledged commits lost: <b>{escape(rpo(one))}</b></span>{_bars(one)}</div>"
        )
    return "\n".join([*parts, f"<p><code>{escape(found['command'])}</code></p>"])


def _bars(one: Found) -> str:
    longest = max(one["rto_s"], one["simulated_rto_s"]) or 1.0
    rows = [("real", one["phases"]), ("simulated", one["simulated_phases"])]
    lists = ""
    svg = "<svg viewBox='0 0 1000 62' role=img aria-label='real and simulated, phase by phase'>"
    for index, (label, phases) in enumerate(rows):
        x, y = 0.0, 4 + 30 * index
        for number, (what, took) in enumerate(phases):
            width = took / longest * 900
            shade = ("restore", "replay")[number % 2] if what not in ("noticed", "first write") else "service"
            title = f"{label}: {what} {seconds(took)}"
            place = f"x='{x + 90:.1f}' y={y} width='{max(1.0, width - 1):.1f}' height=20"
            svg += f"<rect class={shade} {place}><title>{escape(title)}</title></rect>"
            x += width
        svg += f"<text x=0 y={y + 15}>{label}</text>"
        words = ", ".join(f"{what} {seconds(took)}" for what, took in phases if took)
        lists += f"<div class=about style='max-width:none'><b>{label}</b>: {escape(words)}</div>"
    return f"{svg}</svg>{lists}"
