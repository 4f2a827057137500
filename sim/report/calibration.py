"""The report on calibration: what each kind of work costs, how far the simulator is off, and what 20 GB of log take.

O1. The computation for 20 GB is arithmetic on the measured costs and nothing else; its assumptions are written beside it.
"""

from __future__ import annotations

from html import escape

from sim.report.rows import seconds
from sim.world import costs

LOG_BYTES, DATA_BYTES, PAGE_BYTES = 20_000_000_000, 100_000_000_000, 16_384
RECORD_BYTES = 213
"""What a record of TPC-B takes: the log of 10,000 transactions, 12.9 MB, has 60,295 of them."""
UNITS = {
    "process.start": "a daemon’s process and its first statement, beside what it opens",
    "process.command": "a restoring command’s process",
    "recovery.settle": "a restart, beside all else", "recovery.scan": "a log record, analysed",
    "recovery.check": "a log record before the checkpoint, checked", "recovery.page": "a page brought up",
    "recovery.change": "a change applied",
    "recovery.read": "a block of log, read for a page", "undo": "a change of a loser’s, undone",
    "recovery.wanted_page": "a page brought up for a rollback or a query",
    "recovery.wanted_change": "a change applied to such a page", "recovery.wanted_read": "a block of log, read for such a page",
    "checkpoint.entry": "a dirty page, entered into a checkpoint", "pool.write_back": "a page encoded and written back",
    "restore.scan": "a log record, planned with", "restore.page_byte": "a byte of pages laid down",
    "restore.log_byte": "a byte of log, laid down under its new timeline",
    "log.byte": "a byte of log, read from the cache and checked, each time",
    "offload.check_pages": "a byte of pages, checked in a thread", "offload.xxh3_128": "a byte of log, digested in a thread",
    "offload._decode": "a byte of a compressed backup, in a thread",
    "offload.decode.zst": "a byte of a compressed segment, in a thread",
}  # fmt: skip
"""What each cost is of."""


def twenty_gigabytes() -> list[tuple[str, str, float]]:
    """(pass, how it is computed, seconds of CPU) for 20 GB of log of small records over a database of 100 GB (O1)."""
    cost = {kind: value / 1e9 for kind, value in costs.COSTS_NS.items()}
    records, pages = LOG_BYTES / RECORD_BYTES, DATA_BYTES / PAGE_BYTES
    once = LOG_BYTES * cost["log.byte"]
    return [
        ("plan", "every record read and checked", records * cost["restore.scan"] + once),
        ("lay the log down", "every byte", LOG_BYTES * cost["restore.log_byte"]),
        ("analyse", "every record, at the restart", records * cost["recovery.scan"] + once),
        ("apply, while it serves", "every change", records * cost["recovery.change"]),
        ("bring pages up, while it serves", f"{pages / 1e6:.1f} million pages, each once", pages * cost["recovery.page"]),
    ]  # fmt: skip


def _found() -> str:
    return (
        f"Measured {costs.MEASURED_AT} on {costs.MEASURED_ON}; of several rounds the median. kill -9 with "
        f"{costs.TRANSACTIONS:,} TPC-B transactions, then a restart in the same process: {seconds(costs.REAL_RTO_S)} real, "
        f"{seconds(costs.SIMULATED_RTO_S)} simulated ({costs.ERROR_PERCENT:+.0f} %)."
    )


def _cost(kind: str, value: float) -> str:
    return f"{value:.3g} ns" if value < 1000 else f"{value / 1000:.3g} µs" if value < 1e6 else seconds(value / 1e9)


def _ordered() -> list[tuple[str, float]]:
    return sorted(costs.COSTS_NS.items(), key=lambda item: list(UNITS).index(item[0]) if item[0] in UNITS else len(UNITS))


def calibration_html() -> str:
    """The section."""
    rows = "".join(
        f"<tr><td>{escape(UNITS.get(kind, kind))}</td><td class=n>{_cost(kind, value)}</td></tr>"
        for kind, value in _ordered()
    )
    passes = "".join(
        f"<tr><td>{escape(what)}</td><td class=about>{escape(how)}</td><td class=n>{seconds(took)}</td></tr>"
        for what, how, took in twenty_gigabytes()
    )
    return (
        "<h2 id=costs>Calibration: what recovery costs, and how far the simulator is off</h2>"
        f"<p>{escape(_found())}</p><div class=two><div><table><thead><tr><th>what<th class=n>CPU time</tr></thead><tbody>{rows}"
        "</tbody></table></div><div><table><thead><tr><th>20 GB of log at these rates<th><th class=n>CPU time</tr></thead>"
        f"<tbody>{passes}</tbody></table><p class=note>Records of {RECORD_BYTES} bytes, as TPC-B writes them; one thread. "
        "What is done while it serves is no part of an RTO.</p></div></div>"
        "<p><code>python -m tools.calibrate --rounds 5 --write</code></p>"
    )


def calibration_markdown() -> list[str]:
    lines = ["## Calibration", "", _found(), "", "| what | CPU time |", "|---|---:|"]
    lines += [f"| {UNITS.get(kind, kind)} | {_cost(kind, value)} |" for kind, value in _ordered()]
    lines += ["", f"20 GB of log at these rates (records of {RECORD_BYTES} bytes, one thread):", ""]
    lines += ["| pass | how | CPU time |", "|---|---|---:|"]
    lines += [f"| {what} | {how} | {seconds(took)} |" for what, how, took in twenty_gigabytes()]
    return [*lines, "", "    python -m tools.calibrate --rounds 5 --write"]
