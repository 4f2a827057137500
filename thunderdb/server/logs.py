"""Log lines on stderr, made from events: `[LEVEL] message` as the manual prints them, or one JSON object a line.

G1. A line is made from an event and nothing else; what a person reads and what a machine counts are the same fact.
G2. Events that have no line of their own are debug lines with their fields, so that nothing is ever hidden.
G3. Logging never fails the node: a broken stderr is ignored (E1).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from thunderdb.base.ids import format_lsn
from thunderdb.base.units import format_size
from thunderdb.server.state import duration_s

DEBUG, INFO, WARNING, ERROR = 10, 20, 30, 40
LEVELS = {"debug": DEBUG, "info": INFO, "warning": WARNING, "error": ERROR}
_LABELS = {DEBUG: "DEBUG", INFO: "INFO", WARNING: "WARN", ERROR: "ERROR"}

Fields = dict[str, Any]


def _lsn(fields: Fields, name: str) -> str:
    value = fields.get(name, 0)
    return value if isinstance(value, str) else format_lsn(int(value))


def _recovery_started(f: Fields) -> str:
    return f"Crash recovery initiated\nLast checkpoint LSN: {_lsn(f, 'checkpoint_lsn')}"


def _recovery_analysis(f: Fields) -> str:
    dirty, active = f.get("dirty_pages", 0), f.get("active_transactions", 0)
    return f"Phase 1 (Analysis): Scanning WAL... {dirty:,} dirty pages, {active:,} active transactions"


def _recovery_redo(f: Fields) -> str:
    return f"Phase 2 (Redo): Replaying from LSN {_lsn(f, 'redo_lsn')}... {f.get('records', 0):,} records replayed"


def _recovery_undo(f: Fields) -> str:
    return f"Phase 3 (Undo): Rolling back {f.get('transactions', 0):,} active transactions... done"


def _recovery_complete(f: Fields) -> str:
    return f"Recovery complete in {duration_s(f):.2f}s"


def _backup_completed(f: Fields) -> str:
    size_bytes, took_s = int(f.get("size_bytes", 0)), duration_s(f)
    return f"Backup {f.get('backup_id')} completed: {size_bytes:,} bytes in {took_s:.2f}s, {f.get('destination')}"


def _restore_target(f: Fields) -> str:
    kind, text = f.get("kind"), str(f.get("text", ""))
    if kind == "time":
        return f"Target time: {text}"
    return f"Target LSN: {text.partition(':')[2]}" if kind == "lsn" else f"Target: {text}"


def _restore_pages(f: Fields) -> str:
    reused = f"; {f['reused']:,} were there already" if f.get("reused") else ""
    return f"Phase 1: Restoring base backup... done ({f['pages']} pages{reused})"


def _restore_log_started(f: Fields) -> str:
    return "Phase 2: Replaying WAL segments... (checked and laid down now, replayed when the database is opened)"


def _restore_segment(f: Fields) -> str:
    return f"  Replaying segment {f['segment']}... done{' (target reached)' if f['last'] else ''}"


def _restore_complete(f: Fields) -> str:
    place = f"{f['recovered_to']} (LSN: {_lsn(f, 'lsn')})" if f["recovered_to"] else f"LSN: {_lsn(f, 'lsn')}"
    rest = "" if f["replayed"] else ", but for the replay: the first start does that"
    return (
        f"Phase 3: Recovery complete{rest}\nRecovered to: {place}\nTransactions recovered: {f['transactions']:,}\n"
        f"Transactions rolled back: {f['rolled_back']:,} (in-progress at recovery point)"
    )


def _restore_first_start(f: Fields) -> str:
    seconds = max(1, round(f["estimate_s"]))
    return f"Start the daemon now: it replays {f['log_bytes']:,} bytes of log, and serves in about {seconds} s"


def _template(text: str) -> Callable[[Fields], str]:
    """A line with the event's fields in braces; a hint, if the event has one, follows on its own line."""

    def render(f: Fields) -> str:
        line = text.format_map({name: _show(name, value) for name, value in f.items()})
        return f"{line}\nHINT: {f['hint']}" if f.get("hint") else line

    return render


