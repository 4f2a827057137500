"""A restore that runs holds what it reads: retention leaves its backups and log alone until it is done, or its time is over.

G1. The hold is in the archive. Where there is none, or a drill (--no-archive) may not write to it, it is in the folder that the
    backup lies in: retention looks there, too.
G2. A hold that cannot be placed or lifted is an event: the restore goes on, for an archive may be read-only.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from thunderdb.archive.directory import is_url, open_store
from thunderdb.archive.holds import RESTORE, lift_hold, place_hold
from thunderdb.archive.retention import Hold
from thunderdb.backup.incremental import folder_of
from thunderdb.backup.plan import Plan
from thunderdb.backup.rates import longest_s
from thunderdb.base.errors import ThunderError
from thunderdb.base.events import Events
from thunderdb.runtime.ports import ObjectStore, Ports

T = TypeVar("T")
LEAST_US = 3_600_000_000
SLOWER = 20
"""A restore may take this many times longer than estimated before its hold ends."""


async def holding(ports: Ports, plan: Plan, events: Events, action: Callable[[], Awaitable[T]]) -> T:
    """Do it, and hold meanwhile what the plan names."""
    store = _where(ports, plan)
    if store is None:
        return await action()
    now_us = ports.clock.wall_ns() // 1000
    hold = Hold(
        f"{RESTORE}{now_us}",
        now_us + max(LEAST_US, int(longest_s(plan.page_bytes, plan.log_bytes) * SLOWER * 1e6)),
        tuple(link.manifest.backup_id for link in plan.chain if link.manifest is not None),
        min((segment.piece.number for segment in plan.segments), default=0),
    )
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


def _where(ports: Ports, plan: Plan) -> ObjectStore | None:
    """G1. None for a copy made by hand without an archive: retention never touches that."""
    if plan.archive is not None and not plan.no_archive:
        return plan.archive.store
    folder = folder_of(plan.backup.place)
    if plan.backup.manifest is None or (is_url(folder) and "/" not in folder.partition("://")[2]):
        return None
    return open_store(ports, folder)
