"""Log lines are the manual's, to the letter, or one JSON object each."""

import io
import json

from thunderdb.base.events import Events
from thunderdb.server.logs import log_writer

SPEC = """\
[INFO] Crash recovery initiated
[INFO] Last checkpoint LSN: 0/1A000000
[INFO] Phase 1 (Analysis): Scanning WAL... 42 dirty pages, 3 active transactions
[INFO] Phase 2 (Redo): Replaying from LSN 0/1A000000... 1,234 records replayed
[INFO] Phase 3 (Undo): Rolling back 3 active transactions... done
[INFO] Recovery complete in 2.34s
"""


def recover(events: Events) -> None:
    events.emit("recovery.started", checkpoint_lsn=0x1A000000)
    events.emit("recovery.analysis", dirty_pages=42, active_transactions=3)
    events.emit("recovery.progress", phase="redo", records=7)
    events.emit("recovery.redo", redo_lsn=0x1A000000, records=1234)
    events.emit("recovery.undo", transactions=3)
    events.emit("recovery.complete", duration_ns=2_344_000_000)


def written(level: str, shape: str) -> tuple[Events, io.StringIO]:
    out, events = io.StringIO(), Events()
    events.subscribe(log_writer(level, shape, out))
    return events, out


def test_recovery_reads_as_the_manual_prints_it() -> None:
    events, out = written("info", "text")
    recover(events)
    assert out.getvalue() == SPEC


def test_json_lines_carry_the_fields() -> None:
    events, out = written("info", "json")
    recover(events)
    records = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [record["event"] for record in records] == [
        "recovery.started", "recovery.analysis", "recovery.redo", "recovery.undo", "recovery.complete",
    ]  # fmt: skip
    assert records[1]["dirty_pages"] == 42 and records[1]["level"] == "info"


def test_levels_hide_what_is_less_severe() -> None:
    events, out = written("error", "text")
    recover(events)
    events.emit("server.failed", message="it broke", hint="mend it")
    assert out.getvalue() == "[ERROR] it broke\n[ERROR] HINT: mend it\n"


def test_debug_shows_every_event() -> None:
    events, out = written("debug", "text")
    events.emit("wal.flushed", lsn=0x1A3B4C5D, size_bytes=4096)
    assert out.getvalue() == "[DEBUG] wal.flushed lsn=0/1A3B4C5D size_bytes=4KB\n"


def test_logging_never_fails_the_node() -> None:
    events, out = written("debug", "text")
    events.emit("server.ready")
    events.emit("recovery.analysis", dirty_pages="many")
    out.close()
    events.emit("wal.flushed", lsn=1)


def test_no_field_takes_the_place_of_the_line_s_own() -> None:
    """`restore.complete` once had a field `time`, and its line was dated to the moment that was recovered to."""
    events, out = written("info", "json")
    events.emit("restore.note", text="a", time="1999-01-01", event="x", level="y")
    record = json.loads(out.getvalue())
    assert record["event"] == "restore.note" and record["level"] == "warn" and record["time"] > "2020"
    assert record["text"] == "a"


def test_a_restore_s_lines_are_the_manual_s_and_say_who_replays_the_log() -> None:
    events, out = written("info", "text")
    done = {"recovered_to": "2026-01-15T14:30:00.000Z", "lsn": 0x1A3B4C5D, "transactions": 45_231, "rolled_back": 12}
    events.emit("restore.log_started", segments=2, size_bytes=9)
    events.emit("restore.segment", segment="00000001000000000000003A", size_bytes=9, last=True)
    events.emit("restore.complete", **done, replayed=False)
    events.emit("restore.first_start", log_bytes=1000, estimate_s=0.2)
    events.emit("restore.complete", **done, replayed=True)
    end = """\
[INFO] Recovered to: 2026-01-15T14:30:00.000Z (LSN: 0/1A3B4C5D)
[INFO] Transactions recovered: 45,231
[INFO] Transactions rolled back: 12 (in-progress at recovery point)
"""
    assert out.getvalue() == f"""\
[INFO] Phase 2: Replaying WAL segments... (checked and laid down now, replayed when the database is opened)
[INFO]   Replaying segment 00000001000000000000003A... done (target reached)
[INFO] Phase 3: Recovery complete, but for the replay: the first start does that
{end}[INFO] Start the daemon now: it replays 1,000 bytes of log, and serves in about 1 s
[INFO] Phase 3: Recovery complete
{end}"""