# Event → level and line. A line break starts another line with its own [LEVEL].
LINES: dict[str, tuple[int, Callable[[Fields], str]]] = {
    "recovery.started": (INFO, _recovery_started),
    "recovery.analysis": (INFO, _recovery_analysis),
    "recovery.redo": (INFO, _recovery_redo),
    "recovery.undo": (INFO, _recovery_undo),
    "recovery.complete": (INFO, _recovery_complete),
    "recovery.lost_write": (WARNING, _template("Lost write found: page {page_no} is at {page_lsn}, expected {expected_lsn}")),
    "recovery.log_unreadable": (WARNING, _template("The log at {lsn}, needed for page {page_no}, is read again: {error}")),
    "recovery.page_lost": (ERROR, _template("Page {page_no} cannot be brought up to date: {error}")),
    "restore.started": (INFO, lambda f: "Starting Point-in-Time Recovery"),
    "restore.target": (INFO, _restore_target),
    "restore.base": (INFO, lambda f: f"Base backup LSN: {_lsn(f, 'lsn')}"),
    "restore.pages": (INFO, _restore_pages),
    "restore.log_started": (INFO, _restore_log_started),
    "restore.segment": (INFO, _restore_segment),
    "restore.complete": (INFO, _restore_complete),
    "restore.first_start": (INFO, _restore_first_start),
    "restore.note": (WARNING, _template("{text}")),
    "database.created": (INFO, lambda f: "New database created"),
    "wal.disk_full": (WARNING, _template("Disk full: the log cannot grow, writes are refused (53100) until there is space")),
    "wal.disk_ok": (INFO, lambda f: "Disk has space again: writes are accepted"),
    "wal.failed": (ERROR, _template("The log failed, the node stops: {reason}")),
    "control.slot_bad": (WARNING, _template("Control file slot {slot} is damaged, the other one is used: {reason}")),
    "recovery.older_save": (
        WARNING,
        _template("The newest of written.0 and written.1 is lost: recovery begins at the older checkpoint {saved_lsn}"),
    ),
    "clock.step": (WARNING, _template("The wall clock was set by {step_us} µs")),
    "pool.page_corrupt": (WARNING, _template("Page {page_no} is damaged: {error}")),
    "pool.page_repaired": (WARNING, _template("Page {page_no} was rebuilt from the log, up to {page_lsn}")),
    "backup.started": (INFO, _template("Backup {backup_id} started: {type}, to {destination}")),
    "backup.completed": (INFO, _backup_completed),
    "backup.failed": (ERROR, _template("Backup {backup_id} failed: {error}")),
    "backup.page_repaired": (WARNING, _template("Page {page_no} was damaged on disk ({trouble}); the backup has it repaired")),
    "backup.page_unowned": (WARNING, _template("Page {page_no} is damaged, belongs to nobody and is left out: {error}")),
    "backup.left_over": (WARNING, _template("What is left of a backup at {place} could not be removed: {error}")),
    "backup.jobs_forgotten": (WARNING, _template("{path} cannot be read, past backups are forgotten: {error}")),
    "backup.jobs_not_saved": (WARNING, _template("{path} was not written: {error}")),
    "schedule.due": (INFO, _template("Scheduled backup is due: {label}, to {destination}")),
    "schedule.failed": (ERROR, _template("Backup schedule: {message}")),
    "retention.removed": (INFO, _template("Removed {object}: {reason}")),
    "retention.log_removed": (INFO, _template("Removed {segments} segments from the archive ({size_bytes})")),
    "retention.failed": (WARNING, _template("Retention removed nothing: {message}")),
    "archive.failed": (ERROR, _template("Archiving failed (attempt {attempt}): {message}")),
    "archive.refused": (ERROR, _template("The archive is refused, nothing is archived: {message}")),
    "archive.recovered": (INFO, _template("Archiving goes on after {attempts} failed attempts")),
    "archive.drill": (WARNING, _template("No archiving: {message}")),
    "archive.unverified": (
        WARNING,
        lambda f: "Archived log is not verified: without wal_restore_command, exit status 0 of wal_archive_command is all that "
        "is known",
    ),
    "archive.behind": (
        WARNING,
        _template("The archive ends at {archived_lsn}, the log at {flushed_lsn}: {message}"),
    ),
    "archive.pushed": (DEBUG, _template("Archived {segment} up to {lsn} ({size_bytes})")),
    "server.starting": (INFO, _template("ThunderDB {version} starting, node {node_id}")),
    "server.http_listening": (INFO, _template("HTTP admin API on http://{address}")),
    "server.ready": (INFO, lambda f: f"Ready for connections on {f['address']} (started in {duration_s(f):.2f}s)"),
    "server.stopping": (INFO, _template("Shutting down ({reason})")),
    "server.few_files": (
        WARNING, _template("Only {limit} open files are allowed, max_connections asks for {wanted}: raise ulimit -n")
    ),
    "server.reload_ignored": (
        WARNING, lambda f: "SIGHUP: nothing is read again, the configuration counts from the next start on"
    ),
    "server.stopped": (INFO, lambda f: "Shutdown complete"),
    "server.failed": (ERROR, _template("{message}")),
    "server.connection_refused": (WARNING, _template("Connection from {peer} refused: {reason}")),
    "server.protocol_violation": (WARNING, _template("Connection from {peer} ended: {reason}")),
    "server.rollback_failed": (WARNING, _template("Rollback for {peer} failed: {error}")),
    "server.statement_crashed": (ERROR, _template("Statement failed with an internal error: {error}\n{where}")),
}


def log_writer(level: str, shape: str, stream: TextIO | None = None) -> Callable[[str, Fields], None]:
    """Return a subscriber that writes events at or above `level` in `shape` ("text" or "json")."""
    out = stream if stream is not None else sys.stderr
    least = LEVELS[level]
    write = _write_json if shape == "json" else _write_text

    def on_event(name: str, fields: Fields) -> None:
        known = LINES.get(name)
        if known is None:
            if least > DEBUG:
                return
            known = (DEBUG, lambda f: _plain(name, f))
        severity, render = known
        if severity >= least:
            try:
                write(out, severity, name, fields, render(fields))
                out.flush()
            except (OSError, ValueError, KeyError, TypeError):
                pass  # G3: a broken pipe or an event with other fields than expected must not stop the node.

    return on_event


def _plain(name: str, fields: Fields) -> str:
    return " ".join([name, *(f"{key}={_show(key, value)}" for key, value in fields.items())])


def _show(key: str, value: Any) -> str:
    if key.endswith("lsn") and isinstance(value, int):
        return format_lsn(value)
    return format_size(value) if key.endswith("size_bytes") and isinstance(value, int) else str(value)


def _write_text(out: TextIO, severity: int, name: str, fields: Fields, text: str) -> None:
    label = _LABELS[severity]
    out.write("".join(f"[{label}] {line}\n" for line in text.split("\n")))


def _write_json(out: TextIO, severity: int, name: str, fields: Fields, text: str) -> None:
    now = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03d}Z"
    own = {"time": stamp, "level": _LABELS[severity].lower(), "event": name, "message": text}
    record = own | fields | own  # in this order, and no field takes the place of the line's own
    out.write(json.dumps(record, default=str) + "\n")
