"""Directed runs for planted bugs of backup, archive, retention and restore, like sim/planted/cases.py.

    history             a random history with archive, backups, retention and restores (sim/history/history.py)
    copies              one that is mostly copies made by hand
    retention           one with many backups that grow old
    two_restores        two restores of one history, one after the other: two timelines
    copy_slot           copies whose newest slot of the control file was caught half written
    kill_OPERATION      killed at a sample of the I/O boundaries of a backup, an archive push, a retention run, a restore
    archive_rot         what is archived rots on its way: it is noticed, and the local log stays
    archive_conflict    another segment lies in the archive under our name: an error, and the local log stays
    second_instance     a copy of the database writes to the same archive: refused, and nothing there changes
    rotten_page         a page rots on the disk before a backup: repaired, or the backup fails, but never a bad one
    not_empty           a restore over another database: refused, and nothing there changes
    short_backup        a backup is copied back without its last log: it does not open
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from sim.clients.history_database import HistoryDatabase
from sim.history import every_io
from sim.history.history import LIMIT_NS, History
from sim.history.history import run as run_history
from sim.history.shape import COPIES, RETENTION
from sim.history.targets import Aim, Elsewhere, restore_to
from sim.history.vault import CONFIG_TEXT
from sim.incident.copying import HandCopy, copy_tree, files_below, put_file
from sim.oracle.oracle import Violation
from sim.planted.bench import where
from sim.world.image import DiskImage
from thunderdb.archive.archiver import Archiver
from thunderdb.backup.take import BackupRequest, take_backup
from thunderdb.base.errors import Corruption, LogHole, Refused
from thunderdb.base.events import Events
from thunderdb.storage.control import SLOT_OFFSETS, SLOT_SIZE, decode_slot

MS = 1_000_000
SECOND_NS = 1_000_000_000
ARCHIVE, BACKUPS = every_io.ARCHIVE, every_io.BACKUPS


def history(seed: int) -> list[str]:
    return run_history(seed).violations


def copies(seed: int) -> list[str]:
    return run_history(seed, COPIES).violations


def retention(seed: int) -> list[str]:
    return run_history(seed, RETENTION).violations


def two_restores(seed: int) -> list[str]:
    case = Case(seed)

    async def course() -> None:
        history = case.history
        await case.back_up("b001")
        await case._work()
        await history._stop_clean()
        timelines = []
        for name in ("one", "two"):
            config = replace(case.config, data_dir=f"/srv/{name}/data", wal_dir=f"/srv/{name}/wal")
            report = await restore_to(
                history.node, config, case.vault, Aim("latest", 0, (), sure=True), BACKUPS, HistoryDatabase, case.stream,
                history.outcome.counts, Events(), False, 1,
            )  # fmt: skip
            if report is not None:
                timelines.append(report.timeline)
        if len(timelines) != 2 or timelines[0] == timelines[1]:
            raise Violation(f"two restores, and the timelines are {timelines}")

    return case.run(course)


def copy_slot(seed: int) -> list[str]:
    return run_history(seed, COPIES, kind=TornControl).violations


class TornControl(History):
    """A copy may catch the newest slot while it is written: the other one must do, its floor above all."""

    def _check_copy(self, copy: HandCopy) -> None:
        file = bytearray(copy.files["data/control"])
        slots = [decode_slot(bytes(file[offset : offset + SLOT_SIZE])) for offset in SLOT_OFFSETS]
        newest = max((0, 1), key=lambda slot: slots[slot].sequence)
        file[SLOT_OFFSETS[newest] : SLOT_OFFSETS[newest] + 100] = bytes(100)
        copy.files["data/control"] = bytes(file)
        super()._check_copy(copy)


def killed(operation: str) -> Callable[[int], list[str]]:
    return lambda seed: every_io.explore(operation, seed, sample=0.3).violations


class Case(every_io.Stage):
    """A history with an archive in a directory, under directed trouble. Closed segments are kept as they were."""

    def __init__(self, seed: int, **settings: Any) -> None:
        super().__init__("case", seed)
        self.vault.settings.update(settings)
        self.stream = self.history.stream
        self.closed: dict[str, bytes] = {}

    @property
    def image(self) -> DiskImage:
        return self.history.node.image

    def run(self, course: Callable[[], Coroutine[Any, Any, None]]) -> list[str]:
        history = self.history

        async def all_of_it() -> None:
            await history._open()
            await history.call(history._set_up(history.session()))
            await self._work()
            await course()

        try:
            history.world.run(all_of_it(), LIMIT_NS)
        except Exception as error:
            return [f"{type(error).__name__}: {error} ({where(error)})"]
        finally:
            history.world.close()
        return []

    async def work_on(self, count: int) -> None:
        """Write, close segments, take checkpoints, so that log goes as soon as it may."""
        history = self.history
        for _ in range(count):
            await self._work()
            history.db.log.switch_segment()
            await history.call(history.db.log.flush_all())
            self.note_closed()
            await history.call(history.db.checkpoint())
            await history.sleep(100 * MS)

    def note_closed(self) -> None:
        log = self.history.db.log
        for name, content in files_below(self.image, self.config.wal_dir).items():
            if len(name) == 24 and int(name[8:], 16) <= log.newest_closed:
                self.closed.setdefault(name, content)

    def check_log_kept(self) -> None:
        """A1: log that is gone here is in the archive, as it was. Raises: Violation."""
        here, there = files_below(self.image, self.config.wal_dir), files_below(self.image, ARCHIVE)
        for name, content in self.closed.items():
            if name not in here and there.get(name) != content:
                raise Violation(f"segment {name} was removed here, and the archive does not have it")


def archive_rot(seed: int) -> list[str]:
    case = Case(seed, wal_archive_compress=False)

    async def course() -> None:
        await case.work_on(case.stream.between(0, 2))
        case.history.node.ports.disk.arm("bit_rot", "/mnt/archive/.0", skip=case.stream.between(0, 1))
        await case.work_on(5)
        case.check_log_kept()

    return case.run(course)


def archive_conflict(seed: int) -> list[str]:
    case = Case(seed, wal_archive_compress=False)

    async def course() -> None:
        history = case.history
        await case.work_on(case.stream.between(0, 2))
        number = history.db.log.segment_number
        name = f"{history.db.log.timeline:08X}{number:016X}"
        store = files_below(case.image, case.config.wal_dir)[name]
        bit = case.stream.between(600, 900)
        # From nowhere, as if another had written it.
        put_file(case.image, f"{ARCHIVE}/{name}", store[:bit] + bytes([store[bit] ^ 1]) + store[bit + 1 :])
        await case.work_on(5)
        case.check_log_kept()
        if history.archiver is None or not history.archiver.status().failing:
            raise Violation("another segment lies in the archive under our name, and nobody says so")

    return case.run(course)


def second_instance(seed: int) -> list[str]:
    """The pages and the log are copied to another machine and started there, with the same archive."""
    case = Case(seed, wal_archive_dir="s3://bucket/wal", destination="")
    case.vault.archive = "s3://bucket/wal"

    async def course() -> None:
        history = case.history
        await case.work_on(case.stream.between(1, 2))
        await history._stop_clean()
        image = DiskImage()
        for directory in (case.config.data_dir, case.config.wal_dir):
            copy_tree(case.image, image, directory)
        image.unlink(f"{case.config.data_dir}/identity")  # a backup does not have it
        other = history.world.node("b", image)
        before = dict(history.world.store.objects)
        db = await other.call(HistoryDatabase.open(other.ports, case.config, Events()))
        archiver = await other.call(Archiver.open(db, case.config, other.ports, db.events))
        await history.sleep(SECOND_NS)
        await other.call(db.log.flush_all())
        db.log.switch_segment()
        await history.sleep(2 * SECOND_NS)
        if archiver is None or not archiver.status().refused:
            raise Violation("a second instance archives on the same timeline")
        changed = [url for url, found in history.world.store.objects.items() if before.get(url) != found]
        if changed:
            raise Violation(f"a second instance wrote {changed[0]}")

    return case.run(course)


def rotten_page(seed: int) -> list[str]:
    case = Case(seed)

    async def course() -> None:
        history = case.history
        await history.call(history.db.checkpointer.run(flush_all=True))
        page = case.stream.between(1, 30) * 4096
        history.node.ports.disk.rot_file(f"{case.config.data_dir}/pages.000000", (page + case.stream.between(0, 4095)) * 8)
        try:
            await case.back_up("b001")
        except Corruption:
            return  # named, and no backup
        machine = Elsewhere(seed, case.image.fork(), None, Counter())
        try:
            machine.verify(case.config, [f"{BACKUPS}/b001"])
        finally:
            machine.close()

    return case.run(course)


def not_empty(seed: int) -> list[str]:
    case = Case(seed)

    async def course() -> None:
        history = case.history
        await case.back_up("b001")
        await case._work()
        if case.stream.random() < 0.5:
            await history._stop_clean()
        else:
            history.node.crash(power=False)
            await history._buried()
        history._leave()
        commits = history.recorder.line.path()
        known = {name: len(files_below(case.image, name)) for name in (case.config.data_dir, case.config.wal_dir)}
        machine = Elsewhere(seed, case.image.fork(), None, Counter())
        try:
            aim = Aim("latest", 0, ())
            if machine.restore(case.config, case.vault, aim, BACKUPS, HistoryDatabase, 1) is not None:
                raise Violation("a restore went over the database that was there")
            for directory, count in known.items():
                if len(files_below(machine.node.image, directory)) != count:
                    raise Violation(f"a refused restore changed {directory}")
            machine.compare(replace(case.config, wal_archive_enabled=False), HistoryDatabase, commits)
        finally:
            machine.close()

    return case.run(course)


def short_backup(seed: int) -> list[str]:
    case = Case(seed)
    case.compress = False

    async def course() -> None:
        history = case.history
        history._start_clients()
        await history.call(
            take_backup(history.db, history.node.ports, BackupRequest(f"{BACKUPS}/b001", rate_limit=1 << 20),
                        backup_id="bk-20260101-000001", config_text=CONFIG_TEXT)
        )  # fmt: skip
        await history._stop_clean()
        image = DiskImage()
        config = replace(case.target, wal_archive_enabled=False)
        for name, directory in (("data", config.data_dir), ("wal", config.wal_dir)):
            _lay(image, files_below(case.image, f"{BACKUPS}/b001/{name}"), directory)
        newest = sorted(name for name in files_below(image, config.wal_dir) if len(name) == 24)[-1]
        content = files_below(image, config.wal_dir)[newest]
        _lay(image, {newest: content[: case.stream.between(len(content) * 3 // 4, len(content) - 1)]}, config.wal_dir)
        machine = Elsewhere(seed, image, None, Counter())
        try:
            machine.compare(config, HistoryDatabase, history.recorder.line.path())
        except (Refused, LogHole):
            return
        finally:
            machine.close()
        raise Violation("a backup without its last log opens")

    return case.run(course)


def _lay(image: DiskImage, files: dict[str, bytes], directory: str) -> None:
    for name, content in files.items():
        put_file(image, f"{directory}/{name}", content)


CASES: dict[str, Callable[[int], list[str]]] = {
    "history": history,
    "copies": copies,
    "copy_slot": copy_slot,
    "retention": retention,
    "two_restores": two_restores,
    **{f"kill_{operation}": killed(operation) for operation in every_io.OPERATIONS},
    "archive_rot": archive_rot,
    "archive_conflict": archive_conflict,
    "second_instance": second_instance,
    "rotten_page": rotten_page,
    "not_empty": not_empty,
    "short_backup": short_backup,
}
