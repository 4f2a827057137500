"""CPU time of engine work by kind, in nanoseconds a unit. Written by `python -m tools.calibrate --write`."""

from __future__ import annotations

MEASURED_ON = "x86_64, 2 cores, Python 3.11.7"
MEASURED_AT = "2026-11-22"
ERROR_PERCENT = -27.5
REAL_RTO_S, SIMULATED_RTO_S = 0.0893, 0.0647
TRANSACTIONS = 8000
COSTS_NS: dict[str, float] = {
    "checkpoint.entry": 1296.0,  # a dirty page, entered into a checkpoint
    "log.byte": 0.1041,  # a byte of log, read from the cache and checked, each time
    "offload._decode": 13.25,  # a byte of a compressed backup, in a thread
    "offload.check_pages": 0.05273,  # a byte of pages, checked in a thread
    "offload.decode.zst": 13.25,  # a byte of a compressed segment, in a thread
    "offload.xxh3_128": 0.01587,  # a byte of log, digested in a thread
    "pool.write_back": 20720.0,  # a page encoded and written back
    "process.command": 139100000.0,  # a restoring command’s process
    "process.start": 430000000.0,  # a daemon’s process, until it opens the database
    "recovery.change": 2173.0,  # a change applied
    "recovery.check": 619.1,  # a log record before the checkpoint, checked
    "recovery.page": 87700.0,  # a page brought up
    "recovery.read": 9024.0,  # a block of log, read for a page
    "recovery.scan": 1102.0,  # a log record, analysed
    "recovery.settle": 6086000.0,  # a restart, beside all else
    "recovery.wanted_change": 2173.0,  # a change applied to such a page
    "recovery.wanted_page": 87700.0,  # a page brought up for a rollback or a query
    "recovery.wanted_read": 9024.0,  # a block of log, read for such a page
    "restore.log_byte": 0.02141,  # a byte of log, laid down under its new timeline
    "restore.page_byte": 0.1597,  # a byte of pages laid down
    "restore.scan": 1290.0,  # a log record, planned with
    "undo": 35440.0,  # a change of a loser’s, undone
}
