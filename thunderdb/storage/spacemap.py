"""The space map: which pages are allocated. Plain functions over MAP pages; logging and choosing are the caller's.

A map page has one bit a page (set = allocated) for itself and the pages behind it, its group: page `p` belongs to the map page
`p - p % pages_per_map`. With 16 KB pages a group is 130,560 pages, 2 GB.

M1. A map page's own bit is always set, so that page 0 is never handed out and 0 can mean "no page".
M2. Setting a set bit, or clearing a clear one, is a bug of the caller (a page with two owners) and stops the node.
"""

from __future__ import annotations

import re

from thunderdb.base.errors import InvariantViolated
from thunderdb.storage.page import PAGE_HEADER_SIZE, Page

_NOT_FULL = re.compile(rb"[^\xff]")


def pages_per_map(page_size: int) -> int:
    """How many pages one map page covers, itself included."""
    return (page_size - PAGE_HEADER_SIZE) * 8


def map_page_of(page_no: int, page_size: int) -> int:
    """The map page that says whether `page_no` is allocated."""
    return page_no - page_no % pages_per_map(page_size)


def bit_of(page_no: int, page_size: int) -> int:
    """The bit of `page_no` in its map page."""
    return page_no % pages_per_map(page_size)


def is_map_page(page_no: int, page_size: int) -> bool:
    return page_no % pages_per_map(page_size) == 0


def format_map(page: Page) -> None:
    """Mark the map page itself as allocated in a fresh bitmap (M1)."""
    page.data = bytearray(len(page.data))
    page.data[0] = 1


def is_allocated(page: Page, page_no: int) -> bool:
    index, mask = _bit(page, page_no)
    return bool(page.data[index] & mask)


def set_allocated(page: Page, page_no: int) -> None:
    """Set the bit of `page_no` in its map page. Raises: InvariantViolated if it is set (M2)."""
    index, mask = _bit(page, page_no)
    data = _bitmap(page)
    if data[index] & mask:
        raise InvariantViolated(f"page {page_no} is allocated twice")
    data[index] |= mask


def set_free(page: Page, page_no: int) -> None:
    """Clear the bit of `page_no`. Raises: InvariantViolated if it is clear, or the map page's own (M1, M2)."""
    index, mask = _bit(page, page_no)
    data = _bitmap(page)
    if not data[index] & mask or page_no == page.page_no:
        raise InvariantViolated(f"page {page_no} is freed, but is not allocated or is a map page")
    data[index] &= ~mask


def find_free(page: Page, count: int, hint: int, end_page: int) -> list[int]:
    """Up to `count` free page numbers of this map page's group below `end_page`, ascending from `hint`, then from the start."""
    first = page.page_no
    end = min(end_page, first + len(page.data) * 8)
    start = min(max(hint, first), end)
    found = _free_in(page, start, end, count)
    if len(found) < count:
        found += _free_in(page, first, start, count - len(found))
    return found


def count_allocated(page: Page) -> int:
    return int.from_bytes(page.data, "little").bit_count()


def allocated_pages(page: Page) -> list[int]:
    """All allocated page numbers of the group, ascending, the map page first."""
    first = page.page_no
    return [first + 8 * index + bit for index, byte in enumerate(page.data) if byte for bit in range(8) if byte >> bit & 1]


def _free_in(page: Page, start: int, end: int, count: int) -> list[int]:
    first, data = page.page_no, page.data
    found: list[int] = []
    page_no = start
    while page_no < end and len(found) < count:
        index, bit = divmod(page_no - first, 8)
        if bit == 0:
            # Skip what is full at the speed of the regular expression engine.
            match = _NOT_FULL.search(data, index)
            if match is None:
                break
            if match.start() > index:
                page_no = first + 8 * match.start()
                continue
        if not data[index] >> bit & 1:
            found.append(page_no)
        page_no += 1
    return found


def _bit(page: Page, page_no: int) -> tuple[int, int]:
    index, bit = divmod(page_no - page.page_no, 8)
    if not 0 <= index < len(page.data):
        raise InvariantViolated(f"page {page_no} is not in the group of map page {page.page_no}")
    return index, 1 << bit


def _bitmap(page: Page) -> bytearray:
    if not isinstance(page.data, bytearray):
        raise InvariantViolated(f"page {page.page_no} is not a space map page")
    return page.data
