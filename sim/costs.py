"""CPU time of engine work by kind, in nanoseconds a unit. Written by `python -m tools.calibrate --write`."""

from __future__ import annotations

MEASURED_ON = "x86_64, 2 cores, Python 3.11.7"
ERROR_PERCENT = -25.7
REAL_RTO_S, SIMULATED_RTO_S = 0.4457, 0.3313
TRANSACTIONS = 8000
COSTS_NS: dict[str, float] = {
    "recovery.scan": 20.0,
    "recovery.settle": 109765339,
}
"""recovery.scan: a byte of log; recovery.settle: the rest of a restart, once."""
