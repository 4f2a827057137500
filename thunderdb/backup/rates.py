"""How long a restore will take, for the estimate of a plan: rates in one place, as tools.calibrate has measured them.

    pages laid down ─▶ log laid down, analysed by the first start ─▶ service; pages are redone on demand

tests/unit/sim/test_charges.py holds these rates against the costs that were measured (sim/world/costs.py).
"""

from __future__ import annotations

START_S = 1.0
"""The command's process and the daemon's."""
PAGE_BYTES_A_SECOND = 250 << 20
"""Read, checked, written and synced, on a local disk: it is the disk's rate, not that of a processor."""
LOG_BYTES_A_SECOND = 80 << 20
"""Laid down, read again and analysed."""
SLOWEST_LOG_BYTES_A_SECOND = 12 << 20
"""What a slow machine may make of the same: only for how long the log is held for it."""


def first_start_s(log_bytes: int) -> float:
    """How long the start that follows a restore takes until it serves."""
    return START_S / 2 + log_bytes / LOG_BYTES_A_SECOND


def service_s(page_bytes: int, log_bytes: int) -> float:
    """Until the restored database has answered its first query."""
    return START_S + page_bytes / PAGE_BYTES_A_SECOND + log_bytes / LOG_BYTES_A_SECOND


def longest_s(page_bytes: int, log_bytes: int) -> float:
    """What nobody should be slower than: for a hold, whose end must not come before the restore's."""
    return START_S + page_bytes / PAGE_BYTES_A_SECOND + log_bytes / SLOWEST_LOG_BYTES_A_SECOND
