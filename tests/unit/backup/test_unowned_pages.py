"""Pages that nobody owns: a backup does not read them, stores no bytes of them, and a restore only reserves their room."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.backup.helpers import WIDE
from tests.unit.backup.restoring import RestoreWorld
from tests.unit.engine.world import PAGE, in_txn
from thunderdb.backup.chain import open_chain
from thunderdb.backup.frames import FRAME_BYTES, FrameReader, FrameWriter
from thunderdb.backup.holes import HOLE_BYTES
from thunderdb.backup.lay_pages import PageLayer
from thunderdb.backup.manifest import FileEntry, encode_manifest, parse_manifest
from thunderdb.backup.place import open_destination
from thunderdb.base.errors import Corruption
from thunderdb.base.events import Events
from thunderdb.engine.database import Database
from thunderdb.runtime.inline import InlineWorld
from thunderdb.runtime.real_ports import run_real
from thunderdb.storage.page import PAGE_HEADER


def with_dropped(settled: bool) -> RestoreWorld:
    """A table was dropped and its pages freed; `settled`: a checkpoint lies behind that."""
    world = RestoreWorld(rows=300)
    other = world.table("other")
    world.insert(other, *([number, WIDE] for number in range(400)))
    world.run(world.db.checkpoint())
    world.run(in_txn(world.db, lambda txn: world.db.ddl.drop_table(txn, other)))
    world.rest()
    for _ in range(3 if settled else 0):
        world.commit(1)
        world.run(world.db.checkpointer.run(flush_all=True))
    return world


def images(world: RestoreWorld, place: str) -> list[bytes]:
    data = bytes(world.disk.files[f"{place}/data/pages.000000"])
    return [data[at : at + PAGE] for at in range(0, len(data), PAGE)]


def zeros_in(pages: list[bytes]) -> int:
    return sum(1 for page in pages if page == bytes(PAGE))


def test_pages_that_nobody_owns_are_zeros_in_a_backup_and_it_restores() -> None:
    world = with_dropped(settled=True)
    own = bytes(world.disk.files[f"{world.config.data_dir}/pages.000000"])
    manifest = world.backup("/b/full")
    stored = images(world, "/b/full")
    assert zeros_in(stored) > zeros_in([own[at : at + PAGE] for at in range(0, len(own), PAGE)]) + 20
    assert len(stored) == manifest.page_count and world.verify("/b/full").passed
    mark = world.commit(3)
    world.ship()
    _, config = world.restore("latest", "/b/full", check=False)
    assert world.keys_in(config) == mark.keys


def test_a_page_that_redo_may_begin_with_is_kept_though_nobody_owns_it() -> None:
    """Its image and first changes were written back; then it was changed, and freed, and is dirty when the backup begins."""
    world = RestoreWorld(rows=300)
    world.run(world.db.checkpoint())
    other = world.table("other")
    world.insert(other, *([number, WIDE] for number in range(200)))
    world.run(world.db.pool.clean(world.db.log.next_lsn, 1 << 30))
    world.run(world.db.pool.sync())
    for number in range(0, 200, 3):
        world.update(other, [number, WIDE[:-1] + "y"])
    world.run(in_txn(world.db, lambda txn: world.db.ddl.drop_table(txn, other)))
    world.rest()
    world.backup("/b/full")
    mark = world.commit(1)
    world.ship()
    _, config = world.restore("latest", "/b/full", check=False)
    events: list[str] = []
    log = Events()
    log.subscribe(lambda name, fields: events.append(name if name != "recovery.pages_done" else f"{name} {fields}"))
    db = world.run(Database.open(world, config, log))
    world.rest()
    world.run(db.close())
    assert "recovery.pages_done {'unrecoverable': 0}" in events
    assert not [name for name in events if "lost" in name or "corrupt" in name or "repair" in name]
    assert world.keys_in(config) == mark.keys


def test_what_is_freed_and_taken_again_between_a_backup_and_an_incremental_one() -> None:
    world = with_dropped(settled=True)
    world.backup("/b/full")
    again = world.table("again")
    world.insert(again, *([number, WIDE] for number in range(300)))
    base = f"{world.disk.files['/b/full/backup_manifest.json'].decode()}"
    assert base
    world.backup("/b/more", type="incremental", base="/b/full", known=frozenset([parse_manifest(base.encode(), "").checksum]))
    mark = world.commit(2)
    world.ship()
    _, config = world.restore("latest", "/b/more", check=False)
    db = world.run(Database.open(world, config, Events()))
    table = db.catalog.table("again")
    assert table is not None
    world.run(db.close())
    assert world.keys_in(config) == mark.keys


# -- Stretches of zeros


class Sink:
    def __init__(self) -> None:
        self.data = bytearray()

    async def write(self, data: bytes | memoryview) -> None:
        self.data += data

    async def close(self) -> None: ...

    async def abort(self) -> None: ...


def stored(world: InlineWorld, pieces: list[bytes], compress: bool = False) -> tuple[FileEntry, bytes]:
    sink = Sink()
    writer = FrameWriter(world, sink, "data/pages.000000", compress, None)  # type: ignore[arg-type]

    async def work() -> FileEntry:
        for piece in pieces:
            await writer.write(piece)
        return await writer.finish(1)

    return world.run(work()), bytes(sink.data)


def read_back(world: InlineWorld, entry: FileEntry, data: bytes, reads: list[tuple[int, int]]) -> tuple[bytes, str]:
    async def read(offset: int, size: int) -> bytes:
        reads.append((offset, size))
        return data[offset : offset + size]

    reader = FrameReader(world, read, entry.path, entry.size, None, entry.zeros)  # type: ignore[arg-type]

    async def work() -> bytes:
        parts = []
        while part := await reader.next():
            parts.append(part)
        return b"".join(parts)

    return world.run(work()), reader.digest


PIECES: list[tuple[list[bytes], tuple[tuple[int, int], ...]]] = [
    ([b"a" * 1000, bytes(HOLE_BYTES), bytes(FRAME_BYTES), b"b" * 10], ((1000, 1000 + HOLE_BYTES + FRAME_BYTES),)),
    ([bytes(HOLE_BYTES), b"a", bytes(HOLE_BYTES)], ((0, HOLE_BYTES), (HOLE_BYTES + 1, 2 * HOLE_BYTES + 1))),
    ([b"a" * 10, bytes(HOLE_BYTES - 1), b"b"], ()),
]


@pytest.mark.parametrize(("pieces", "zeros"), PIECES)
def test_stretches_of_zeros_are_noted_not_read_and_the_digest_is_the_same(
    pieces: list[bytes], zeros: tuple[tuple[int, int], ...]
) -> None:
    world = InlineWorld()
    entry, data = stored(world, pieces)
    assert entry.zeros == zeros and data == b"".join(pieces)
    reads: list[tuple[int, int]] = []
    found, digest = read_back(world, entry, data, reads)
    assert found == data and digest == entry.xxh3_128
    assert not [1 for offset, size in reads for start, end in zeros if offset < end and start < offset + size]


def test_a_compressed_file_notes_none() -> None:
    entry, _ = stored(InlineWorld(), [bytes(HOLE_BYTES)], compress=True)
    assert entry.zeros == ()


@pytest.mark.parametrize("zeros", [[], [[5, 5]], [[0, 10], [5, 20]], [[9, 3]], [[0]], "no", [["a", "b"]]])
def test_stretches_in_a_manifest_are_checked(zeros: Any) -> None:
    world = RestoreWorld(rows=10)
    world.backup("/b/full")
    path = "/b/full/backup_manifest.json"
    text = encode_manifest(parse_manifest(bytes(world.disk.files[path]), path)).decode()
    broken = text.replace('"pages": ', f'"zeros": {str(zeros).replace(chr(39), chr(34))},\n      "pages": ', 1)
    assert broken != text
    with pytest.raises(Corruption):
        parse_manifest(broken.encode(), path)


def test_a_page_header_begins_with_its_checksum() -> None:
    """What `all_zeros` looks at first."""
    assert PAGE_HEADER.format.startswith("<Q")


@pytest.mark.parametrize("tail", [b"", b"end"])
def test_zeros_take_no_room_on_a_real_disk(tmp_path: Path, tail: bytes) -> None:
    """They were written out, and only the manifest knew better."""
    place = str(tmp_path / "b")

    async def main(ports: Any) -> None:
        destination = open_destination(ports, place)
        await destination.begin("bk-1")
        name = "data/pages.000000"
        writer = FrameWriter(ports, await destination.writer(name), name, False, None, lambda size: None)
        for piece in (b"a" * HOLE_BYTES, *[bytes(1 << 20)] * 16, tail):
            await writer.write(piece)
        await writer.finish(None)

    run_real(main)
    [file] = tmp_path.glob("**/pages.000000")
    assert file.read_bytes() == b"a" * HOLE_BYTES + bytes(16 << 20) + tail
    assert file.stat().st_blocks * 512 < 1 << 20


@pytest.mark.parametrize("found", ["nothing", "a sparse copy", "a file cut short"])
def test_a_restore_leaves_no_holes_on_a_real_disk(tmp_path: Path, found: str) -> None:
    """`cp -a` of such a backup keeps its holes: whoever took such a page later could find the disk full (lay_pages.L2)."""
    world = with_dropped(settled=True)
    world.backup("/b/full")
    for path, data in world.disk.files.items():
        if path.startswith("/b/full/"):
            file = tmp_path / path[1:]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
    stored, pages = tmp_path / "b/full/data/pages.000000", tmp_path / "pages.000000"
    size = stored.stat().st_size
    if found != "nothing":
        with open(pages, "wb") as copy:
            for at in range(0, size if found == "a sparse copy" else size // 2, PAGE):
                piece = stored.read_bytes()[at : at + PAGE]
                copy.seek(at + PAGE) if piece == bytes(PAGE) else copy.write(piece)
            copy.truncate(size if found == "a sparse copy" else size // 2)
        assert pages.stat().st_blocks * 512 < size
    reused: list[int] = []

    async def main(ports: Any) -> None:
        chain = await open_chain(ports, str(tmp_path / "b/full"), None)
        layer = PageLayer(ports, str(tmp_path), chain, Events())
        await layer.run()
        reused.append(layer.reused)

    run_real(main)
    assert pages.read_bytes() == stored.read_bytes() and reused == [size // PAGE if found == "a sparse copy" else 0]
    assert pages.stat().st_blocks * 512 >= size
