"""Kill at every I/O of a backup, an archive push, a retention run, a restore, and of the first start after one.

A small history is brought to where the operation begins; the operation runs once, and the disk is kept at each of its I/O
boundaries. From each of these states, after kill -9 and after power cuts with all, nothing and a mix of the unsynced landed
(and after kill -9 once more with a power cut, nothing or a mix landed, at some I/O of the run that follows: I2):

    backup      what looks complete verifies and restores; the database opens; the same backup can be taken again
    archive     the database opens and goes on archiving; a restore to `latest` from the archive gives every commit
    retention   what is left verifies; a second run ends the work; a restore to `latest` gives every commit
    restore     nothing opens that is not whole; the same command, run again, gives the same result
    first_start it replays the log: until it serves, the same restore again is done or refused; then it is a database like any

I1. Never a silent wrong result: whatever opens or restores is exactly the model, or it is refused by name.
I2. What a killed process has only renamed is there for the next one, and gone after a power cut: whatever the next one said
    meanwhile must hold all the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from sim.clients.engine_session import read_state
from sim.clients.history_database import HistoryDatabase
from sim.clients.workload import PROBE
from sim.history.history import History
from sim.history.shape import Shape
from sim.history.targets import Aim, Elsewhere
from sim.history.vault import CONFIG_TEXT, Vault
from sim.oracle.oracle import Violation, differences
from sim.oracle.truth import Commit, below, state_of
from sim.runs.runner import where
from sim.world.branch import Branch, deaths, record_branches
from sim.world.fates import NoneLanded
from sim.world.image import DiskImage
from sim.world.rand import Stream, derive
from sim.world.world import NodeDied
from thunderdb.archive.archiver import Archiver
from thunderdb.archive.codec import Codec
from thunderdb.backup.expire import expire
from thunderdb.backup.incremental import read_base
from thunderdb.backup.manifest import MANIFEST_NAME
from thunderdb.backup.place import PARTIAL, remove_tree
from thunderdb.backup.plan import plan_restore
from thunderdb.backup.restore import restore
from thunderdb.backup.take import BackupRequest, take_backup
from thunderdb.base.config import Config
from thunderdb.base.errors import Refused, ThunderError
from thunderdb.base.events import Events
from thunderdb.recovery.target import LATEST

MS = 1_000_000
SECOND_NS = 1_000_000_000
HOUR_NS = 3600 * SECOND_NS
LIMIT_NS = 100 * HOUR_NS
BACKUPS, ARCHIVE = "/mnt/backups", "/mnt/archive"
SMALL = Shape(accounts=3, items=4, clients=(1, 1), think_ns=(0, 2 * MS))
SETTINGS: dict[str, Any] = {
    "wal_archive_enabled": True, "wal_archive_dir": ARCHIVE, "wal_archive_lag": "20ms", "wal_archive_timeout": "60s",
    "wal_archive_retention": "1m", "keep_daily": "1h", "destination": BACKUPS,
}  # fmt: skip
CUTS = 2
OPERATIONS = ("backup", "incremental", "archive", "retention", "restore", "first_start")


@dataclass(slots=True)
class Found:
    """What was tried, and what was wrong."""

    operation: str
    boundaries: int = 0
    states: int = 0
    violations: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


class Stage:
    """The history before the operation, and the operation."""

    def __init__(self, operation: str, seed: int) -> None:
        self.operation = operation
        self.seed = seed
        self.compress = bool(derive(seed, "compress") & 1)
        self.history = History(seed, replace(SMALL, vault=False))
        self.vault = Vault(ARCHIVE, BACKUPS, {**SETTINGS, "wal_archive_compress": self.compress}, False)
        self.history.vault = self.vault
        self.branches: list[Branch] = []
        self.archived: list[int] = []
        """How far the archive was said to be, at each branch."""
        self.commits: list[Commit] = []

    @property
    def config(self) -> Config:
        return self.history.config()

    @property
    def target(self) -> Config:
        return replace(self.config, data_dir="/srv/restored/data", wal_dir="/srv/restored/wal")

    def record(self) -> None:
        history = self.history
        history.world.run(self._course(), LIMIT_NS)
        self.commits = history.recorder.known()
        history.world.close()

    async def _course(self) -> None:
        history, node = self.history, self.history.node
        await history._open()
        await history.call(history._set_up(history.session()))
        await self._work()
        await self.back_up("b001", label="daily")
        await self._work()
        if self.operation == "retention":
            await self.back_up("b002", base="b001", label="incremental")
            await history.call(self._switch())
            await history._stop_clean()
            await history.sleep(3 * HOUR_NS)
            await history._open()
            await self._work()
            await self.back_up("b003", label="daily")
            await history.call(self._switch())
            await self._work()
            await history.sleep(70 * SECOND_NS)
        archiver = history.archiver
        if self.operation in ("restore", "first_start", "retention") and archiver is not None:
            await history.call(archiver.wait_archived(history.db.log.flushed_lsn))
        if self.operation == "first_start":
            await history.call(self.restoring(node.ports))
        self.branches = record_branches(node)
        inner = node.on_boundary
        if inner is None:
            raise AssertionError("record_branches set no hook")

        def hook(action: str, path: str, before: bool) -> None:
            inner(action, path, before)
            while len(self.archived) < len(self.branches):
                self.archived.append(0 if archiver is None else archiver.archived_lsn)

        node.set_boundary(hook)
        await self._operation()
        node.set_boundary(None)

    async def _work(self) -> None:
        self.history._start_clients()
        await self.history.sleep(20 * MS)
        for client in self.history.clients:
            client.stopping = True
        for call in self.history.calls:
            await call
        self.history.calls.clear()
        self.history.clients.clear()
        await self.history.call(self.history.db.log.flush_all())

    async def _switch(self) -> None:
        if self.history.archiver is not None:
            await self.history.archiver.switch()

    async def back_up(self, name: str, base: str = "", label: str = "manual") -> None:
        history = self.history
        await history.call(
            take_backup(history.db, history.node.ports, self.request(name, base, label), backup_id=f"bk-20260101-000{name[1:]}",
                        archiver=history.archiver, config_text=CONFIG_TEXT)
        )  # fmt: skip

    def request(self, name: str, base: str = "", label: str = "manual") -> BackupRequest:
        return BackupRequest(
            f"{BACKUPS}/{name}", compress=self.compress, type="incremental" if base else "full", label=label,
            base=f"{BACKUPS}/{base}" if base else None,
        )  # fmt: skip

    async def _operation(self) -> None:
        history = self.history
        if self.operation in ("backup", "incremental"):
            await self.back_up("b002", base="b001" if self.operation == "incremental" else "")
        elif self.operation == "archive":
            await history.call(self._switch())
            await history.sleep(100 * MS)
        elif self.operation == "retention":
            ports = history.node.ports
            await history.call(expire(ports, self.config, Codec(self.compress, None), Events()))
        elif self.operation == "restore":
            await history.call(self.restoring(history.node.ports))
        else:
            await history.call(self._start(history.node.ports))

    async def _start(self, ports: Any) -> None:
        db = await HistoryDatabase.open(ports, replace(self.target, wal_archive_enabled=False), Events())
        await ports.tasks.sleep(SECOND_NS)  # the pages that were left for later are brought up
        await db.checkpoint()
        await db.close()

    async def restoring(self, ports: Any) -> None:
        plan = await plan_restore(ports, self.target, LATEST, BACKUPS, ARCHIVE)
        await restore(ports, self.target, plan, Events(), database=HistoryDatabase)


class Check:
    """What must be so after a death in the operation."""

    def __init__(self, stage: Stage, counts: Counter[str]) -> None:
        self.stage = stage
        self.counts = counts
        self.archived_lsn = 0
        self.cut: int | None = None  # I2: at which boundary of the run that follows the death the power goes
        self.archiver: Archiver | None = None
        self.completed: list[str] = []

    def state(self, image: DiskImage, seed: int, cut: int | None = None) -> None:
        """Raises: Violation; what nothing explains."""
        self.cut, self.archiver, self.completed = cut, None, []
        check: Callable[[Elsewhere], None] = getattr(self, f"_{self.stage.operation}")
        elsewhere = Elsewhere(seed, image, None, self.counts)
        elsewhere.node.clock.jump(self.stage.history.world.now_ns)
        try:
            check(elsewhere)
        finally:
            elsewhere.close()

    # -- The operations

    def _backup(self, machine: Elsewhere) -> None:
        stage = self.stage
        self._cut_off(machine, lambda: self._take_again(machine, "b003"))
        places = complete(machine.node.image)
        if missing := sorted(set(self.completed) - set(places)):
            raise Violation(f"completed, and gone after a power cut: {missing}")
        self.counts["complete"] += len(places)
        machine.verify(stage.config, places)
        self._run(machine, self._take_again(machine, "b004"))
        machine.verify(stage.config, [f"{BACKUPS}/b004"])
        self._latest(machine, f"{BACKUPS}/b004")

    _incremental = _backup

    async def _take_again(self, machine: Elsewhere, other: str) -> None:
        """The database opens, and a backup can be taken: under the same name as soon as what was left is removed."""
        stage, ports = self.stage, machine.node.ports
        db = await HistoryDatabase.open(ports, stage.config, Events())
        await self._whole(db)
        archiver = await Archiver.open(db, stage.config, ports, db.events)
        for name in ("b002", other):
            request = stage.request(name, "b001" if stage.operation == "incremental" else "")
            try:
                await take_backup(
                    db, ports, request, backup_id=f"bk-20260102-000{name[1:]}", archiver=archiver, config_text=CONFIG_TEXT,
                    known=frozenset([await base_checksum(ports)]),
                )  # fmt: skip
                self.completed.append(request.destination)
            except Refused:
                if name == other:
                    raise
                if await ports.disk.exists(request.destination + PARTIAL):
                    await remove_tree(ports.disk, request.destination + PARTIAL)
        if archiver is not None:
            await archiver.stop()
        await db.close()

    def _archive(self, machine: Elsewhere) -> None:
        self._cut_off(machine, lambda: self._archive_on(machine))
        self._lost(machine)
        self._run(machine, self._archive_on(machine))
        self._latest(machine, BACKUPS)

    def _lost(self, machine: Elsewhere) -> None:
        """The database is gone; the archive has what it was said to have."""
        stage = self.stage
        there = Elsewhere(3, machine.node.image.fork(), None, self.counts)
        try:
            config = replace(stage.target, data_dir="/srv/again/data", wal_dir="/srv/again/wal")
            aim = Aim("latest", self.archived_lsn, (), sure=True)
            report = there.restore(config, stage.vault, aim, BACKUPS, HistoryDatabase, 1)
            if report is None or report.stop_lsn < self.archived_lsn:
                raise Violation(f"the archive was said to reach {self.archived_lsn:#x}, latest ended before it: {report}")
            there.compare(config, HistoryDatabase, [], below(stage.commits, report.stop_lsn))
        finally:
            there.close()

    async def _archive_on(self, machine: Elsewhere) -> None:
        stage, ports = self.stage, machine.node.ports
        db = await HistoryDatabase.open(ports, stage.config, Events())
        await self._whole(db)
        archiver = await Archiver.open(db, stage.config, ports, db.events)
        self.archiver = archiver
        if archiver is not None:
            await archiver.wait_archived(db.log.flushed_lsn)
            status = archiver.status()
            if status.refused or status.failing or status.gaps:
                raise Violation(f"the archiver does not go on: {status.last_error} {status.gaps}")
            await archiver.stop()
        await db.close()

    def _retention(self, machine: Elsewhere) -> None:
        stage = self.stage

        async def once() -> None:
            await expire(machine.node.ports, stage.config, Codec(stage.compress, None), Events())

        self._cut_off(machine, once)
        places = complete(machine.node.image)
        if f"{BACKUPS}/b003" not in places:
            raise Violation("the newest backup is gone")
        machine.verify(stage.config, places)
        self._latest(machine, BACKUPS, fresh=True)

        async def again() -> None:
            run = await expire(machine.node.ports, stage.config, Codec(stage.compress, None), Events())
            run = await expire(machine.node.ports, stage.config, Codec(stage.compress, None), Events())
            if run.removed or run.inventory.leftovers:
                raise Violation(f"a third run still finds work: {run.removed} {run.inventory.leftovers}")

        self._run(machine, again())
        if complete(machine.node.image) != [f"{BACKUPS}/b003"]:
            raise Violation(f"after retention there are {complete(machine.node.image)}")
        left = [path for path in (*machine.node.image.names, *machine.node.image.dirs) if path.startswith(f"{BACKUPS}/")]
        others = [path for path in left if not path.startswith(f"{BACKUPS}/b003")]
        if others:
            raise Violation(f"left over: {others[:4]}")
        self._latest(machine, BACKUPS)

    def _restore(self, machine: Elsewhere) -> None:
        stage = self.stage

        async def early(ports: Any) -> None:
            """Somebody starts the database before the restore was run again."""
            if not await ports.disk.exists(f"{stage.target.data_dir}/control"):
                return
            try:
                db = await HistoryDatabase.open(ports, replace(stage.target, wal_archive_enabled=False), Events())
            except ThunderError:
                self.counts["refused to open"] += 1
                return
            self.counts["opened early"] += 1
            await self._whole(db)
            await db.close()

        self._cut_off(machine, lambda: self._restoring(machine))
        fork = Elsewhere(1, machine.node.image.fork(), None, self.counts)
        try:
            self._run(fork, early(fork.node.ports))
        finally:
            fork.close()
        self._run(machine, self._restoring(machine))
        machine.compare(stage.target, HistoryDatabase, [], stage.commits)

    async def _restoring(self, machine: Elsewhere) -> None:
        try:
            await self.stage.restoring(machine.node.ports)
        except Refused as error:
            if not ("original database" in error.message or "is not of the backup" in error.message):
                raise
            self.counts["was done"] += 1  # and started since: what is there is no restore any more

    _first_start = _restore

    # -- Helpers

    def _cut_off(self, machine: Elsewhere, make: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """I2: a run that ends in a power cut at the latest when it is through; what the archiver said until then counts."""
        if self.cut is None:
            return
        if not machine.node.alive:
            machine.node.restart()
        left, odd = self.cut, self.cut % 2

        def cut() -> None:
            if self.archiver is not None:
                self.archived_lsn = max(self.archived_lsn, self.archiver.archived_lsn)
            machine.node.set_boundary(None)
            machine.node.crash(power=True, fates=None if odd else NoneLanded())  # odd: a mix

        def hook(_action: str, _path: str, _before: bool) -> None:
            nonlocal left
            left -= self.archiver is not None or self.stage.operation != "archive"  # not while the database only opens
            if left == 0:
                self.counts["cut off"] += 1
                cut()

        machine.node.set_boundary(hook)
        try:
            machine.world.run(_on(machine, make()), LIMIT_NS)
        except NodeDied:
            pass
        else:
            cut()
        machine.world.bury()
        machine.node.restart()

    def _run(self, machine: Elsewhere, coro: Coroutine[Any, Any, None]) -> None:
        if not machine.node.alive:
            machine.node.restart()
        machine.world.run(_on(machine, coro), LIMIT_NS)

    async def _whole(self, db: HistoryDatabase) -> None:
        wrong = differences(state_of(self.stage.commits), await read_state(db, PROBE))
        if wrong:
            raise Violation(f"the database itself: {'; '.join(wrong[:4])}")

    def _latest(self, machine: Elsewhere, place: str, fresh: bool = False) -> None:
        """Restored to `latest`, every commit is there (`fresh`: on a copy of the machine)."""
        stage = self.stage
        there = Elsewhere(2, machine.node.image.fork(), None, self.counts) if fresh else machine
        try:
            if not there.node.alive:
                there.node.restart()
            config = replace(stage.target, data_dir="/srv/again/data", wal_dir="/srv/again/wal")
            aim = Aim("latest", 0, tuple(stage.commits), sure=True)
            there.restore(config, stage.vault, aim, place, HistoryDatabase, 1)
            there.compare(config, HistoryDatabase, [], stage.commits)
        finally:
            if fresh:
                there.close()


async def _on(machine: Elsewhere, coro: Coroutine[Any, Any, None]) -> None:
    await machine.node.call(coro)


async def base_checksum(ports: Any) -> str:
    return (await read_base(ports, f"{BACKUPS}/b001")).checksum


def complete(image: DiskImage) -> list[str]:
    """Every backup that looks complete."""
    suffix = f"/{MANIFEST_NAME}"
    found = [path.removesuffix(suffix) for path in image.names if path.startswith(BACKUPS) and path.endswith(suffix)]
    return sorted(place for place in found if not place.endswith(PARTIAL) and "/." not in place)


def _deaths(branch: Branch, seed: int, mixes: int, cuts: Stream) -> Iterator[tuple[str, DiskImage, int | None]]:
    """Each death, and after kill -9 another run that is cut off at some boundary."""
    for name, image in deaths(branch, seed, mixes):
        for _ in range(CUTS if name == "kill" else 0):
            cut = cuts.between(1, 1 << cuts.between(3, 8))
            yield f"kill, power cut at {cut}", image.fork(), cut
        yield name, image, None


def explore(operation: str, seed: int, sample: float = 1.0, mixes: int = 1) -> Found:
    """Try every death in an operation, or a share of them."""
    found = Found(operation)
    stage = Stage(operation, seed)
    stage.record()
    found.boundaries = len(stage.branches)
    check = Check(stage, found.counts)
    stream = Stream(derive(seed, f"every_io.{operation}"))
    cuts = Stream(derive(seed, f"every_io.{operation}.cuts"))
    for branch, archived_lsn in zip(stage.branches, stage.archived, strict=True):
        if stream.random() >= sample:
            continue
        for name, image, cut in _deaths(branch, seed, mixes, cuts):
            found.states += 1
            check.archived_lsn = archived_lsn
            try:
                check.state(image, seed, cut)
            except Exception as error:
                text = f"{operation} seed {seed}, {branch.index} ({branch.where}) {name}: {type(error).__name__}: {error}"
                found.violations.append(f"{text} ({where(error)})")
                if len(found.violations) >= 5:
                    return found
    return found


__all__ = ["OPERATIONS", "Found", "explore"]
