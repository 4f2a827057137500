"""What may go and what must stay: a pure function over what is there, which says why for every single object.

    backups ─┐                         ┌─ Decision(object, keep, "daily, kept until 2026-01-22T02:00:13Z")
    archive ─┼─▶ plan_retention(now) ──┼─ Decision(object, keep, "log of backup bk-…, which is kept")
    holds   ─┘                         └─ Decision(object, go, "older than every time that must stay restorable")

The recovery window is the last `wal_archive_retention`. Terms: a backup is *good* when its manifest is whole and, if it is an
incremental one, its base is there and good; it *reaches* a timeline when that timeline's history runs through its end LSN.

K1. Every time in the window that can be restored before can be restored afterwards, on every timeline that lived in it: the
    newest good backup taken before the window began (the anchor) stays, with all log from it on. Without one the oldest stays,
    with all log: only an anchor shows that older log is older than the window, and there may be backups that we do not know.
K2. The newest good backup stays, and so do the newest `minimum_redundancy` good *full* ones; incremental ones never count.
K3. Whoever stays keeps what it needs: an incremental its whole chain, a backup without log of its own that log in the archive.
K4. A scheduled backup stays for its label's time. One made by hand goes only by hand. What cannot be read goes only by hand.
K5. Histories, notes and what we do not know stay. Nothing below a hold goes while the hold lasts.
K6. Without any good backup all log stays: nothing could replace it.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

MANUAL, DAILY, WEEKLY, MONTHLY, INCREMENTAL = "manual", "daily", "weekly", "monthly", "incremental"
UNREADABLE = "unreadable"
"""The label of a backup whose manifest cannot be read."""


@dataclass(frozen=True, slots=True)
class BackupFacts:
    """What retention must know of a backup. `first_segment` holds its keep_lsn and `last_segment` its end_lsn; 0 is unknown."""

    object: str
    backup_id: str
    full: bool
    label: str
    whole: bool
    timeline: int
    keep_lsn: int
    end_lsn: int
    end_time_us: int
    finished_us: int
    first_segment: int
    last_segment: int
    include_wal: bool = True
    base_id: str = ""
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class SegmentFacts:
    """One object of the archive that holds log."""

    object: str
    timeline: int
    number: int
    partial: bool = False
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ArchiveFacts:
    """The archive: its log, each timeline's forks (ancestor → LSN where it was left) and newest time (absent: unknown)."""

    segments: Sequence[SegmentFacts] = ()
    histories: Mapping[int, Mapping[int, int]] = field(default_factory=dict)
    newest_us: Mapping[int, int] = field(default_factory=dict)
    current_timeline: int = 0
    others: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Policy:
    """The keys of [backup] and [storage], in microseconds."""

    keep_us: Mapping[str, int]
    wal_retention_us: int
    minimum_redundancy: int = 1


@dataclass(frozen=True, slots=True)
class Hold:
    """Somebody works with these: named backups (none named: all), and log from a segment's number on, until a time."""

    name: str
    expires_us: int
    backups: tuple[str, ...] = ()
    from_segment: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """One object's fate. `kind` is backup, segment or other."""

    object: str
    kind: str
    keep: bool
    reason: str
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class LogNeed:
    """Log of these timelines from `first` to `last` (0: without end) is needed, because …"""

    timelines: frozenset[int]
    first: int
    last: int
    reason: str

    def covers(self, segment: SegmentFacts) -> bool:
        return segment.timeline in self.timelines and self.first <= segment.number and not 0 < self.last < segment.number


