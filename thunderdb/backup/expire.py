"""Retention carried out: what `plan_retention` lets go is removed, in an order that a crash cannot turn into a broken promise.

    take inventory ─▶ decide ─▶ finish what an earlier run began ─▶ backups, newest first ─▶ log, oldest first

E1. A backup stops being one in a single step, before any of its files goes: a directory is renamed, in a store the manifest is
    deleted. What a crash leaves of it is marked, and the next run finishes it.
E2. Backups go before the log they might need, and incremental ones before what they stand on (newest first).
E3. Log goes from its old end on, so that what is left never has a new gap.
E4. Holds are looked at again before each backup and every few segments: a restore that began a moment ago is seen.
E5. Nothing is removed that the plan did not name, and a plan is made from what is there now, never from a memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from thunderdb.archive.codec import Codec
from thunderdb.archive.directory import is_url, open_store
from thunderdb.archive.holds import read_holds, remove_ended
from thunderdb.archive.retention import Decision, Hold, plan_retention, show_time, window_of
from thunderdb.backup.inventory import REMOVING, REMOVING_MARK, Inventory, policy_of, take_inventory
from thunderdb.backup.manifest import MANIFEST_NAME
from thunderdb.backup.place import remove_tree
from thunderdb.base.config import Config
from thunderdb.base.events import Events
from thunderdb.runtime.ports import ObjectStore, Ports

HOLDS_EVERY = 32
SCHEMA = "thunderdb.retention/1"


@dataclass(slots=True)
class Expired:
    """What a run decided and did. `removed` has objects in the order in which they went."""

    inventory: Inventory
    decisions: list[Decision]
    now_us: int
    removed: list[str] = field(default_factory=list)
    held: list[str] = field(default_factory=list)

    @property
    def window(self) -> tuple[int, int] | None:
        facts = self.inventory.facts
        timeline = facts.current_timeline or max((backup.timeline for backup in self.inventory.backups), default=0)
        return window_of(self.inventory.backups, facts, timeline)

    def document(self) -> dict[str, Any]:
        """The report as plain values, for --json and the admin API."""
        window = self.window
        gone = set(self.removed)
        return {
            "schema": SCHEMA,
            "time": show_time(self.now_us),
            "destination": self.inventory.destination or None,
            "archive": self.inventory.archive.place if self.inventory.archive is not None else None,
            "recovery_window": None if window is None else {"oldest": show_time(window[0]), "newest": show_time(window[1])},
            "objects": [
                {
                    "object": item.object,
                    "kind": item.kind,
                    "keep": item.keep,
                    "reason": item.reason,
                    "size_bytes": item.size_bytes,
                    "removed": item.object in gone,
                }
                for item in self.decisions
            ],
        }


async def decide(
    ports: Ports, config: Config, codec: Codec, *, system_id: int = 0, timeline: int = 0, known: Sequence[str] = ()
) -> Expired:
    """The dry run: look at everything and decide, removing nothing. Raises: StorageError."""
    inventory = await take_inventory(ports, config, codec, system_id=system_id, timeline=timeline, known=known)
    now_us = ports.clock.wall_ns() // 1000
    decisions = plan_retention(inventory.backups, inventory.facts, policy_of(config), now_us, inventory.holds)
    unfinished = "unfinished: a backup is being written there, or was interrupted; goes only by hand"
    decisions += [Decision(place, "other", True, unfinished) for place in inventory.unfinished]
    return Expired(inventory, decisions, now_us)


async def expire(
    ports: Ports, config: Config, codec: Codec, events: Events, *, system_id: int = 0, timeline: int = 0,
    known: Sequence[str] = (),
) -> Expired:  # fmt: skip
    """Decide, then remove. Can be killed anywhere and run again (E1). Raises: StorageError, with what is done so far done."""
    run = await decide(ports, config, codec, system_id=system_id, timeline=timeline, known=known)
    if run.inventory.leftovers and not is_url(run.inventory.destination):
        # E1: a run that was killed has perhaps renamed it in the cache only.
        await ports.disk.sync_dir(await ports.disk.resolve(run.inventory.destination))
    for name in run.inventory.leftovers:
        await _finish(ports, run.inventory.destination, name)
    gone = [item for item in run.decisions if not item.keep]
    by_place = {backup.object: backup for backup in run.inventory.backups}
    for item in gone:
        if item.kind != "backup":
            continue
        holds = await _holds(ports, config, run)
        if any(not hold.backups or by_place[item.object].backup_id in hold.backups for hold in holds):
            run.held.append(item.object)
            continue
        try:
            await _remove_backup(ports, run.inventory.destination, item.object)
        except FileNotFoundError:
            continue  # another run, the daemon's or one from the command line, has just removed it
        run.removed.append(item.object)
        events.emit("retention.removed", object=item.object, reason=item.reason, size_bytes=item.size_bytes)
    await _remove_log(ports, config, events, run, gone)
    for store in _stores(ports, config, run):
        await remove_ended(store, run.now_us)
    if run.removed or run.held:
        events.emit("retention.complete", removed=len(run.removed), held=len(run.held))
    return run


async def _remove_log(ports: Ports, config: Config, events: Events, run: Expired, gone: list[Decision]) -> None:
    """E3. A backup that a new hold has kept keeps all log with it."""
    archive = run.inventory.archive
    if archive is None or run.held:
        return
    numbers = {segment.object: segment.number for segment in run.inventory.facts.segments}
    holds: list[Hold] = []
    removed = size_bytes = 0
    for index, item in enumerate(item for item in gone if item.kind == "segment"):
        if index % HOLDS_EVERY == 0:
            holds = await _holds(ports, config, run)
        if any(numbers[item.object] >= hold.from_segment for hold in holds):
            run.held.append(item.object)
            continue
        await archive.delete(item.object)
        run.removed.append(item.object)
        removed, size_bytes = removed + 1, size_bytes + item.size_bytes
    if removed:
        events.emit("retention.log_removed", segments=removed, size_bytes=size_bytes)


async def _holds(ports: Ports, config: Config, run: Expired) -> list[Hold]:
    """E4."""
    found = [hold for store in _stores(ports, config, run) for hold in await read_holds(store)]
    now_us = ports.clock.wall_ns() // 1000
    return [hold for hold in found if hold.expires_us > now_us]


def _stores(ports: Ports, config: Config, run: Expired) -> list[ObjectStore]:
    """Where holds may be."""
    archive = [] if run.inventory.archive is None else [run.inventory.archive]
    return archive + ([open_store(ports, config.destination)] if config.destination else [])


async def _remove_backup(ports: Ports, destination: str, place: str) -> None:
    """E1."""
    parent, _, name = place.rpartition("/")
    if is_url(place):
        store = open_store(ports, destination)
        await store.put(f"{name}/{REMOVING_MARK}", b"{}\n")
        await store.delete(f"{name}/{MANIFEST_NAME}")
        await _finish(ports, destination, name)
        return
    await ports.disk.rename(place, f"{parent}/{REMOVING}{name}")
    await ports.disk.sync_dir(parent)
    await _finish(ports, destination, f"{REMOVING}{name}")


async def _finish(ports: Ports, destination: str, name: str) -> None:
    """Remove what is marked as no backup any more; fine if part of it is gone already."""
    if not is_url(destination):
        root = await ports.disk.resolve(destination)
        await remove_tree(ports.disk, f"{root}/{name}")
        await ports.disk.sync_dir(root)
        return
    store = open_store(ports, destination)
    mark = f"{name}/{REMOVING_MARK}"
    keys = [stored.key for stored in await store.list(f"{name}/")]
    for key in sorted(keys, key=lambda key: not key.endswith(f"/{MANIFEST_NAME}")):  # the manifest first
        if key != mark:
            await store.delete(key)
    await store.delete(mark)
