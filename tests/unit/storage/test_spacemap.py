"""Space map pages: geometry, bits, and the search for free ones against a naive one."""

from __future__ import annotations

import random

import pytest

from thunderdb.base.errors import InvariantViolated
from thunderdb.storage.page import Page, PageKind, new_page
from thunderdb.storage.spacemap import (
    allocated_pages,
    bit_of,
    count_allocated,
    find_free,
    format_map,
    is_allocated,
    is_map_page,
    map_page_of,
    pages_per_map,
    set_allocated,
    set_free,
)

SIZE = 4096
GROUP = pages_per_map(SIZE)


def fresh(group: int = 0) -> Page:
    page = new_page(group * GROUP, PageKind.MAP, SIZE)
    format_map(page)
    return page


def test_geometry() -> None:
    assert GROUP == (4096 - 64) * 8
    assert map_page_of(0, SIZE) == map_page_of(GROUP - 1, SIZE) == 0
    assert map_page_of(GROUP, SIZE) == map_page_of(2 * GROUP - 1, SIZE) == GROUP
    assert (bit_of(GROUP + 5, SIZE), is_map_page(2 * GROUP, SIZE), is_map_page(1, SIZE)) == (5, True, False)


def test_a_fresh_map_has_only_itself() -> None:
    page = fresh(2)
    assert allocated_pages(page) == [2 * GROUP]
    assert find_free(page, 3, 0, 10**9) == [2 * GROUP + 1, 2 * GROUP + 2, 2 * GROUP + 3]


def test_set_and_free() -> None:
    page = fresh(1)
    set_allocated(page, GROUP + 9)
    assert is_allocated(page, GROUP + 9)
    assert not is_allocated(page, GROUP + 8)
    assert count_allocated(page) == 2
    set_free(page, GROUP + 9)
    assert allocated_pages(page) == [GROUP]


def test_two_owners_or_none_are_refused() -> None:
    page = fresh(1)
    set_allocated(page, GROUP + 9)
    for change, page_no in [(set_allocated, GROUP + 9), (set_free, GROUP + 10), (set_free, GROUP), (set_allocated, 5)]:
        before = bytes(page.data)
        with pytest.raises(InvariantViolated):
            change(page, page_no)
        assert page.data == before
    with pytest.raises(InvariantViolated):
        set_allocated(new_page(0, PageKind.LEAF, SIZE), 1)


def test_find_free_agrees_with_a_naive_search() -> None:
    rng = random.Random(4)
    for _ in range(200):
        group = rng.randrange(3)
        page = fresh(group)
        first = group * GROUP
        assert isinstance(page.data, bytearray)
        for _ in range(rng.randrange(5)):
            start = rng.randrange(len(page.data))
            for index in range(start, min(len(page.data), start + rng.randrange(400))):
                page.data[index] = rng.choice([0xFF, 0xFF, 0xFF, rng.randrange(256)])
        page.data[0] |= 1
        hint, end, count = first + rng.randrange(-5, GROUP), first + rng.randrange(GROUP + 100), rng.choice([1, 7, 40000])
        limit = min(end, first + GROUP)
        start = min(max(hint, first), limit)
        order = [*range(start, limit), *range(first, start)]
        assert find_free(page, count, hint, end) == [no for no in order if not is_allocated(page, no)][:count]


def test_a_full_map_has_nothing() -> None:
    page = fresh()
    page.data = bytearray(b"\xff" * len(page.data))
    assert find_free(page, 1, 0, 10**9) == []
    assert count_allocated(page) == GROUP
