"""The space map: which pages are allocated. Plain functions over MAP pages; logging and choosing are the caller's.

A map page has one bit a page (set = allocated) for itself and the pages behind it, its group: page `p` belongs to the map page
`p - p % pages_per_group`. With 16 KB pages a group is 130,560 pages, 2 GB.

M1. A map page's own bit is always set, so that page 0 is never handed out and 0 can mean "no page".
M2. Setting a set bit, or clearing a clear one, is a bug of the caller (a page with two owners) and stops the node.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from thunderdb.base.errors import InvariantViolated
from thunderdb.storage.page import PAGE_HEADER_SIZE, Page

_NOT_FULL = re.compile(rb"[^\xff]")


def pages_per_group(page_size: int) -> int:
    """How many pages one map page covers, itself included."""
    return (page_size - PAGE_HEADER_SIZE) * 8


def map_page_of(page_no: int, page_size: int) -> int:
    """The map page that says whether `page_no` is allocated."""
    return page_no - page_no % pages_per_group(page_size)


def is_set(page: Page, page_no: int) -> bool:
    """Whether `page_no`, of this map page's group, is allocated."""
    index, mask = _place(page, page_no)
    return bool(page.data[index] & mask)


def set_bits(page: Page, page_nos: Iterable[int]) -> None:
    """Mark pages as allocated. Raises: InvariantViolated if one is already (M2)."""
    data = _bitmap(page)
    for page_no in page_nos:
        index, mask = _place(page, page_no)
        if data[index] & mask:
            raise InvariantViolated(f"page {page_no} is allocated twice")
        data[index] |= mask


def clear_bits(page: Page, page_nos: Iterable[int]) -> None:
    """Mark pages as free. Raises: InvariantViolated if one is free already, or is the map page itself (M1, M2)."""
    data = _bitmap(page)
    for page_no in page_nos:
        index, mask = _place(page, page_no)
        if not data[index] & mask or page_no == page.page_no:
            raise InvariantViolated(f"page {page_no} is freed, but is not allocated or is a map page")
        data[index] &= ~mask


def find_free(page: Page, count: int, hint: int, page_size: int) -> list[int]:
    """Up to `count` free pages of the group, ascending, from bit `hint` on; the group's end is not gone past."""
    first, data = page.page_no, page.data
    end = pages_per_group(page_size)
    found: list[int] = []
    bit = hint
    while bit < end and len(found) < count:
        index = bit >> 3
        if not bit & 7:
            # Skip what is full at the speed of the regular expression engine.
            match = _NOT_FULL.search(data, index)
            if match is None:
                break
            index = match.start()
            bit = max(bit, 8 * index)
        if not data[index] >> (bit & 7) & 1:
            found.append(first + bit)
        bit += 1
    return found


def count_allocated(page: Page) -> int:
    """How many bits are set, the map page's own included."""
    return int.from_bytes(page.data, "little").bit_count()


def allocated_pages(page: Page) -> list[int]:
    """The page numbers of all bits that are set, ascending, the map page's own first."""
    first = page.page_no
    return [first + 8 * index + bit for index, byte in enumerate(page.data) if byte for bit in range(8) if byte >> bit & 1]


def _place(page: Page, page_no: int) -> tuple[int, int]:
    index, bit = divmod(page_no - page.page_no, 8)
    if not 0 <= index < len(page.data):
        raise InvariantViolated(f"page {page_no} is not in the group of map page {page.page_no}")
    return index, 1 << bit


def _bitmap(page: Page) -> bytearray:
    if not isinstance(page.data, bytearray):
        raise InvariantViolated(f"page {page.page_no} is not a space map page")
    return page.data
