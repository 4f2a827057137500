"""Redo while the database serves: crashes in it, the log that it needs, and what it says of log that it cannot read."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.engine.world import PAGE, WAL, EngineWorld, rows, update
from thunderdb.base.errors import Corruption, LimitExceeded, StorageError
from thunderdb.engine.database import Database
from thunderdb.recovery import chain, redo
from thunderdb.recovery.dirty import DirtyColumns
from thunderdb.runtime.inline import MemoryFile
from thunderdb.storage.page import Page, PageKind, encode_page, thaw
from thunderdb.wal.reader import LogReader

BOTH = pytest.mark.parametrize("power", [False, True])


def crashed(suspend: bool = False, count: int = 400, **settings: Any) -> tuple[EngineWorld, dict[int, str]]:
    """A database that died with changes before and behind its last checkpoint, none of them on disk; and what it held."""
    world = EngineWorld(suspend=suspend, **settings)
    db = world.start()
    table = world.table()
    wanted = dict.fromkeys(range(count), "x" * 300)
    world.insert(table, *([key, text] for key, text in wanted.items()))
    world.run(db.checkpoint())
    for key in range(0, count // 2, 3):
        wanted[key] = f"updated {key}"
        world.update(table, [key, wanted[key]])
    world.crash()
    return world, wanted


def held(world: EngineWorld) -> dict[int, str]:
    return dict(world.run(rows(world.db, world.db.catalog.table("t"))))  # type: ignore[arg-type]


async def serve(db: Database) -> None:
    """Redo in the background, with checkpoints, write-back and reads meanwhile."""
    assert db.deferred is not None
    left = len(db.deferred)
    turns = iter(range(left))
    await db.deferred.drain(lambda: next(turns, left) >= left // 2)
    await db.pool.clean(db.log.next_lsn, 3)
    await db.checkpointer.run(flush_all=True)
    await rows(db, db.catalog.table("t"))  # type: ignore[arg-type]
    await db.deferred.drain()
    await db.checkpointer.run(flush_all=True)
    await db.checkpointer.run(flush_all=True)


@BOTH
def test_a_crash_anywhere_in_the_redo_that_goes_on_while_it_serves(power: bool) -> None:
    origin, wanted = crashed(count=120)
    at, ended = 1, False
    while not ended:
        world = EngineWorld(suspend=True)
        world.disk = origin.disk.survivor(world.scheduler, power=False)
        world.start()
        assert world.db.deferred is not None and len(world.db.deferred) > 5
        task = world.tasks.spawn(serve(world.db))
        for _ in range(at):
            if task.done() or not world.scheduler.turn():
                break
        ended = task.done()
        world.restart(power)
        assert held(world) == wanted
        if at % 3 == 1 or ended:
            world.check()
        at += 7
    assert at > 100


def test_log_is_kept_for_pages_that_are_not_brought_up_yet() -> None:
    world, wanted = crashed(count=2000)
    db = world.start()
    needed_lsn = db.deferred.dirty.redo_lsn  # type: ignore[union-attr]
    for _ in range(3):
        table = db.catalog.table("t")
        world.insert(table, *([number + 10_000 * db.checkpointer.count, "y" * 900] for number in range(1500)))  # type: ignore[arg-type]
        world.run(db.checkpointer.run(flush_all=True))
    deferred = db.deferred
    assert deferred is not None and len(deferred) > 20 and db.log.oldest_lsn <= needed_lsn
    assert "wal.segment_removed" not in world.names()
    assert deferred.dirty.redo_lsn == db.checkpointer.last.redo_lsn  # type: ignore[union-attr]
    world.restart()  # and the tables of that checkpoint lead the next restart back there
    assert wanted.items() <= held(world).items()
    world.rest()
    assert not len(world.db.deferred)  # type: ignore[arg-type]
    for _ in range(2):
        world.run(world.db.checkpointer.run(flush_all=True))
    assert "wal.segment_removed" in world.names()
    world.check()


@pytest.fixture
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restarts whose log is longer than what stays in memory of it."""
    monkeypatch.setattr(Database, "kept_log_bytes", 0)


@pytest.mark.usefixtures("nothing_kept")
def test_log_that_is_gone_names_the_page_and_loses_no_other() -> None:
    world, wanted = crashed(count=4000)
    db = world.start()
    segments = sorted(path for path in world.disk.files if path.startswith(WAL) and not path.endswith(".tmp"))
    data = world.disk.files[segments[0]]
    world.disk.files[segments[0]] = bytearray(len(data))
    world.run(db.deferred.drain())  # type: ignore[union-attr]
    lost = [fields for name, fields in world.seen if name == "recovery.page_lost"]
    assert lost and all("the log at 0/" in fields["error"] and "cannot be read" in fields["error"] for fields in lost)
    assert [fields["page_no"] for fields in lost] == list(db.deferred.dirty)  # type: ignore[union-attr]
    with pytest.raises(Corruption, match=f"page {lost[0]['page_no']}: "):
        world.run(db.pool.load(lost[0]["page_no"]))
    world.run(db.checkpoint())
    assert {entry.page_no for entry in db.pool.dirty_table()} >= {fields["page_no"] for fields in lost}
    world.disk.files[segments[0]] = data  # put back
    assert held(world) == wanted
    world.check()


