"""The simulator plays what real daemons have just been through: from the very bytes that they left, with measured costs.

V1. Disk images are filled with the real files (the killed directories; backup and archive), so transactions, rows, pages and
    log are the same to the byte, and as much of them is not synced yet as the kernel said. The simulator adds time: CPU by kind
    of work (sim/world/costs.py) and this disk's profile.
V2. Costs were measured by tools.calibrate on other, smaller runs; nothing here is fitted to the RTO that it is compared with.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sim.incident.copying import put_file
from sim.world.costs import COSTS_NS
from sim.world.disk import DeviceProfile
from sim.world.image import Pending
from sim.world.world import SimNode, World
from thunderdb.backup.plan import plan_restore
from thunderdb.backup.restore import restore
from thunderdb.base import config as daemon_config
from thunderdb.base.config import Config
from thunderdb.base.events import Events
from thunderdb.engine.database import Database
from thunderdb.recovery.target import parse_target
from tools.rto_real import FAR_APART, PROBE, STEPS, Round

BASE = "/var/lib/thunderdb"


class Played:
    """A world with one machine, whose disk holds copies of real directories."""

    def __init__(self, profile: DeviceProfile, directories: dict[str, Path], seed: int = 1) -> None:
        self.world = World(seed)
        self.node: SimNode = self.world.node("a", profile=profile)
        for place, source in directories.items():
            for path in sorted(source.rglob("*")):
                if path.is_file():
                    put_file(self.node.image, f"{BASE}/{place}/{path.relative_to(source)}", path.read_bytes())
        self.node.costs_ns.update(COSTS_NS)
        settings = {**FAR_APART, "data_dir": f"{BASE}/data", "wal_dir": f"{BASE}/wal"}
        self.config: Config = daemon_config.parse("", flags=settings)
        self.at_ns = 0
        self.phases: list[tuple[str, float]] = []

    def happened(self, name: str, _fields: dict[str, Any]) -> None:
        if name in STEPS:
            self.phase(STEPS[name])

    def phase(self, what: str) -> None:
        now_ns = self.world.now_ns
        if now_ns > self.at_ns:
            self.phases.append((what, (now_ns - self.at_ns) / 1e9))
            self.at_ns = now_ns

    def events(self) -> Events:
        events = Events()
        events.subscribe(self.happened)
        return events

    async def served(self) -> None:
        """A daemon's start, until its first write is acknowledged."""
        node = self.node
        await node.call(node.ports.tasks.work("process.start", 1))
        db = await node.call(Database.open(node.ports, self.config, self.events()))
        self.phase("ready")
        await node.call(probe(db))
        self.phase("first write")

    async def restored(self, target: str) -> None:
        node = self.node
        await node.call(node.ports.tasks.work("process.command", 1))
        events = self.events()
        plan = await node.call(plan_restore(
            node.ports, self.config, parse_target(target), f"{BASE}/backup", f"{BASE}/archive", no_archive=True))  # fmt: skip
        await node.call(restore(node.ports, self.config, plan, events, True))
        self.phase("command ended")
        # The command's process is over; the daemon is another one, on the same files.
        await self.served()

    def result(self) -> Round:
        rto_s = self.world.now_ns / 1e9
        self.world.close()
        return Round(rto_s, self.phases)


def killed(profile: DeviceProfile, left: Path, unsynced: dict[str, int]) -> Round:
    """The restart of what a kill left; `unsynced` bytes of files in data were in the cache only."""
    played = Played(profile, {"data": left / "data", "wal": left / "wal"})
    for name, size in unsynced.items():
        number = played.node.image.names.get(f"{BASE}/data/{name}")
        if size and number is not None:
            inode = played.node.image.inodes[number]
            inode.pending.append(Pending(0, 0, min(size, inode.cache_size), inode.cache_size, {}))
    played.world.run(played.served())
    return played.result()


def restored(profile: DeviceProfile, work: Path, target: str) -> Round:
    """The restore of a backup and its archive to a target."""
    played = Played(profile, {"backup": work / "backup", "archive": work / "archive"})
    played.world.run(played.restored(target))
    return played.result()


async def probe(db: Database) -> None:
    """One row, changed and committed."""
    definition = db.catalog.table(PROBE)
    if definition is None:
        raise RuntimeError(f"{PROBE} is not there")
    access = db.rows.table(definition)
    txn = db.begin()
    key = access.key_of([1])
    payload = None if key is None else await db.rows.lock_row(txn, definition, key)
    if key is None or payload is None:
        raise RuntimeError(f"{PROBE} has no row")
    _, value = access.row.decode(payload)
    await db.rows.update(txn, definition, key, payload, [1, value + 1])
    await txn.commit()
