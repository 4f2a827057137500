"""CPU time of engine work by kind, in nanoseconds a unit. Written by `python -m tools.calibrate --write`."""

from __future__ import annotations

MEASURED_ON = "x86_64, 2 cores, Python 3.11.7"
MEASURED_AT = "2026-11-22"
ERROR_PERCENT = -89.8
REAL_RTO_S, SIMULATED_RTO_S = 0.9764, 0.0992
TRANSACTIONS = 12000
COSTS_NS: dict[str, float] = {
    "log.byte": 0.1308,  # a byte of log, read from the cache and checked, each time
    "offload._decode": 11.53,  # a byte of a compressed backup, in a thread
    "offload.check_pages": 1.356,  # a byte of pages, checked in a thread
    "offload.decode.zst": 11.53,  # a byte of a compressed segment, in a thread
    "offload.xxh3_128": 0.01657,  # a byte of log, digested in a thread
    "pool.write_back": 36750.0,  # a page encoded and written back
    "process.command": 94920000.0,  # a command's process
    "process.start": 600000000.0,  # a daemon's process, until it opens the database
    "recovery.change": 3501.0,  # a change applied, read from the log for it
    "recovery.check": 705.4,  # a log record before the checkpoint, checked
    "recovery.page": 96720.0,  # a page brought up
    "recovery.scan": 1205.0,  # a log record, analysed
    "recovery.settle": 1404000.0,  # a restart, beside all else
    "restore.log_byte": 0.2854,  # a byte of log, laid down under its new timeline
    "restore.page_byte": 0.4369,  # a byte of pages laid down
    "restore.scan": 1362.0,  # a log record, planned with
}
