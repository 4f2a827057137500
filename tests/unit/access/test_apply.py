"""Page changes that do not fit the page that they meet: named, never applied half."""

from __future__ import annotations

import pytest

from thunderdb.access.apply import (
    PageOp,
    apply,
    child_append_payload,
    child_insert_payload,
    count_payload,
    image_payload,
    page_of_image,
    purge_payload,
    restore_payload,
    row_payload,
)
from thunderdb.access.btree import used_size
from thunderdb.base.errors import Corruption, InvariantViolated
from thunderdb.storage.page import PAGE_HEADER_SIZE, VALUE_HEADER, Page, PageKind, new_page

PAGE = 4096
VALUE = VALUE_HEADER.pack(3, 4, 0) + b"payload"


def leaf(*keys: bytes) -> Page:
    page = new_page(9, PageKind.LEAF, PAGE)
    page.tree, page.used = 9, PAGE_HEADER_SIZE
    for key in keys:
        apply(page, PageOp.RESTORE, restore_payload(9, key, VALUE), 50, 3)
    return page


def test_a_row_change_that_expects_another_page_stops_the_node() -> None:
    page = leaf(b"b")
    for key, old in ((b"b", None), (b"a", VALUE)):
        with pytest.raises(InvariantViolated, match="row change at 60 meets a key that is"):
            apply(page, PageOp.ROW, row_payload(9, key, old, 0, b"new"), 60, 5)
    with pytest.raises(InvariantViolated, match="nothing to remove"):
        apply(page, PageOp.RESTORE, restore_payload(9, b"a", None), 60, 5)
    with pytest.raises(InvariantViolated, match="no ghost to purge"):
        apply(page, PageOp.PURGE, purge_payload([b"c"]), 60, 5)
    with pytest.raises(Corruption, match="unknown page operation 99"):
        apply(page, 99, b"", 60, 5)
    assert page.keys == [b"b"] and page.used == used_size(page) and page.max_txn == 3


def test_rows_come_change_and_go_and_the_size_follows() -> None:
    page = leaf(b"b", b"d")
    apply(page, PageOp.ROW, row_payload(9, b"c", None, 0, b"x" * 30), 60, 8)
    assert page.keys == [b"b", b"c", b"d"] and page.vals[1] == VALUE_HEADER.pack(8, 60, 0) + b"x" * 30 and page.max_txn == 8
    apply(page, PageOp.ROW, row_payload(9, b"c", page.vals[1], 1, b"y"), 61, 7)
    assert page.max_txn == 8 and page.used == used_size(page)
    apply(page, PageOp.TRUNCATE, count_payload(1), 62, 0)
    assert page.keys == [b"b"] and len(page.vals) == 1 and page.used == used_size(page)


def test_children_come_and_go_and_the_first_is_always_at_minus_infinity() -> None:
    page = new_page(9, PageKind.INNER, PAGE)
    page.used = PAGE_HEADER_SIZE
    apply(page, PageOp.CHILD_APPEND, child_append_payload([(b"", 20), (b"m", 21)]), 50, 0)
    apply(page, PageOp.CHILD_INSERT, child_insert_payload(1, b"f", 22), 51, 0)
    assert (page.keys, page.children) == ([b"", b"f", b"m"], [20, 22, 21])
    apply(page, PageOp.CHILD_REMOVE, count_payload(0), 52, 0)
    assert (page.keys, page.children, page.used) == ([b"", b"m"], [22, 21], used_size(page))
    apply(page, PageOp.CHILD_REMOVE, count_payload(1), 53, 0)
    apply(page, PageOp.TRUNCATE, count_payload(0), 54, 0)
    assert (page.keys, page.children, page.used) == ([], [], PAGE_HEADER_SIZE)


@pytest.mark.parametrize("noise", [False, True])
def test_an_image_is_the_page_whether_or_not_it_compresses(noise: bool) -> None:
    page = leaf()
    seed = 12345
    for number in range(60):
        payload = b"x" * 40
        if noise:
            seed = seed * 6364136223846793005 + 1442695040888963407 & (1 << 320) - 1
            payload = (seed * seed & (1 << 320) - 1).to_bytes(40, "little")
        apply(page, PageOp.ROW, row_payload(9, b"%03d" % number, None, 0, payload), 60 + number, 5)
    image = image_payload(page, PAGE)
    again = page_of_image(9, image, 777)
    assert (again.keys, again.vals, again.used, again.page_lsn, again.image_lsn) == (page.keys, page.vals, page.used, 777, 777)
    with pytest.raises(Corruption):
        page_of_image(10, image, 777)  # another page's
