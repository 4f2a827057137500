"""What the engine charges for is what a calibration measures."""

from __future__ import annotations

import pytest

from thunderdb.runtime.real_ports import RealPorts, run_real
from thunderdb.runtime.real_tasks import AsyncioScheduler
from tools.metering import Meter, least_squares, metering


def test_a_charge_gets_the_cpu_time_since_the_one_before() -> None:
    async def work(ports: RealPorts) -> None:
        meter.other()
        sum(range(300_000))
        await ports.tasks.work("heavy", 3)
        await ports.tasks.work("light", 1)

    with metering() as meter:
        run_real(work)
    assert [(kind, count) for kind, count, _ in meter.samples] == [("other", 1), ("heavy", 3), ("light", 1)]
    assert meter.seconds("heavy") > 5 * meter.seconds("light")
    assert meter.cost_ns("heavy") == pytest.approx(meter.seconds("heavy") * 1e9 / 3)
    assert AsyncioScheduler.work.__module__ == "thunderdb.runtime.real_tasks"


def test_pages_and_changes_are_told_apart() -> None:
    meter = Meter()
    for pages, changes in ((1, 4), (1, 40), (2, 300), (3, 9)):
        meter.samples += [("recovery.page", pages, (pages * 90_000 + changes * 1_500) / 1e9), ("recovery.change", changes, 0.0)]
    page, change = meter.redo_costs_ns()
    assert page == pytest.approx(90_000) and change == pytest.approx(1_500)


def test_one_hot_page_does_not_decide_what_an_ordinary_one_costs() -> None:
    samples = [(1, count, 100.0 + count) for count in range(20, 60)] + [(1, 4000, 40_000.0)]
    page, change = least_squares(samples)
    assert 50 < page < 110 and 0.5 < change < 3


def test_no_cost_is_negative() -> None:
    assert min(least_squares([(1, 1, 10.0), (1, 10, 5.0), (1, 20, 1.0)])) >= 0
    assert least_squares([]) == (0.0, 0.0)
