"""Where several timelines have a claim to a target: which of them is meant is the user's to say.

A restore leaves a stretch of its parent behind, and two databases that both archive (a drill beside the one in production) grow
two branches. Following the newest timeline, a target is ambiguous where log that is *not* on the line

    time     was committed to before the target, and again after it; or more lately before it than the line itself, which had
             not been begun by then
    lsn      has the LSN, too
    latest   was committed to after the line had branched off: both were alive

V1. With --timeline nothing is ambiguous. Of log that is not there any more nothing can be said, and nothing is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from thunderdb.archive.index import LogSource
from thunderdb.backup.logline import Line, LineReader, has_log
from thunderdb.base.errors import Refused
from thunderdb.base.ids import format_lsn
from thunderdb.recovery.target import CommitMark, Target, TargetKind, format_time
from thunderdb.runtime.ports import Ports


@dataclass(frozen=True, slots=True)
class Followed:
    """The line that was followed. `starts` are (start LSN, number) of its segments, `commits_us` the last commit kept."""

    line: Line
    starts: tuple[tuple[int, int], ...]
    last_kept_us: int

    def number_at(self, lsn: int) -> int:
        """The segment that holds an LSN (or ends there)."""
        return max((number for start_lsn, number in self.starts if start_lsn <= lsn), default=0)


@dataclass(slots=True)
class _Life:
    """What was committed on a branch, relative to a target's time."""

    before_us: int = 0
    after_us: int = 0
    last_us: int = 0
    end_lsn: int = 0


async def check_unambiguous(
    ports: Ports, sources: Sequence[LogSource], lines: dict[int, Line], followed: Followed, target: Target, system_id: int
) -> None:
    """Raises: Refused, with the timelines that the target could be on."""
    if target.kind not in (TargetKind.TIME, TargetKind.LSN, TargetKind.LATEST):
        return
    line = followed.line
    for timeline, other in sorted(lines.items()):
        if timeline == line.timeline or not await has_log(sources, timeline):
            continue
        start_lsn = line.limit(timeline)
        if start_lsn is None:
            start_lsn = other.forks[-1].switch_lsn if other.forks else None
        number = followed.number_at(start_lsn) if start_lsn is not None else 0
        if start_lsn is None or not number:
            continue
        life = await _life(ports, sources, other, start_lsn, number, target, system_id)
        _judge(followed, other, start_lsn, life, target, lines)


async def _life(
    ports: Ports, sources: Sequence[LogSource], other: Line, start_lsn: int, number: int, target: Target, system_id: int
) -> _Life:
    life = _Life()
    reader = LineReader(ports, sources, other, system_id)
    async for found in reader.own_log(start_lsn, number):
        await ports.tasks.work("restore.scan", found.records)
        life.end_lsn = found.piece.end_lsn
        for mark in found.marks:
            if isinstance(mark, CommitMark) and mark.lsn >= start_lsn:
                life.last_us = mark.order_us
                if mark.order_us <= target.time_us:
                    life.before_us = mark.order_us
                else:
                    life.after_us = life.after_us or mark.order_us
        if target.kind is TargetKind.LSN and life.end_lsn > target.lsn or (life.after_us and target.kind is TargetKind.TIME):
            break
    return life


def _judge(followed: Followed, other: Line, start_lsn: int, life: _Life, target: Target, lines: dict[int, Line]) -> None:
    line = followed.line
    hint = f"Say which one with --timeline: {other.timeline} or {line.timeline}."
    claimed_us = _branched_us(line, other, lines)
    fallow = life.before_us > followed.last_kept_us and (not claimed_us or target.time_us < claimed_us)
    if target.kind is TargetKind.TIME and life.before_us and (life.after_us or fallow):
        raise Refused(
            f"the target {target.text} is on two timelines: {other.timeline} was at work then, and was left at "
            f"{format_lsn(start_lsn)} for what became timeline {line.timeline}",
            hint,
        )
    if target.kind is TargetKind.LSN and start_lsn <= target.lsn < life.end_lsn:
        raise Refused(
            f"the target {target.text} exists on two timelines, {other.timeline} and {line.timeline}, which part at "
            f"{format_lsn(start_lsn)}",
            hint,
        )
    if target.kind is TargetKind.LATEST:
        if claimed_us and life.last_us > claimed_us:
            raise Refused(
                f"latest is on two timelines: {line.timeline} was begun at {format_time(claimed_us)}, and {other.timeline} was "
                f"written until {format_time(life.last_us)}",
                hint,
            )


def _branched_us(line: Line, other: Line, lines: dict[int, Line]) -> int:
    """When the line went its own way from the other one."""
    chain = line.chain
    successor = line.timeline
    if other.timeline in chain:
        successor = chain[chain.index(other.timeline) - 1]
    found = lines.get(successor)
    return found.claimed_us if found is not None else 0
