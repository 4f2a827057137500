"""What the engine charges for is what a calibration measures."""

from __future__ import annotations

import time

import pytest

from thunderdb.runtime.real_ports import RealPorts, run_real
from thunderdb.runtime.real_tasks import AsyncioScheduler
from tools.metering import Meter, beside, counted, least_squares, metering, redo_costs_ns


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
    page, change = redo_costs_ns([meter])
    assert page == pytest.approx(90_000) and change == pytest.approx(1_500)


def test_a_round_that_was_disturbed_does_not_decide_what_a_page_costs() -> None:
    """One fit over the medians: the least of each round's page and change was once a change for nothing."""
    meters = [Meter() for _ in range(3)]
    for number, meter in enumerate(meters):
        for index, changes in enumerate((4, 40, 300, 9)):
            disturbed_ns = 5_000_000 if number == index == 0 else 0
            took_s = (90_000 + changes * 1_500 + disturbed_ns) / 1e9
            meter.samples += [("recovery.page", 1, took_s), ("recovery.change", changes, 0.0)]
    page, change = redo_costs_ns(meters)
    assert page == pytest.approx(90_000) and change == pytest.approx(1_500)
    del meters[0].samples[:2]  # another number of pages: all of them in one fit
    assert min(redo_costs_ns(meters)) > 0


def test_one_hot_page_does_not_decide_what_an_ordinary_one_costs() -> None:
    samples = [(1, count, 100.0 + count) for count in range(20, 60)] + [(1, 4000, 40_000.0)]
    page, change = least_squares(samples)
    assert 50 < page < 110 and 0.5 < change < 3


def test_no_cost_is_negative() -> None:
    assert min(least_squares([(1, 1, 10.0), (1, 10, 5.0), (1, 20, 1.0)])) >= 0
    assert least_squares([]) == (0.0, 0.0)


def test_what_known_costs_do_not_explain_is_of_something_else() -> None:
    samples = [("undo", 64, 500e-6), ("recovery.wanted_page", 2, 300e-6)]
    samples += [("recovery.wanted_change", 10, 0.0), ("undo", 36, 100e-6)]
    costs = {"recovery.wanted_page": 100_000.0, "recovery.wanted_change": 5_000.0}
    assert beside(samples, costs) == pytest.approx(900_000 - 250_000) and counted(samples, "undo") == 100
    assert beside(samples, {"undo": 1e9}) == 1.0


def test_what_was_charged_while_a_page_came_up_is_the_page_s() -> None:
    meter = Meter([("other", 1, 5.0)])
    meter.samples += [("recovery.wanted_page", 1, 2.0), ("recovery.wanted_change", 7, 1.0)]
    meter.at_s = time.thread_time()
    meter.fold(1, {"recovery.page": 1, "recovery.change": 7}, known_s=1.0)
    assert [(kind, count, round(took)) for kind, count, took in meter.samples] == [
        ("other", 1, 5), ("recovery.page", 1, 2), ("recovery.change", 7, 0),
    ]  # fmt: skip
