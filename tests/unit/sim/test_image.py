"""The disk image: what a power cut may leave, and nothing else."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.world.fates import AllLanded, ChosenFates, MixedFates, NoneLanded
from sim.world.image import SECTOR, DiskImage
from sim.world.rand import Stream
from thunderdb.base.errors import DiskFull


def filled(image: DiskImage, path: str, content: bytes) -> int:
    """A durable file."""
    number = image.create(path)
    image.write(number, 0, content)
    image.owned(number).sync(image.mark())
    image.sync_dir("/", image.entry_mark())
    return number


def cut(image: DiskImage, fates: Any) -> dict[str, bytes]:
    branch = image.fork()
    branch.power_cut(fates)
    return branch.contents()


def outcomes(image: DiskImage) -> list[dict[str, bytes]]:
    """Everything that a power cut can leave, by trying each decision both ways."""
    found: list[dict[str, bytes]] = []
    todo: list[list[int]] = [[]]
    while todo:
        choices = todo.pop()
        fates = ChosenFates(choices)
        result = cut(image, fates)
        if len(fates.asked) == len(choices):
            if result not in found:
                found.append(result)
        else:
            todo += [[*choices, choice] for choice in range(fates.asked[len(choices)])]
    return found


def test_unsynced_bytes_may_land_or_not_and_synced_ones_stay() -> None:
    image = DiskImage()
    number = filled(image, "/f", b"a" * SECTOR)
    image.write(number, 0, b"b" * SECTOR)
    assert cut(image, NoneLanded()) == {"/f": b"a" * SECTOR}
    assert cut(image, AllLanded()) == {"/f": b"b" * SECTOR}
    image.owned(number).sync(image.mark())
    assert cut(image, NoneLanded()) == {"/f": b"b" * SECTOR}


def test_a_write_of_three_sectors_tears_in_each_of_eight_ways() -> None:
    image = DiskImage()
    number = filled(image, "/f", b"." * 3 * SECTOR)
    image.write(number, 0, b"1" * SECTOR + b"2" * SECTOR + b"3" * SECTOR)
    seen = {tuple(result["/f"][at * SECTOR : at * SECTOR + 1] for at in range(3)) for result in outcomes(image)}
    assert seen == set(product((b".", b"1"), (b".", b"2"), (b".", b"3")))


def test_a_sector_is_never_mixed() -> None:
    """G2: a small write inside a sector brings the whole sector as it was after it."""
    image = DiskImage()
    number = filled(image, "/f", b"." * SECTOR)
    image.write(number, 0, b"first")
    image.write(number, 100, b"second")
    seen = {(result["/f"][:5], result["/f"][100:106]) for result in outcomes(image)}
    assert seen == {(b".....", b"......"), (b"first", b"......"), (b"first", b"second")}


def test_writes_to_different_sectors_are_reordered() -> None:
    image = DiskImage()
    number = filled(image, "/f", b"." * 2 * SECTOR)
    image.write(number, 0, b"1" * SECTOR)
    image.write(number, SECTOR, b"2" * SECTOR)
    assert {b"." * SECTOR + b"2" * SECTOR} <= {result["/f"] for result in outcomes(image)}


def test_a_sync_covers_only_what_had_completed_when_it_was_called() -> None:
    image = DiskImage()
    number = filled(image, "/f", b"")
    image.write(number, 0, b"before")
    mark = image.mark()
    image.write(number, 6, b" after")
    image.owned(number).sync(mark)
    assert cut(image, NoneLanded()) == {"/f": b"before"}
    assert image.contents() == {"/f": b"before after"}


def test_after_a_failed_sync_the_cache_has_what_the_disk_has_not() -> None:
    """G5, and the next sync says yes without writing anything."""
    image = DiskImage()
    number = filled(image, "/f", b"old")
    image.write(number, 0, b"new")
    image.owned(number).fail_sync(image.mark(), NoneLanded())
    image.owned(number).sync(image.mark())
    assert image.contents() == {"/f": b"new"}
    assert cut(image, AllLanded()) == {"/f": b"old"}


def test_kill_keeps_the_cache_and_power_after_kill_does_not() -> None:
    image = DiskImage()
    number = filled(image, "/f", b"old")
    image.write(number, 0, b"new")
    image.kill()
    assert image.contents() == {"/f": b"new"}
    assert cut(image, NoneLanded()) == {"/f": b"old"}


def test_names_need_a_sync_of_their_directory() -> None:
    image = DiskImage()
    number = image.create("/f")
    image.write(number, 0, b"content")
    image.owned(number).sync(image.mark())
    assert cut(image, NoneLanded()) == {}
    assert cut(image, AllLanded()) == {"/f": b"content"}
    image.sync_dir("/", image.entry_mark())
    assert cut(image, NoneLanded()) == {"/f": b"content"}


def test_a_rename_may_be_durable_before_the_bytes() -> None:
    image = DiskImage()
    filled(image, "/f", b"old")
    number = image.create("/f.tmp")
    image.write(number, 0, b"new")
    image.rename("/f.tmp", "/f")
    seen = [result for result in outcomes(image) if "/f.tmp" not in result]
    assert {"/f": b""} in seen  # renamed, its bytes lost
    assert {"/f": b"new"} in seen
    assert {"/f": b"old"} in seen
    image.sync_dir("/", image.entry_mark())
    assert all(result["/f"] != b"old" and "/f.tmp" not in result for result in outcomes(image))


def test_a_rename_is_atomic_and_never_without_the_creation_before_it() -> None:
    image = DiskImage()
    number = image.create("/new")
    image.write(number, 0, b"x")
    image.owned(number).sync(image.mark())
    image.rename("/new", "/final")
    assert sorted(map(sorted, outcomes(image))) == [[], ["/final"], ["/new"]]


def test_a_name_taken_anew_is_never_durable_before_the_rename_that_freed_it() -> None:
    image = DiskImage()
    filled(image, "/f", b"old")
    image.rename("/f", "/g")
    image.create("/f")
    assert all(b"old" in result.values() for result in outcomes(image))


def test_a_sync_dir_covers_only_what_had_completed_when_it_was_called() -> None:
    image = DiskImage()
    image.create("/before")
    mark = image.entry_mark()
    image.create("/after")
    image.sync_dir("/", mark)
    assert cut(image, NoneLanded()) == {"/before": b""}
    assert image.contents() == {"/before": b"", "/after": b""}


def test_an_unlink_is_durable_only_after_sync_dir() -> None:
    image = DiskImage()
    filled(image, "/f", b"content")
    image.unlink("/f")
    assert image.contents() == {}
    assert cut(image, NoneLanded()) == {"/f": b"content"}
    image.sync_dir("/", image.entry_mark())
    assert cut(image, NoneLanded()) == {}
    assert image.inodes == {}


def test_truncate_is_pending_too() -> None:
    image = DiskImage()
    number = filled(image, "/f", b"x" * 9000)
    image.truncate(number, 100)
    image.write(number, 5000, b"y")
    assert image.contents()["/f"] == b"x" * 100 + bytes(4900) + b"y"
    assert cut(image, NoneLanded())["/f"] == b"x" * 9000
    assert cut(image, AllLanded())["/f"] == image.contents()["/f"]


def test_forks_do_not_see_each_other() -> None:
    image = DiskImage()
    number = filled(image, "/f", b"base")
    image.write(number, 0, b"PEND")
    branch = image.fork()
    branch.write(number, 0, b"mine")
    branch.create("/only-here")
    image.write(number, 4, b"!")
    assert branch.contents() == {"/f": b"mine", "/only-here": b""}
    assert image.contents() == {"/f": b"PEND!"}
    assert cut(branch, NoneLanded()) == {"/f": b"base"} == cut(image, NoneLanded())


def test_capacity_is_claimed_and_given_back() -> None:
    image = DiskImage(capacity_bytes=10_000)
    number = filled(image, "/f", bytes(6000))
    other = filled(image, "/g", bytes(3000))
    with pytest.raises(DiskFull):
        image.write(other, 3000, bytes(2000))
    image.write(number, 0, bytes(6000))
    image.truncate(number, 1000)
    image.write(other, 3000, bytes(5000))
    image.unlink("/g")
    image.write(number, 1000, bytes(8000))
    assert image.used_bytes == 9000


OPERATION = st.one_of(
    st.tuples(st.just("write"), st.integers(0, 3000), st.binary(min_size=1, max_size=2500)),
    st.tuples(st.just("truncate"), st.integers(0, 4000), st.just(b"")),
    st.tuples(st.just("sync"), st.just(0), st.just(b"")),
)


@given(st.lists(OPERATION, max_size=25), st.integers(0, 1000))
def test_every_sector_after_a_cut_is_one_that_the_file_once_had(operations: list[Any], seed: int) -> None:
    """Against a model of bytes: reads are exact, a cut with everything landed is the cache, with nothing the last sync."""
    image = DiskImage()
    number = filled(image, "/f", b"")
    model = synced = b""
    history: dict[int, set[bytes]] = {}

    def remember(data: bytes) -> None:
        padded = data + bytes(8192 - len(data))
        for sector in range(16):
            history.setdefault(sector, set()).add(padded[sector * SECTOR : (sector + 1) * SECTOR])

    remember(b"")
    for action, offset, data in operations:
        if action == "write":
            image.write(number, offset, data)
            model = model[:offset].ljust(offset, b"\0") + data + model[offset + len(data) :]
        elif action == "truncate":
            image.truncate(number, offset)
            model = model[:offset].ljust(offset, b"\0")
        else:
            image.owned(number).sync(image.mark())
            synced = model
        remember(model)
        assert image.contents()["/f"] == model
    assert cut(image, AllLanded())["/f"] == model
    assert cut(image, NoneLanded())["/f"] == synced
    if all(action != "truncate" for action, _, _ in operations):
        mixed = cut(image, MixedFates(Stream(seed)))["/f"]
        assert len(mixed) >= len(synced)
        for sector in range((len(mixed) + SECTOR - 1) // SECTOR):
            piece = mixed[sector * SECTOR : (sector + 1) * SECTOR].ljust(SECTOR, b"\0")
            # Beyond a size that has not landed a sector reads as zeros.
            assert piece in history[sector] or any(old.startswith(piece.rstrip(b"\0")) for old in history[sector])


def tree(image: DiskImage) -> int:
    """A durable directory with one durable file in it."""
    for path in ("/b.partial", "/b.partial/data"):
        image.make_dir(path)
    number = image.create("/b.partial/data/f")
    image.owned(number).sync(image.mark())
    image.sync_dir("/b.partial/data", image.entry_mark())
    return number


def test_a_directorys_move_is_durable_only_when_its_parent_was_synced() -> None:
    image = DiskImage()
    tree(image)
    image.rename_dir("/b.partial", "/b")
    assert list(image.contents()) == ["/b/data/f"] and "/b/data" in image.dirs
    assert [list(found) for found in outcomes(image)] == [["/b/data/f"], ["/b.partial/data/f"]]
    image.sync_dir("/", image.entry_mark())
    image.power_cut(NoneLanded())
    assert list(image.contents()) == ["/b/data/f"] and "/b.partial" not in image.dirs


def test_what_is_done_in_a_moved_directory_lands_only_with_the_move() -> None:
    image = DiskImage()
    tree(image)
    image.rename_dir("/b.partial", "/b")
    image.create("/b/data/later")
    assert [sorted(found) for found in outcomes(image)] == [
        ["/b/data/f", "/b/data/later"], ["/b/data/f"], ["/b.partial/data/f"]
    ]  # fmt: skip
    image.sync_dir("/b/data", image.entry_mark())
    image.power_cut(NoneLanded())
    assert list(image.contents()) == ["/b/data/f", "/b/data/later"]


def test_a_name_that_was_pending_before_the_move_is_pending_under_its_new_path() -> None:
    image = DiskImage()
    tree(image)
    image.create("/b.partial/data/g")
    image.rename_dir("/b.partial", "/b")
    image.sync_dir("/", image.entry_mark())
    assert [sorted(found) for found in outcomes(image)] == [["/b/data/f", "/b/data/g"], ["/b/data/f"]]
    image.sync_dir("/b/data", image.entry_mark())
    assert image.is_quiet()
