"""Incremental backups: what they take, what they may stand on, and that a chain is a full copy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.sim.plain_restore import restored_files
from tests.unit.backup.helpers import BackupWorld
from tests.unit.engine.world import EngineWorld
from thunderdb.backup.incremental import INCREMENTAL_HEADER, PageSink, check_base
from thunderdb.backup.manifest import MANIFEST_NAME, Manifest, encode_manifest, parse_manifest
from thunderdb.base.errors import Refused
from thunderdb.runtime.inline import InlineWorld
from thunderdb.storage.page import PageKind, encode_page, new_page
from thunderdb.wal.timeline import Fork


def pages_of(world: BackupWorld, place: str) -> bytes:
    return world.run(restored_files(world, world.verify(place).links))["data/pages.000000"]


def opened(world: BackupWorld, place: str) -> EngineWorld:
    """A fresh world with the chain laid down and started."""
    other = EngineWorld()
    for folder in ("/d", "/d/data", "/d/wal"):
        other.disk.dirs[folder] = None
    for name, content in world.run(restored_files(world, world.verify(place).links)).items():
        other.disk.files[f"/d/{name}"] = bytearray(content)
    other.config = world.config
    other.start()
    return other


def rows_of(world: EngineWorld) -> list[list[Any]]:
    found = world.rows(world.db.catalog.table("t"))  # type: ignore[arg-type]
    world.check()
    return found


def test_a_chain_of_pages_equals_a_full_copy_taken_at_the_same_time() -> None:
    world = BackupWorld(rows=800)
    world.backup("/b/0")
    for number in range(1, 5):
        world.fill(1000 * number, 150)
        world.update(world.t, [number, f"changed {number}"])
        world.delete(world.t, 100 + number)
        if number % 2:
            world.run(world.db.checkpoint())
        manifest = world.backup(f"/b/{number}", type="incremental", base=f"/b/{number - 1}", compress=number == 2)
        assert manifest.base is not None
    world.rest(5)
    full = world.backup("/b/full")
    last = world.backup("/b/5", type="incremental", base="/b/4")
    assert world.verify("/b/5").passed and len(world.verify("/b/5").links) == 6
    assert last.size_bytes < full.size_bytes
    page_size, chain, whole = full.page_size, pages_of(world, "/b/5"), pages_of(world, "/b/full")
    starts = range(0, len(whole), page_size)
    different = [at // page_size for at in starts if chain[at : at + page_size] != whole[at : at + page_size]]
    assert different == []
    assert rows_of(opened(world, "/b/5")) == world.rows(world.t)


def test_a_page_that_was_dirty_while_the_base_was_copied_is_taken() -> None:
    """It is written only later, and never changed again: its LSN is below the base's end, even below its checkpoint."""
    world = BackupWorld(rows=400)
    for _ in range(2):
        world.run(world.db.checkpointer.run(flush_all=True))
    world.update(world.t, [399, "dirty"])
    base = world.backup("/b/base")
    assert base.redo_lsn < base.checkpoint_lsn
    for _ in range(2):
        world.run(world.db.checkpointer.run(flush_all=True))
    world.update(world.t, [1, "later"])
    incremental = world.backup("/b/inc", type="incremental", base="/b/base")
    assert incremental.start_lsn > base.checkpoint_lsn
    assert rows_of(opened(world, "/b/inc")) == world.rows(world.t)


class Written:
    """Collects what a sink writes."""

    def __init__(self) -> None:
        self.data = b""
        self.pages: int | None = None

    async def begin(self, path: str, compress: bool | None = None) -> Any:
        return self

    async def write(self, raw: bytes) -> None:
        self.data += raw

    async def end(self, writer: Any, pages: int | None = None) -> None:
        self.pages = pages