@pytest.mark.usefixtures("nothing_kept")
@pytest.mark.parametrize("times", [1, 2])
def test_a_read_of_the_log_that_fails_once_is_tried_again(times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    world, wanted = crashed()
    db = world.start()
    left, real = [times], MemoryFile.read

    async def read(self: MemoryFile, offset: int, size: int) -> bytes:
        if self.path.startswith(WAL) and left[0]:
            left[0] -= 1
            raise StorageError("Input/output error")
        return await real(self, offset, size)

    monkeypatch.setattr(MemoryFile, "read", read)
    page_no = next(iter(db.deferred.dirty))  # type: ignore[union-attr]
    if times == 1:
        world.run(db.pool.load(page_no))
    else:
        with pytest.raises(Corruption, match="Input/output error"):
            world.run(db.pool.load(page_no))
        assert page_no in db.deferred  # type: ignore[operator]
    assert "recovery.log_unreadable" in world.names()
    assert held(world) == wanted
    world.check()


@pytest.mark.usefixtures("nothing_kept")
def test_a_page_made_anew_while_it_is_brought_up_is_the_new_one() -> None:
    world, _wanted = crashed(suspend=True)
    db = world.start()
    page_no = list(db.deferred.dirty)[-1]  # type: ignore[union-attr]
    rec_lsn = db.deferred.dirty.rec_lsns[page_no]  # type: ignore[union-attr]
    task = world.tasks.spawn(db.pool.load(page_no))
    world.scheduler.turn()
    assert not task.done()
    page = db.pool.create(page_no, PageKind.LEAF)
    db.access.log_image(page)
    while not task.done():
        assert world.scheduler.turn()
    assert task.result() is page and db.pool.resident(page_no) is page
    assert page.rec_lsn == rec_lsn and page_no not in db.deferred  # type: ignore[operator]


@pytest.mark.usefixtures("nothing_kept")
def test_a_restart_reads_the_log_once_and_keeps_none_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each segment once (the rewrite of the tail apart), and no more in memory than three numbers a page."""
    world, wanted = crashed(count=4000, buffer_pool_size=8 << 20)
    names: list[int] = []
    real = LogReader.read_segment

    async def read_segment(self: LogReader, header: Any) -> bytes:
        names.append(header.number)
        return await real(self, header)

    monkeypatch.setattr(LogReader, "read_segment", read_segment)
    db = world.start()
    checkpoint_at = names.index(min(names))
    assert sorted(names[:checkpoint_at]) == names[:checkpoint_at] and len(set(names)) >= len(names) - 1
    assert db.deferred is not None and len(db.deferred) > 200
    assert db.deferred.chains._cached_bytes <= chain.CACHE_BYTES
    world.rest()
    assert not len(db.deferred) and not db.deferred.chains._blocks and not db.deferred.dirty.rec_lsns
    assert held(world) == wanted


def test_pages_are_brought_up_from_the_log_that_the_restart_has_just_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as there is room for its end, and from blocks before that; damage to what is kept would be read again."""
    reads: list[int] = []
    real = LogReader.read_part

    async def read_part(self: LogReader, header: Any, lsn: int, size: int) -> bytes:
        reads.append(header.number)
        return await real(self, header, lsn, size)

    monkeypatch.setattr(LogReader, "read_part", read_part)
    for room, segments in ((64 << 20, 0), (1 << 20, 1)):
        monkeypatch.setattr(Database, "kept_log_bytes", room)
        world, wanted = crashed(count=4000, buffer_pool_size=16 << 20)
        reads.clear()
        db = world.start()
        reader = db.deferred.chains._reader  # type: ignore[union-attr]
        kept = list(reader.kept)
        newest = reader.segments[-1].number
        assert sum(map(len, reader.kept.values())) <= room
        if segments:
            assert kept == [newest] and newest > 1
        else:
            reader.kept[newest] = bytes(len(reader.kept[newest]))
        world.rest()
        assert not reader.kept and not len(db.deferred)  # type: ignore[arg-type]
        assert bool(reads) and newest not in reads[:1] if segments else "recovery.log_unreadable" in world.names()
        assert held(world) == wanted
        world.check()


def test_columns() -> None:
    dirty = DirtyColumns()
    assert (len(dirty), list(dirty), dirty.redo_lsn, dirty.end_page(), 7 in dirty) == (0, [], 0, 0, False)
    dirty.merge(7, 50, 60, 0)
    dirty.merge(3, 40, 45, 41)
    dirty.merge(7, 55, 70, 65)
    assert (len(dirty), list(dirty), dirty.redo_lsn, dirty.end_page(), 7 in dirty) == (2, [3, 7], 40, 8, True)
    entry = dirty.entry(7)
    assert (entry.rec_lsn, entry.page_lsn, entry.image_lsn) == (50, 70, 65)
    assert 8 not in dirty and 1_000_000 not in dirty


def test_a_pool_that_is_full_for_a_moment_holds_the_rest_up_and_does_not_stop_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    world, wanted = crashed()
    db = world.start()
    load, refusals = db.pool.load, [3]

    async def refused(page_no: int, pin: bool = False) -> Page:
        if refusals[0]:
            refusals[0] -= 1
            raise LimitExceeded("the buffer pool is full of pages in use")
        return await load(page_no, pin)

    monkeypatch.setattr(db.pool, "load", refused)
    world.rest(2)
    assert db.failure is None and db.deferred is not None and not len(db.deferred)
    assert world.names().count("background.waits") == 3
    assert held(world) == wanted
    world.check()


@pytest.mark.usefixtures("nothing_kept")
def test_undo_reads_the_log_in_blocks_and_otherwise_as_a_rollback_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many records of a loser from few reads; where a block cannot be read, the log finds the record itself, or names it."""
    world = EngineWorld()
    db = world.start()
    table = world.table()
    loser = db.begin()
    for number in range(600):
        world.run(db.insert(loser, table, [number, "never"]))
    world.run(db.log.flush_all())
    world.crash()
    reads = []
    real = LogReader.read_part

    async def read_part(self: LogReader, header: Any, lsn: int, size: int) -> bytes:
        reads.append(lsn)
        if len(reads) % 3 == 2:
            raise StorageError("Input/output error")
        return await real(self, header, lsn, size)

    monkeypatch.setattr(LogReader, "read_part", read_part)
    db = world.start()
    assert 0 < len(reads) < 100 and db.restarted.losers == 1  # type: ignore[union-attr]
    assert held(world) == {}
    world.check()


@pytest.mark.parametrize("power", [False, True])
def test_a_page_that_changes_very_often_is_brought_up_from_an_image_that_is_not_far(power: bool) -> None:
    """X3: however often a page changes between two checkpoints; over a restart the count goes on."""
    world = EngineWorld()
    db = world.start()
    most = db.access.image_after
    assert most == PAGE // 32
    table = world.table(types=("int4", "int4"))
    world.insert(table, [1, 0], [2, 0])
    world.run(db.checkpoint())
    for life in range(2):
        for number in range(most * 2 + most // 2):
            world.update(table, [1, number])
        loser = world.db.begin()
        world.run(update(world.db, loser, table, [2, 99]))
        world.run(world.db.log.flush_all())
        db = world.restart(power)
        deferred = db.deferred
        assert deferred is not None and most // 4 < deferred.applied <= most + 2 * (life + 3)
        table = db.catalog.table("t")  # type: ignore[assignment]
        assert world.rows(table) == [[1, most * 2 + most // 2 - 1], [2, 0]]
    changes = [page.changes for page in db.pool.resident_pages()]
    assert max(changes) > most // 4 and db.restarted is not None and db.restarted.losers == 1
    world.check()


def test_a_page_with_many_changes_is_taken_apart_for_them_and_is_the_same_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    origin, wanted = crashed(count=60)
    found: list[dict[int, bytes]] = []
    apart: list[int] = []

    def take_apart(page: Page) -> None:
        apart.append(page.page_no)
        thaw(page)

    monkeypatch.setattr(redo, "thaw", take_apart)
    for many in (0, 1 << 30):
        monkeypatch.setattr(redo, "_MANY_CHANGES", many)
        world = EngineWorld()
        world.disk = origin.disk.survivor(None, power=False)
        db = world.start()
        world.run(db.deferred.drain())  # type: ignore[union-attr]
        pages = [page for page in db.pool.resident_pages() if page.kind == PageKind.LEAF and page.changes]
        found.append({page.page_no: encode_page(page, PAGE) for page in pages})
        assert held(world) == wanted
    assert found[0] == found[1] and len(found[0]) > 3 and len(apart) == len(set(apart)) > 3


@pytest.mark.parametrize("more", range(-1, 4))
def test_the_image_of_a_page_that_changes_often_has_all_its_changes(more: int) -> None:
    """A crash just before and just after that image: no change is behind it in the log and missing in it."""
    world = EngineWorld()
    db = world.start()
    table = world.table(types=("int4", "int4"))
    world.insert(table, [1, 0])
    world.run(db.checkpoint())
    count = db.access.image_after + more
    for number in range(1, count + 1):
        world.update(table, [1, number])
    db = world.restart()
    assert world.rows(db.catalog.table("t")) == [[1, count]]  # type: ignore[arg-type]
    assert db.deferred is not None and (db.deferred.applied < db.access.image_after) == (more > 0)
