"""kill -9 and restart with the same transactions, on real files and in the simulator with measured costs; both RTOs printed.

The bound is wide: a machine that others use at the same time moves the real one by itself. docs/simulator.md has a quiet one's.
"""

from __future__ import annotations

import pytest

from sim.report.calibration import UNITS
from sim.world import costs
from tools.calibrate import compare


def test_real_and_simulated_restarts_take_about_as_long(capsys: pytest.CaptureFixture[str]) -> None:
    found = compare(transactions=1500, rounds=3)
    with capsys.disabled():
        print(f"\nRTO after kill -9: real {found['real_rto_s']:.3f} s, simulated {found['simulated_rto_s']:.3f} s")
    assert found["log_bytes"] > 1_000_000 and found["real_rto_s"] > 0
    assert 0.2 < found["simulated_rto_s"] / found["real_rto_s"] < 5


def test_the_costs_that_the_simulator_uses_are_of_this_engine() -> None:
    assert set(costs.COSTS_NS) == set(UNITS) and min(costs.COSTS_NS.values()) > 0
