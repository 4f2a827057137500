"""Damaged pages: found before use, rebuilt from the log where it reaches back to an image, named where it does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.engine.world import DATA, PAGE, SECOND_NS, EngineWorld, read
from thunderdb.access.apply import PageOp, image_payload
from thunderdb.base.errors import Corruption
from thunderdb.engine.check import check_database
from thunderdb.engine.database import Database
from thunderdb.recovery.repair import rebuild_page
from thunderdb.storage.page import encode_page
from thunderdb.storage.written import WRITTEN_HEADER
from thunderdb.wal.record import RecordKind

Damage = Callable[[bytes, bytes], bytes]
"""(what the page was before its last write, what it is) -> what the disk has"""


def flipped(_old: bytes, new: bytes) -> bytes:
    return new[:1000] + bytes([new[1000] ^ 16]) + new[1001:]


def torn(old: bytes, new: bytes) -> bytes:
    return new[:512] + old[512:]


def lost(old: bytes, _new: bytes) -> bytes:
    return old


def zero(_old: bytes, _new: bytes) -> bytes:
    return bytes(PAGE)


ALL = pytest.mark.parametrize("damage", [flipped, torn, lost, zero])


class Bench:
    """A table of one leaf whose last write can be undone, in part or whole."""

    def __init__(self, **settings: Any) -> None:
        self.world = EngineWorld(**settings)
        self.db: Database = self.world.start()
        self.table = self.world.table()
        self.world.insert(self.table, *([number, f"first {number}"] for number in range(20)))
        self.write_all()
        self.old = self.world.page_bytes(self.table.root)
        self.world.run(self.db.checkpoint())
        for number in range(0, 20, 2):
            self.world.update(self.table, [number, f"second {number}"])
        self.expected = [[number, f"{'first' if number % 2 else 'second'} {number}"] for number in range(20)]

    def write_all(self) -> None:
        self.world.run(self.db.pool.clean(1 << 60, 1 << 30))
        self.world.run(self.db.pool.sync())

    def hurt(self, damage: Damage) -> None:
        page_no = self.table.root
        new = self.world.page_bytes(page_no)
        assert new != self.old
        self.world.damage(page_no, damage(self.old, new))

    def found(self) -> Any:
        return self.world.rows(self.db.catalog.table("t"))  # type: ignore[arg-type]


@ALL
def test_a_page_damaged_by_the_crash_is_rebuilt_at_restart(damage: Damage) -> None:
    b = Bench()
    b.write_all()
    b.hurt(damage)
    b.db = b.world.restart()
    assert b.found() == b.expected
    b.world.check()
    b.world.close()
    b.db = b.world.start()
    assert b.found() == b.expected


@ALL
def test_a_page_damaged_while_the_database_runs_is_rebuilt_before_use(damage: Damage) -> None:
    b = Bench()
    b.write_all()
    b.hurt(damage)
    assert b.db.pool.drop(b.table.root)
    assert b.found() == b.expected
    assert "pool.page_corrupt" in b.world.names() and "pool.page_repaired" in b.world.names()
    b.world.update(b.table, [1, "goes on"])
    b.write_all()
    assert b.db.pool.drop(b.table.root)
    assert b.world.names().count("pool.page_corrupt") == 1
    b.world.check()


@ALL
def test_a_page_damaged_while_the_database_was_stopped_is_found_by_its_reader(damage: Damage) -> None:
    b = Bench()
    b.world.close()
    b.hurt(damage)
    b.db = b.world.start()
    try:
        assert b.found() == b.expected
    except Corruption as error:
        # The log that would rebuild it may have been removed by then; it is named, and nothing else is served.
        assert f"page {b.table.root}" in str(error)
        problems = b.world.run(check_database(b.db))
        assert any(f"page {b.table.root}" in problem for problem in problems)


@ALL
def test_without_the_log_the_damage_is_named_and_other_tables_are_served(damage: Damage) -> None:
    b = Bench()
    other = b.world.table("other")
    b.world.insert(other, [1, "fine"])
    b.write_all()
    b.hurt(damage)
    b.world.insert(other, *([number, "x" * 900] for number in range(2, 2500)))
    for _ in range(2):
        b.world.run(b.db.checkpointer.run(flush_all=True))
    assert b.world.names().count("wal.segment_removed") > 0
    assert b.db.pool.drop(b.table.root)
    with pytest.raises(Corruption, match=f"page {b.table.root}") as caught:
        b.found()
    assert caught.value.sqlstate == "XX001" and "backup" in caught.value.hint
    assert b.world.run(read(b.db, b.db.begin(), other, 1)) == "fine"


def test_damage_to_catalog_and_map_pages_is_repaired_too() -> None:
    b = Bench()
    b.write_all()
    for page_no in (0, 1, 2):
        b.world.damage(page_no, b"\xff" * 64, offset=512)
    b.db = b.world.restart()
    assert b.found() == b.expected
    b.world.check()


def test_a_page_whose_image_is_the_only_record_of_it() -> None:
    b = Bench()
    page = b.db.pool.get(b.table.root)
    b.db.access.log_image(page)
    lsn = page.page_lsn
    assert encode_page(b.world.run(rebuild_page(b.db.log, page.page_no, lsn)), PAGE) == encode_page(page, PAGE)


def test_a_broken_chain_is_named() -> None:
    b = Bench()
    page = b.db.pool.get(b.table.root)
    with pytest.raises(Corruption, match="the log has no image of it"):
        b.world.run(rebuild_page(b.db.log, page.page_no, 0))
    lsn = b.db.log.append(RecordKind.STRUCT, 0, 0, ((77, 0, PageOp.PURGE, bytes(4)),))
    with pytest.raises(Corruption, match="the log has no image of it"):
        b.world.run(rebuild_page(b.db.log, 77, lsn))
    with pytest.raises(Corruption, match="does not change it, but its chain says so"):
        b.world.run(rebuild_page(b.db.log, 78, lsn))
    with pytest.raises(Corruption, match="that would rebuild it cannot be read"):
        b.world.run(rebuild_page(b.db.log, 77, lsn + 8))


def test_an_image_that_is_damaged_inside_is_named() -> None:
    b = Bench()
    page = b.db.pool.get(b.table.root)
    payload = image_payload(page, PAGE)
    damaged = payload[:5] + b"\0" * 20 + payload[25:]
    for bad, reason in ((damaged, "does not decompress"), (bytes([0]) + payload[1:], "bytes instead of")):
        lsn = b.db.log.append(RecordKind.IMAGE, 0, 0, ((page.page_no, 0, PageOp.IMAGE, bad),))
        with pytest.raises(Corruption, match=reason):
            b.world.run(rebuild_page(b.db.log, page.page_no, lsn))


def test_a_write_lost_before_the_last_checkpoint_is_seen_by_redo() -> None:
    """The checkpoint believed the write (a disk that lies); the log then continues from a state that is not there."""
    b = Bench()
    b.write_all()
    b.world.run(b.db.checkpoint())
    stale = b.world.page_bytes(b.table.root)
    b.world.update(b.table, [3, "third"])
    b.write_all()
    b.world.update(b.table, [5, "third"])
    b.expected[3][1] = b.expected[5][1] = "third"
    b.world.crash(power=False)
    b.world.damage(b.table.root, stale)
    b.db = b.world.start()
    assert b.found() == b.expected
    b.world.check()


def test_a_write_lost_before_a_copy_by_hand_was_begun_is_not_taken_for_what_the_copy_has() -> None:
    """While a copy's log is held, only pages that the log tells of are read unguarded (generated incident 102182)."""
    b = Bench()
    b.write_all()
    b.world.run(b.db.checkpoint(hold_ns=3600 * SECOND_NS))
    assert not b.db.pool.dirty_table()
    b.world.crash(power=False)
    b.hurt(lost)
    b.db = b.world.start()
    assert b.found() == b.expected
    assert "pool.page_corrupt" in b.world.names()
    b.world.check()


