"""The garbage tree: a durable name for every tree that is not yet, or no longer, reachable.

Key: the root's page number (4 bytes, big-endian). Value payload:

GARBAGE_ENTRY, little-endian:
offset  size  name
0       8     owner

G1. A new tree's entry, its map bit and its empty root page are one record; the entry is stamped by the system and names its
    owner.
G2. The owner deletes the entry in its transaction; a rollback restores it, and with it the tree becomes garbage.
G3. Whoever drops a tree enters it in its transaction.
G4. An entry may be freed when it is no ghost, its owner has ended, and its stamp is older than every snapshot.
G5. A tree is freed from its right edge, some children a record, so a crash in between leaves a smaller valid tree; the last
    record frees the root and removes the entry together.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from thunderdb.access.apply import GHOST, PageOp, count_payload, image_payload, restore_payload
from thunderdb.access.btree import delete, find_leaf, leaf_from, make_room, put, restore_growth
from thunderdb.access.context import Access, Chain
from thunderdb.access.space import allocate, release
from thunderdb.storage.page import PAGE_HEADER_SIZE, VALUE_HEADER, PageKind
from thunderdb.wal.record import RecordKind

GARBAGE_ROOT = 2
GARBAGE_ENTRY = struct.Struct("<Q")
FREE_BATCH = 64


def garbage_key(root: int) -> bytes:
    return root.to_bytes(4, "big")


def create_tree(access: Access, owner: Chain) -> int:
    """Make an empty tree that belongs to `owner`'s transaction until it commits; return its root (G1). Raises: Miss.

    The caller must then run `adopt_tree`.
    """
    while True:
        (root,), map_changes = allocate(access, 1)
        key = garbage_key(root)
        value = VALUE_HEADER.pack(0, 0, 0) + GARBAGE_ENTRY.pack(owner.id)
        leaf = find_leaf(access, GARBAGE_ROOT, key)
        if leaf.used + restore_growth(leaf, key, value) <= access.page_size:
            break
        make_room(access, GARBAGE_ROOT, key)
    page = access.pool.create(root, PageKind.LEAF)
    page.tree, page.used = root, PAGE_HEADER_SIZE
    access.change(
        RecordKind.STRUCT,
        [
            (page, PageOp.IMAGE, image_payload(page, access.page_size)),
            (leaf, PageOp.RESTORE, restore_payload(GARBAGE_ROOT, key, value)),
            *map_changes,
        ],
    )
    return root


def adopt_tree(access: Access, owner: Chain, root: int) -> None:
    """Delete a new tree's garbage entry within its owner's transaction (G2). Raises: Miss."""
    delete(access, owner, GARBAGE_ROOT, garbage_key(root))


def drop_tree(access: Access, owner: Chain, root: int) -> None:
    """Enter a tree as garbage from the commit of `owner` on (G3). Raises: Miss."""
    put(access, owner, GARBAGE_ROOT, garbage_key(root), 0, GARBAGE_ENTRY.pack(0))


def next_garbage(access: Access, after: bytes | None, ended: Callable[[int], bool]) -> tuple[int | None, bytes | None]:
    """The first root from `after` on that may be freed (G4), and the key to go on from (None at the end). Raises: Miss."""
    leaf, index, fence = leaf_from(access, GARBAGE_ROOT, after)
    for key, value in zip(leaf.keys[index:], leaf.vals[index:], strict=True):
        stamp, _lsn, flags = VALUE_HEADER.unpack_from(value)
        (owner,) = GARBAGE_ENTRY.unpack_from(value, VALUE_HEADER.size)
        if not flags & GHOST and access.purgeable(stamp) and ended(owner):
            return int.from_bytes(key, "big"), key + b"\0"
    return None, fence


def free_step(access: Access, root: int) -> bool:
    """Free some of a tree's pages, from its right edge; return whether the tree is gone (G5). Raises: Miss."""
    path = []
    page = access.pool.get(root)
    while page.kind == PageKind.INNER and page.children and page.level > 1:
        path.append(page)
        page = access.pool.get(page.children[-1])
    if page.kind == PageKind.INNER and page.children:
        doomed = page.children[-FREE_BATCH:]
        keep = len(page.children) - len(doomed)
        access.change(RecordKind.STRUCT, [(page, PageOp.TRUNCATE, count_payload(keep)), *release(access, doomed)])
        return False
    if path:
        parent = path[-1]
        truncate = (parent, PageOp.TRUNCATE, count_payload(len(parent.children) - 1))
        access.change(RecordKind.STRUCT, [truncate, *release(access, [page.page_no])])
        return False
    key = garbage_key(root)
    leaf = find_leaf(access, GARBAGE_ROOT, key)
    removal = (leaf, PageOp.RESTORE, restore_payload(GARBAGE_ROOT, key, None))
    access.change(RecordKind.STRUCT, [removal, *release(access, [root])])
    return True
