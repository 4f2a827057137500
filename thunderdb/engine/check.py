"""The whole-database check: every page, every tree, every index against its table, every allocated page against its owner.

It reads what is newest and wants no transaction to be active; the simulator runs it after every recovery, `thunderdb --check`
on a stopped database. It changes nothing.

    structure     keys ascending within their fences, levels falling by one, sizes as computed afresh, pages of the right tree
    ownership     each allocated page belongs to exactly one tree (or is a map, or the flag of the next one), and the reverse
    indexes       each live row has exactly its entries, each entry its row
    large values  each reference leads to as many bytes as it says, with the right checksum
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from thunderdb.access import large
from thunderdb.access.apply import GHOST, LARGE
from thunderdb.access.btree import used_size
from thunderdb.access.garbage import GARBAGE_ROOT
from thunderdb.access.space import next_map_exists
from thunderdb.base.errors import ThunderError
from thunderdb.engine.catalog import CATALOG_ROOT, TableDef
from thunderdb.engine.table import TableAccess
from thunderdb.storage.page import VALUE_HEADER_SIZE, Page, PageKind, copy_page
from thunderdb.storage.spacemap import allocated_pages, pages_per_map

if TYPE_CHECKING:
    from thunderdb.engine.database import Database

MAX_PROBLEMS = 100
_PAGES_A_TURN = 64


async def check_database(db: Database) -> list[str]:
    """Check everything; return what is wrong, one sentence each (at most MAX_PROBLEMS)."""
    return await _Check(db).run()


class _Enough(Exception):
    """MAX_PROBLEMS have been found."""


class _Check:
    def __init__(self, db: Database) -> None:
        self.db = db
        self.problems: list[str] = []
        self.owner: dict[int, str] = {}
        self._pages = 0

    async def run(self) -> list[str]:
        quiet = self.db.background.quiet
        await quiet.acquire()
        try:
            self.db.pool.check()
            for _key, value in _live(await self._tree(CATALOG_ROOT, "catalog")):
                await self._payload("catalog", value)
            await self._garbage(await self._tree(GARBAGE_ROOT, "garbage"))
            for table in self.db.catalog.tables():
                await self._table(table)
            await self._ownership()
        except _Enough:
            pass
        except ThunderError as error:
            self.problems.append(str(error))
        finally:
            quiet.release()
        return self.problems

    def _problem(self, text: str) -> None:
        self.problems.append(text)
        if len(self.problems) >= MAX_PROBLEMS:
            raise _Enough

    async def _page(self, page_no: int) -> Page:
        self._pages += 1
        if self._pages % _PAGES_A_TURN == 0:
            await self.db.access.tasks.work("check", _PAGES_A_TURN)
        return await self.db.access.run(lambda: copy_page(self.db.pool.get(page_no)))

    # -- Structure

    async def _tree(self, root: int, name: str) -> list[tuple[bytes, bytes]]:
        """Walk a tree; return its leaf entries (none for a tree of chunks)."""
        entries: list[tuple[bytes, bytes]] = []
        stack: list[tuple[int, int | None, bytes, bytes | None]] = [(root, None, b"", None)]
        while stack:
            page_no, level, low, high = stack.pop()
            if not self._own(page_no, name):
                continue
            try:
                page = await self._page(page_no)
            except ThunderError as error:
                self._problem(f"{name}: {error}")
                continue
            self._node(page, name, root, level, low, high)
            if page.kind == PageKind.INNER:
                # (A garbage tree that is being freed may have inner pages without children.)
                children = list(zip(page.children, [low, *page.keys[1:]], [*page.keys[1:], high], strict=False))
                stack.extend((child, page.level - 1, below, above) for child, below, above in reversed(children))
            elif page.kind == PageKind.LEAF:
                entries.extend(zip(page.keys, page.vals, strict=True))
        return entries

    def _own(self, page_no: int, name: str) -> bool:
        other = self.owner.setdefault(page_no, name)
        if other is not name:
            self._problem(f"page {page_no} belongs to {other} and to {name}")
            return False
        return True

    def _node(self, page: Page, name: str, root: int, level: int | None, low: bytes, high: bytes | None) -> None:
        where = f"{name}: page {page.page_no}"
        if page.tree != root:
            self._problem(f"{where} says that it belongs to tree {page.tree}, not {root}")
        if level is not None and page.level != level:
            self._problem(f"{where} is at level {page.level}, its parent says {level}")
        if page.kind not in (PageKind.LEAF, PageKind.INNER, PageKind.CHUNK):
            self._problem(f"{where} is of kind {page.kind!r}")
            return
        if page.kind == PageKind.CHUNK:
            return
        if page.used != used_size(page) or page.used > self.db.access.page_size:
            self._problem(f"{where} says {page.used} bytes are used, it is {used_size(page)}")
        keys = page.keys if page.kind == PageKind.LEAF else page.keys[1:]
        if page.kind == PageKind.INNER and page.keys and page.keys[0] != b"":
            self._problem(f"{where} does not begin at minus infinity")
        if any(left >= right for left, right in zip(keys, keys[1:], strict=False)):
            self._problem(f"{where} has keys out of order")
        if keys and (keys[0] < low or (high is not None and keys[-1] >= high)):
            self._problem(f"{where} has keys outside of its parent's bounds")

    # -- Tables

    async def _table(self, definition: TableDef) -> None:
        name = f"table {definition.name}"
        table = TableAccess(definition)
        rows = _live(await self._tree(definition.root, name))
        expected: list[dict[bytes, bytes]] = [{} for _ in table.indexes]
        count = 0
        for key, value in rows:
            count += 1
            payload = await self._payload(name, value)
            if payload is None:
                continue
            values = table.row.decode(payload)
            own = table.key_of(values)
            if own is not None and own != key:
                self._problem(f"{name}: the row at key {key.hex()} has the key {own.hex()}")
            for index, entries in zip(table.indexes, expected, strict=True):
                entries[index.entry(values, key)[0]] = key
        for index, entries in zip(table.indexes, expected, strict=True):
            index_name = f"index {index.definition.name}"
            found = {key: value[VALUE_HEADER_SIZE:] for key, value in _live(await self._tree(index.root, index_name))}
            if found != entries:
                self._index(index_name, found, entries)
            if len(entries) != count:
                self._problem(f"{index_name}: {count} rows share {len(entries)} keys")

    def _index(self, name: str, found: dict[bytes, bytes], expected: dict[bytes, bytes]) -> None:
        for key in sorted(expected.keys() - found.keys()):
            self._problem(f"{name}: no entry {key.hex()} for the row {expected[key].hex()}")
        for key in sorted(found.keys() - expected.keys()):
            self._problem(f"{name}: the entry {key.hex()} has no row")
        for key in sorted(found.keys() & expected.keys()):
            if found[key] != expected[key]:
                self._problem(f"{name}: the entry {key.hex()} leads to another row")

    async def _payload(self, name: str, value: bytes) -> bytes | None:
        payload = value[VALUE_HEADER_SIZE:]
        if not value[16] & LARGE:
            return payload
        root = large.LARGE_REF.unpack(payload)[0]
        await self._tree(root, f"large value {root} of {name}")
        try:
            return await large.load(self.db.access, payload)
        except ThunderError as error:
            self._problem(f"{name}: {error}")
            return None

    async def _garbage(self, entries: list[tuple[bytes, bytes]]) -> None:
        for key, _value in _live(entries):
            root = int.from_bytes(key, "big")
            await self._tree(root, f"garbage {root}")

    # -- Ownership

    async def _ownership(self) -> None:
        group_pages = pages_per_map(self.db.access.page_size)
        map_no = 0
        while True:
            page = await self._page(map_no)
            if page.kind != PageKind.MAP:
                self._problem(f"page {map_no} is not a space map")
                return
            more = next_map_exists(page, self.db.access.page_size)
            allocated = set(allocated_pages(page)) - {map_no}
            if more:
                allocated.discard(map_no + group_pages - 1)
            owned = {page_no for page_no in self.owner if map_no < page_no < map_no + group_pages}
            for page_no in sorted(allocated - owned):
                self._problem(f"page {page_no} is allocated, but nothing leads to it")
            for page_no in sorted(owned - allocated):
                self._problem(f"page {page_no} belongs to {self.owner[page_no]}, but is not allocated")
            if not more:
                return
            map_no += group_pages


def _live(entries: list[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    return ((key, value) for key, value in entries if not value[16] & GHOST)
