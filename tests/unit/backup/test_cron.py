"""When a scheduled backup is due, minute by minute."""

from __future__ import annotations

import datetime
import random

import pytest

from thunderdb.backup.cron import (
    Past,
    decode_past,
    destination_name,
    due,
    encode_past,
    failed,
    last_moment,
    next_moment,
    schedule_of,
    seen,
    succeeded,
)
from thunderdb.base.config import parse
from thunderdb.base.errors import ConfigError

MINUTE = 60_000_000
HOUR = 60 * MINUTE
ALL = {"daily": "0 2 * * *", "weekly": "0 2 * * 0", "monthly": "0 2 1 * *", "incremental": "0 * * * *"}


def at(text: str) -> int:
    return int(datetime.datetime.fromisoformat(text + "+00:00").timestamp()) * 1_000_000


def begin(schedule: dict[str, str], text: str) -> Past:
    return seen(schedule, Past(), at(text))


def test_last_and_next_moment_include_now_on_one_side_only() -> None:
    assert last_moment("0 2 * * *", at("2026-01-15 02:00:00")) == at("2026-01-15 02:00:00")
    assert last_moment("0 2 * * *", at("2026-01-15 01:59:59")) == at("2026-01-14 02:00:00")
    assert next_moment("0 2 * * *", at("2026-01-15 02:00:00")) == at("2026-01-16 02:00:00")


def test_a_new_schedule_owes_nothing() -> None:
    past = begin(ALL, "2026-01-15 10:30:00")
    assert due(ALL, past, at("2026-01-15 10:30:00")) is None
    assert due(ALL, past, at("2026-01-15 11:00:00")) == "incremental"


def test_one_backup_with_the_longest_label_counts_for_all() -> None:
    past = begin(ALL, "2026-01-31 23:30:00")
    now = at("2026-02-01 02:00:00")  # a Sunday and the first of the month
    assert due(ALL, past, now) == "monthly"
    past = succeeded(ALL, past, "monthly", now)
    assert due(ALL, past, now + 10 * MINUTE) is None
    assert due(ALL, past, now + HOUR) == "incremental"
    past = succeeded(ALL, past, "incremental", now + HOUR)
    assert due(ALL, past, at("2026-02-02 02:00:00")) == "daily", "an incremental counts for nothing but itself"


def test_missed_moments_are_made_up_for_once() -> None:
    past = begin({"daily": ALL["daily"]}, "2026-01-01 10:00:00")
    back = at("2026-01-09 07:00:00")
    assert due(ALL, past, back) == "daily"
    past = succeeded(ALL, past, "daily", back)
    assert due(ALL, past, back + HOUR) is None
    assert due(ALL, past, at("2026-01-10 02:00:00")) == "daily"


def test_a_failure_does_not_count_and_is_tried_again_with_pauses() -> None:
    schedule = {"daily": ALL["daily"]}
    past = begin(schedule, "2026-01-01 10:00:00")
    now = at("2026-01-02 02:00:00")
    past = failed(past, now)
    assert due(schedule, past, now + 4 * MINUTE) is None and due(schedule, past, now + 5 * MINUTE) == "daily"
    for _ in range(20):
        past = failed(past, now)
    assert due(schedule, past, now + 59 * MINUTE) is None and due(schedule, past, now + HOUR) == "daily", "an hour at most"
    assert succeeded(schedule, past, "daily", now).failures == 0


def test_a_new_moment_does_not_wait_for_the_pause() -> None:
    schedule = {"incremental": "*/2 * * * *"}
    past = failed(begin(schedule, "2026-01-01 10:01:00"), at("2026-01-01 10:02:00"))
    assert due(schedule, past, at("2026-01-01 10:03:00")) is None
    assert due(schedule, past, at("2026-01-01 10:04:00")) == "incremental"


def test_a_clock_that_was_wrong_stops_nothing() -> None:
    schedule = {"daily": ALL["daily"]}
    past = begin(schedule, "2030-01-01 10:00:00")
    past = seen(schedule, past, at("2026-01-01 10:00:00"))
    assert due(schedule, past, at("2026-01-02 02:00:00")) == "daily"


def test_every_moment_of_a_year_is_covered_within_its_hour() -> None:
    """A year of ticks at random distances, with failures and downtime: no moment stays uncovered while we are there."""
    random.seed(7)
    schedule = {label: ALL[label] for label in ("daily", "weekly", "monthly")}
    now, past, taken = at("2026-01-01 00:00:00"), begin(schedule, "2026-01-01 00:00:00"), []
    while now < at("2027-01-01 00:00:00"):
        past = seen(schedule, past, now)
        label = due(schedule, past, now)
        if label is not None and random.random() < 0.2:
            past = failed(past, now)
        elif label is not None:
            past = succeeded(schedule, past, label, now)
            taken.append(label)
        else:
            assert past.failures or all(past.covered_us[name] >= last_moment(schedule[name], now) for name in schedule)
        now += random.choice([MINUTE, 10 * MINUTE, HOUR, 3 * HOUR])
    assert taken.count("monthly") == 12 and 50 <= taken.count("weekly") + taken.count("monthly") <= 64
    assert 364 <= len(taken) <= 366


def test_the_past_survives_its_file_and_a_bad_file_owes_nothing() -> None:
    past = failed(begin(ALL, "2026-01-15 10:30:00"), 5)
    assert decode_past(encode_past(past)) == past
    for bad in (None, [], {}, {"version": 2}, {"version": 1, "covered_us": 3, "failures": 0, "failed_us": 0}):
        assert decode_past(bad) == Past()


def test_names_are_utc_and_by_kind() -> None:
    now = at("2026-01-15 02:00:07")
    assert destination_name("weekly", now) == "full-20260115-020007"
    assert destination_name("incremental", now) == "incr-20260115-020007"


def test_the_configuration_checks_the_expression() -> None:
    config = parse('[backup]\ndestination = "/b"\nschedule_daily = "0  2 * * *"\nschedule_weekly = "30 3 * * SUN"\n')
    assert schedule_of(config) == {"daily": "0 2 * * *", "weekly": "30 3 * * SUN"}
    for wrong in ("0 25 * * *", "61 2 * * *", "0 2 * *", "0 2 31 2 *", "x 2 * * *", "@daily"):
        with pytest.raises(ConfigError, match="schedule_daily"):
            parse(f'[backup]\nschedule_daily = "{wrong}"\n')


@pytest.mark.parametrize("label", ["daily", "weekly", "monthly", "incremental"])
def test_a_schedule_without_a_destination_is_refused(label: str) -> None:
    with pytest.raises(ConfigError, match=f"schedule_{label}.*nowhere"):
        parse(f'[backup]\nschedule_{label} = "0 2 * * *"\n')
