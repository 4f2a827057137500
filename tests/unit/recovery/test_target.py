"""What a target may look like, and where each kind of it stops, over marks made by hand."""

from __future__ import annotations

import pytest

from thunderdb.base.errors import ConfigError, Refused
from thunderdb.recovery.extras import NoteVerb
from thunderdb.recovery.target import (
    CommitMark,
    Mark,
    NoteMark,
    RecordMark,
    StepMark,
    Stop,
    StopFinder,
    TargetKind,
    TimeMark,
    TooEarly,
    format_time,
    parse_target,
)

DAY = 1_768_435_200_000_000  # 2026-01-15T00:00:00Z
NOON = DAY + 12 * 3600 * 1_000_000


def at(seconds: float) -> int:
    return NOON + int(seconds * 1_000_000)


def commit(lsn: int, seconds: float, txn: int = 0, wall: float | None = None) -> CommitMark:
    return CommitMark(lsn, lsn + 10, txn or lsn, at(seconds), at(seconds if wall is None else wall))


LOG: list[Mark] = [commit(100, 1), RecordMark(110, 150), commit(150, 2), commit(160, 3), RecordMark(170, 200), commit(200, 4)]
END = 210


def stop(text: str, marks: list[Mark] | None = None, least_lsn: int = 90, vouched: float = 0, end: int = END) -> Stop:
    finder = StopFinder(parse_target(text), least_lsn, count_from_lsn=0)
    finder.feed(LOG if marks is None else marks)
    return finder.finish(end, at(vouched) if vouched else 0)


def time(seconds: float) -> str:
    return format_time(at(seconds))


# -- Parsing


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("2026-01-15T14:30:00Z", "2026-01-15T14:30:00Z"),
        ("2026-01-15 14:30:00z", "2026-01-15T14:30:00Z"),
        ("2026-01-15T15:30:00+01:00", "2026-01-15T14:30:00Z"),
        ("2026-01-15T09:00:00-0530", "2026-01-15T14:30:00Z"),
        ("2026-01-15T14:30:00.25Z", "2026-01-15T14:30:00.250Z"),
        ("2026-01-15T14:30:00.1234567899Z", "2026-01-15T14:30:00.123456Z"),
        (" latest ", "latest"),
        ("LATEST", "latest"),
        ("lsn:0/1a3b4c5d", "lsn:0/1A3B4C5D"),
        ("before:drop:orders", "before:drop:orders"),
        ("before:truncate:Mixed Case:x", "before:truncate:Mixed Case:x"),
        ("before:txn:0042", "before:txn:42"),
    ],
)  # fmt: skip
def test_targets(text: str, canonical: str) -> None:
    assert parse_target(text).text == canonical
    assert parse_target(parse_target(text).text) == parse_target(text)


