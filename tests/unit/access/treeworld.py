"""Trees on a bare database: a walker of its own, and the log replayed from nothing."""

from __future__ import annotations

from typing import Any

from tests.unit.engine.world import DATA, PAGE, WAL, EngineWorld
from thunderdb.access import btree
from thunderdb.access.apply import GHOST, PageOp, apply, page_of_image
from thunderdb.access.garbage import adopt_tree, create_tree
from thunderdb.storage.page import Page, PageKind, copy_page, encode_page
from thunderdb.wal.reader import LogReader


class Owner:
    """A log chain without a transaction behind it."""

    def __init__(self, number: int) -> None:
        self.id = number
        self.first_lsn = 0
        self.last_lsn = 0


class TreeWorld(EngineWorld):
    """One tree, and what may be done with it, each step run to its end."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(buffer_pool_size=settings.pop("buffer_pool_size", 32 << 20), **settings)
        db = self.start()
        self.access = db.access
        self.purgeable_below = 0
        self.access.purgeable = lambda stamp: stamp < self.purgeable_below
        self.owner = Owner(10)
        self.root: int = self.run(db.run(create_tree, self.access, self.owner))
        self.run(db.run(adopt_tree, self.access, self.owner, self.root))

    def put(self, key: bytes, payload: bytes, flags: int = 0) -> tuple[int, bytes | None]:
        return self.run(self.access.run(btree.put, self.access, self.owner, self.root, key, flags, payload))

    def delete(self, key: bytes) -> None:
        self.run(self.access.run(btree.delete, self.access, self.owner, self.root, key))

    def restore(self, key: bytes, value: bytes | None) -> None:
        self.run(self.access.run(btree.restore, self.access, 7, self.root, key, value, None))

    def get(self, key: bytes) -> bytes | None:
        return self.run(self.access.run(btree.get, self.access, self.root, key))

    def tidy(self, key: bytes) -> bool:
        return self.run(self.access.run(btree.tidy, self.access, self.root, key))

    def page(self, page_no: int) -> Page:
        return self.run(self.access.run(lambda: copy_page(self.db.pool.get(page_no))))

    def walk(self, root: int | None = None) -> tuple[list[tuple[bytes, bytes]], list[int], int]:
        """Verify the tree; return (entries in order, its pages, its height)."""
        entries: list[tuple[bytes, bytes]] = []
        pages: list[int] = []
        root = self.root if root is None else root

        def visit(page_no: int, level: int | None, low: bytes, high: bytes | None) -> None:
            page = self.page(page_no)
            pages.append(page_no)
            assert page.tree == root, page
            assert level is None or page.level == level, page
            encode_page(page, PAGE)
            keys = page.keys
            assert all(a < b for a, b in zip(keys, keys[1:], strict=False)), page
            if page.kind == PageKind.INNER:
                # (A tree that is being freed may have inner pages without children.)
                assert page.level > 0 and keys[:1] in ([b""], []) and len(keys) == len(page.children)
                assert page.used == btree.used_size(page) <= PAGE
                bounds = [low, *keys[1:], high]
                for index, child in enumerate(page.children):
                    below, above = bounds[index], bounds[index + 1]
                    assert below is not None
                    visit(child, page.level - 1, below, above)
            elif page.kind == PageKind.LEAF:
                assert page.level == 0 and page.used == btree.used_size(page) <= PAGE
                assert not keys or (keys[0] >= low and (high is None or keys[-1] < high))
                stamps = [int.from_bytes(value[:8], "little") for value in page.vals]
                assert page.max_txn >= max(stamps, default=0)
                entries.extend(zip(keys, page.vals, strict=True))
            else:
                assert page.kind == PageKind.CHUNK and page.level == 0

        visit(root, None, b"", None)
        assert len(set(pages)) == len(pages)
        return entries, pages, self.page(root).level

    def live(self) -> dict[bytes, bytes]:
        return {key: value[17:] for key, value in self.walk()[0] if not value[16] & GHOST}

    def allocated(self) -> int:
        from thunderdb.storage.spacemap import count_allocated

        return count_allocated(self.page(0))

    # -- Do = redo

    def replayed(self) -> dict[int, bytes]:
        """Every page as the log alone makes it, encoded."""
        self.run(self.db.log.flush_all())
        return self.run(self._replay())

    async def _replay(self) -> dict[int, bytes]:
        state = self.db.control.state
        reader = LogReader(self.disk, WAL, state.system_id, state.timeline)
        await reader.load()
        pages: dict[int, Page] = {}
        lsn = 0x1000
        while lsn < self.db.log.flushed_lsn:
            record = await self.db.log.read_record(lsn)
            for change in record.changes:
                if change.op == PageOp.IMAGE:
                    pages[change.page_no] = page_of_image(change.page_no, change.payload, lsn)
                    continue
                page = pages[change.page_no]
                assert page.page_lsn == change.prev_page_lsn, f"{page} against {change} at {lsn}"
                apply(page, change.op, change.payload, lsn, record.txn)
                page.page_lsn = lsn
            lsn += record.length
        return {page_no: encode_page(page, PAGE) for page_no, page in sorted(pages.items())}

    def forward(self) -> dict[int, bytes]:
        """Every page as normal work has left it, encoded."""
        self.run(self.db.pool.clean(1 << 62, 1 << 30))
        data = self.disk.files[f"{DATA}/pages.000000"]
        count = len(data) // PAGE
        blocks = {page_no: bytes(data[page_no * PAGE : (page_no + 1) * PAGE]) for page_no in range(count)}
        return {page_no: block for page_no, block in blocks.items() if any(block)}

    def check_redo(self) -> None:
        """Do = redo, byte by byte."""
        replayed, forward = self.replayed(), self.forward()
        assert replayed.keys() == forward.keys()
        assert [page_no for page_no in replayed if replayed[page_no] != forward[page_no]] == []
