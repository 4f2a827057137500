"""The write path's one gate: append a record, then apply it to its pages, with nothing in between.

X1. Between the append of a record and the change to its pages there is no await and nothing that can fail.
X2. (W3) A page whose image_lsn is older than the last checkpoint's begin logs a full-page image before its next change.
X3. So does a page that has changed `image_after` times since its last one, however often it changes between two checkpoints:
    bringing it up after a crash takes an image and so many changes at most, not all that the log has of it.
X4. A chain (a transaction's records) is linked by prev_lsn; system changes have chain None and are never undone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from thunderdb.access.apply import PageOp, apply, image_payload, put_value, row_payload
from thunderdb.base.ids import LSN, NO_LSN
from thunderdb.runtime.sync import Semaphore, Tasks
from thunderdb.storage.files import PageFiles
from thunderdb.storage.page import VALUE_HEADER, Page
from thunderdb.storage.pool import BufferPool, Miss
from thunderdb.wal.record import RecordKind
from thunderdb.wal.writer import LogWriter

T = TypeVar("T")

_ROW, _ROW_OP = int(RecordKind.ROW), int(PageOp.ROW)

OPERATION_PAGES = 24
"""The greatest number of pages that one tree operation may need at once (a split along a deep path, its maps, garbage)."""

_BYTES_A_CHANGE = 32
"""`image_after` is the page size divided by this: an image costs about as much as 30 changes, and a page that only fills up, a
row at a time, never needs another one."""


class Chain(Protocol):
    """Whoever changes rows undoably: a transaction."""

    id: int
    first_lsn: int
    last_lsn: int


class Access:
    """What every access method works with: pool, log, page files, and the rules that join them."""

    __slots__ = (
        "tasks", "pool", "log", "files", "page_size", "image_floor", "image_after", "purgeable", "map_hints",
        "first_free_group", "_admission",
    )  # fmt: skip

    def __init__(self, tasks: Tasks, pool: BufferPool, log: LogWriter, files: PageFiles, page_size: int) -> None:
        self.tasks = tasks
        self.pool = pool
        self.log = log
        self.files = files
        self.page_size = page_size
        self.image_floor: LSN = NO_LSN
        self.image_after = page_size // _BYTES_A_CHANGE
        self.purgeable: Callable[[int], bool] = lambda stamp_txn: False
        self.map_hints: dict[int, int] = {}
        self.first_free_group = 0
        # Half of the pool, at three times a page's size decoded, may be pinned by operations that had to wait for a page.
        pages = max(OPERATION_PAGES, pool.capacity_bytes // (6 * page_size))
        self._admission = Semaphore(tasks, pages)

    def log_image(self, page: Page) -> None:
        """Log a full-page image of a page as it is now (X2, X3)."""
        payload = image_payload(page, self.page_size)
        lsn = self.log.append(RecordKind.IMAGE, 0, 0, ((page.page_no, page.page_lsn, PageOp.IMAGE, payload),))
        page.image_lsn = lsn
        page.changes = 0
        self.pool.changed(page, lsn)

    def change(
        self,
        kind: int,
        changes: Sequence[tuple[Page, int, bytes]],
        chain: Chain | None = None,
        extra: bytes = b"",
    ) -> LSN:
        """Log one record over all `changes` and apply it. A page with op IMAGE is already in its new state.

        Raises: nothing that leaves a page changed and unlogged.
        """
        floor, most = self.image_floor, self.image_after
        for page, op, _payload in changes:
            if op != PageOp.IMAGE and (page.image_lsn < floor or page.changes >= most):
                self.log_image(page)
        logged = tuple((page.page_no, page.page_lsn, op, payload) for page, op, payload in changes)
        if chain is None:
            txn = 0
            lsn = self.log.append(kind, 0, 0, logged, extra)
        else:
            txn = chain.id
            lsn = self.log.append(kind, txn, chain.last_lsn, logged, extra)
            chain.last_lsn = lsn
            if not chain.first_lsn:
                chain.first_lsn = lsn
        for page, op, payload in changes:
            if op == PageOp.IMAGE:
                page.image_lsn = lsn
                page.changes = 0
            else:
                apply(page, op, payload, lsn, txn)
                page.changes += 1
            self.pool.changed(page, lsn)
        return lsn

    def change_row(
        self, page: Page, index: int, tree: int, key: bytes, old: bytes | None, flags: int, payload: bytes, chain: Chain
    ) -> LSN:
        """`change` of one row by a transaction, where its place in the leaf is known: the hot path, nothing is looked up twice.

        `old` is the value at `index`; None: there is none yet, and the row comes in there.
        """
        if page.image_lsn < self.image_floor or page.changes >= self.image_after:
            self.log_image(page)
        page.changes += 1
        txn = chain.id
        change = row_payload(tree, key, old, flags, payload)
        lsn = self.log.append_change(_ROW, txn, chain.last_lsn, page.page_no, page.page_lsn, _ROW_OP, change)
        chain.last_lsn = lsn
        if not chain.first_lsn:
            chain.first_lsn = lsn
        put_value(page, index, old is not None, key, VALUE_HEADER.pack(txn, lsn, flags) + payload, txn)
        self.pool.changed(page, lsn)
        return lsn

    async def run(self, operation: Callable[..., T], *args: Any) -> T:
        """Run a synchronous operation, loading what it misses, until it goes through.

        Pages loaded for it stay pinned over its retries, and it is admitted by its greatest need, so that many operations
        in a small pool cannot evict each other for ever.
        """
        try:
            return operation(*args)
        except Miss as miss:
            return await self._run_missing(miss, operation, args)

    async def _run_missing(self, miss: Miss, operation: Callable[..., T], args: tuple[Any, ...]) -> T:
        while True:
            while miss.runs_operations:
                await miss.resolve(self.pool)
                try:
                    return operation(*args)
                except Miss as again:
                    miss = again
            await self._admission.acquire(OPERATION_PAGES)
            pins: list[Page] = []
            try:
                while not miss.runs_operations:
                    await miss.resolve(self.pool, pins)
                    try:
                        return operation(*args)
                    except Miss as again:
                        miss = again
            finally:
                for page in pins:
                    self.pool.unpin(page)
                self._admission.release(OPERATION_PAGES)