def plan_retention(
    backups: Sequence[BackupFacts], archive: ArchiveFacts, policy: Policy, now_us: int, holds: Sequence[Hold] = ()
) -> list[Decision]:
    """Decide for every object, backups first, newest first; pure."""
    live_holds = [hold for hold in holds if hold.expires_us > now_us]
    good = good_backups(backups)
    kept = _kept_for_themselves(backups, good, policy, now_us, live_holds)
    window_us = now_us - policy.wal_retention_us
    needs: list[LogNeed] = []
    live = _timelines_in_window(good, archive, window_us)
    for timeline in live:
        anchor = _anchor(good, archive, timeline, window_us)
        if anchor is not None:
            proven = anchor.finished_us <= window_us
            since = max(window_us, anchor.end_time_us)
            kept.setdefault(anchor.object, f"needed because every time since {show_time(since)} must stay restorable")
            reason = f"from backup {anchor.backup_id} on needed: every time since {show_time(since)} must stay restorable"
            if not proven:
                reason = f"perhaps newer than {show_time(window_us)}: no backup was taken before that"
            needs.append(LogNeed(_lineage(archive, timeline), anchor.first_segment if proven else 0, 0, reason))
    _keep_chains(backups, good, kept)
    for backup in backups:
        if backup.object in kept and not backup.include_wal:
            reason = f"needed because backup {backup.backup_id} has no log of its own"
            needs.append(LogNeed(_lineage(archive, backup.timeline), backup.first_segment, backup.last_segment, reason))
    decisions = [_backup_decision(backup, kept, policy) for backup in sorted(backups, key=_newest_first)]
    decisions += _log_decisions(archive, good, needs, live_holds, live)
    return decisions + [Decision(name, "other", True, "kept always") for name in archive.others]


def good_backups(backups: Sequence[BackupFacts]) -> list[BackupFacts]:
    """Those that restore: whole, and with a whole chain below them. Newest first."""
    by_id = {backup.backup_id: backup for backup in backups if backup.whole}

    def is_good(backup: BackupFacts) -> bool:
        seen: set[str] = set()
        while not backup.full:
            seen.add(backup.backup_id)
            base = by_id.get(backup.base_id)
            if base is None or base.backup_id in seen:
                return False
            backup = base
        return True

    return sorted((backup for backup in backups if backup.whole and is_good(backup)), key=_newest_first)


def reaches(backup: BackupFacts, archive: ArchiveFacts, timeline: int) -> bool:
    """Whether restoring this backup can go on into that timeline."""
    if backup.timeline == timeline:
        return True
    left_at = archive.histories.get(timeline, {}).get(backup.timeline)
    return left_at is not None and backup.end_lsn <= left_at


def window_of(backups: Sequence[BackupFacts], archive: ArchiveFacts, timeline: int) -> tuple[int, int] | None:
    """The oldest and the newest restorable time on a timeline, in µs; None if there is none."""
    reaching = [backup for backup in good_backups(backups) if reaches(backup, archive, timeline)]
    if not reaching:
        return None
    # A backup of a database without a single commit has no time of the log's: it stands for when it was taken.
    ends = [backup.end_time_us or backup.finished_us for backup in reaching]
    return min(ends), max(archive.newest_us.get(timeline, 0), *ends)


def show_time(us: int) -> str:
    return (datetime.datetime(1970, 1, 1) + datetime.timedelta(microseconds=us)).strftime("%Y-%m-%dT%H:%M:%SZ")


def _newest_first(backup: BackupFacts) -> tuple[int, int, str]:
    return (-backup.finished_us, -backup.end_lsn, backup.object)


def _kept_for_themselves(
    backups: Sequence[BackupFacts], good: list[BackupFacts], policy: Policy, now_us: int, holds: list[Hold]
) -> dict[str, str]:
    """K2, K4, K5: object → reason."""
    kept: dict[str, str] = {}
    for backup in good[:1]:
        kept[backup.object] = "the newest good backup"  # K2
    for backup in backups:
        hold = next((hold for hold in holds if not hold.backups or backup.backup_id in hold.backups), None)
        if hold is not None:
            kept.setdefault(backup.object, f"held by {hold.name} until {show_time(hold.expires_us)}")
        elif backup.label == UNREADABLE:
            kept.setdefault(backup.object, "cannot be read: it counts for nothing, and goes only by hand")
        elif backup.label not in policy.keep_us:
            kept.setdefault(backup.object, f"{backup.label}: goes only by hand")
        elif backup.finished_us + policy.keep_us[backup.label] > now_us:
            until = show_time(backup.finished_us + policy.keep_us[backup.label])
            kept.setdefault(backup.object, f"{backup.label}, kept until {until}")
    for backup in [backup for backup in good if backup.full][: policy.minimum_redundancy]:
        kept.setdefault(backup.object, f"one of the newest {policy.minimum_redundancy} full backups (minimum_redundancy)")
    return kept


