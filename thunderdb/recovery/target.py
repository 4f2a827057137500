"""Where a point-in-time recovery stops: what the user may write, and the rule that turns scanned log into one LSN.

    2026-01-15T14:30:00Z        the commits up to and including this moment; the zone is required
    latest                      everything that is there
    lsn:0/1A3B4C5D              the log up to and including the record that begins there (or that this LSN lies in)
    before:drop:TABLE           right before the commit that dropped TABLE, the last one if there were several
    before:truncate:TABLE
    before:txn:ID               right before the commit of transaction ID

The rule is a pure function of marks, the few records of a log that say when and what: commits, steps of the clock, notes,
checkpoints.

T1. A time is compared with a commit's order time: those at or before it are kept, and the log is cut right before the first
    later one. Digits beyond the microsecond are cut off.
T2. A time that the wall clock jumped over, or showed twice, names no moment: refused, with the LSNs that it could mean (W9).
    A step is logged with the next commit only: it may have come any time since the one before, and shown that long before `to`.
T3. A time behind the last commit is a moment of the log only as far as somebody vouches that no commit came until then.
T4. The cut never lies before `least_lsn`: a backup's pages hold everything up to there.
T5. What is asked for exactly is never approximated: every other target that the log does not reach is refused.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from thunderdb.base.errors import ConfigError, Refused
from thunderdb.base.ids import format_lsn, parse_lsn
from thunderdb.recovery.extras import CHECKPOINT_BEGIN_EXTRA, CLOCK_STEP_EXTRA, COMMIT_EXTRA, NoteVerb, decode_note
from thunderdb.wal.record import H_KIND, H_LENGTH, H_LSN, H_PAGE_COUNT, H_TXN, HEADER_SIZE, RecordKind, extra_of
from thunderdb.wal.segment import SegmentScan

_COMMIT, _STEP, _NOTE = int(RecordKind.COMMIT), int(RecordKind.CLOCK_STEP), int(RecordKind.NOTE)
_BEGIN = int(RecordKind.CHECKPOINT_BEGIN)
_MARKED = frozenset((_COMMIT, _STEP, _NOTE, _BEGIN))
_BRIEF = struct.Struct("<8xIB19xQ")
"""Length, kind and transaction of a record's header."""
_ENDS = frozenset((_COMMIT, int(RecordKind.ABORT)))
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIME = re.compile(r"(\d{4}-\d{2}-\d{2})[Tt ](\d{2}:\d{2}:\d{2})(?:[.,](\d+))?\s*([Zz]|[+-]\d{2}:?\d{2})?")
_VERBS = {"drop": NoteVerb.DROP, "truncate": NoteVerb.TRUNCATE}
EXAMPLES = (
    "Targets: 2026-01-15T14:30:00Z (a time with its zone), latest, lsn:0/1A3B4C5D, "
    "before:drop:TABLE, before:truncate:TABLE, before:txn:ID."
)


class TargetKind(StrEnum):
    TIME = "time"
    LATEST = "latest"
    LSN = "lsn"
    BEFORE_NOTE = "before"
    BEFORE_TXN = "before_txn"


@dataclass(frozen=True, slots=True)
class Target:
    """What to restore to. Only the fields of its kind are set; `text` is canonical: a time is in UTC."""

    kind: TargetKind
    text: str
    time_us: int = 0
    lsn: int = 0
    verb: NoteVerb | None = None
    table: str = ""
    txn: int = 0


LATEST = Target(TargetKind.LATEST, "latest")


def parse_target(text: str) -> Target:
    """Read a target as users write it. Raises: ConfigError (exit 2), saying what is wrong and how it is written."""
    word = text.strip()
    if word.lower() == "latest":
        return LATEST
    kind, _, rest = word.partition(":")
    if kind.lower() == "lsn":
        try:
            lsn = parse_lsn(rest)
        except ValueError as error:
            raise ConfigError(f"target {text!r}: {error}", EXAMPLES) from None
        return Target(TargetKind.LSN, f"lsn:{format_lsn(lsn)}", lsn=lsn)
    if kind.lower() == "before":
        return _parse_before(word, rest)
    return _parse_time(word)


def _parse_before(word: str, rest: str) -> Target:
    what, _, name = rest.partition(":")
    if what.lower() == "txn":
        if not name.isascii() or not name.isdigit() or int(name) == 0:
            raise ConfigError(f"target {word!r}: {name!r} is not the number of a transaction", EXAMPLES)
        return Target(TargetKind.BEFORE_TXN, f"before:txn:{int(name)}", txn=int(name))
    verb = _VERBS.get(what.lower())
    if verb is None or not name:
        raise ConfigError(f"target {word!r}: before: goes with drop:TABLE, truncate:TABLE or txn:ID", EXAMPLES)
    return Target(TargetKind.BEFORE_NOTE, f"before:{what.lower()}:{name}", verb=verb, table=name)


