"""Which repairs a fault explains: just the bytes that it hurt, and only until something has landed on them."""

from __future__ import annotations

from typing import Any

from sim.oracle.repairs import Repairs
from sim.world.disk import rot
from sim.world.fates import AllLanded, NoneLanded
from sim.world.image import DiskImage
from thunderdb.storage.files import page_file_name

PAGE = 4096
DATA = "/data"
PATH = f"{DATA}/{page_file_name(0)}"


def files() -> tuple[DiskImage, int]:
    image = DiskImage()
    image.make_dir(DATA)
    number = image.create(PATH)
    image.sync_dir(DATA, image.entry_mark())
    image.write(number, 0, b"1" * 8 * PAGE)
    sync(image, number)
    return image, number


def sync(image: DiskImage, number: int) -> None:
    image.owned(number).sync(image.mark())


def older(image: DiskImage, page_no: int) -> list[str]:
    return told(image, "recovery.lost_write", {"page_no": page_no, "page_lsn": 5, "expected_lsn": 9})


def corrupt(image: DiskImage, page_no: int) -> list[str]:
    return told(image, "pool.page_corrupt", {"page_no": page_no, "error": "checksum does not match"})


def told(image: DiskImage, name: str, fields: dict[str, Any]) -> list[str]:
    repairs = Repairs(lambda: image, DATA, PAGE)
    repairs.happened(name, fields)
    return repairs.unexplained


def test_a_repair_that_nothing_explains_is_told() -> None:
    image, _ = files()
    assert older(image, 3) == ["page 3 is at 5, not 9, though no fault has hurt it"]
    assert corrupt(image, 3)


def test_a_lost_write_excuses_its_page_and_no_other() -> None:
    image, number = files()
    image.owned(number).injure(3 * PAGE, 4 * PAGE, "lost_write")
    assert not older(image, 3) and not corrupt(image, 3)
    assert older(image, 2) and older(image, 4)


def test_the_excuse_ends_when_the_page_has_landed_whole() -> None:
    image, number = files()
    image.owned(number).injure(3 * PAGE, 4 * PAGE, "lost_write")
    image.write(number, 3 * PAGE, b"2" * PAGE)
    assert not older(image, 3), "written, but not on the device"
    image.power_cut(NoneLanded())
    assert not older(image, 3), "the power cut took it"
    image.write(number, 3 * PAGE, b"3" * PAGE)
    sync(image, number)
    assert older(image, 3), "the disk has what was written: what is found from now on is another story"


def test_half_a_page_that_lands_leaves_the_other_half_excused() -> None:
    image, number = files()
    image.owned(number).injure(3 * PAGE, 4 * PAGE, "lost_write")
    image.write(number, 3 * PAGE, b"2" * (PAGE // 2))
    image.power_cut(AllLanded())
    assert image.hurt_at(PATH, 3 * PAGE, PAGE // 2) == ""
    assert not older(image, 3)


def test_a_failed_sync_excuses_a_torn_page_but_none_that_is_older() -> None:
    image, number = files()
    image.write(number, 3 * PAGE, b"2" * PAGE)
    image.owned(number).fail_sync(image.mark(), NoneLanded())
    assert image.hurt_at(PATH, 3 * PAGE, PAGE) == "sync_error"
    assert not corrupt(image, 3)
    assert older(image, 3), "the node has been told that it is not on disk"


def test_what_a_failed_sync_did_bring_to_the_device_is_not_hurt() -> None:
    image, number = files()
    image.write(number, 3 * PAGE, b"2" * PAGE)
    image.owned(number).fail_sync(image.mark(), AllLanded())
    assert corrupt(image, 3)


def test_a_sync_that_lied_excuses_until_one_that_does_not() -> None:
    image, number = files()
    image.write(number, 3 * PAGE, b"2" * PAGE)
    image.owned(number).lie(image.mark())
    assert not older(image, 3)
    sync(image, number)
    assert older(image, 3)


def test_rot_on_its_way_to_the_device_stays_rot_when_it_lands() -> None:
    image, number = files()
    image.write(number, 3 * PAGE, b"2" * PAGE)
    rot(image.owned(number), 3 * PAGE * 8 + 17)
    sync(image, number)
    assert not corrupt(image, 3) and corrupt(image, 4)
    image.write(number, 3 * PAGE, b"3" * PAGE)
    sync(image, number)
    assert corrupt(image, 3)


def test_a_stray_write_hurts_what_it_lands_on() -> None:
    image, number = files()
    image.write(number, 5 * PAGE, b"2" * PAGE)
    image.owned(number).stray()
    sync(image, number)
    assert not corrupt(image, 5) and corrupt(image, 3)


def test_a_file_cut_and_written_anew_is_as_good_as_new() -> None:
    image, number = files()
    image.owned(number).injure(3 * PAGE, 4 * PAGE, "bit_rot")
    fork = image.fork()
    image.truncate(number, 0)
    image.write(number, 0, b"2" * 8 * PAGE)
    sync(image, number)
    assert corrupt(image, 3)
    assert not corrupt(fork, 3)


def test_a_torn_write_excuses_damage_and_no_old_page() -> None:
    class Torn(AllLanded):
        def sectors(self, count: int) -> int:
            return 0b101

    image, number = files()
    image.write(number, 3 * PAGE, b"2" * PAGE)
    image.owned(number).power_cut(Torn())
    assert not corrupt(image, 3) and older(image, 3) and corrupt(image, 4)
    image.write(number, 3 * PAGE, b"3" * PAGE)
    sync(image, number)
    assert corrupt(image, 3)
