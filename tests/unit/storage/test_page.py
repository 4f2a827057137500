"""The page codec: round trips, damage of every kind, size accounting."""

from __future__ import annotations

import pickle
import struct
import sys

import pytest
from xxhash import xxh3_64_intdigest

from thunderdb.base.errors import InvariantViolated
from thunderdb.storage.page import (
    PAGE_HEADER,
    PAGE_HEADER_SIZE,
    VALUE_HEADER,
    Damage,
    Page,
    PageCorruption,
    PageKind,
    copy_page,
    decode_page,
    decoded_size,
    encode_page,
    inner_entry_size,
    leaf_entry_size,
    new_page,
    thaw,
    used_size,
)

SIZE = 4096


def leaf(page_no: int = 7, entries: int = 10) -> Page:
    page = Page(page_no, PageKind.LEAF, tree=3)
    page.page_lsn, page.image_lsn, page.max_txn = 1000, 900, 55
    for number in range(entries):
        key, val = b"key%05d" % number, VALUE_HEADER.pack(5, 600, 0) + b"x" * number
        page.keys.append(key)
        page.vals.append(val)
        page.used += leaf_entry_size(key, val)
    return page


def inner() -> Page:
    page = Page(9, PageKind.INNER, level=2, tree=3)
    for number, key in enumerate([b"", b"b", b"ccc", b"ccd"]):
        page.keys.append(key)
        page.children.append(4_000_000_000 + number)
        page.used += inner_entry_size(key)
    return page


def fields(page: Page) -> list[object]:
    names = "page_no kind level tree page_lsn image_lsn max_txn keys vals children data used".split()
    return [getattr(page, name) for name in names]


def chunk(data: bytes) -> Page:
    page = Page(12, PageKind.CHUNK)
    page.data = data
    page.used += len(data)
    return page


def bitmap() -> Page:
    page = new_page(0, PageKind.MAP, SIZE)
    assert isinstance(page.data, bytearray)
    page.data[5] = 0xA5
    return page


def damage_of(image: bytes, page_no: int = 7) -> Damage:
    with pytest.raises(PageCorruption) as caught:
        decode_page(image, page_no, SIZE)
    assert caught.value.page_no == page_no
    assert str(page_no) in str(caught.value)
    return caught.value.damage


def sealed(image: bytearray) -> bytes:
    """The image with a checksum that fits, so that only its content can be wrong."""
    image[:8] = struct.pack("<Q", xxh3_64_intdigest(bytes(image[8:])))
    return bytes(image)


@pytest.mark.parametrize("page", [leaf(), leaf(entries=0), inner(), chunk(b""), chunk(b"z" * (SIZE - 64)), bitmap()])
def test_round_trip(page: Page) -> None:
    image = encode_page(page, SIZE)
    assert len(image) == SIZE
    again = decode_page(image, page.page_no, SIZE)
    assert fields(again) == fields(page)
    assert type(again.kind) is PageKind
    assert again.used == used_size(again)
    assert encode_page(again, SIZE) == image


def test_a_decoded_map_can_be_changed() -> None:
    again = decode_page(encode_page(bitmap(), SIZE), 0, SIZE)
    again.data[0] = 1  # type: ignore[index]
    assert decode_page(encode_page(again, SIZE), 0, SIZE).data[0] == 1


def test_every_single_byte_flip_is_detected() -> None:
    image = bytearray(encode_page(leaf(), SIZE))
    for at in range(SIZE):
        image[at] ^= 1 << at % 8
        assert damage_of(bytes(image)) == Damage.CHECKSUM
        image[at] ^= 1 << at % 8
    assert decode_page(bytes(image), 7, SIZE)


def test_every_torn_mix_of_two_versions_is_detected() -> None:
    old, new = leaf(entries=60), leaf(entries=60)
    new.page_lsn += 1
    new.vals = [val[:-1] + b"Y" if val[-1:] == b"x" else val for val in new.vals]
    old_image, new_image = encode_page(old, SIZE), encode_page(new, SIZE)
    differing = [at for at in range(0, SIZE, 512) if old_image[at : at + 512] != new_image[at : at + 512]]
    assert len(differing) > 3
    for chosen in range(1, 1 << 8):
        sectors = [(new_image if chosen >> n & 1 else old_image)[n * 512 : n * 512 + 512] for n in range(8)]
        image = b"".join(sectors)
        if image not in (old_image, new_image):
            assert damage_of(image) == Damage.CHECKSUM


