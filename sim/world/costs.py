"""CPU time of engine work by kind, in nanoseconds a unit. Written by `python -m tools.calibrate --write`."""

from __future__ import annotations

MEASURED_ON = "x86_64, 2 cores, Python 3.11.7"
MEASURED_AT = "2026-11-22"
ERROR_PERCENT = 1.5
REAL_RTO_S, SIMULATED_RTO_S = 0.1802, 0.1829
TRANSACTIONS = 8000
COSTS_NS: dict[str, float] = {
    "checkpoint.entry": 1415.0,  # a dirty page, entered into a checkpoint
    "log.byte": 0.1581,  # a byte of log, read from the cache and checked, each time
    "offload._decode": 19.0,  # a byte of a compressed backup, in a thread
    "offload.check_pages": 0.08305,  # a byte of pages, checked in a thread
    "offload.decode.zst": 19.0,  # a byte of a compressed segment, in a thread
    "offload.xxh3_128": 0.0193,  # a byte of log, digested in a thread
    "pool.write_back": 50880.0,  # a page encoded and written back
    "process.command": 194000000.0,  # a restoring command’s process
    "process.start": 540000000.0,  # a daemon’s process, until it opens the database
    "recovery.change": 2607.0,  # a change applied
    "recovery.check": 950.5,  # a log record before the checkpoint, checked
    "recovery.page": 106200.0,  # a page brought up
    "recovery.read": 11360.0,  # a block of log, read for a page
    "recovery.scan": 1216.0,  # a log record, analysed
    "recovery.settle": 11120000.0,  # a restart, beside all else
    "recovery.wanted_change": 2607.0,  # a change applied to such a page
    "recovery.wanted_page": 106200.0,  # a page brought up for a rollback or a query
    "recovery.wanted_read": 11360.0,  # a block of log, read for such a page
    "restore.log_byte": 0.05473,  # a byte of log, laid down under its new timeline
    "restore.page_byte": 0.2127,  # a byte of pages laid down
    "restore.scan": 1514.0,  # a log record, planned with
    "undo": 65140.0,  # a change of a loser’s, undone
}
