"""Retention on what is really there: real backups and a real archive in memory, days apart, removed, interrupted, held."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.archive.world import ArchiveWorld
from thunderdb.archive.codec import Codec
from thunderdb.archive.directory import DirectoryStore, open_store
from thunderdb.archive.holds import lift_hold, place_hold, read_holds
from thunderdb.archive.retention import Hold
from thunderdb.backup.expire import Expired, decide, expire
from thunderdb.backup.inventory import _holding, take_inventory
from thunderdb.backup.manifest import MANIFEST_NAME
from thunderdb.backup.take import BackupRequest, take_backup
from thunderdb.backup.verify import verify_backup
from thunderdb.base.config import Config
from thunderdb.base.errors import StorageError
from thunderdb.runtime.inline import run_inline
from thunderdb.runtime.real_ports import RealPorts, run_real
from thunderdb.wal.segment import SegmentHeader, encode_segment_header

DAY_MS = 86_400_000
DAY_NS = DAY_MS * 1_000_000


class DirectoryStores:
    """Object stores that are directories of the same world, without renames."""

    def __init__(self, world: ExpireWorld) -> None:
        self.world = world

    def open(self, url: str) -> DirectoryStore:
        store = DirectoryStore(self.world.disk, "/stores/" + url.replace("://", "/"))
        store.place = url
        return _NoFolders(store)  # type: ignore[return-value]


class _NoFolders:
    """A store has no empty directories to leave behind; ours forgets them."""

    def __init__(self, store: DirectoryStore) -> None:
        self._root, self.place, self._store = store.place, store.place, store
        store.place = "/stores/" + self._root.replace("://", "/")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class ExpireWorld(ArchiveWorld):
    """One backup a day and some rows between; `days` has the manifests."""

    def __init__(self, destination: str = "/b", **settings: Any) -> None:
        super().__init__(
            destination=destination,
            wal_archive_retention=3 * DAY_MS,
            keep_daily=2 * DAY_MS,
            keep_weekly=30 * DAY_MS,
            **settings,
        )
        self.stores = DirectoryStores(self)  # type: ignore[assignment]
        self.start()
        self.t = self.table()
        self.day = 0

    def live(self, days: int, **request: Any) -> None:
        """A row, a closed segment and a backup each day."""
        for _ in range(days):
            self.day += 1
            self.insert(self.t, [self.day, "x"])
            self.run(self.archiver.switch())
            self.scheduler.now_ns += DAY_NS
            self.backup(f"full-{self.day}", **{"label": "daily", **request})

    def backup(self, name: str, **request: Any) -> None:
        wanted = BackupRequest(f"{self.config.destination}/{name}", **request)
        archiver = None if wanted.include_wal else self.archiver
        self.run(take_backup(self.db, self, wanted, backup_id=f"bk-20260101-{self.day:06d}", archiver=archiver))

    def decide(self, **known: Any) -> Expired:
        return self.run(decide(self, self.config, Codec(), **known))

    def expire(self, **known: Any) -> Expired:
        return self.run(expire(self, self.config, Codec(), self.db.events, **known))

    def there(self) -> list[str]:
        """Names of what is a backup."""
        root = self.config.destination
        store = open_store(self, root)
        keys = [stored.key for stored in self.run(store.list())]
        return sorted(key.partition("/")[0] for key in keys if key.endswith(f"/{MANIFEST_NAME}") and not key.startswith("."))

    def strangers(self) -> list[str]:
        """Files below the destination that belong to no backup."""
        root = "/stores/" + self.config.destination.replace("://", "/") if "://" in self.config.destination else "/b"
        names = tuple(f"{root}/{name}/" for name in self.there())
        return [path for path in self.disk.files if path.startswith(f"{root}/") and not path.startswith(names)]

    def segments(self) -> list[int]:
        return self.index().numbers(1)


DESTINATIONS = pytest.mark.parametrize("destination", ["/b", "s3://bucket/b"])


@DESTINATIONS
def test_old_backups_and_their_log_go_and_the_rest_restores(destination: str) -> None:
    world = ExpireWorld(destination)
    world.live(8)
    before = world.segments()
    dry = world.decide()
    assert world.there() == sorted(f"full-{day}" for day in range(1, 9)), "a dry run removes nothing"
    done = world.expire()
    assert [d for d in done.decisions if d.keep] == [d for d in dry.decisions if d.keep]
    assert world.there() == ["full-5", "full-7", "full-8"], "two days, and the anchor of the window"
    after = world.segments()
    assert after == before[-len(after) :] and len(after) < len(before), "the old end of the log has gone, without a gap"
    first = min(d.object for d in done.decisions if d.keep and d.kind == "segment")
    assert "from backup bk-20260101-000005 on needed" in next(d.reason for d in done.decisions if d.object == first)
    for name in world.there():
        assert world.run(verify_backup(world, f"{destination}/{name}")).passed
    assert world.expire().removed == []
    assert [name for name, _ in world.seen if name.startswith("retention.")].count("retention.removed") == 5


def test_the_window_is_told() -> None:
    world = ExpireWorld()
    assert world.decide().window is None
    world.live(2)
    world.run(world.archiver.wait_archived(world.db.log.flushed_lsn))
    oldest, newest = world.decide().window or (0, 0)
    assert 0 < oldest <= newest
    assert world.decide().document()["recovery_window"]["oldest"].endswith("Z")


def test_strangers_and_unfinished_ones_are_left_alone() -> None:
    world = ExpireWorld()
    world.live(8)
    world.disk.dirs["/b/wal-archive"] = None
    world.disk.dirs["/b/full-9.partial"] = None
    world.disk.files["/b/full-9.partial/backup_manifest.json"] = bytearray(b"{}")
    done = world.expire()
    assert sum(d.kind == "backup" for d in done.decisions) == 8
    assert "/b/wal-archive" in world.disk.dirs and "/b/full-9.partial/backup_manifest.json" in world.disk.files
    assert "unfinished" in next(d.reason for d in done.decisions if d.object == "/b/full-9.partial")


def test_a_link_is_no_second_backup(tmp_path: Path) -> None:
    (tmp_path / "full-1").mkdir()
    (tmp_path / "full-1" / MANIFEST_NAME).write_text("{}")
    (tmp_path / "full-latest").symlink_to("full-1")
    (tmp_path / "way").symlink_to(tmp_path)
    config = Config(destination=str(tmp_path / "way"))

    async def look(ports: RealPorts) -> list[str]:
        found = await take_inventory(ports, config, Codec(), known=[str(tmp_path / "way" / "full-latest")])
        return [backup.object for backup in found.backups]

    assert run_real(look) == [str(tmp_path / "full-1")]


def test_a_backup_that_lacks_a_file_is_not_good() -> None:
    world = ExpireWorld(minimum_redundancy=1)
    world.live(3)
    world.scheduler.now_ns += 400 * DAY_NS
    page_file = next(path for path in world.disk.files if path.startswith("/b/full-3/data/pages"))
    del world.disk.files[page_file]
    assert world.expire().removed[-1:] != ["/b/full-2"]
    assert "full-2" in world.there(), "the newest good one"


def test_a_manifest_that_cannot_be_read_keeps_its_backup_and_counts_for_nothing() -> None:
    world = ExpireWorld()
    world.live(3)
    world.scheduler.now_ns += 400 * DAY_NS
    world.disk.files[f"/b/full-3/{MANIFEST_NAME}"][10] ^= 1
    done = world.expire()
    assert world.there() == ["full-2", "full-3"]
    assert "cannot be read" in next(d.reason for d in done.decisions if d.object == "/b/full-3")


def test_a_manifest_that_does_not_answer_now_costs_nothing() -> None:
    """A backup without log of its own: were it taken for damaged, the log that it alone needs would go."""
    world = ExpireWorld()
    world.live(1, include_wal=False, label="weekly")
    world.live(5)
    world.scheduler.now_ns += 12 * DAY_NS
    before = world.there(), world.archive_names()
    read_file = world.disk.read_file

    async def failing(path: str) -> bytes:
        if path == f"/b/full-1/{MANIFEST_NAME}":
            raise StorageError(f"cannot read {path}: Connection timed out")
        return await read_file(path)

    world.disk.read_file = failing  # type: ignore[method-assign]
    with pytest.raises(StorageError, match="timed out"):
        world.expire()
    assert (world.there(), world.archive_names()) == before
    world.disk.read_file = read_file  # type: ignore[method-assign]
    done = world.expire()
    kept = [item.reason for item in done.decisions if item.kind == "segment" and item.keep]
    assert done.removed and any("no log of its own" in reason for reason in kept)


def test_incrementals_go_before_what_they_stand_on() -> None:
    world = ExpireWorld()
    world.live(1)
    for day in (2, 3):
        world.live(1, type="incremental", base=f"/b/full-{day - 1}", label="incremental")
    world.live(9)
    done = world.expire()
    chain = [name for name in done.removed if name in ("/b/full-1", "/b/full-2", "/b/full-3")]
    assert chain == ["/b/full-3", "/b/full-2", "/b/full-1"]


def test_a_backup_without_log_keeps_its_log_found_by_bisection() -> None:
    world = ExpireWorld()
    world.live(3)
    world.live(1, include_wal=False, label="weekly")
    facts = next(b for b in world.decide().inventory.backups if b.object == "/b/full-4")
    assert 0 < facts.first_segment <= facts.last_segment
    world.live(12)
    world.expire()
    own = set(range(facts.first_segment, facts.last_segment + 1))
    assert own <= set(world.segments()) and "full-4" in world.there()
    assert facts.first_segment - 1 not in world.segments() and facts.last_segment + 3 not in world.segments()


def test_backups_elsewhere_count_and_are_never_removed() -> None:
    world = ExpireWorld()
    world.live(1)
    world.config = world.db.config
    wanted = BackupRequest("/elsewhere/full", label="daily")
    world.run(take_backup(world.db, world, wanted, backup_id="bk-20260101-000099"))
    world.live(12)
    known = ["/elsewhere/full", "/gone/for-ever"]
    done = world.expire(known=known)
    assert "/elsewhere/full/backup_manifest.json" in world.disk.files
    assert "goes only by hand" in next(d.reason for d in done.decisions if d.object == "/elsewhere/full")


def test_another_databases_backups_count_for_nothing() -> None:
    world = ExpireWorld()
    world.live(8)
    done = world.expire(system_id=world.db.control.state.system_id ^ 1)
    assert done.removed == [] and all("another database" in d.reason for d in done.decisions if d.kind == "backup")


@DESTINATIONS
def test_a_hold_that_appears_in_the_middle_is_seen(destination: str) -> None:
    world = ExpireWorld(destination)
    world.live(8)
    store = open_store(world, destination)

    def on_event(name: str, fields: dict[str, Any]) -> None:
        if name == "retention.removed" and not held:
            held.append(fields["object"])
            world.tasks.spawn(place_hold(store, Hold("restore-1", 1 << 60, ("bk-20260101-000002",), 0)))

    held: list[str] = []
    world.db.events.subscribe(on_event)
    world.expire()
    assert "full-2" in world.there() and world.segments()[0] == 1, "and the log of who is held"
    world.run(lift_hold(store, "restore-1"))
    world.expire()
    assert world.there() == ["full-5", "full-7", "full-8"]


@pytest.mark.parametrize("destination", ["/b", "s3://bucket/b"])
def test_what_killed_restores_have_left_is_removed_when_it_has_ended(destination: str) -> None:
    """Each left a hold for ever: it ended by its time, but its object stayed."""
    world = ExpireWorld(destination)
    world.live(2)
    now_us = world.clock.wall_ns() // 1000
    for store in (world.store, open_store(world, destination)):
        for name, ends_us in (("restore-17", now_us - 1), ("restore-18", now_us + DAY_MS), ("restore-of-mine", now_us - 1)):
            world.run(place_hold(store, Hold(name, ends_us)))
    world.expire()
    for store in (world.store, open_store(world, destination)):
        assert sorted(hold.name for hold in world.run(read_holds(store))) == ["restore-18", "restore-of-mine"]


def test_a_damaged_hold_holds_everything() -> None:
    world = ExpireWorld()
    world.live(8)
    world.run(world.store.put("hold.restore-2.json", b"{"))
    assert world.expire().removed == []
    assert world.run(read_holds(world.store))[0].name == "restore-2 (damaged)"


class Cut(Exception):
    """The power goes."""


@DESTINATIONS
def test_killed_at_any_step_it_goes_on_and_never_shows_a_broken_backup(destination: str) -> None:
    """Every change to the disk fails once, for good: then all that is still a backup verifies, and the next run finishes."""
    step = 0
    while True:
        step += 1
        world = ExpireWorld(destination)
        world.live(6, compress=True)
        cut = _Cutter(step)
        originals = {name: getattr(world.disk, name) for name in ("unlink", "rename", "remove_dir")}
        for name, original in originals.items():
            setattr(world.disk, name, cut.wrap(original))
        try:
            world.expire()
        except Cut:
            pass
        for name, original in originals.items():
            setattr(world.disk, name, original)
        numbers = world.segments()
        assert numbers == list(range(numbers[0], numbers[-1] + 1)), "no gap"
        for name in world.there():
            if not name.startswith(".") and not (destination != "/b" and _marked(world, destination, name)):
                report = world.run(verify_backup(world, f"{destination}/{name}"))
                assert report.passed, (step, name, report.problems)
        world.expire()
        assert world.there() == ["full-3", "full-5", "full-6"], step
        assert world.strangers() == [] and not [path for path in world.disk.dirs if "removing" in path], step
        if not cut.fired:
            assert step > 12
            return


def _marked(world: ExpireWorld, destination: str, name: str) -> bool:
    return world.run(open_store(world, destination).size(f"{name}/removing.json")) is not None


class _Cutter:
    def __init__(self, step: int) -> None:
        self.left, self.fired = step, False

    def wrap(self, original: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        async def call(*arguments: Any) -> None:
            self.left -= 1
            if self.left <= 0:
                self.fired = True
                raise Cut()
            await original(*arguments)

        return call


def test_a_listing_that_fails_removes_nothing() -> None:
    world = ExpireWorld()
    world.live(8)
    original = world.disk.list

    async def failing(path: str) -> list[str]:
        if path == "/a":
            raise StorageError("cannot list /a")
        return await original(path)

    world.disk.list = failing  # type: ignore[method-assign]
    with pytest.raises(StorageError):
        world.expire()
    world.disk.list = original  # type: ignore[method-assign]
    assert len(world.there()) == 8


@pytest.mark.parametrize(("lsn", "number"), [(1, 1), (150, 1), (200, 2), (299, 2), (300, 3), (999, 3), (0, 0)])
def test_the_segment_that_holds_an_lsn_is_found(lsn: int, number: int) -> None:
    class Source:
        async def segment(self, timeline: int, number: int) -> bytes:
            start_lsn = {1: 1, 2: 200, 3: 300}[number]
            return encode_segment_header(SegmentHeader(timeline, number, start_lsn, 7, 0, 1 << 20))

    assert run_inline(_holding(Source(), 1, [1, 2, 3], lsn)) == number  # type: ignore[arg-type]