def test_zeros_are_named_as_such() -> None:
    assert damage_of(bytes(SIZE)) == Damage.ZERO


def test_another_pages_content_is_named_as_such() -> None:
    assert damage_of(encode_page(leaf(page_no=8), SIZE)) == Damage.MISDIRECTED


def test_a_short_read_is_named_as_such() -> None:
    assert damage_of(encode_page(leaf(), SIZE)[:-512]) == Damage.SHORT


@pytest.mark.parametrize(
    ("field", "value"),
    [("version", 2), ("version", 0), ("kind", 0), ("kind", 5), ("used", 63), ("used", SIZE + 1), ("used", 100), ("count", 11),
     ("count", 2000), ("count", 0)],
)  # fmt: skip
def test_a_bad_header_under_a_good_checksum_is_bad_format(field: str, value: int) -> None:
    names = "checksum page_lsn image_lsn max_txn page_no tree version kind level count used reserved".split()
    for page in (leaf(), inner()):
        image = bytearray(encode_page(page, SIZE))
        header = list(PAGE_HEADER.unpack_from(image))
        header[names.index(field)] = value
        PAGE_HEADER.pack_into(image, 0, *header)
        assert damage_of(sealed(image), page.page_no) == Damage.FORMAT


def test_chunk_and_map_sizes_are_checked() -> None:
    for page in (chunk(b"abc"), bitmap()):
        image = bytearray(encode_page(page, SIZE))
        image[44:48] = struct.pack("<I", 4)
        assert damage_of(sealed(image), page.page_no) == Damage.FORMAT
    image = bytearray(encode_page(chunk(b"abc"), SIZE))
    image[42] = PageKind.MAP
    assert damage_of(sealed(image), 12) == Damage.FORMAT


def test_an_inner_page_whose_first_key_is_not_empty_is_bad_format() -> None:
    page = inner()
    image = bytearray(encode_page(page, SIZE))
    image[64:68] = struct.pack("<HH", 1, 0)  # moves the second key's byte to the first
    assert damage_of(sealed(image), 9) == Damage.FORMAT


def test_encode_refuses_what_does_not_add_up() -> None:
    wrong_used, too_big, uneven, headless = leaf(), leaf(entries=90), leaf(), inner()
    wrong_used.used += 1
    uneven.vals.pop()
    headless.keys[0] = b"a"
    assert too_big.used > SIZE
    for page in (wrong_used, too_big, uneven, headless):
        with pytest.raises(InvariantViolated):
            encode_page(page, SIZE)


def test_a_copy_shares_nothing_and_has_no_pool_state() -> None:
    page = leaf()
    page.pins, page.rec_lsn = 2, 77
    copy = copy_page(page)
    assert fields(copy) == fields(page)
    assert (copy.pins, copy.rec_lsn) == (0, 0)
    copy.keys.append(b"more")
    assert len(page.keys) == 10
    original = bitmap()
    copy_page(original).data[1] = 9  # type: ignore[index]
    assert original.data[1] == 0


def test_corruption_rebuilds_from_its_arguments() -> None:
    error = PageCorruption(4, Damage.LOST_WRITE, "older")
    again = pickle.loads(pickle.dumps(error))
    assert (again.page_no, again.damage, str(again), again.hint) == (4, Damage.LOST_WRITE, str(error), error.hint)


@pytest.mark.parametrize(("key_size", "val_size"), [(4, 110), (8, 17), (30, 60), (200, 300)])
def test_decoded_size_is_near_what_python_takes(key_size: int, val_size: int) -> None:
    page = Page(1, PageKind.LEAF)
    while True:
        number = len(page.keys)
        key, val = number.to_bytes(key_size, "big"), number.to_bytes(val_size, "little")
        if page.used + leaf_entry_size(key, val) > 16384:
            break
        page.keys.append(key)
        page.vals.append(val)
        page.used += leaf_entry_size(key, val)
    page = decode_page(encode_page(page, 16384), 1, 16384)
    thaw(page)
    objects = [page, page.keys, page.vals, page.children, *page.keys, *page.vals]
    real = sum((sys.getsizeof(item) + 15) // 16 * 16 for item in objects) + 4 * 32 + 4 * 16
    assert 0.85 * real <= decoded_size(page) <= 1.25 * real


def test_a_fresh_page_takes_its_header() -> None:
    assert new_page(3, PageKind.LEAF, SIZE).used == PAGE_HEADER_SIZE == 64
    assert new_page(0, PageKind.MAP, SIZE).used == SIZE