def _parse_time(word: str) -> Target:
    match = _TIME.fullmatch(word)
    if match is None:
        raise ConfigError(f"target {word!r} is neither a time nor anything else that can be restored to", EXAMPLES)
    date, clock, fraction, zone = match.groups()
    if zone is None:
        raise ConfigError(
            f"target time {word!r} has no time zone, so it could be several moments",
            f"Append Z if it is UTC ({date}T{clock}Z), or the offset from UTC, e.g. {date}T{clock}+01:00.",
        )
    zone = "+0000" if zone in ("Z", "z") else zone.replace(":", "")
    try:
        if zone[3:] >= "60":
            raise ValueError("the offset from UTC is out of range")
        moment = datetime.strptime(f"{date} {clock} {zone}", "%Y-%m-%d %H:%M:%S %z")
        moment += timedelta(microseconds=int((fraction or "")[:6].ljust(6, "0")))  # T1
        time_us = (moment.astimezone(UTC) - _EPOCH) // timedelta(microseconds=1)
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"target time {word!r} is no time of the calendar: {error}", EXAMPLES) from None
    if time_us <= 0:
        raise ConfigError(f"target time {word!r} is before 1970", EXAMPLES)
    return Target(TargetKind.TIME, format_time(time_us), time_us=time_us)


def format_time(time_us: int, least_digits: int = 0) -> str:
    """RFC 3339 in UTC, with as many digits of the second as are needed (none, three or six; at least so many)."""
    moment = _EPOCH + timedelta(microseconds=time_us)
    text = moment.strftime("%Y-%m-%dT%H:%M:%S")
    if moment.microsecond % 1000:
        return f"{text}.{moment.microsecond:06d}Z"
    if moment.microsecond or least_digits:
        return f"{text}.{moment.microsecond // 1000:03d}Z"
    return f"{text}Z"


# ---- Marks ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CommitMark:
    lsn: int
    end_lsn: int
    txn: int
    order_us: int
    wall_us: int


@dataclass(frozen=True, slots=True)
class StepMark:
    """The wall clock was found at `to_us` where it should have been at `from_us`."""

    lsn: int
    end_lsn: int
    from_us: int
    to_us: int

    def covers(self, time_us: int, before_us: int) -> bool:
        """Whether this makes a time mean no moment, or two (T2); `before_us`: the newest order time before it, 0 if unknown."""
        if self.from_us < self.to_us:
            return self.from_us < time_us < self.to_us
        unseen_us = max(0, self.from_us - before_us) if before_us else 0
        return self.to_us - unseen_us <= time_us <= self.from_us


@dataclass(frozen=True, slots=True)
class NoteMark:
    lsn: int
    end_lsn: int
    txn: int
    verb: NoteVerb
    table: str


@dataclass(frozen=True, slots=True)
class RecordMark:
    """Any other record, for targets that are LSNs: only its place counts."""

    lsn: int
    end_lsn: int


@dataclass(frozen=True, slots=True)
class TimeMark:
    """A checkpoint: no commit below it is after `order_us`."""

    lsn: int
    end_lsn: int
    order_us: int


Mark = CommitMark | StepMark | NoteMark | TimeMark | RecordMark


@dataclass(slots=True)
class Transactions:
    """Who wrote log, and whose end is in it: those who have no end are rolled back when the log is replayed to there."""

    begun: set[int] = field(default_factory=set)
    ended: set[int] = field(default_factory=set)

    @property
    def open(self) -> set[int]:
        return self.begun - self.ended - {0}

    def take_in(self, data: bytes, at: int, stop: int) -> None:
        """The records between two places, which have been checked before."""
        unpack, begun, ended = _BRIEF.unpack_from, self.begun.add, self.ended.add
        while at < stop:
            length, kind, txn = unpack(data, at)
            begun(txn)
            if kind in _ENDS:
                ended(txn)
            at += length


