"""Timeline history files."""

from __future__ import annotations

import pytest

from thunderdb.base.errors import Corruption
from thunderdb.wal.timeline import Fork, format_history, history_name, parse_history, parse_history_name, timeline_at

HISTORY = (Fork(1, 0x2000, "restored to 2026-01-15"), Fork(3, 0x500000000, ""))


def test_names() -> None:
    assert history_name(0x1A) == "0000001A.history" and parse_history_name("0000001A.history") == 0x1A
    assert parse_history_name("1A.history") is None


def test_round_trip() -> None:
    text = format_history(HISTORY)
    assert text == "1\t0/2000\trestored to 2026-01-15\n3\t5/0\t\n"
    assert parse_history("# by hand\n\n" + text, 4) == HISTORY
    assert format_history((Fork(1, 1, "two\nlines"),)) == "1\t0/1\ttwo lines\n"


@pytest.mark.parametrize("text", ["1", "x\t0/1\t", "1\tzero\t", "4\t0/1\t", "2\t0/1\t\n1\t0/2\t", "1\t0/2\t\n2\t0/1\t"])
def test_bad_histories_are_named(text: str) -> None:
    with pytest.raises(Corruption, match=r"00000004\.history, line"):
        parse_history(text, 4)


def test_which_timeline_holds_an_lsn() -> None:
    assert [timeline_at(HISTORY, 4, lsn) for lsn in (0, 0x1FFF, 0x2000, 0x4FFFFFFFF, 0x500000000)] == [1, 1, 3, 3, 4]