def test_the_boundary_is_the_redo_lsn_itself() -> None:
    world, written = InlineWorld(), Written()
    images = []
    for page_no, lsn in enumerate((4999, 5000, 5001, 0)):
        page = new_page(page_no, PageKind.CHUNK, 4096)
        page.page_lsn = lsn
        images.append(encode_page(page, 4096))
    sink = PageSink(written, 4096, 100, 1, 5000)
    world.run(sink.add(0, b"".join(images)))
    world.run(sink.fill(6))
    assert written.pages == 2 and written.data[INCREMENTAL_HEADER.size :] == images[1] + images[2]


def changed(world: BackupWorld, place: str, **fields: Any) -> None:
    """Give the manifest at a place other values, as another history would have."""
    data = world.disk.files[f"{place}/{MANIFEST_NAME}"]
    manifest: Manifest = replace(parse_manifest(bytes(data)), **fields)
    world.disk.files[f"{place}/{MANIFEST_NAME}"] = bytearray(encode_manifest(manifest))


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"system_id": 7}, "another database"),
        ({"timeline": 9}, "not in this database's history"),
        ({"end_lsn": 1 << 40}, "behind the end"),
        ({"end_checksum": 5}, "own history"),
    ],
)
def test_a_base_of_another_history_is_refused(fields: dict[str, Any], said: str) -> None:
    world = BackupWorld(rows=50)
    world.backup("/b/base")
    changed(world, "/b/base", **fields)
    world.fill(1000, 10)
    with pytest.raises(Refused, match=said):
        world.backup("/b/inc", type="incremental", base="/b/base")
    assert world.files_of("/b/inc") == []


def test_a_base_behind_the_fork_of_its_timeline_is_refused() -> None:
    world = BackupWorld(rows=50)
    manifest = world.backup("/b/base")
    world.fill(1000, 10)
    world.disk.files["/d/wal/00000001.history"] = bytearray()
    forks = (Fork(1, manifest.end_lsn - 1, "PITR"),)
    world.db.log.timeline = 2
    with pytest.raises(Refused, match="left timeline 1"):
        world.run(check_base(world.db, manifest, forks, frozenset({manifest.checksum})))
    world.run(check_base(world.db, manifest, (Fork(1, manifest.end_lsn, "PITR"),), frozenset({manifest.checksum})))


def test_without_a_backup_at_the_base_it_is_refused() -> None:
    world = BackupWorld(rows=10)
    with pytest.raises(Refused, match="there is no backup at /b/none"):
        world.backup("/b/inc", type="incremental", base="/b/none")
    with pytest.raises(Refused, match="Take a full backup first|no backup that"):
        world.backup("/b/inc", type="incremental")


def test_a_base_whose_log_is_gone_must_be_known_to_be_ours() -> None:
    world = BackupWorld(rows=50)
    manifest = world.backup("/b/base")
    for start in range(1000, 9000, 1000):
        world.fill(start, 1000)
        world.run(world.db.checkpoint())
    world.rest(3)
    world.run(world.db.checkpointer.run(flush_all=True))
    world.run(world.db.checkpointer.run(flush_all=True))
    assert world.db.log.oldest_lsn > manifest.end_lsn
    with pytest.raises(Refused, match="own history"):
        world.backup("/b/inc", type="incremental", base="/b/base")
    world.backup("/b/inc", type="incremental", base="/b/base", known=frozenset({manifest.checksum}))
    assert rows_of(opened(world, "/b/inc")) == world.rows(world.t)


def test_a_base_that_goes_while_the_backup_is_taken_fails_it() -> None:
    """Retention, or somebody by hand: what would be published could not be restored."""
    world = BackupWorld()
    world.backup("/b/base")
    open_file = world.disk.open

    async def opened(path: str, **how: Any) -> Any:
        if path.endswith("inc.partial/thunderdb.toml"):
            world.disk.files = {name: data for name, data in world.disk.files.items() if not name.startswith("/b/base/")}
        return await open_file(path, **how)

    world.disk.open = opened  # type: ignore[method-assign]
    with pytest.raises(Refused, match="no backup at /b/base"):
        world.backup("/b/inc", type="incremental", base="/b/base")
    assert not [path for path in world.disk.files if path.startswith("/b/")]