@pytest.mark.parametrize(
    "text",
    [
        "", "yesterday", "2026-01-15", "2026-01-15T14:30Z", "2026-13-15T14:30:00Z", "2026-02-30T14:30:00Z",
        "2026-01-15T25:00:00Z", "2026-01-15T14:30:00+01:99", "1969-01-01T00:00:00Z", "9999-12-31T23:59:59-23:00", "lsn:",
        "lsn:xyz", "lsn:1A3B", "before:", "before:drop", "before:drop:", "before:delete:t", "before:txn:x", "before:txn:0",
        "before:txn:-1",
    ],
)  # fmt: skip
def test_what_is_no_target(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_target(text)
    assert caught.value.exit_code == 2 and caught.value.hint


def test_a_time_without_a_zone_is_refused_and_says_how() -> None:
    with pytest.raises(ConfigError, match="no time zone") as caught:
        parse_target("2026-01-15T14:30:00")
    assert "2026-01-15T14:30:00Z" in caught.value.hint


# -- Times


def test_a_time_is_inclusive() -> None:
    assert stop(time(3)).lsn == 200
    assert stop(time(2.999999)).lsn == 160
    assert stop(time(3.000001)).lsn == 200
    assert stop(time(3)).kept.count == 3 and stop(time(3)).given_up.count == 1
    assert stop(time(3)).kept.last_us == at(3)


def test_a_time_behind_the_last_commit_needs_somebody_to_vouch() -> None:
    assert stop(time(4)).lsn == END
    assert stop(time(9), vouched=9).lsn == END
    with pytest.raises(Refused, match="newest time that can be restored is 2026-01-15T12:00:04Z"):
        stop(time(4.1))
    with pytest.raises(Refused, match="2026-01-15T12:00:08Z"):
        stop(time(9), vouched=8)


def test_a_time_in_a_log_without_commits() -> None:
    with pytest.raises(Refused, match="unknown"):
        stop(time(1), [RecordMark(100, 120)])
    assert stop("latest", [RecordMark(100, 120)], end=120).lsn == 120


def test_a_time_before_the_end_of_the_backup() -> None:
    with pytest.raises(TooEarly, match=r"oldest that it can be restored to is 2026-01-15T12:00:02Z \(lsn:0/A0\)"):
        stop(time(1), least_lsn=160)
    assert stop(time(2), least_lsn=160).lsn == 160


@pytest.mark.parametrize(("seconds", "refused"), [(2, False), (2.5, True), (59, True), (60, False), (61, False)])
def test_a_time_that_the_clock_jumped_over(seconds: float, refused: bool) -> None:
    marks: list[Mark] = [commit(100, 1), StepMark(110, 120, at(2), at(60)), commit(120, 60), commit(130, 70)]
    if refused:
        with pytest.raises(Refused, match="jumped over it") as caught:
            stop(time(seconds), marks)
        assert "lsn:0/6E" in caught.value.hint  # the step's own record: all before it, none behind it
        assert stop("lsn:0/6E", marks).lsn == 120
    else:
        assert stop(time(seconds), marks).lsn == (120 if seconds < 60 else 130)


def test_a_time_that_the_clock_showed_twice() -> None:
    """From 30 back to 10: order times creep on from 30 until the clock has caught up."""
    marks: list[Mark] = [
        commit(100, 5), commit(110, 20), commit(120, 25), StepMark(130, 140, at(30), at(10)), commit(140, 30.000001, wall=10),
        commit(150, 30.000002, wall=22), commit(160, 40),
    ]  # fmt: skip
    with pytest.raises(Refused, match="showed it twice") as caught:
        stop(time(21), marks)
    assert "lsn:0/6E or lsn:0/8C" in caught.value.hint
    assert stop("lsn:0/6E", marks).lsn == 120  # as the clock showed 21 for the first time
    assert stop("lsn:0/8C", marks).lsn == 150  # and for the second time
    for seconds in (5, 9, 10, 30):  # the clock may have been set any time since the commit at 25
        with pytest.raises(Refused, match="showed it twice"):
            stop(time(seconds), marks)
    assert stop(time(4), [commit(95, 3), *marks]).lsn == 100
    assert stop(time(35), marks).lsn == 160


def test_a_copy_by_hand_after_which_the_clock_was_set_back() -> None:
    """No commit of before is in the log that was read: the checkpoint says how late it is (generated incident 100051)."""
    marks: list[Mark] = [TimeMark(80, 90, at(100)), StepMark(110, 120, at(130), at(30)), commit(120, 130.000001, wall=30)]
    for seconds in (0, 30):
        with pytest.raises(Refused, match="showed it twice") as caught:
            stop(time(seconds), marks)
        assert "lsn:0/6E" in caught.value.hint
    with pytest.raises(TooEarly, match="oldest that it can be restored to is 2026-01-15T12:01:40Z"):
        stop(time(-1), marks)
    assert stop(time(131), [*marks, commit(150, 140)]).lsn == 150


def test_looking_ahead_finds_a_later_step() -> None:
    marks: list[Mark] = [commit(100, 5), commit(110, 20), commit(120, 40), StepMark(130, 140, at(41), at(1)), commit(140, 42)]
    with pytest.raises(Refused, match="showed it twice"):
        stop(time(10), marks)
    finder = StopFinder(parse_target(time(10)), 90, look_ahead_us=10_000_000)
    assert not finder.feed(marks[:2])
    assert finder.feed(marks[2:3])  # more than ten seconds behind the target


# -- LSNs


def test_an_lsn_keeps_the_record_that_begins_there() -> None:
    assert stop("lsn:0/96").lsn == 160  # 150: a commit
    assert stop("lsn:0/96").kept.count == 2
    assert stop("lsn:0/6E").lsn == 150  # 110: what lies between commits
    assert stop("lsn:0/70").lsn == 150  # in the middle of that record
    assert stop("lsn:0/C8").lsn == END


def test_an_lsn_at_the_end_of_the_log_and_behind_it() -> None:
    assert stop("lsn:0/D2").lsn == END
    with pytest.raises(Refused, match="behind the end of the log, 0/D2"):
        stop("lsn:0/D3")


def test_an_lsn_before_the_end_of_the_backup() -> None:
    assert stop("lsn:0/96", least_lsn=160).lsn == 160
    with pytest.raises(TooEarly, match="lsn:0/A1"):
        stop("lsn:0/96", least_lsn=161)


def test_latest_is_everything() -> None:
    assert stop("latest").lsn == END
    assert stop("latest").kept.count == 4


# -- Before something happened


def test_before_a_transaction() -> None:
    found = stop("before:txn:160")
    assert found.lsn == 160 and found.kept.count == 2 and found.given_up.count == 2
    with pytest.raises(TooEarly, match="no commit of transaction 161"):
        stop("before:txn:161")


def test_before_a_drop_takes_the_latest_and_lists_all() -> None:
    marks: list[Mark] = [
        NoteMark(90, 95, 7, NoteVerb.DROP, "t"), commit(100, 1, 7),
        NoteMark(110, 115, 8, NoteVerb.DROP, "u"), commit(120, 2, 8),
        NoteMark(130, 135, 9, NoteVerb.TRUNCATE, "t"), commit(140, 3, 9), NoteMark(150, 155, 10, NoteVerb.DROP, "t"),
        commit(160, 4, 11), commit(170, 5, 10), NoteMark(180, 185, 12, NoteVerb.DROP, "t"), commit(190, 6, 13),
    ]  # fmt: skip
    found = stop("before:drop:t", marks)
    assert found.lsn == 170  # transaction 12 never committed
    assert [(each.lsn, each.txn) for each in found.candidates] == [(100, 7), (170, 10)]
    assert (found.kept.count, found.given_up.count) == (4, 2)
    assert (found.kept.first_us, found.kept.last_us) == (at(1), at(4))
    assert stop("before:truncate:t", marks).lsn == 140
    with pytest.raises(TooEarly, match="truncates a table 'u'"):
        stop("before:truncate:u", marks)


def test_kinds() -> None:
    assert parse_target("before:drop:t").kind is TargetKind.BEFORE_NOTE
    assert parse_target("before:txn:5").kind is TargetKind.BEFORE_TXN