def test_a_lost_write_is_seen_by_redo_even_where_nobody_remembers_it() -> None:
    """Without the saved LSNs of written pages, the chain of previous page LSNs alone shows it."""
    b = Bench()
    b.write_all()
    stale = b.world.page_bytes(b.table.root)
    b.world.update(b.table, [3, "third"])
    b.write_all()
    image_lsn = b.db.pool.get(b.table.root).image_lsn
    b.world.run(b.db.checkpoint())
    b.db.access.image_floor = image_lsn  # as if the next change needed no image: only the chain is left
    b.world.update(b.table, [5, "third"])
    b.expected[3][1] = b.expected[5][1] = "third"
    b.world.run(b.db.log.flush_all())
    b.world.crash(power=False)
    b.world.damage(b.table.root, stale)
    for path in [path for path in b.world.disk.files if "/written" in path]:
        del b.world.disk.files[path]
    b.db = b.world.start()
    assert b.found() == b.expected
    assert "recovery.lost_write" in b.world.names()
    b.world.check()


@pytest.mark.parametrize("damage", [flipped, lost])
@pytest.mark.parametrize("hurt", ["rotten", "gone", "taken back"])
def test_a_page_is_not_rebuilt_up_to_what_an_older_save_knows_of_it(hurt: str, damage: Damage) -> None:
    """Generated incident 187855: the newest save was rotten, and a damaged page came back as of a checkpoint before."""
    b = Bench()
    b.write_all()
    b.world.run(b.db.checkpoint())
    old = b.world.page_bytes(b.table.root)
    older = {path: bytes(data) for path, data in b.world.disk.files.items() if "/written" in path}
    b.world.update(b.table, [3, "third"])
    b.expected[3][1] = "third"
    b.write_all()
    b.world.run(b.db.checkpoint())
    b.world.crash(power=False)
    saves = {path: data for path, data in b.world.disk.files.items() if "/written" in path}
    newest = max(saves, key=lambda path: WRITTEN_HEADER.unpack_from(saves[path])[3])
    if hurt == "rotten":
        saves[newest][-1] ^= 1
    elif hurt == "gone":
        del b.world.disk.files[newest]
    else:
        b.world.disk.files[newest] = bytearray(older[newest])
    b.world.damage(b.table.root, damage(old, b.world.page_bytes(b.table.root)))
    b.db = b.world.start()
    assert b.found() == b.expected
    assert "recovery.older_save" in b.world.names()
    b.world.check()


def test_without_the_log_of_the_older_save_nothing_is_opened() -> None:
    b = Bench()
    older: dict[str, bytes] = {}
    for number in range(6):
        b.world.run(b.db.checkpoint())
        older = older or {path: bytes(data) for path, data in b.world.disk.files.items() if "/written" in path}
        b.world.update(b.table, [3, f"value {number}"])
        b.write_all()
        b.db.log.switch_segment()
    b.world.crash(power=False)
    b.world.disk.files.update({path: bytearray(data) for path, data in older.items()})
    with pytest.raises(Corruption, match="has taken it back"):
        b.world.start()


def test_pages_files_shorter_than_the_log_says() -> None:
    b = Bench()
    b.write_all()
    b.world.crash(power=False)
    data = b.world.disk.files[f"{DATA}/pages.000000"]
    del data[b.table.root * PAGE + 100 :]
    data.extend(bytes(64 * PAGE - len(data)))
    b.db = b.world.start()
    assert b.found() == b.expected
    b.world.check()
