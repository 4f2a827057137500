"""Verification sees every flipped byte, every missing and every additional file, and names it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.unit.backup.helpers import BackupWorld
from tests.unit.engine.world import PAGE
from thunderdb.backup.manifest import MANIFEST_NAME
from thunderdb.base.errors import Refused

HOUR_NS = 3600 * 1_000_000_000


@pytest.fixture(scope="module")
def world() -> BackupWorld:
    world = BackupWorld(rows=400)
    world.backup("/b/full", config_text="# nothing\n")
    world.backup("/b/packed", compress=True, config_text="# nothing\n")
    world.update(world.t, [7, "changed"])
    world.backup("/b/inc", type="incremental", base="/b/full", config_text="# nothing\n")
    world.backup("/b/incz", type="incremental", base="/b/packed", compress=True, config_text="# nothing\n")
    return world


def offsets(size: int) -> Iterator[int]:
    """Beginning, end, and a few in between that follow no pattern of the format."""
    yield from sorted({0, 1, size // 7, size // 3, size // 2, size * 5 // 7, size - 2, size - 1} & set(range(size)))


@pytest.mark.parametrize("place", ["/b/full", "/b/packed", "/b/inc", "/b/incz"])
def test_one_flipped_byte_anywhere_is_seen_and_its_file_is_named(world: BackupWorld, place: str) -> None:
    assert world.verify(place).passed
    for path in world.files_of(place):
        data = world.disk.files[path]
        assert data, path
        for offset in offsets(len(data)):
            for mask in (0x01, 0x20, 0x80):
                data[offset] ^= mask
                report = world.verify(place)
                data[offset] ^= mask
                assert not report.passed and report.problems[0].file == path.removeprefix(f"{place}/"), (path, offset)
    assert world.verify(place).passed


def test_whitespace_in_the_manifest_counts_too(world: BackupWorld) -> None:
    data = world.disk.files[f"/b/full/{MANIFEST_NAME}"]
    for old, new in ((b"  ", b" \t"), (b"\n", b"\r"), (b"{\n", b"{ ")):
        changed = bytearray(bytes(data).replace(old, new, 1))
        world.disk.files[f"/b/full/{MANIFEST_NAME}"] = changed
        assert not world.verify("/b/full").passed
    world.disk.files[f"/b/full/{MANIFEST_NAME}"] = data
    assert world.verify("/b/full").passed


def test_the_first_bad_page_and_lsn_are_named(world: BackupWorld) -> None:
    data = world.disk.files["/b/full/data/pages.000000"]
    data[5 * 4096 + 100] ^= 1
    first = world.verify("/b/full").problems[0]
    data[5 * 4096 + 100] ^= 1
    assert (first.file, first.page) == ("data/pages.000000", 5) and first.lsn and "checksum" in first.text
    name = next(path for path in world.files_of("/b/full") if "/wal/" in path)
    data = world.disk.files[name]
    data[20_000] ^= 1
    first = world.verify("/b/full").problems[0]
    data[20_000] ^= 1
    assert first.lsn and "0/" in first.text and first.file == name.removeprefix("/b/full/")


@pytest.mark.parametrize("place", ["/b/full", "/b/inc"])
def test_missing_shortened_and_unknown_files_are_named(world: BackupWorld, place: str) -> None:
    for path in world.files_of(place):
        name = path.removeprefix(f"{place}/")
        data = world.disk.files.pop(path)
        report = world.verify(place)
        assert not report.passed, path
        if name != MANIFEST_NAME:
            assert any(problem.file == name for problem in report.problems)
        for other in (bytearray(data[:-1]), data + b"\0", bytearray()):
            world.disk.files[path] = other
            assert not world.verify(place).passed, path
        world.disk.files[path] = data
    for name in ("data/pages.000001", "wal/000000010000000000000099", "data/strange"):
        world.disk.files[f"{place}/{name}"] = bytearray(b"?")
        assert [problem.file for problem in world.verify(place).problems] == [name]
        del world.disk.files[f"{place}/{name}"]
    assert world.verify(place).passed


def test_a_chain_is_verified_whole_and_a_missing_link_is_named(world: BackupWorld) -> None:
    assert world.verify("/b/inc").links == ["/b/full", "/b/inc"]
    data = world.disk.files["/b/full/data/pages.000000"]
    data[9 * 4096 + 77] ^= 4
    first = world.verify("/b/inc").problems[0]
    data[9 * 4096 + 77] ^= 4
    assert first.file == "/b/full/data/pages.000000" and first.page == 9
    manifest = world.disk.files.pop(f"/b/full/{MANIFEST_NAME}")
    problem = world.verify("/b/inc").problems[0]
    world.disk.files[f"/b/full/{MANIFEST_NAME}"] = manifest
    assert "bk-20260101-000001" in problem.text and "missing" in problem.text


def test_where_there_is_no_backup(world: BackupWorld) -> None:
    world.disk.dirs["/b/empty"] = None
    for place in ("/b/empty", "/nowhere", "/b/full/thunderdb.toml"):
        assert "there is no backup" in world.verify(place).problems[0].text


def test_an_unfinished_backup_is_none() -> None:
    world = BackupWorld(rows=50)
    world.backup("/b/full")
    for path in world.files_of("/b/full"):
        world.disk.files[path.replace("/b/full", "/b/full.partial")] = world.disk.files.pop(path)
    world.disk.dirs.update({"/b/full.partial": None, "/b/full.partial/data": None, "/b/full.partial/wal": None})
    assert "unfinished" in world.verify("/b/full.partial").problems[0].text


def test_a_newer_format_is_refused_by_name(world: BackupWorld) -> None:
    import json

    from thunderdb.backup.manifest import checksum_of

    path = f"/b/full/{MANIFEST_NAME}"
    data = world.disk.files[path]
    document = {**json.loads(data), "version": 2}
    document["checksum"] = checksum_of(document)
    world.disk.files[path] = bytearray(json.dumps(document).encode())
    try:
        with pytest.raises(Refused, match="format version 2"):
            world.verify("/b/full")
    finally:
        world.disk.files[path] = data


# -- Copies made by hand


class CopyWorld(BackupWorld):
    def __init__(self, hold_ns: int = HOUR_NS) -> None:
        super().__init__(rows=3000)  # more than one segment of log, so that old pages have no image in what is kept
        for _ in range(3):
            self.run(self.db.checkpointer.run(flush_all=True))
        self.run(self.db.checkpoint(hold_ns))
        self.copy("data")
        self.fill(4000, 100)
        self.copy("wal")

    def copy(self, folder: str) -> None:
        for name in ("/c", f"/c/{folder}"):
            self.disk.dirs[name] = None
        for path, data in list(self.disk.files.items()):
            if path.startswith(f"/d/{folder}/"):
                self.disk.files[path.replace("/d/", "/c/", 1)] = bytearray(data)

    def problems(self) -> list[Any]:
        return self.verify("/c").problems


def test_a_copy_made_by_hand_is_checked_and_has_no_manifest() -> None:
    world = CopyWorld()
    report = world.verify("/c")
    assert report.passed and report.notes[0] == "no manifest" and report.manifest is None
    assert report.data_pages and report.wal_segments and report.end_lsn == world.db.log.flushed_lsn


def test_a_torn_page_with_an_image_in_the_log_is_no_damage_and_another_is() -> None:
    world = CopyWorld()
    pages = world.disk.files["/c/data/pages.000000"]
    kept = bytes(pages)
    seen = []
    for page_no in range(1, len(kept) // 4096, 7):
        if not any(kept[page_no * 4096 : (page_no + 1) * 4096]):
            continue
        pages[page_no * 4096 + 2048 : (page_no + 1) * 4096] = b"\xff" * 2048
        seen.append(tuple(problem.page for problem in world.problems()))
        assert seen[-1] in ((), (page_no,))
        pages[:] = kept
    assert () in seen and len(set(seen)) > 5


def test_a_copy_without_its_log_is_named() -> None:
    world = CopyWorld()
    for path in [path for path in world.disk.files if path.startswith("/c/wal/")]:
        del world.disk.files[path]
    assert any("log" in problem.text for problem in world.problems())


def test_a_copy_that_nobody_protected_fails() -> None:
    assert any("nothing kept the log" in problem.text for problem in CopyWorld(hold_ns=0).problems())


def test_a_gap_in_the_middle_of_a_copied_log_is_named() -> None:
    world = BackupWorld(rows=500)
    world.run(world.db.checkpoint(HOUR_NS))
    copy = CopyWorld.copy
    copy(world, "data")  # type: ignore[arg-type]
    for start in range(1000, 9000, 1000):
        world.fill(start, 1000)
    copy(world, "wal")  # type: ignore[arg-type]
    assert world.verify("/c").passed
    segments = [path for path in world.files_of("/c") if path.startswith("/c/wal/0")]
    assert len(segments) >= 3
    middle = world.disk.files[segments[1]]
    middle[300_000] ^= 1
    assert not world.verify("/c").passed
    middle[300_000] ^= 1
    del world.disk.files[segments[1]]
    assert not world.verify("/c").passed


@pytest.mark.parametrize("by_hand", [False, True])
def test_what_of_it_was_log_is_counted_and_timed_by_itself(by_hand: bool) -> None:
    """The bench's rate is of this: as a difference of two times it was anything between 445 and 192,121 MB/s."""
    world = BackupWorld()
    if by_hand:
        world.run(world.db.checkpoint(3_600_000_000_000))
        world.fill(2000, 200)
        for folder in ("data", "wal"):
            for parent in ("/b", "/b/full", f"/b/full/{folder}"):
                world.disk.dirs[parent] = None
            for path in [path for path in world.disk.files if path.startswith(f"/d/{folder}/")]:
                world.disk.files[f"/b/full/{folder}/{path.rpartition('/')[2]}"] = bytearray(world.disk.files[path])
    else:
        world.backup("/b/full")
    world.clock = Reads(world)  # type: ignore[assignment]
    report = world.verify("/b/full")
    whole = sum(len(data) for path, data in world.disk.files.items() if path.startswith("/b/full/wal/"))
    assert report.passed and 0 < report.log_bytes <= whole
    assert report.log_bytes <= report.log_ns <= world.clock.monotonic_ns() - report.data_pages * PAGE  # no page's time is in it


class Reads:
    """A clock on which each byte read takes a nanosecond, and nothing else takes any time."""

    def __init__(self, world: BackupWorld) -> None:
        self.now_ns = 0
        self._open = world.disk.open
        world.disk.open = self.open  # type: ignore[method-assign]

    async def open(self, path: str, **more: Any) -> Any:
        file = await self._open(path, **more)
        return _Counted(file, self)

    def monotonic_ns(self) -> int:
        return self.now_ns


class _Counted:
    def __init__(self, file: Any, clock: Reads) -> None:
        self._file, self._clock = file, clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    async def read(self, offset: int, size: int) -> bytes:
        data: bytes = await self._file.read(offset, size)
        self._clock.now_ns += len(data)
        return data
