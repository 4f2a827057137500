"""One random life story of an archiving database, and what must be true of its archive at each moment.

    python -m tests.sim.archiving 0 300          seeds 0 to 299

The archive is an object store with faults and outages, a directory on the node's own disk (torn by its power cuts), or a
command. The database is killed, cut from power and stopped, while clients write; in the end everything is healed.

V1. No segment is removed before the archive has exactly its bytes, durably: a power cut at that moment leaves them.
V2. What the archiver says that the archive holds, it holds: `archived_lsn` and every note, at any moment, after any crash.
V3. Every acknowledged commit that the archive does not have is counted as exposed.
V4. While nothing is broken, an acknowledged commit is in the archive within the lag and a few requests.
V5. A commit that is not before a note's LSN is after its time.
V6. In the end there is no gap: segment by segment the archive is the log, and every acknowledged commit is in it.
"""

from __future__ import annotations

import sys
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, TypeVar

from sim.clients.engine_session import SimDatabase
from sim.scenario.faults_plan import fates_of
from sim.world.fates import NoneLanded
from sim.world.store import StoreFaults
from sim.world.world import NodeDied, SimNode, World
from tests.unit.engine.world import in_txn, update
from thunderdb.archive.archiver import Archiver
from thunderdb.archive.codec import Codec
from thunderdb.archive.directory import open_store
from thunderdb.archive.index import LogSource, StoreSource, decode_complete, read_complete
from thunderdb.archive.place import command_source
from thunderdb.base.config import Config
from thunderdb.base.errors import ThunderError
from thunderdb.base.events import Events
from thunderdb.engine.catalog import Column
from thunderdb.recovery.extras import COMMIT_EXTRA
from thunderdb.txn.manager import Txn
from thunderdb.wal.record import H_KIND, H_LENGTH, H_LSN, HEADER_SIZE, RecordKind
from thunderdb.wal.segment import SEGMENT_HEADER_SIZE, SegmentScan, decode_segment_header, segment_name

T = TypeVar("T")
MS = 1_000_000
SECOND_NS = 1_000_000_000
LAG_MS = 200
SLACK_NS = 2500 * MS
COMMIT = int(RecordKind.COMMIT)
WAL = "/var/lib/thunderdb/wal"


