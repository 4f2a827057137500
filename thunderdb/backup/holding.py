"""A restore that runs holds what it reads: retention leaves its backups and log alone until it is done, or its time is over.

G1. A drill (--no-archive) writes nothing into the archive, so it holds nothing either; what it reads lies in the window.
G2. A hold that cannot be placed or lifted is an event: the restore goes on, for an archive may be read-only.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from thunderdb.archive.holds import lift_hold, place_hold
from thunderdb.archive.retention import Hold
from thunderdb.backup.plan import Plan
from thunderdb.backup.rates import longest_s
from thunderdb.base.errors import ThunderError
from thunderdb.base.events import Events
from thunderdb.runtime.ports import Ports

T = TypeVar("T")
LEAST_US = 3_600_000_000
SLOWER = 20
"""A restore may take this many times longer than estimated before its hold ends."""


async def holding(ports: Ports, plan: Plan, events: Events, action: Callable[[], Awaitable[T]]) -> T:
    """Do it, and hold meanwhile what the plan names."""
    if plan.archive is None or plan.no_archive:
        return await action()
    now_us = ports.clock.wall_ns() // 1000
    hold = Hold(
        f"restore-{now_us}",
        now_us + max(LEAST_US, int(longest_s(plan.page_bytes, plan.log_bytes) * SLOWER * 1e6)),
        tuple(link.manifest.backup_id for link in plan.chain if link.manifest is not None),
        min((segment.piece.number for segment in plan.segments), default=0),
    )
    store = plan.archive.store
    try:
        await place_hold(store, hold)
    except (ThunderError, OSError) as error:
        events.emit("restore.note", text=f"retention is not held off meanwhile: {error}")
        return await action()

    async def lift() -> None:
        try:
            await lift_hold(store, hold.name)
        except (ThunderError, OSError) as error:
            events.emit("restore.note", text=f"the hold {hold.name} was not lifted, it ends by itself: {error}")

    try:
        done = await action()
    except Exception:
        await lift()
        raise
    await lift()
    return done