def marks_of(
    segment: SegmentScan, records_from: int | None = None, transactions: Transactions | None = None
) -> Iterator[Mark]:
    """Yield the marks of a segment, checking all of its records; with `records_from`, every record that ends behind it.

    `transactions` takes in all of them.
    """
    data, bias = segment.data, segment.bias
    while headers := segment.batch():
        if transactions is not None:
            transactions.begun.update([header[H_TXN] for header in headers])
            transactions.ended.update([header[H_TXN] for header in headers if header[H_KIND] in _ENDS])
        if records_from is None:
            headers = [header for header in headers if header[H_KIND] in _MARKED]
        for header in headers:
            kind, lsn = header[H_KIND], header[H_LSN]
            end_lsn = lsn + header[H_LENGTH]
            if kind == _COMMIT:
                if header[H_PAGE_COUNT]:
                    order_us, wall_us = COMMIT_EXTRA.unpack(extra_of(data, lsn + bias))
                else:
                    order_us, wall_us = COMMIT_EXTRA.unpack_from(data, lsn + bias + HEADER_SIZE)
                yield CommitMark(lsn, end_lsn, header[H_TXN], order_us, wall_us)
            elif kind == _STEP:
                yield StepMark(lsn, end_lsn, *CLOCK_STEP_EXTRA.unpack(extra_of(data, lsn + bias)))
            elif kind == _NOTE:
                yield NoteMark(lsn, end_lsn, *decode_note(extra_of(data, lsn + bias)))
            elif kind == _BEGIN:
                yield TimeMark(lsn, end_lsn, CHECKPOINT_BEGIN_EXTRA.unpack(extra_of(data, lsn + bias))[1])
            elif records_from is not None and end_lsn > records_from:
                yield RecordMark(lsn, end_lsn)


# ---- The rule ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Candidate:
    """A commit that a `before:` target may mean: the log would be cut at its LSN."""

    lsn: int
    txn: int
    time_us: int


@dataclass(frozen=True, slots=True)
class Tally:
    """How many commits, and the order times of the first and the last of them (0 if there is none)."""

    count: int = 0
    first_us: int = 0
    last_us: int = 0

    def plus(self, order_us: int) -> Tally:
        return Tally(self.count + 1, self.first_us or order_us, order_us)


@dataclass(frozen=True, slots=True)
class Stop:
    """Where to cut: everything below `lsn` is kept. `given_up` is as far as the log was read."""

    lsn: int
    kept: Tally
    given_up: Tally
    candidates: tuple[Candidate, ...] = ()


class TooEarly(Refused):
    """The target lies before what this backup can be restored to (or was not found behind it): an older one may do."""


