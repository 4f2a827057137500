"""Allocation of pages: bits in space map pages, changed by the record of the operation that needs the page.

S1. Page g * pages_per_map is the map of group g. The last bit of a group is not a page: it says that the next group's map
    exists.
S2. Files grow (and are synced) before an allocation in the new part is logged.
S3. An allocation only *chooses* pages; the bits change when the caller's record, which holds the MAP_SET, is applied.
S4. A page that was freed while an operation that waits still has it pinned is not handed out before it is unpinned.
"""

from __future__ import annotations

from thunderdb.access.apply import PageOp, image_payload, pages_payload
from thunderdb.access.context import Access
from thunderdb.storage.files import PageFiles
from thunderdb.storage.page import Page, PageKind
from thunderdb.storage.pool import BufferPool, Miss
from thunderdb.storage.spacemap import find_free, format_map, is_allocated, map_page_of, pages_per_map
from thunderdb.wal.record import RecordKind

GROW_BYTES = 4 << 20
MAX_GROW_BYTES = 64 << 20
GROW_FRACTION = 8

PageChanges = list[tuple[Page, int, bytes]]


class GrowMiss(Miss):
    """The page files are too short for the allocation. `args` is (files, page_count)."""

    def __init__(self, files: PageFiles, page_count: int) -> None:
        super().__init__(files, page_count)
        self.files = files
        self.page_count = page_count

    async def resolve(self, pool: BufferPool, pins: list[Page] | None = None) -> None:
        await self.files.grow(self.page_count)


def allocate(access: Access, count: int) -> tuple[list[int], PageChanges]:
    """Choose `count` free pages. Return them and the map changes that take them.

    Raises: Miss (a map page is not resident, the files must grow first, or the pool has no room for the new pages).
    """
    access.pool.reserve(count)
    group_pages = pages_per_map(access.page_size)
    chosen: list[int] = []
    changes: PageChanges = []
    group = access.first_free_group
    while True:
        map_no = group * group_pages
        map_page = access.pool.get(map_no)
        found = _find_idle(access, map_page, count - len(chosen), access.map_hints.get(group, map_no))
        if found:
            _grown(access, max(found))
            access.map_hints[group] = found[0]
            chosen += found
            changes.append((map_page, PageOp.MAP_SET, pages_payload(found)))
        if len(chosen) == count:
            access.first_free_group = group
            return chosen, changes
        _next_map(access, map_page, map_no + group_pages)
        group += 1


def _find_idle(access: Access, map_page: Page, count: int, hint: int) -> list[int]:
    """Up to `count` free pages of a group that nobody has pinned (S4)."""
    end_page = map_page.page_no + pages_per_map(access.page_size) - 1
    wanted = count
    while True:
        found = find_free(map_page, wanted, hint, end_page)
        idle = [page_no for page_no in found if not access.pool.is_pinned(page_no)]
        if len(idle) >= count or len(found) < wanted:
            return idle[:count]
        wanted = count + len(found) - len(idle)


def release(access: Access, page_nos: list[int]) -> PageChanges:
    """The map changes that free pages. Raises: Miss."""
    by_map: dict[int, list[int]] = {}
    for page_no in page_nos:
        by_map.setdefault(map_page_of(page_no, access.page_size), []).append(page_no)
    changes: PageChanges = []
    for map_no in sorted(by_map):
        changes.append((access.pool.get(map_no), PageOp.MAP_CLEAR, pages_payload(by_map[map_no])))
    for map_no, freed in by_map.items():
        group = map_no // pages_per_map(access.page_size)
        access.map_hints[group] = min(access.map_hints.get(group, map_no), *freed)
        access.first_free_group = min(access.first_free_group, group)
    return changes


def next_map_exists(map_page: Page, page_size: int) -> bool:
    """Whether the group behind this one has a map (S1)."""
    return is_allocated(map_page, map_page.page_no + pages_per_map(page_size) - 1)


def _grown(access: Access, last_page_no: int) -> None:
    have = access.files.page_count
    if last_page_no >= have:
        step = max(GROW_BYTES // access.page_size, min(have // GROW_FRACTION, MAX_GROW_BYTES // access.page_size))
        raise GrowMiss(access.files, last_page_no + step)


def _next_map(access: Access, map_page: Page, next_map_no: int) -> None:
    """Make the next group's map if it does not exist yet (S1)."""
    if next_map_exists(map_page, access.page_size):
        return
    _grown(access, next_map_no)
    new_map = access.pool.create(next_map_no, PageKind.MAP)
    format_map(new_map)
    access.change(
        RecordKind.STRUCT,
        [
            (new_map, PageOp.IMAGE, image_payload(new_map, access.page_size)),
            (map_page, PageOp.MAP_SET, pages_payload([next_map_no - 1])),
        ],
    )
