"""The archiver on an object store: outages, lost answers, objects of others, compression and encryption."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.archive.world import URL, store_world
from tests.unit.engine.world import WAL
from thunderdb.archive.codec import Codec
from thunderdb.archive.index import StoreSource
from thunderdb.base.errors import Corruption, DiskFull, Refused, StorageError
from thunderdb.wal.segment import SEGMENT_HEADER_SIZE, segment_name

FIRST = segment_name(1, 1)


def test_an_outage_of_hours_costs_log_and_nothing_else() -> None:
    """Complaint: archiving drops or stops and says nothing."""
    world, store = store_world()
    db = world.start()
    table = world.table()
    world.rest(3)
    store.down = True
    for hour in range(4):
        world.insert(table, *[[hour * 1000 + row, "x" * 500] for row in range(200)])  # commits do not wait (A2)
        world.run(db.checkpoint())
        world.run(db.log.flush_all())
        world.run(world.tasks.yield_now())
        db.log.switch_segment()
        world.run(db.log.flush_all())
        world.run(world.tasks.sleep(590 * 10**9))
        status = world.archiver.status()
        assert status.failing and "connection refused" in status.last_error
        assert status.segments_pending >= hour + 1
        assert status.exposed_transactions >= hour + 1 and status.lag_seconds >= 590
    failures = world.events("archive.failed")
    assert 30 < len(failures) < 400, "it is tried again and again, but not all the time"
    assert [failure["attempt"] for failure in failures] == list(range(1, len(failures) + 1))
    assert world.events("wal.segment_removed") == []
    pending = world.archiver.status().segments_pending
    store.down = False
    world.rest(90)
    status = world.archiver.status()
    assert (status.failing, status.segments_pending, status.exposed_transactions, status.last_error) == (False, 0, 0, "")
    assert world.events("archive.recovered") == [{"attempts": len(failures)}]
    assert len(world.events("archive.pushed")) >= pending
    world.close()


def test_a_lost_answer_is_no_conflict() -> None:
    world, store = store_world()
    world.start()
    world.insert(world.table(), [1, "one"])
    world.rest(3)
    store.lose_answers = 3
    with pytest.raises(StorageError, match="lost"):
        world.switch()
    world.rest(20)
    assert store.objects[FIRST] == world.local(FIRST)
    assert not world.archiver.status().failing
    world.close()


def test_what_the_store_keeps_wrongly_is_noticed_and_the_log_stays() -> None:
    """The read back: an upload that was cut short by a proxy, say."""
    world, store = store_world()
    db = world.start()
    world.insert(world.table(), [1, "one"])
    world.rest(3)
    before = world.archiver.status().last_archive_time_us
    store.on_put = lambda key, data: data[:-1] if key == FIRST else data
    with pytest.raises(StorageError, match=f"has another {FIRST} already"):
        world.switch()
    status = world.archiver.status()
    assert status.failing and status.last_archive_time_us == before
    assert db.checkpointer.holds["archive"] == db.log.segments[0][1]
    store.on_put = lambda key, data: data
    del store.objects[FIRST]
    world.rest(120)
    assert store.objects[FIRST] == world.local(FIRST)
    world.close()


def test_a_different_object_under_the_name_stops_archiving_loudly() -> None:
    world, store = store_world()
    world.start()
    world.insert(world.table(), [1, "one"])
    world.rest(3)
    store.objects[FIRST] = b"not ours"
    with pytest.raises(StorageError, match=f"has another {FIRST} already"):
        world.switch()
    world.rest(300)
    assert world.archiver.status().failing
    assert store.objects[FIRST] == b"not ours", "it is never replaced"
    assert world.events("archive.failed")[-1]["hint"]


def test_an_identical_object_under_the_name_is_success() -> None:
    world, store = store_world()
    world.start()
    world.insert(world.table(), [1, "one"])
    world.switch()
    kept = dict(store.objects)
    world.crash()
    world.start()
    world.rest(3)
    assert not world.archiver.status().failing
    assert store.objects[FIRST] == kept[FIRST]
    assert store.puts.count(FIRST) == 1
    world.close()


def test_a_tail_that_was_changed_is_looked_at_again_and_mended() -> None:
    world, store = store_world()
    world.start()
    table = world.table()
    world.rest(3)
    name = f"{FIRST}.partial"
    store.objects[name] += b"more"
    world.insert(table, [1, "one"])
    world.rest(3)
    assert "another database writes" in world.events("archive.failed")[-1]["hint"].lower()
    assert not world.archiver.status().failing
    assert world.local(FIRST).startswith(store.objects[name])
    world.close()


def test_a_tail_that_the_listing_does_not_show_yet_is_no_conflict_for_long() -> None:
    """Simulator: after a restart the listing of a store that lags lacked the newest partial segment."""
    world, store = store_world()
    world.start()
    world.insert(world.table(), [1, "one"])
    world.rest(3)
    world.crash()
    store.hidden = f"{FIRST}.partial"
    world.start()
    world.insert(world.again(), [2, "two"])
    world.rest(2)
    store.hidden = ""
    world.rest(10)
    assert not world.archiver.status().failing
    assert len(store.objects[f"{FIRST}.partial"]) == SEGMENT_HEADER_SIZE + world.archiver.archived_lsn - 0x1000
    world.close()


def test_compressed_segments_are_read_with_any_configuration() -> None:
    world, store = store_world(wal_archive_compress=True)
    world.start()
    world.insert(world.table(), [1, "x" * 10_000])
    world.switch()
    world.rest(2)
    assert f"{FIRST}.zst" in store.objects and FIRST not in store.objects
    assert len(store.objects[f"{FIRST}.zst"]) < len(world.local(FIRST)) // 2
    source = StoreSource(store, Codec(), world.offload)
    assert world.run(source.segment(1, 1)) == world.local(FIRST)
    tail = world.run(source.segment(1, 2))
    assert tail is None or world.local(segment_name(1, 2)).startswith(tail)
    world.close()


def test_a_changed_configuration_ships_nothing_twice() -> None:
    world, store = store_world()
    world.start()
    world.insert(world.table(), [1, "one"])
    world.switch()
    world.insert(world.again(), [2, "two"])
    world.rest(2)
    world.crash()
    object.__setattr__(world.config, "wal_archive_compress", True)
    world.start()
    world.rest(3)
    world.insert(world.again(), [3, "three"])
    world.switch()
    world.rest(3)
    names = sorted(key for key in store.objects if key.startswith("0000000100"))
    assert FIRST in names and f"{FIRST}.zst" not in names
    assert f"{segment_name(1, 2)}.zst" in names and f"{segment_name(1, 2)}.partial" not in names
    world.close()


def test_an_archive_that_is_not_mounted_is_not_begun_anew() -> None:
    world, store = store_world()
    world.start()
    world.insert(world.table(), [1, "one"])
    world.switch()
    world.crash()
    store.objects.clear()
    world.start()
    world.rest(3)
    status = world.archiver.status()
    assert status.failing and "is it mounted?" in status.last_error
    assert store.objects == {}
    world.close()


def test_a_damaged_compressed_segment_is_corruption_by_name() -> None:
    codec = Codec(True)
    stored = codec.encode(b"x" * 1000, FIRST)
    with pytest.raises(Corruption, match=f"{FIRST}.zst"):
        codec.decode(stored[:-3], f"{FIRST}.zst")
    with pytest.raises(Refused, match="encrypted"):
        codec.decode(stored, f"{FIRST}.zst.enc")


def test_an_encrypted_archive_holds_no_plain_text_and_needs_its_key() -> None:
    world, store = store_world(backup_key_file="/key", wal_archive_compress=True)
    world.disk.files["/key"] = bytearray(b"\x07" * 32)
    world.start()
    world.insert(world.table(), [1, "a secret"])
    world.switch()
    world.insert(world.again(), [2, "another secret"])
    world.rest(3)
    names = [key for key in store.objects if key.startswith("0000000100")]
    assert all(name.endswith(".zst.enc") for name in names) and len(names) >= 2
    assert not any(b"secret" in data for data in store.objects.values())
    raw = world.run(StoreSource(store, world.archiver.target.codec, world.offload).segment(1, 1))  # type: ignore[attr-defined]
    assert raw == bytes(world.disk.files[f"{WAL}/{FIRST}"])
    world.crash()
    world.start()  # nonces differ from life to life: compared is what was sealed
    world.rest(3)
    assert not world.archiver.status().failing
    world.crash()
    world.disk.files["/key"] = bytearray(b"\x08" * 32)
    world.start()
    world.rest(3)
    assert world.archiver.status().refused
    world.close()


def test_status_names_the_place() -> None:
    world, _ = store_world()
    world.start()
    assert world.archiver.status().place == URL
    world.close()


def test_a_stop_while_the_archive_is_down_gives_up_and_says_so() -> None:
    world, store = store_world()
    world.start()
    world.insert(world.table(), [1, "one"])
    store.down = True
    world.close()
    assert world.events("archive.behind")


def test_a_stop_while_the_archive_hangs_ends_all_the_same() -> None:
    world, store = store_world()
    world.start()
    world.rest(3)
    world.insert(world.table(), [1, "one"])

    async def hang(*_: Any) -> Any:
        await world.tasks.sleep(10**15)

    store.get = store.put = store.size = hang  # type: ignore[method-assign]
    began = world.scheduler.now_ns
    world.close()
    assert world.scheduler.now_ns - began < 10 * 10**9
    assert world.events("archive.behind")[0]["message"] == "the archive did not answer in time"


@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_the_codec_gives_back_what_it_was_given(size: int) -> None:
    raw = bytes(range(256)) * (size // 256 + 1)
    for compress in (False, True):
        codec = Codec(compress)
        assert Codec().decode(codec.encode(raw[:size], "n"), codec.key("n")) == raw[:size]


def test_a_store_is_used_sparingly_when_nothing_happens() -> None:
    world, store = store_world()
    world.start()
    world.insert(world.table(), [1, "one"])
    world.rest(30)
    before = len(store.puts)
    world.rest(600)
    assert len(store.puts) - before <= 62, "a note each ten seconds"
    world.close()




def test_a_disk_that_filled_up_in_an_outage_is_writable_again_after_it() -> None:
    world, store = store_world(
        wal_segment_size=256 << 10, max_wal_size=1 << 20, checkpoint_interval=20_000, capacity_bytes=12 << 20
    )  # fmt: skip
    world.start()
    table = world.table()
    world.rest(3)
    store.down = True
    world.insert(table, [1, "x"])
    with pytest.raises(DiskFull):
        for row in range(100_000):
            world.db.log.admit()
            world.update(table, [1, f"{row:500}"])
    world.rest(120)
    assert world.archiver.status().segments_pending >= 5
    with pytest.raises(DiskFull):
        world.db.log.admit()
    store.down = False
    world.rest(120)
    assert world.archiver.status().segments_pending == 0
    world.insert(table, [3, "yes"])
    assert [row[0] for row in world.rows(table)] == [1, 3]
    world.close()
