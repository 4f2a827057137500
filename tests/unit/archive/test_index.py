"""Names, the index, notes, and the count of what would be lost."""

from __future__ import annotations

import pytest

from tests.unit.archive.world import MemoryStore
from thunderdb.archive.history import format_claim, parse_claim
from thunderdb.archive.identity import (
    Archived,
    Identity,
    own_identity,
    read_archived,
    read_identity,
    write_archived,
    write_identity,
)
from thunderdb.archive.index import Complete, Gap, decode_complete, encode_complete, gaps_in, read_index
from thunderdb.archive.names import ObjectName, complete_name, object_name, parse_complete_name, parse_object_name, plain_name
from thunderdb.archive.status import Exposure, Rate, Sample
from thunderdb.base.errors import Corruption
from thunderdb.runtime.inline import InlineWorld
from thunderdb.wal.segment import segment_name
from thunderdb.wal.timeline import Fork

NAME = segment_name(2, 0x42)


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("encrypted", [False, True])
def test_a_name_says_how_its_object_is_stored(partial: bool, compressed: bool, encrypted: bool) -> None:
    name = NAME + (".partial" if partial else "")
    key = object_name(name, compressed, encrypted)
    assert parse_object_name(key) == ObjectName(2, 0x42, partial, compressed, encrypted)
    assert plain_name(key) == name


@pytest.mark.parametrize(
    "key", ["00000001.history", NAME + ".tmp", NAME.lower().replace("0", "a"), NAME + ".enc.zst", NAME[:-1], "wal/" + NAME, ""]
)
def test_other_names_are_no_segments(key: str) -> None:
    assert parse_object_name(key) is None


def test_a_closed_segment_stands_before_its_partial_one() -> None:
    store = MemoryStore("s3://b")
    store.objects = {f"{NAME}.partial": b"p", NAME: b"closed", f"{segment_name(2, 0x44)}.partial.zst": b"q", "README": b""}
    store.objects["00000002.history"] = format_claim((Fork(1, 0x2000, "restore"),), 7, "a" * 32).encode()
    store.objects[complete_name(2)] = encode_complete(2, Complete(0x3000, 123, 0x44))
    index = InlineWorld().run(read_index(store))
    assert index.segments[2, 0x42].key == NAME and not index.segments[2, 0x42].partial
    assert index.segments[2, 0x44].partial and len(index.partials) == 2
    assert index.gaps() == [Gap(2, 0x43, 0x43)]
    assert index.numbers(2) == [0x42, 0x44] and index.numbers(2, partial=False) == [0x42]
    assert (index.histories[2].system_id, index.histories[2].owner) == (7, "a" * 32)
    assert index.histories[2].forks == (Fork(1, 0x2000, "restore"),)
    assert index.complete == {2: Complete(0x3000, 123, 0x44)}


def test_a_damaged_note_is_passed_over_and_a_damaged_history_is_not() -> None:
    store = MemoryStore("s3://b")
    store.objects = {complete_name(1): b"{"}
    assert InlineWorld().run(read_index(store)).complete == {}
    store.objects["00000001.history"] = b"9\t0/0\tx\n"
    with pytest.raises(Corruption, match="00000001.history"):
        InlineWorld().run(read_index(store))


def test_notes_are_read_as_they_were_written() -> None:
    complete = Complete(0x1A3B4C5D, 1_767_225_600_000_000, 9)
    assert decode_complete(encode_complete(3, complete), "x") == complete
    assert parse_complete_name(complete_name(3)) == 3 and parse_complete_name("complete.json") is None


@pytest.mark.parametrize(
    ("numbers", "gaps"), [([], []), ([5], []), ([1, 2, 3], []), ([1, 3, 7], [Gap(1, 2, 2), Gap(1, 4, 6)])]
)
def test_gaps(numbers: list[int], gaps: list[Gap]) -> None:
    assert gaps_in(1, numbers) == gaps


def test_a_gap_names_its_segments() -> None:
    assert str(Gap(1, 2, 2)) == segment_name(1, 2)
    assert str(Gap(1, 2, 4)) == f"{segment_name(1, 2)}..{segment_name(1, 4)}"


def test_a_claim_says_whose_it_is_and_is_a_history_file() -> None:
    forks = (Fork(1, 0x5000, "restored to 2026-01-15T14:30:00Z"),)
    text = format_claim(forks, 0xABC, "0" * 31 + "1")
    assert parse_claim(text, 2).forks == forks
    assert parse_claim("", 1).owner is None


def test_identity_and_memory_survive() -> None:
    world = InlineWorld()
    world.run(world.disk.make_dirs("/d"))
    identity = world.run(own_identity(world.disk, "/d", world.random))
    assert len(identity.instance) == 32 and not identity.no_archive
    assert world.run(own_identity(world.disk, "/d", world.random)) == identity
    world.run(write_identity(world.disk, "/d", Identity("f" * 32, True)))
    assert world.run(read_identity(world.disk, "/d")) == Identity("f" * 32, True)
    archived = Archived("/a", 2, 7, True, 100, 5)
    world.run(write_archived(world.disk, "/d", archived))
    assert world.run(read_archived(world.disk, "/d")) == archived
    world.disk.files["/d/archived"] = bytearray(b"{}")
    assert world.run(read_archived(world.disk, "/d")) is None, "a memory that is damaged is none"
    world.disk.files["/d/identity"] = bytearray(b"junk")
    with pytest.raises(Corruption, match="/d/identity"):
        world.run(read_identity(world.disk, "/d"))


def test_a_commit_is_exposed_until_a_sample_after_it_is_reached() -> None:
    exposure = Exposure(Sample(100, 0, 0, 0))
    exposure.add(Sample(200, 5, 10, 1))
    exposure.add(Sample(300, 9, 20, 2))
    exposure.reached(299)
    assert exposure.covered.commits == 5
    exposure.add(Sample(300, 9, 30, 3))
    exposure.reached(300)
    assert exposure.covered == Sample(300, 9, 30, 3), "nothing was written between the two: the later time counts"
    exposure.add(Sample(300, 9, 40, 4))
    assert exposure.covered.time_us == 40


def test_an_outage_of_days_takes_no_memory_and_loses_no_count() -> None:
    exposure = Exposure(Sample(0, 0, 0, 0))
    for number in range(1, 50_000):
        exposure.add(Sample(number * 10, number, number, number))
    exposure.reached(499_990)
    assert 40_000 < exposure.covered.commits <= 49_999


def test_the_rate_is_over_the_last_minute() -> None:
    rate = Rate()
    rate.add(0, 600)
    assert rate.per_second(30 * 10**9) == 10
    assert rate.per_second(61 * 10**9) == 0
