"""A database in memory whose log is archived, and restores of it into other directories of the same disk."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tests.unit.backup.helpers import WIDE, BackupWorld
from tests.unit.engine.world import SECOND_NS
from thunderdb.archive.history import format_claim
from thunderdb.archive.index import Complete, encode_complete
from thunderdb.archive.names import complete_name
from thunderdb.backup.plan import Plan, plan_restore
from thunderdb.backup.restore import RestoreReport, restore
from thunderdb.base.config import Config
from thunderdb.base.events import Events
from thunderdb.engine.check import check_database
from thunderdb.engine.database import Database
from thunderdb.recovery.target import format_time, parse_target
from thunderdb.wal.segment import SEGMENT_HEADER_SIZE, segment_name
from thunderdb.wal.timeline import history_name

ARCHIVE = "/archive"
ROW = (WIDE[:100],)


@dataclass(frozen=True)
class Mark:
    """A moment in the history: what a restore to it must give."""

    lsn: int
    time_us: int
    keys: tuple[int, ...]

    @property
    def time(self) -> str:
        return format_time(self.time_us)

    @property
    def at_lsn(self) -> str:
        return f"lsn:{self.lsn >> 32:X}/{self.lsn & 0xFFFFFFFF:X}"


class RestoreWorld(BackupWorld):
    """Commits one key at a time, a second apart, and knows which keys were there at each moment."""

    def __init__(self, rows: int = 50, **settings: Any) -> None:
        super().__init__(rows, **{"wal_archive_enabled": True, **settings})  # so that no log is removed
        self.keys = list(range(rows))
        self.marks: list[Mark] = []
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.restores = 0

    def commit(self, count: int = 1) -> Mark:
        """Commit so many transactions with a new row each, a second apart; return the moment after the last."""
        for _ in range(count):
            self.rest(1)
            key = self.keys[-1] + 1
            self.insert(self.t, [key, ROW[0]])
            self.keys.append(key)
            self.marks.append(self.now())
        return self.marks[-1]

    def now(self) -> Mark:
        return Mark(self.db.log.last_lsn, self.db.manager.order.last_us, tuple(self.keys))

    def ship(self, place: str = ARCHIVE, owner: str = "a" * 32) -> None:
        """What an archiver would have done by now: closed segments, the open one's beginning, history, note."""
        self.run(self.db.log.flush_all())
        log, disk, state = self.db.log, self.disk, self.db.control.state
        disk.dirs[place] = None
        own = history_name(log.timeline)
        local = disk.files.get(f"{self.config.wal_dir}/{own}", b"")
        disk.files.setdefault(f"{place}/{own}", bytearray(format_claim((), state.system_id, owner).encode() + bytes(local)))
        fork_number = self.fork_number
        for index, (number, start_lsn) in enumerate(log.segments):
            if number < fork_number:
                continue
            name = segment_name(log.timeline, number)
            data = disk.files[f"{self.config.wal_dir}/{name}"]
            last = index == len(log.segments) - 1
            end = log.flushed_lsn if last else log.segments[index + 1][1]
            cut = bytearray(data[: SEGMENT_HEADER_SIZE + end - start_lsn])
            if last:
                disk.files[f"{place}/{name}.partial"] = cut
            else:
                disk.files[f"{place}/{name}"] = cut
                disk.files.pop(f"{place}/{name}.partial", None)
        complete = Complete(log.flushed_lsn, self.clock.wall_ns() // 1000, log.segments[-1][0])
        disk.files[f"{place}/{complete_name(log.timeline)}"] = bytearray(encode_complete(log.timeline, complete))

    fork_number = 0

    def switch(self) -> None:
        """Close the segment early."""
        self.db.log.switch_segment()
        self.run(self.db.log.flush_all())
        self.rest(1)

    def target_config(self, name: str = "") -> Config:
        if not name:
            self.restores += 1
            name = f"/r{self.restores}"
        return replace(self.config, data_dir=f"{name}/data", wal_dir=f"{name}/wal")

    def plan(self, target: str, backup: str, config: Config | None = None, archive: str | None = ARCHIVE, **more: Any) -> Plan:
        return self.run(plan_restore(self, config or self.target_config(), parse_target(target), backup, archive, **more))

    def restore(
        self, target: str, backup: str, config: Config | None = None, archive: str | None = ARCHIVE, **more: Any
    ) -> tuple[RestoreReport, Config]:
        config = config or self.target_config()
        check = more.pop("check", True)
        plan = self.plan(target, backup, config, archive, **more)
        events = Events()
        events.subscribe(lambda name, fields: self.events.append((name, dict(fields))))
        return self.run(restore(self, config, plan, events, check=check)), config

    def keys_in(self, config: Config) -> tuple[int, ...]:
        """Open the restored database as a start would, read the keys, check everything, shut down."""
        db = self.run(Database.open(self, config, Events()))
        table = db.catalog.table("t")
        keys: list[int] = []
        if table is not None:
            rows = db.rows.table(table).row

            async def read() -> None:
                txn = db.begin()
                async for batch in db.scan(txn, table.root):
                    keys.extend(rows.decode(payload)[0] for _key, payload in batch)
                await txn.commit()

            self.run(read())
        self.rest()
        assert self.run(check_database(db)) == []
        self.run(db.close())
        return tuple(keys)

    def go_on(self, config: Config, mark: Mark) -> None:
        """Let the history go on in a restored database: it becomes `db`."""
        self.config = config
        self.db = self.run(Database.open(self, config, Events()))
        table = self.db.catalog.table("t")
        if table is None:
            raise AssertionError("the table is gone")
        self.t = table
        self.keys = list(mark.keys)
        self.fork_number = max(number for number, start in self.db.log.segments if start <= mark.lsn)

    def snapshot(self) -> dict[str, bytes]:
        """Every file, to compare."""
        return {path: bytes(data) for path, data in self.disk.files.items()}


def wait(world: RestoreWorld, seconds: float) -> None:
    world.run(world.tasks.sleep(int(seconds * SECOND_NS)))
