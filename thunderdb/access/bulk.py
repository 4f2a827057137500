"""Bulk loading: append ready-made leaves at the right edge of a tree, many pages in one redo-only record.

Used for COPY into a new table, building an index or a new primary key, and the chunks of large values.

L1. Each record leaves a valid tree: the new leaves, their entries in the parent and their map bits are one record, so a crash
    leaks nothing (the tree itself is named by the garbage tree until its transaction commits).
L2. Keys appended are greater than every key in the tree, and the tree was made by the same transaction, so that its rows need
    no older version (stamp LSN 0) and no undo of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from thunderdb.access.apply import PageOp, child_append_payload, image_payload, packed_image
from thunderdb.access.btree import _split, make_inner, max_key_size
from thunderdb.access.context import Access
from thunderdb.access.space import allocate
from thunderdb.storage.page import PAGE_HEADER_SIZE, Page, PageKind, encode_page, freeze, inner_entry_size, leaf_entry_size
from thunderdb.wal.record import RecordKind

BATCH_PAGES = 8
"""Pages in one record: small enough that its uncompressed images fit in the smallest segment."""


@dataclass(frozen=True, slots=True)
class LeafContent:
    """A leaf (or, with `data`, a chunk) that is to be appended. `used` is its encoded size in bytes, 0 to have it counted."""

    first_key: bytes
    keys: list[bytes]
    vals: list[bytes]
    max_txn: int
    data: bytes = b""
    used: int = 0


def append(access: Access, root: int, leaves: Sequence[LeafContent]) -> int:
    """Append at most BATCH_PAGES leaves; return how many were taken (the parent may be full). Raises: Miss."""
    path = _right_edge(access, root)
    if not path:
        return _first(access, root, leaves)
    parent = path[-1][0]
    room = (access.page_size - parent.used) // (inner_entry_size(b"") + max_key_size(access.page_size))
    if room < 1:
        _split(access, path[:-1], parent, leaves[0].first_key)
        return 0
    taken = leaves[: min(room, BATCH_PAGES)]
    page_nos, map_changes = allocate(access, len(taken))
    entries = [(leaf.first_key, page_no) for leaf, page_no in zip(taken, page_nos, strict=True)]
    images = _make_pages(access, root, taken, page_nos)
    access.change(RecordKind.STRUCT, [*images, (parent, PageOp.CHILD_APPEND, child_append_payload(entries)), *map_changes])
    return len(taken)


def _right_edge(access: Access, root: int) -> list[tuple[Page, int]]:
    """The path of inner pages to the level above the leaves, taking the last child each time."""
    path = []
    page = access.pool.get(root)
    while page.kind == PageKind.INNER:
        path.append((page, len(page.children) - 1))
        if page.level == 1:
            break
        page = access.pool.get(page.children[-1])
    return path


def _first(access: Access, root: int, leaves: Sequence[LeafContent]) -> int:
    """Give an empty root its first children."""
    root_page = access.pool.get(root)
    taken = leaves[: min(BATCH_PAGES, 4)]
    page_nos, map_changes = allocate(access, len(taken))
    images = _make_pages(access, root, taken, page_nos)
    make_inner(root_page, 1, [b"", *(leaf.first_key for leaf in taken[1:])], list(page_nos))
    images.append((root_page, PageOp.IMAGE, image_payload(root_page, access.page_size)))
    access.change(RecordKind.STRUCT, [*images, *map_changes])
    return len(taken)


def _make_pages(
    access: Access, root: int, leaves: Sequence[LeafContent], page_nos: list[int]
) -> list[tuple[Page, int, bytes]]:
    images: list[tuple[Page, int, bytes]] = []
    for leaf, page_no in zip(leaves, page_nos, strict=True):
        page = access.pool.create(page_no, PageKind.CHUNK if leaf.data else PageKind.LEAF)
        page.tree, page.level, page.max_txn = root, 0, leaf.max_txn
        if leaf.data:
            page.data = leaf.data
            page.used = PAGE_HEADER_SIZE + len(leaf.data)
        else:
            page.keys, page.vals = leaf.keys, leaf.vals
            page.used = leaf.used or PAGE_HEADER_SIZE + sum(map(leaf_entry_size, leaf.keys, leaf.vals))
        raw = encode_page(page, access.page_size)
        freeze(page, raw)  # the rows' own objects go at once: what was built from them would else be scattered among them
        images.append((page, PageOp.IMAGE, packed_image(raw)))
    return images


async def append_all(access: Access, root: int, leaves: Sequence[LeafContent]) -> None:
    """Append any number of leaves, waiting for room in the pool and the log between records."""
    done = 0
    while done < len(leaves):
        access.log.admit()
        await access.log.wait_for_room()
        done += await access.run(append, access, root, leaves[done : done + BATCH_PAGES])
        await access.tasks.yield_now()  # others go on while much is loaded


class LeafBuilder:
    """Pack ascending (key, value) pairs into leaves filled to a fraction of the page."""

    __slots__ = ("_limit", "_keys", "_vals", "_used", "_max_txn", "ready")

    def __init__(self, page_size: int, max_txn: int, fill: float = 0.92) -> None:
        self._limit = int(page_size * fill)
        self._keys: list[bytes] = []
        self._vals: list[bytes] = []
        self._used = PAGE_HEADER_SIZE
        self._max_txn = max_txn
        self.ready: list[LeafContent] = []

    def add(self, key: bytes, value: bytes) -> None:
        size = leaf_entry_size(key, value)
        if self._used + size > self._limit and self._keys:
            self.cut()
        self._keys.append(key)
        self._vals.append(value)
        self._used += size

    def cut(self) -> None:
        """End the leaf that is being filled."""
        if self._keys:
            self.ready.append(LeafContent(self._keys[0], self._keys, self._vals, self._max_txn, used=self._used))
            self._keys, self._vals, self._used = [], [], PAGE_HEADER_SIZE

    def take(self) -> list[LeafContent]:
        ready, self.ready = self.ready, []
        return ready
