"""Allocation of pages: bits in space map pages, changed by the record of the operation that needs the page.

M1. Page g * group_size is the map of group g. The last bit of a group is not a page: it says that the next group's map exists.
M2. Files grow (and are synced) before an allocation in the new part is logged.
M3. An allocation only *chooses* pages; the bits change when the caller's record, which holds the MAP_SET, is applied.
"""

from __future__ import annotations

from thunderdb.access.apply import PageOp, image_payload, pages_payload
from thunderdb.access.context import Access
from thunderdb.storage.files import PageFiles
from thunderdb.storage.page import Page, PageKind
from thunderdb.storage.pool import BufferPool, Miss
from thunderdb.storage.spacemap import find_free, is_set, map_page_of, pages_per_group
from thunderdb.wal.record import RecordKind

GROW_BYTES = 4 << 20
GROW_FRACTION = 8

PageChanges = list[tuple[Page, int, bytes]]


class GrowMiss(Miss):
    """The page files are too short for the allocation."""

    def __init__(self, files: PageFiles, page_count: int) -> None:
        super().__init__(files, page_count)
        self.files = files
        self.page_count = page_count

    async def resolve(self, pool: BufferPool) -> None:
        await self.files.grow(self.page_count)


def allocate(access: Access, count: int) -> tuple[list[int], PageChanges]:
    """Choose `count` free pages. Return them and the map changes that take them.

    Raises: Miss (a map page is not resident, or the files must grow first).
    """
    group_size = pages_per_group(access.page_size)
    chosen: list[int] = []
    changes: PageChanges = []
    group = access.map_hints.get(-1, 0)
    while len(chosen) < count:
        map_page = access.pool.get(group * group_size)
        hint = access.map_hints.get(group, 1)
        found = _free_in(access, map_page, count - len(chosen), hint, chosen)
        if found:
            _grown(access, found[-1])
            access.map_hints[group] = found[0] - group * group_size
            chosen += found
            changes.append((map_page, PageOp.MAP_SET, pages_payload(found)))
        if len(chosen) < count:
            if hint > 1:
                access.map_hints[group] = 1  # the hint may have passed freed pages: look again from the start once
                rest = _free_in(access, map_page, count - len(chosen), 1, chosen)
                if rest:
                    _grown(access, rest[-1])
                    chosen += rest
                    changes.append((map_page, PageOp.MAP_SET, pages_payload(rest)))
                    continue
            group = _next_group(access, map_page, group, group_size)
    access.map_hints[-1] = group
    return chosen, changes


def release(access: Access, page_nos: list[int]) -> PageChanges:
    """The map changes that free pages. Raises: Miss."""
    by_map: dict[int, list[int]] = {}
    for page_no in page_nos:
        by_map.setdefault(map_page_of(page_no, access.page_size), []).append(page_no)
    changes: PageChanges = []
    group_size = pages_per_group(access.page_size)
    for map_no in sorted(by_map):
        changes.append((access.pool.get(map_no), PageOp.MAP_CLEAR, pages_payload(by_map[map_no])))
        group = map_no // group_size
        lowest = min(by_map[map_no]) - map_no
        access.map_hints[group] = min(access.map_hints.get(group, 1), lowest)
        access.map_hints[-1] = min(access.map_hints.get(-1, 0), group)
    return changes


def _free_in(access: Access, map_page: Page, count: int, hint: int, chosen: list[int]) -> list[int]:
    """Free pages of one group that are neither chosen already nor the group's flag bit (M1)."""
    flag = map_page.page_no + pages_per_group(access.page_size) - 1
    found = find_free(map_page, count + 1, hint, access.page_size)
    return [page_no for page_no in found if page_no != flag and page_no not in chosen][:count]


def _grown(access: Access, last_page_no: int) -> None:
    have = access.files.page_count
    if last_page_no >= have:
        step = max(GROW_BYTES // access.page_size, have // GROW_FRACTION)
        raise GrowMiss(access.files, last_page_no + 1 + min(step, (64 << 20) // access.page_size))


def _next_group(access: Access, map_page: Page, group: int, group_size: int) -> int:
    """Step to the next group, making its map if it does not exist yet (M1)."""
    flag = (group + 1) * group_size - 1
    next_map_no = (group + 1) * group_size
    if not is_set(map_page, flag):
        _grown(access, next_map_no)
        new_map = access.pool.create(next_map_no, PageKind.MAP)
        _reserve_map(new_map)
        changes: PageChanges = [
            (new_map, PageOp.IMAGE, image_payload(new_map, access.page_size)),
            (map_page, PageOp.MAP_SET, pages_payload([flag])),
        ]
        access.change(RecordKind.STRUCT, changes)
    return group + 1


def _reserve_map(map_page: Page) -> None:
    map_page.data[0] |= 1  # the map's own page
