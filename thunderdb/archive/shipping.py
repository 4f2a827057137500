"""Closed segments on their way into the archive, several at a time.

    read, checked ─▶ put, one after the other ─▶ read back, side by side ─▶ counted, in their order

H1. A segment is put only when the one before it has been put: wherever the machine dies, or the store fails, the archive has
    a run of segments without a hole, and a restore reaches the end of it.
H2. A segment is counted (what its local file waits for, archiver.A1) only when it was read back, and all before it were.
H3. Behind an object that was there already nothing is put before that was compared: it may be somebody else's.
H4. What a failure or the end of the archiver finds under way is given up, uncounted; what was put is found there again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from thunderdb.archive.target import Placed
from thunderdb.base.errors import ThunderError
from thunderdb.runtime.sync import Task, Tasks

MOST_BYTES = 64 << 20
MOST_SEGMENTS = 4
"""One is put, and the requests for the others' copies are under way; more of them would wait for the puts."""


@dataclass(frozen=True, slots=True)
class Closed:
    """A closed segment, checked. `there`: under which name the archive has it already, empty if it does not."""

    number: int
    name: str
    raw: bytes
    end_lsn: int
    began_ns: int
    there: str


class Archive(Protocol):
    """What `archive.target.Target` does for one segment."""

    async def put(self, name: str, raw: bytes) -> Placed: ...

    async def confirm(self, name: str, raw: bytes, placed: Placed) -> int: ...


Load = Callable[[int, int], Awaitable[Closed]]
Counted = Callable[[Closed, int], Awaitable[None]]


async def ship(tasks: Tasks, archive: Archive, pending: Iterable[tuple[int, int]], load: Load, counted: Counted) -> None:
    """Ship segments, given as (number, start LSN), in their order. Raises: the error of the first one that has one."""
    under_way: deque[Task[None]] = deque()
    held: deque[int] = deque()

    async def next_one() -> None:
        await under_way[0]
        under_way.popleft()
        held.popleft()

    try:
        for number, start_lsn in pending:
            try:
                closed = await load(number, start_lsn)
                while under_way and (len(under_way) >= MOST_SEGMENTS or sum(held) + len(closed.raw) > MOST_BYTES):
                    await next_one()
                placed = None if closed.there else await archive.put(closed.name, closed.raw)  # H1
            except (ThunderError, OSError):
                while under_way:  # those before it are not concerned; and if one of them fails, that is the first
                    await next_one()
                raise
            before = under_way[-1] if under_way else None
            under_way.append(tasks.spawn(_finish(archive, closed, placed, before, counted), "archive.confirm"))
            held.append(len(closed.raw))
            while under_way and (placed is None or not placed.new):  # H3
                await next_one()
        while under_way:
            await next_one()
    except BaseException:
        for task in under_way:
            task.cancel()  # H4
        raise


async def _finish(
    archive: Archive, closed: Closed, placed: Placed | None, before: Task[None] | None, counted: Counted
) -> None:  # fmt: skip
    size_bytes = 0 if placed is None else await archive.confirm(closed.name, closed.raw, placed)
    if before is not None:
        await before  # H2
    await counted(closed, size_bytes)