class Story:
    """The run of one seed."""

    def __init__(self, seed: int, kind: str = "") -> None:
        self.world = World(seed)
        self.node: SimNode = self.world.node("a")
        self.chance = self.world.streams.stream("story")
        self.kind = kind or self.chance.choice(["store", "store", "directory", "command", "blind"])
        self.compress = self.chance.random() < 0.3
        settings: dict[str, Any] = {
            "data_dir": "/var/lib/thunderdb/data", "wal_dir": WAL, "page_size": 4096, "buffer_pool_size": 1 << 20,
            "wal_buffer_size": 64 << 10, "wal_segment_size": 32 << 10, "max_wal_size": 256 << 10, "checkpoint_interval": 1000,
            "recovery_target": None, "wal_archive_enabled": True, "wal_archive_lag": LAG_MS, "wal_archive_timeout": 3000,
            "wal_archive_compress": self.compress, "wal_command_timeout": 5000,
        }  # fmt: skip
        if self.kind == "store":
            settings["wal_archive_dir"] = "s3://bucket/wal"
        elif self.kind == "directory":
            settings["wal_archive_dir"] = "/archive"
        else:
            settings["wal_archive_command"] = "put %f %n"
            if self.kind == "command":
                settings["wal_restore_command"] = "get %n %f"
            self.node.on_command = self._command
        self.config = Config(**settings)
        self.commanded: dict[str, bytes] = {}
        self.command_faults = 0.0
        self.db: SimDatabase
        self.archiver: Archiver
        self.acked: list[tuple[int, int]] = []  # (LSN behind the commit, when it was acknowledged)
        self.notes: dict[int, int] = {}  # time of a note -> its LSN
        self.next_key = 1
        self.claimed_lsn = 0
        self.healthy_since_ns = -1
        self.removed = 0
        self.log: list[str] = []

    # -- The course of the story

    def run(self) -> Story:
        self.world.run(self._main(), limit_ns=3600 * SECOND_NS)
        self.world.close()
        return self

    async def _main(self) -> None:
        for _ in range(self.chance.between(2, 4)):
            await self._open()
            clients = [self.node.call(self._client(number)) for number in range(self.chance.between(1, 3))]
            self.world.tasks.spawn(self._trouble(self.node.lives))
            watcher = self.world.tasks.spawn(self._watch(self.node.lives))
            await self._sleep(self.chance.between(50, 12_000) * MS)
            await self._end(clients)
            await watcher
        self._heal()
        await self._open()
        for _ in range(40):
            await self._call(self._work(0))
        await self._settle()
        await self._check_all()

    async def _end(self, clients: list[Any]) -> None:
        how = self.chance.choice(["kill", "power", "power", "stop"])
        self.log.append(f"{self.world.now_ns / 1e9:.3f} {how}")
        self._claim()
        self.stopping = how == "stop"
        if how == "stop":
            for client in clients:
                await client
            await self._call(self.archiver.stop())
            self._claim()
            await self._call(self.db.close())
        elif self.chance.random() < 0.7:
            self._crash_at(self.chance.between(1, 60), how == "power")
            await self._sleep(400 * MS)
        self.stopping = True
        if self.node.alive:
            self._claim()
            self.node.set_boundary(None)
            self.node.crash(power=how != "kill", fates=fates_of("mixed"))
        for client in clients:
            try:
                await client
            except NodeDied:
                pass
        self.healthy_since_ns = -1
        self.world.bury()
        await self._sleep(self.chance.between(1, 2000) * MS)

    def _crash_at(self, boundary: int, power: bool) -> None:
        """Die at a disk operation to come, and remember what was said right before it."""
        left = boundary

        def hook(_action: str, _path: str, _before: bool) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                self._claim()
                self.node.set_boundary(None)
                self.node.crash(power=power, fates=fates_of("mixed"))

        self.node.set_boundary(hook)

    async def _open(self) -> None:
        if not self.node.alive:
            self.node.restart()
        await self._check_claims()
        self.stopping = False
        events = Events()
        events.subscribe(self._on_event)
        self.db = await self._call(SimDatabase.open(self.node.ports, self.config, events))
        archiver = await self._call(Archiver.open(self.db, self.config, self.node.ports, events))
        assert archiver is not None
        self.archiver = archiver
        if self.db.catalog.table("t") is None:
            await self._call(self._create())

    async def _create(self) -> None:
        txn = self.db.begin()
        await self.db.ddl.create_table(txn, "t", [Column("a", "int4"), Column("b", "text")], pk=(0,))
        await txn.commit()

    async def _client(self, number: int) -> None:
        chance = self.world.streams.stream(f"client.{number}")
        while not self.stopping:
            await self._work(number)
            pause = chance.choice([0, 1, 20, 20, 200, 1500])
            await self.db.ports.tasks.sleep(pause * MS)

    async def _work(self, number: int) -> None:
        db = self.db
        table = db.catalog.table("t")
        assert table is not None
        chance = self.world.streams.stream(f"client.{number}")
        key = self.next_key
        self.next_key += 1

        async def insert(txn: Txn) -> None:
            await db.insert(txn, table, [key, "x" * chance.between(1, 1500)])

        async def change(txn: Txn) -> None:
            await insert(txn)
            await update(db, txn, table, [key, "y" * chance.between(1, 900)])

        await in_txn(db, chance.choice([insert, change]))
        self.acked.append((db.log.flushed_lsn, self.world.now_ns))
        if chance.random() < 0.02:
            await db.checkpoint()

    async def _trouble(self, life: int) -> None:
        """Faults and outages of the archive."""
        while self.node.lives == life and self.node.alive and not self.stopping:
            self.healthy_since_ns = self.world.now_ns if self._is_healthy() else -1
            await self._sleep(self.chance.between(500, 8000) * MS)
            if self.node.lives != life or not self.node.alive or self.stopping:
                return
            self.healthy_since_ns = -1
            self.world.store.faults = self.chance.choice(
                [
                    StoreFaults(),
                    StoreFaults(down=True),
                    StoreFaults(error_before=0.2, error_after=0.2, truncated=0.1),
                    StoreFaults(error_after=0.5),
                    StoreFaults(lag_ns=5 * SECOND_NS),
                ]
            )
            self.command_faults = self.chance.choice([0.0, 0.3, 1.0])
            await self._sleep(self.chance.between(100, 6000) * MS)
            if self.chance.random() < 0.8:
                self._heal()

    def _is_healthy(self) -> bool:
        return self.world.store.faults == StoreFaults() and self.command_faults == 0.0 and not self.archiver.status().failing

    def _heal(self) -> None:
        self.world.store.faults = StoreFaults()
        self.command_faults = 0.0

    def _command(self, text: str) -> tuple[int, str]:
        """`put FILE NAME` and `get NAME FILE`, over a store that refuses to overwrite, and that may fail before or after."""
        verb, first, second = text.split(" ")
        if self.chance.chance(self.command_faults):
            return 1, "503"
        if verb == "put":
            data = self.node.image.contents()[first]
            if second in self.commanded and (self.kind == "command" or self.commanded[second] != data):
                return 1, "exists"
            self.commanded[second] = data
            return (1, "lost") if self.kind == "command" and self.chance.chance(self.command_faults) else (0, "")
        if first not in self.commanded:
            return 1, "404"
        image = self.node.image
        image.create(second)
        image.write(image.names[second], 0, self.commanded[first])
        return 0, ""

    # -- What must be true

    def _on_event(self, name: str, fields: dict[str, Any]) -> None:
        if name.startswith("archive."):
            self.log.append(f"{self.world.now_ns / 1e9:.3f} {name} {fields}")
        if name == "wal.segment_removed":
            self._check_removed(fields["number"])
        if name == "archive.refused":
            raise AssertionError(f"refused: {fields}")

    def _check_removed(self, number: int) -> None:
        """V1."""
        self.removed += 1
        name = segment_name(1, number)
        raw = self._stored(name)
        assert raw is not None, f"{name} is removed, but not in the archive"
        header = decode_segment_header(raw[:SEGMENT_HEADER_SIZE], 1, number, self.db.control.state.system_id)
        scan = SegmentScan(header, raw)
        scan.drain()
        whole = scan.closed and SEGMENT_HEADER_SIZE + scan.lsn - header.start_lsn == len(raw)
        assert whole, f"{name} in the archive is not whole"

    def _stored(self, name: str) -> bytes | None:
        """A file of the archive, as a power cut would leave it, looked up behind the back of the ports."""
        key = Codec(self.compress).key(name)
        if self.kind == "store":
            found = self.world.store.objects.get(f"s3://bucket/wal/{key}")
            data = None if found is None else found[0]
        elif self.kind == "directory":
            image = self.node.image.fork()
            image.power_cut(NoneLanded())
            data = image.inodes[image.names[f"/archive/{key}"]].read(0, 1 << 62) if f"/archive/{key}" in image.names else None
        else:
            data = self.commanded.get(key)
        return None if data is None else Codec(self.compress).decode(data, key)

    def _claim(self) -> None:
        """Remember what the archiver says now, for the time after the crash (V2)."""
        self.claimed_lsn = max(self.claimed_lsn, self.archiver.archived_lsn)
        noted = self.archiver.status().complete_until_us
        if noted:
            self.notes[noted] = self.archiver.ledger.noted.lsn

    async def _watch(self, life: int) -> None:
        """V3 and V4, now and then."""
        before = self._note_lsn()
        while self.node.lives == life and self.node.alive:
            self._claim()
            noted = self._note_lsn()
            assert noted <= max(before, self.archiver.archived_lsn), f"the note says {noted:x}: {self.archiver.status()}"
            status = self.archiver.status()
            missing = [when for lsn, when in self.acked if lsn > self.claimed_lsn]
            if self.archiver.ledger._backlog is not None:
                assert status.exposed_transactions >= len(missing), f"{len(missing)} exposed, {status} says"
            if self.kind in ("store", "directory") and self.healthy_since_ns >= 0 and not status.failing and missing:
                late_ns = self.world.now_ns - max(min(missing), self.healthy_since_ns)
                assert late_ns < SLACK_NS + 10 * LAG_MS * MS, f"{late_ns / 1e9} s late: {status}"
            await self._sleep(self.chance.between(10, 300) * MS)

    def _note_lsn(self) -> int:
        found = self.world.store.objects.get("s3://bucket/wal/complete.00000001.json")
        return 0 if found is None else decode_complete(found[0], "note").lsn

    async def _check_claims(self) -> None:
        """V2: read the archive with new ports, after a crash, before the database is opened."""
        if not self.claimed_lsn:
            return
        faults, self.world.store.faults = self.world.store.faults, StoreFaults()
        commanded, self.command_faults = self.command_faults, 0.0
        end_lsn, _ = await self._call(self._read_all())
        assert end_lsn >= self.claimed_lsn, f"the archive ends at {end_lsn:x}, the archiver said {self.claimed_lsn:x}"
        if self.kind in ("store", "directory"):
            note = await self._call(read_complete(open_store(self.node.ports, self.config.wal_archive_dir), 1))
            assert note is None or note.lsn <= end_lsn, f"the archive ends at {end_lsn:x}, its note says {note}"
        self.world.store.faults, self.command_faults = faults, commanded

    def _source(self) -> LogSource:
        ports = self.node.ports
        if self.kind in ("command", "blind"):
            return command_source(ports, replace(self.config, wal_restore_command="get %n %f"), None)
        return StoreSource(open_store(ports, self.config.wal_archive_dir), Codec(), ports.offload)

    async def _read_all(self) -> tuple[int, list[tuple[int, int]]]:
        """(end, [(LSN, order time) of each commit]) of the archive, from its first segment on without a gap."""
        source = self._source()
        commits: list[tuple[int, int]] = []
        end_lsn, number, checksum = 0, 1, None
        while (raw := await source.segment(1, number)) is not None and len(raw) >= SEGMENT_HEADER_SIZE:
            system_id = int.from_bytes(raw[32:40], "little")
            header = decode_segment_header(raw[:SEGMENT_HEADER_SIZE], 1, number, system_id)
            assert end_lsn in (0, header.start_lsn)
            scan = SegmentScan(header, raw, prev_checksum=checksum)
            for record in scan:
                if record[H_KIND] == COMMIT:
                    at = record[H_LSN] + scan.bias + HEADER_SIZE
                    commits.append((record[H_LSN], COMMIT_EXTRA.unpack_from(raw, at)[0]))
                    assert record[H_LENGTH] == HEADER_SIZE + COMMIT_EXTRA.size
            end_lsn, checksum, number = scan.lsn, scan.prev_checksum, number + 1
            if not scan.closed:
                break
        return end_lsn, commits

    async def _settle(self) -> None:
        """Everything is healed: the archive catches up."""
        if self.kind in ("command", "blind"):
            await self._call(self._switch())
        lsn = self.db.log.flushed_lsn - 200
        await self._call(self.archiver.wait_archived(lsn))
        await self._sleep(2 * SECOND_NS)
        status = self.archiver.status()
        assert not status.failing and not status.gaps and status.segments_pending == 0, status

    async def _switch(self) -> None:
        for _ in range(200):
            try:
                await self.archiver.switch()
                return
            except ThunderError:
                await self.db.ports.tasks.sleep(SECOND_NS)
        raise AssertionError("archiving does not recover")

    async def _check_all(self) -> None:
        """V5 and V6."""
        end_lsn, commits = await self._call(self._read_all())
        for lsn, _when in self.acked:
            assert lsn <= end_lsn, f"an acknowledged commit below {lsn:x} is not in the archive, which ends at {end_lsn:x}"
        for name, found in list(self.world.store.objects.items()):
            if "/complete." in name:
                complete = decode_complete(found[0], name)
                self.notes[complete.time_us] = complete.lsn
        for time_us, note_lsn in self.notes.items():
            for lsn, order_us in commits:
                assert lsn < note_lsn or order_us > time_us, f"note ({note_lsn:x}, {time_us}), commit ({lsn:x}, {order_us})"
        if self.kind in ("store", "directory"):
            assert (await self._call(self._source().index())).gaps() == []  # type: ignore[attr-defined]

    # -- Shortcuts

    async def _call(self, coro: Coroutine[Any, Any, T]) -> T:
        return await self.node.call(coro)

    async def _sleep(self, delay_ns: int) -> None:
        await self.world.tasks.sleep(delay_ns)


def main(first: int, end: int) -> int:
    failed = 0
    for seed in range(first, end):
        story = Story(seed)
        try:
            story.run()
        except Exception as error:
            failed += 1
            print(f"seed {seed} ({story.kind}): {type(error).__name__}: {error}", flush=True)
    print(f"{end - first} seeds, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
