"""CPU time of engine work by kind, in nanoseconds a unit. Written by `python -m tools.calibrate --write`."""

from __future__ import annotations

MEASURED_ON = "x86_64, 2 cores, Python 3.11.7"
MEASURED_AT = "2026-11-23"
ERROR_PERCENT = 49.5
REAL_RTO_S, SIMULATED_RTO_S = 0.0873, 0.1305
TRANSACTIONS = 8000
COSTS_NS: dict[str, float] = {
    "checkpoint.entry": 1946.0,  # a dirty page, entered into a checkpoint
    "log.byte": 0.09362,  # a byte of log, read from the cache and checked, each time
    "offload._decode": 11.3,  # a byte of a compressed backup, in a thread
    "offload.check_pages": 0.05983,  # a byte of pages, checked in a thread
    "offload.decode.zst": 11.3,  # a byte of a compressed segment, in a thread
    "offload.xxh3_128": 0.01645,  # a byte of log, digested in a thread
    "pool.write_back": 86350.0,  # a page encoded and written back
    "process.command": 169100000.0,  # a restoring command’s process
    "process.start": 530000000.0,  # a daemon’s process and its first statement, beside what it opens
    "recovery.change": 3533.0,  # a change applied
    "recovery.check": 1018.0,  # a log record before the checkpoint, checked
    "recovery.page": 181100.0,  # a page brought up
    "recovery.read": 12930.0,  # a block of log, read for a page
    "recovery.scan": 1273.0,  # a log record, analysed
    "recovery.settle": 9481000.0,  # a restart, beside all else
    "recovery.wanted_change": 3533.0,  # a change applied to such a page
    "recovery.wanted_page": 181100.0,  # a page brought up for a rollback or a query
    "recovery.wanted_read": 12930.0,  # a block of log, read for such a page
    "restore.log_byte": 0.04969,  # a byte of log, laid down under its new timeline
    "restore.page_byte": 0.1942,  # a byte of pages laid down
    "restore.scan": 1144.0,  # a log record, planned with
    "undo": 15950.0,  # a change of a loser’s, undone
}