class StopFinder:
    """Take in marks in LSN order (`feed`), then tell where to stop (`finish`).

    `least_lsn` is T4's bound, `count_from_lsn` is where recovered transactions begin to count, and `look_ahead_us` is how far
    behind the target's time the log is searched for steps of the clock (None: to its end).
    """

    def __init__(
        self, target: Target, least_lsn: int, count_from_lsn: int = 0, look_ahead_us: int | None = None, least_time_us: int = 0
    ) -> None:
        self.target = target
        self.least_lsn = least_lsn
        self.count_from_lsn = count_from_lsn
        self.look_ahead_us = look_ahead_us
        self.cut_lsn = 0
        self.newest_us = 0
        """order time of the newest commit fed"""
        self.least_time_us = least_time_us
        self._passed_us = 0
        self._kept = Tally()
        self._given_up = Tally()
        self._at_candidate = (Tally(), Tally())
        self._notes: set[int] = set()
        self._candidates: list[Candidate] = []
        self._ambiguous: StepMark | None = None
        self._could_mean: list[int] = []
        self._await_second = False
        self._before_cut_lsn = 0
        self._last_lsn = least_lsn

    @property
    def records_from(self) -> int | None:
        """What `marks_of` is to be told."""
        return self.target.lsn if self.target.kind is TargetKind.LSN else None

    def feed(self, marks: Iterable[Mark]) -> bool:
        """Take in more of the log; return whether nothing that could follow matters any more."""
        target = self.target
        for mark in marks:
            if isinstance(mark, CommitMark):
                self._commit(mark)
            elif isinstance(mark, StepMark):
                self._step(mark)
            elif isinstance(mark, TimeMark):
                self._passed_us = mark.order_us
                if mark.lsn < self.least_lsn and not self.newest_us:  # the commits before it lie below the log that was read
                    self.least_time_us = max(self.least_time_us, mark.order_us)
            elif isinstance(mark, NoteMark) and mark.verb == target.verb and mark.table == target.table:
                self._notes.add(mark.txn)
            if target.kind is TargetKind.LSN and not self.cut_lsn and mark.end_lsn > target.lsn:
                self.cut_lsn = mark.end_lsn
            self._last_lsn = mark.lsn
        if self.look_ahead_us is None or not self.cut_lsn or target.kind is TargetKind.BEFORE_NOTE:
            return False  # of several candidates the latest: it may be anywhere
        return target.kind is not TargetKind.TIME or self.newest_us > target.time_us + self.look_ahead_us

    def _commit(self, mark: CommitMark) -> None:
        target = self.target
        self.newest_us = mark.order_us
        if target.kind is TargetKind.TIME:
            if not self.cut_lsn and mark.order_us > target.time_us:
                self.cut_lsn, self._before_cut_lsn = mark.lsn, self._last_lsn
            if self._await_second and mark.wall_us > target.time_us:
                self._could_mean.append(self._last_lsn)
                self._await_second = False
        elif (target.kind is TargetKind.BEFORE_NOTE and mark.txn in self._notes) or (
            target.kind is TargetKind.BEFORE_TXN and mark.txn == target.txn
        ):
            self._notes.discard(mark.txn)
            self._candidates.append(Candidate(mark.lsn, mark.txn, mark.order_us))
            self.cut_lsn = mark.lsn  # of several the latest
            self._join_tallies()
        if mark.lsn < self.least_lsn:
            self.least_time_us = mark.order_us  # exact from here on: what was given may be later than the newest commit
        if mark.lsn < self.count_from_lsn:
            return
        if self.cut_lsn:
            self._given_up = self._given_up.plus(mark.order_us)
        else:
            self._kept = self._kept.plus(mark.order_us)

    def _join_tallies(self) -> None:
        """What counted as given up from an earlier candidate on is kept after all."""
        kept, more = self._kept, self._given_up
        if more.count:
            self._kept = Tally(kept.count + more.count, kept.first_us or more.first_us, more.last_us)
            self._given_up = Tally()

    def _step(self, mark: StepMark) -> None:
        target = self.target
        if target.kind is not TargetKind.TIME or self._ambiguous is not None:
            return
        if not mark.covers(target.time_us, max(self.newest_us, self._passed_us)):
            return
        self._ambiguous = mark
        # An LSN as a target keeps the record that begins there: the last one of interest before the cut says it.
        self._could_mean.append(self._before_cut_lsn or mark.lsn)
        self._await_second = mark.to_us < mark.from_us

    def finish(self, end_lsn: int, vouched_us: int = 0) -> Stop:
        """Decide, the log being readable up to `end_lsn` and known to be complete up to the time `vouched_us` (T3).

        Raises: Refused.
        """
        if self._ambiguous is not None:
            self._refuse_step(self._ambiguous, end_lsn)
        target, cut_lsn = self.target, self.cut_lsn
        if not cut_lsn:
            self._check_reached(end_lsn, max(self.newest_us, self.least_time_us, vouched_us))
            cut_lsn = end_lsn
        # The commits below `least_lsn` may lie below the first log that was read: then only their time tells.
        if cut_lsn < self.least_lsn or (target.kind is TargetKind.TIME and target.time_us < self.least_time_us):
            self._refuse_early()
        return Stop(cut_lsn, self._kept, self._given_up, tuple(self._candidates))

    def _check_reached(self, end_lsn: int, newest_us: int) -> None:
        """T3 and T5, where no cut was found below the end of the log."""
        target = self.target
        end = f"The log ends at lsn:{format_lsn(end_lsn)}"
        if target.kind is TargetKind.TIME and target.time_us > newest_us:
            newest = format_time(newest_us) if newest_us else "unknown (there is no commit in it)"
            raise Refused(
                f"the target {target.text} is behind the end of the log: the newest time that can be restored is {newest}",
                f"{end}. Restore to {newest}, or to latest." if newest_us else f"{end}. Restore to latest.",
            )
        if target.kind is TargetKind.LSN and target.lsn > end_lsn:
            raise Refused(
                f"the target {target.text} is behind the end of the log, {format_lsn(end_lsn)}",
                "Restore to latest, or name the archive that has the rest of the log with --wal-archive-dir.",
            )
        if target.kind is TargetKind.BEFORE_NOTE:
            verb = "drops" if target.verb is NoteVerb.DROP else "truncates"
            raise TooEarly(
                f"no committed transaction in the log {verb} a table {target.table!r}",
                f"{end}; a backup from before it, or the archive with the rest of the log, may be what is missing.",
            )
        if target.kind is TargetKind.BEFORE_TXN:
            raise TooEarly(f"no commit of transaction {target.txn} is in the log", f"{end}.")

    def _refuse_early(self) -> None:
        """T4."""
        oldest = f"lsn:{format_lsn(self.least_lsn)}"
        if self.least_time_us:
            oldest = f"{format_time(self.least_time_us)} ({oldest})"
        raise TooEarly(
            f"the target {self.target.text} is before the end of the backup: the oldest that it can be restored to is {oldest}",
            "Restore from an older backup; --restore-backup takes the folder of all backups, too, and chooses.",
        )

    def _refuse_step(self, step: StepMark, end_lsn: int) -> None:
        """T2."""
        if self._await_second:
            self._could_mean.append(end_lsn)
        forward = step.from_us < step.to_us
        meaning = "jumped over it" if forward else "showed it twice"
        candidates = " or ".join(f"lsn:{format_lsn(lsn)}" for lsn in self._could_mean)
        raise Refused(
            f"the target {self.target.text} names no single moment: the clock was set from {format_time(step.from_us)} "
            f"to {format_time(step.to_us)} and {meaning}",
            f"Name the place in the log instead: {candidates}.",
        )
