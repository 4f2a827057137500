"""Any page comes back from its encoding as it was, and any damage to it is noticed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thunderdb.storage.page import (
    PAGE_HEADER_SIZE,
    Page,
    PageCorruption,
    PageKind,
    decode_page,
    encode_page,
    inner_entry_size,
    leaf_entry_size,
    used_size,
)

SIZE = 4096
U64 = st.integers(0, 2**64 - 1)
U32 = st.integers(0, 2**32 - 1)
KEYS = st.binary(max_size=40)


@st.composite
def pages(draw: st.DrawFn) -> Page:
    kind = draw(st.sampled_from(PageKind))
    page = Page(draw(U32), kind, draw(st.integers(0, 255)), draw(U32))
    page.page_lsn, page.image_lsn, page.max_txn = draw(U64), draw(U64), draw(U64)
    if kind is PageKind.LEAF:
        for key, val in draw(st.lists(st.tuples(KEYS, st.binary(max_size=200)), max_size=15)):
            page.keys.append(key)
            page.vals.append(val)
            page.used += leaf_entry_size(key, val)
    elif kind is PageKind.INNER:
        for key, child in draw(st.lists(st.tuples(KEYS, U32), max_size=60)):
            key = key if page.keys else b""
            page.keys.append(key)
            page.children.append(child)
            page.used += inner_entry_size(key)
    elif kind is PageKind.CHUNK:
        page.data = draw(st.binary(max_size=SIZE - PAGE_HEADER_SIZE))
        page.used += len(page.data)
    else:
        page.data = bytearray(draw(st.binary(max_size=50))).ljust(SIZE - PAGE_HEADER_SIZE, b"\0")
        page.used = SIZE
    return page


@given(pages())
def test_round_trip(page: Page) -> None:
    image = encode_page(page, SIZE)
    again = decode_page(image, page.page_no, SIZE)
    for name in "page_no kind level tree page_lsn image_lsn max_txn keys vals children data used".split():
        assert getattr(again, name) == getattr(page, name), name
    assert again.used == used_size(page)
    assert encode_page(again, SIZE) == image


@given(pages(), st.lists(st.tuples(st.integers(0, SIZE - 1), st.integers(1, 255)), min_size=1, max_size=5))
def test_any_change_of_bytes_is_noticed(page: Page, flips: list[tuple[int, int]]) -> None:
    image = bytearray(encode_page(page, SIZE))
    original = bytes(image)
    for at, mask in flips:
        image[at] ^= mask
    if image != original:
        with pytest.raises(PageCorruption):
            decode_page(bytes(image), page.page_no, SIZE)


@given(pages(), U32)
def test_a_page_is_itself_under_no_other_number(page: Page, page_no: int) -> None:
    image = encode_page(page, SIZE)
    if page_no != page.page_no:
        with pytest.raises(PageCorruption):
            decode_page(image, page_no, SIZE)


@given(st.binary(max_size=SIZE + 10), U32)
def test_random_bytes_are_never_a_page(image: bytes, page_no: int) -> None:
    for candidate in (image, image.ljust(SIZE, b"\0")):
        with pytest.raises(PageCorruption):
            decode_page(candidate, page_no, SIZE)
