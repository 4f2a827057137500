"""When scheduled backups are due: a pure function over cron expressions, the past and the present. All times are UTC.

    Schedule (label → cron expression)  ┐
    Past (what was done, what failed)   ├─▶ due(now) ─▶ the label to take now, or None
    now                                 ┘

D1. A moment that passed while nobody was there is made up for once, however many moments passed.
D2. Of full backups due together one is taken, with the longest label; it counts for the shorter ones, and an incremental.
D3. Only success counts. A failure is tried again after a pause that doubles up to an hour, or at the next moment, if that
    comes first.
D4. A schedule that is new owes nothing for the time before it was first seen. A past that lies in the future (the clock was
    wrong) is the present.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cronsim import CronSim

from thunderdb.base.config import Config
from thunderdb.base.units import OFF

FULL_LABELS = ("monthly", "weekly", "daily")
INCREMENTAL = "incremental"
LABELS = (*FULL_LABELS, INCREMENTAL)
FIRST_PAUSE_US = 300_000_000
LONGEST_PAUSE_US = 3_600_000_000
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


@dataclass(frozen=True, slots=True)
class Past:
    """`covered_us`: each label's newest moment that needs nothing more. `failures`: how often in a row, and when the last."""

    covered_us: Mapping[str, int] = field(default_factory=dict)
    failures: int = 0
    failed_us: int = 0


def schedule_of(config: Config) -> dict[str, str]:
    """Label → cron expression, of those that are on."""
    keys = {label: getattr(config, f"schedule_{label}") for label in LABELS}
    return {label: expression for label, expression in keys.items() if expression != OFF}


def last_moment(expression: str, now_us: int) -> int:
    """The newest moment of a cron expression that is not after now; 0 if there is none in a lifetime."""
    edge = _moment(now_us).replace(second=0, microsecond=0) + datetime.timedelta(minutes=1)
    return _us(next(CronSim(expression, edge, reverse=True), None))


def next_moment(expression: str, now_us: int) -> int:
    """The first moment after now; 0 if there is none."""
    return _us(next(CronSim(expression, _moment(now_us)), None))


def seen(schedule: Mapping[str, str], past: Past, now_us: int) -> Past:
    """D4: the past, with every label of the schedule in it and nothing in the future."""
    covered = {label: min(past.covered_us.get(label, now_us), now_us) for label in schedule}
    return replace(past, covered_us=covered, failed_us=min(past.failed_us, now_us))


def due(schedule: Mapping[str, str], past: Past, now_us: int) -> str | None:
    """The label of the backup to take now, or None (D1, D2, D3). `past` has been `seen`."""
    waiting = _uncovered(schedule, past, now_us)
    if not waiting:
        return None
    if past.failures:
        pause_us = min(FIRST_PAUSE_US << min(past.failures - 1, 10), LONGEST_PAUSE_US)
        fresh = max(last_moment(schedule[label], now_us) for label in waiting) > past.failed_us
        if not fresh and now_us < past.failed_us + pause_us:
            return None
    return next(label for label in LABELS if label in waiting)


def succeeded(schedule: Mapping[str, str], past: Past, label: str, began_us: int) -> Past:
    """The past after a backup of that label that began at a moment."""
    done = LABELS[LABELS.index(label) :] if label in FULL_LABELS else (label,)
    covered = {name: began_us if name in done else time_us for name, time_us in past.covered_us.items()}
    return Past(covered)


def failed(past: Past, now_us: int) -> Past:
    return replace(past, failures=past.failures + 1, failed_us=now_us)


def upcoming(schedule: Mapping[str, str], now_us: int) -> dict[str, int]:
    """Label → its next moment, for status and logs."""
    return {label: next_moment(expression, now_us) for label, expression in schedule.items()}


def destination_name(label: str, now_us: int) -> str:
    prefix = "incr" if label == INCREMENTAL else "full"
    return f"{prefix}-{_moment(now_us):%Y%m%d-%H%M%S}"


def encode_past(past: Past) -> dict[str, Any]:
    return {"version": 1, "covered_us": dict(past.covered_us), "failures": past.failures, "failed_us": past.failed_us}


def decode_past(document: Any) -> Past:
    """What `encode_past` made; anything else is an empty past, which owes nothing."""
    try:
        if document["version"] != 1:
            return Past()
        covered = {str(label): int(time_us) for label, time_us in document["covered_us"].items()}
        return Past(covered, int(document["failures"]), int(document["failed_us"]))
    except (KeyError, TypeError, ValueError, AttributeError):
        return Past()


def _uncovered(schedule: Mapping[str, str], past: Past, now_us: int) -> list[str]:
    return [label for label in schedule if last_moment(schedule[label], now_us) > past.covered_us.get(label, now_us)]


def _moment(us: int) -> datetime.datetime:
    return _EPOCH + datetime.timedelta(microseconds=us)


def _us(moment: datetime.datetime | None) -> int:
    return 0 if moment is None else (moment - _EPOCH) // datetime.timedelta(microseconds=1)