def _timelines_in_window(good: list[BackupFacts], archive: ArchiveFacts, window_us: int) -> list[int]:
    """K1: timelines that had a present within the window. One whose newest time is unknown counts until a backup of a
    later timeline is older than the window."""
    found = {segment.timeline for segment in archive.segments} | {backup.timeline for backup in good}
    if archive.current_timeline:
        found.add(archive.current_timeline)
    live: list[int] = []
    for timeline in sorted(found):
        newest_us = archive.newest_us.get(timeline, 0)
        succeeded = any(
            backup.finished_us <= window_us and timeline in archive.histories.get(backup.timeline, {}) for backup in good
        )
        if timeline == archive.current_timeline or newest_us >= window_us or not newest_us and not succeeded:
            live.append(timeline)
    return live


def _anchor(good: list[BackupFacts], archive: ArchiveFacts, timeline: int, window_us: int) -> BackupFacts | None:
    reaching = [backup for backup in good if reaches(backup, archive, timeline)]
    before = [backup for backup in reaching if backup.finished_us <= window_us]
    if before:
        return max(before, key=lambda backup: (backup.end_lsn, backup.end_time_us, backup.object))
    return min(reaching, key=lambda backup: (backup.end_lsn, backup.end_time_us, backup.object), default=None)


def _lineage(archive: ArchiveFacts, timeline: int) -> frozenset[int]:
    return frozenset({timeline, *archive.histories.get(timeline, {})})


def _keep_chains(backups: Sequence[BackupFacts], good: list[BackupFacts], kept: dict[str, str]) -> None:
    """K3: whatever a kept incremental stands on stays, link by link."""
    by_id = {backup.backup_id: backup for backup in backups}
    for top in backups:
        backup = top
        while backup.object in kept and not backup.full and backup.base_id in by_id:
            base = by_id[backup.base_id]
            if base.object in kept:
                break  # and so on down: it is walked from there, too
            kept[base.object] = f"needed because the incremental backup {backup.backup_id} stands on it"
            backup = base


def _backup_decision(backup: BackupFacts, kept: dict[str, str], policy: Policy) -> Decision:
    reason = kept.get(backup.object)
    if reason is not None:
        return Decision(backup.object, "backup", True, reason, backup.size_bytes)
    until = show_time(backup.finished_us + policy.keep_us[backup.label])
    reason = f"{backup.label}, its time ended {until}, nothing needs it"
    return Decision(backup.object, "backup", False, reason, backup.size_bytes)


def _log_decisions(
    archive: ArchiveFacts, good: list[BackupFacts], needs: list[LogNeed], holds: list[Hold], live: list[int]
) -> list[Decision]:
    closed = {(segment.timeline, segment.number) for segment in archive.segments if not segment.partial}
    newest = dict(sorted((s.timeline, s.number) for s in archive.segments))
    unreached = {timeline for timeline in live if not any(reaches(backup, archive, timeline) for backup in good)}
    orphans = {name for timeline in unreached for name in _lineage(archive, timeline)}
    decisions: list[Decision] = []
    for segment in sorted(archive.segments, key=lambda s: (s.timeline, s.number, s.object)):
        hold = next((hold for hold in holds if segment.number >= hold.from_segment), None)
        need = next((need for need in needs if need.covers(segment)), None)
        keep = True
        if segment.partial and (segment.timeline, segment.number) in closed:
            keep, reason = False, "the closed segment has replaced it"
        elif hold is not None:
            reason = f"held by {hold.name} until {show_time(hold.expires_us)}"
        elif need is not None:
            reason = need.reason
        elif not good:
            reason = "no good backup is known: nothing could replace this log"  # K6
        elif segment.timeline in orphans:
            reason = f"no good backup reaches timeline {min(unreached)}: nothing could replace this log"
        elif segment.timeline == archive.current_timeline and segment.number == newest[segment.timeline]:
            reason = "the end of the log"
        else:
            keep, reason = False, "older than every time that must stay restorable, and no kept backup needs it"
        decisions.append(Decision(segment.object, "segment", keep, reason, segment.size_bytes))
    return decisions
