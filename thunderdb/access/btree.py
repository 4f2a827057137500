"""B+trees of bytes: search, put, restore, scan, split, merge, ghosts.

A tree is named by its root's page number, which never changes: a root that overflows moves its content into two new
children, a root left with one child takes that child's content.

T1. Operations are synchronous; each finds every page that it needs before it changes anything, or raises Miss.
T2. A structure change (split, merge, root growth and shrink) is one redo-only record over all its pages.
T3. keys[0] of an inner node is empty (minus infinity); child i covers [keys[i], keys[i+1]).
T4. A deleted row leaves a ghost, which keeps its payload, so that undoing a delete needs no space. Ghosts that no snapshot can
    see are purged, redo-only, by whoever needs the room.
T5. There are no sibling links: a scan descends again for each leaf, with the fence of the last one.

Source: ARIES/IM (1992) for redo-only structure changes and logical undo; Graefe, "A survey of B-tree logging" (2012), ghosts.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import accumulate

from thunderdb.access.apply import (
    GHOST,
    PageOp,
    child_insert_payload,
    count_payload,
    image_payload,
    parse_row,
    purge_payload,
    restore_payload,
    row_payload,
)
from thunderdb.access.context import Access, Chain
from thunderdb.access.space import allocate, release
from thunderdb.base.errors import LimitExceeded
from thunderdb.base.ids import LSN
from thunderdb.storage.frozen import locate
from thunderdb.storage.page import (
    PAGE_HEADER_SIZE,
    VALUE_HEADER,
    Page,
    PageKind,
    inner_entry_size,
    leaf_entry_size,
)
from thunderdb.wal.record import RecordKind

Path = list[tuple[Page, int]]
"""Inner pages from the root down, each with the index of the child taken."""

Fence = bytes | None

_INNER = PageKind.INNER


def max_key_size(page_size: int) -> int:
    """The longest key a tree takes, in bytes: an inner page holds at least eight."""
    return (page_size - PAGE_HEADER_SIZE) // 8 - 16


def max_inline_value(page_size: int) -> int:
    """The longest payload stored in a leaf, in bytes; a longer one becomes a large value."""
    return (page_size - PAGE_HEADER_SIZE) // 4 - 64


def find_leaf(access: Access, root: int, key: bytes) -> Page:
    """The leaf that covers `key`. Raises: PageMiss."""
    pool = access.pool
    pages = pool.pages  # what `pool.get` would find: a call less for each level
    try:
        page = pages[root]
    except KeyError:
        page = pool.get(root)
    page.referenced = True
    while page.kind is _INNER:
        page_no = page.children[bisect_right(page.keys, key) - 1]
        try:
            page = pages[page_no]
        except KeyError:
            page = pool.get(page_no)
        page.referenced = True
    return page


def get(access: Access, root: int, key: bytes) -> bytes | None:
    """The newest value at `key`, with its stamp, ghosts included. Raises: PageMiss."""
    leaf = find_leaf(access, root, key)
    index = locate(leaf.keys, key)
    return leaf.vals[index] if index >= 0 else None


def find_path(access: Access, root: int, key: bytes) -> tuple[Path, Page]:
    get_page = access.pool.get
    path: Path = []
    page = get_page(root)
    while page.kind == PageKind.INNER:
        index = bisect_right(page.keys, key) - 1
        path.append((page, index))
        page = get_page(page.children[index])
    return path, page


def leaf_from(access: Access, root: int, low: Fence) -> tuple[Page, int, Fence]:
    """The leaf for a forward scan from `low`: (leaf, first index, fence to go on from or None at the end)."""
    get_page = access.pool.get
    page = get_page(root)
    fence: Fence = None
    while page.kind == PageKind.INNER:
        index = 0 if low is None else bisect_right(page.keys, low) - 1
        if index + 1 < len(page.keys):
            fence = page.keys[index + 1]
        page = get_page(page.children[index])
    return page, 0 if low is None else bisect_left(page.keys, low), fence


def leaf_before(access: Access, root: int, high: Fence) -> tuple[Page, int, Fence]:
    """The leaf for a backward scan below `high`: (leaf, end index, exclusive; fence to go on below or None at the start)."""
    get_page = access.pool.get
    page = get_page(root)
    fence: Fence = None
    while page.kind == PageKind.INNER:
        index = len(page.keys) - 1 if high is None else max(bisect_left(page.keys, high) - 1, 0)
        if index > 0:
            fence = page.keys[index]
        page = get_page(page.children[index])
    return page, len(page.keys) if high is None else bisect_left(page.keys, high), fence


def put(access: Access, chain: Chain, root: int, key: bytes, flags: int, payload: bytes) -> tuple[LSN, bytes | None]:
    """Write a new version of the row at `key` for a transaction; return (its LSN, the old value or None).

    Raises: Miss, LimitExceeded.
    """
    while True:
        leaf = find_leaf(access, root, key)
        index = locate(leaf.keys, key)
        if index >= 0:
            old: bytes | None = leaf.vals[index]
            growth = len(payload) + VALUE_HEADER.size - len(leaf.vals[index])
        else:
            check_key_size(access, key)  # also where there is room: it may be a separator one day, and must fit there
            old = None
            growth = leaf_entry_size(key, payload) + VALUE_HEADER.size
        if leaf.used + growth <= access.page_size:
            place = index if old is not None else bisect_left(leaf.keys, key)
            return access.change_row(leaf, place, root, key, old, flags, payload, chain), old
        _check_size(access, key, payload)
        make_room(access, root, key)


def delete(access: Access, chain: Chain, root: int, key: bytes) -> tuple[LSN, bytes]:
    """Turn the row at `key` into a ghost that keeps its payload (T4). Raises: Miss, KeyError."""
    old = get(access, root, key)
    if old is None:
        raise KeyError(key)
    leaf = find_leaf(access, root, key)
    flags = old[16] | GHOST
    change = (leaf, PageOp.ROW, row_payload(root, key, old, flags, old[VALUE_HEADER.size :]))
    return access.change(RecordKind.ROW, (change,), chain), old


def restore(
    access: Access, kind: int, root: int, key: bytes, value: bytes | None, chain: Chain | None, extra: bytes = b""
) -> LSN:
    """Set `key` to an exact value, stamp included, or remove it: undo, and changes of the system itself. Raises: Miss."""
    while True:
        leaf = find_leaf(access, root, key)
        if value is None or leaf.used + restore_growth(leaf, key, value) <= access.page_size:
            return access.change(kind, ((leaf, PageOp.RESTORE, restore_payload(root, key, value)),), chain, extra)
        make_room(access, root, key)


def restore_growth(leaf: Page, key: bytes, value: bytes) -> int:
    index = locate(leaf.keys, key)
    return leaf_entry_size(key, value) if index < 0 else len(value) - len(leaf.vals[index])


def undo_row(access: Access, payload: bytes, chain: Chain, undo_next_lsn: bytes) -> LSN:
    """Write the CLR that undoes a ROW change, wherever its row is now (W5). Raises: Miss."""
    tree, key, old = parse_row(payload)
    return restore(access, RecordKind.CLR, tree, key, old, chain, undo_next_lsn)


def make_room(access: Access, root: int, key: bytes) -> None:
    """Purge the ghosts of the leaf that covers `key`, or split it. Raises: Miss."""
    path, leaf = find_path(access, root, key)
    if not purge(access, leaf):
        _split(access, path, leaf, key)


def purge(access: Access, leaf: Page) -> int:
    """Remove the ghosts that no snapshot can see; return how many."""
    keys = [
        key
        for key, value in zip(leaf.keys, leaf.vals, strict=True)
        if value[16] & GHOST and access.purgeable(VALUE_HEADER.unpack_from(value)[0])
    ]
    if keys:
        access.change(RecordKind.STRUCT, ((leaf, PageOp.PURGE, purge_payload(keys)),))
    return len(keys)


def check_key_size(access: Access, key: bytes) -> None:
    """Raises: LimitExceeded."""
    limit = max_key_size(access.page_size)
    if len(key) > limit:
        hint = "Use a shorter key, or a larger page_size."
        raise LimitExceeded(f"index row size {len(key)} exceeds maximum {limit}", hint=hint)


def _check_size(access: Access, key: bytes, payload: bytes) -> None:
    check_key_size(access, key)
    if len(payload) > max_inline_value(access.page_size):
        raise LimitExceeded(f"row size {len(payload)} exceeds maximum {max_inline_value(access.page_size)} of an inline row")


def _split(access: Access, path: Path, page: Page, key: bytes) -> None:
    """Split `page`, or the ancestor that must be split before it; the caller looks again."""
    if not path:
        _grow_root(access, page)
        return
    parent, index = path[-1]
    if parent.used + inner_entry_size(b"") + max_key_size(access.page_size) > access.page_size:
        _split(access, path[:-1], parent, key)
        return
    (right_no,), map_changes = allocate(access, 1)
    cut = _cut(page, key)
    right = access.pool.create(right_no, page.kind)
    separator = _move_tail(page, cut, right)
    access.change(
        RecordKind.STRUCT,
        [
            (page, PageOp.TRUNCATE, count_payload(cut)),
            (right, PageOp.IMAGE, image_payload(right, access.page_size)),
            (parent, PageOp.CHILD_INSERT, child_insert_payload(index + 1, separator, right_no)),
            *map_changes,
        ],
    )


def _cut(page: Page, key: bytes) -> int:
    """Where to split: near the half of the bytes, or at the end where keys arrive in ascending order."""
    keys = page.keys
    if key > keys[-1]:
        return len(keys) - 1
    if page.kind == PageKind.LEAF:
        sizes = list(accumulate(map(leaf_entry_size, keys, page.vals)))
    else:
        sizes = list(accumulate(map(inner_entry_size, keys)))
    return min(max(bisect_left(sizes, sizes[-1] // 2) + 1, 1), len(keys) - 1)


def _move_tail(page: Page, cut: int, right: Page) -> bytes:
    """Fill `right` with the entries of `page` from `cut` on (which `page` still has); return the separator."""
    separator = page.keys[cut]
    right.tree, right.level, right.max_txn = page.tree, page.level, page.max_txn
    right.keys = page.keys[cut:]
    if page.kind == PageKind.LEAF:
        right.vals = page.vals[cut:]
    else:
        right.children = page.children[cut:]
        right.keys[0] = b""
    right.used = used_size(right)
    return separator


def used_size(page: Page) -> int:
    """The encoded size of a leaf or inner page, computed afresh."""
    if page.kind == PageKind.LEAF:
        return PAGE_HEADER_SIZE + sum(map(leaf_entry_size, page.keys, page.vals))
    return PAGE_HEADER_SIZE + sum(map(inner_entry_size, page.keys))


def _grow_root(access: Access, root: Page) -> None:
    """Move the root's content into two new children; the root keeps its number (T2)."""
    (left_no, right_no), map_changes = allocate(access, 2)
    left = access.pool.create(left_no, root.kind)
    right = access.pool.create(right_no, root.kind)
    cut = _cut(root, root.keys[len(root.keys) // 2])
    separator = _move_tail(root, cut, right)
    left.tree, left.level, left.max_txn = root.tree, root.level, root.max_txn
    left.keys, left.vals, left.children = root.keys[:cut], root.vals[:cut], root.children[:cut]
    left.used = used_size(left)
    images = [(page, PageOp.IMAGE, image_payload(page, access.page_size)) for page in (left, right)]
    make_inner(root, root.level + 1, [b"", separator], [left_no, right_no])
    images.append((root, PageOp.IMAGE, image_payload(root, access.page_size)))
    access.change(RecordKind.STRUCT, [*images, *map_changes])


def make_inner(page: Page, level: int, keys: list[bytes], children: list[int]) -> None:
    """Turn a page into an inner node, in place."""
    page.kind, page.level = PageKind.INNER, level
    page.keys, page.vals, page.children = keys, [], children
    page.used = used_size(page)


def tidy(access: Access, root: int, key: bytes) -> bool:
    """Purge the leaf that covers `key`, and merge it with a sibling if it has become small. Return whether anything changed.

    Raises: Miss.
    """
    path, leaf = find_path(access, root, key)
    purged = purge(access, leaf)
    for depth in range(len(path) - 1, -1, -1):
        parent, index = path[depth]
        page = access.pool.get(parent.children[index])
        if page.used * 4 > access.page_size or not _merge(access, parent, index):
            break
        purged += 1
    root_page = access.pool.get(root)
    if root_page.kind == PageKind.INNER and len(root_page.children) == 1:
        return _shrink_root(access, root_page) or purged > 0
    return purged > 0


def _merge(access: Access, parent: Page, index: int) -> bool:
    """Merge child `index` with its left sibling, or its right one at the left edge, if both fit well in one page."""
    if len(parent.children) < 2:
        return False
    left_index = index - 1 if index > 0 else 0
    left = access.pool.get(parent.children[left_index])
    right = access.pool.get(parent.children[left_index + 1])
    separator = parent.keys[left_index + 1]
    if left.kind not in (PageKind.LEAF, PageKind.INNER) or left.kind != right.kind:
        return False
    if left.used + right.used + len(separator) - PAGE_HEADER_SIZE > access.page_size * 3 // 4:
        return False
    map_changes = release(access, [right.page_no])
    right_keys = right.keys if left.kind == PageKind.LEAF else [separator, *right.keys[1:]]
    left.keys = [*left.keys, *right_keys]
    left.vals = [*left.vals, *right.vals]
    left.children = left.children + right.children
    left.max_txn = max(left.max_txn, right.max_txn)
    left.used = used_size(left)
    access.change(
        RecordKind.STRUCT,
        [
            (left, PageOp.IMAGE, image_payload(left, access.page_size)),
            (parent, PageOp.CHILD_REMOVE, count_payload(left_index + 1)),
            *map_changes,
        ],
    )
    return True


def _shrink_root(access: Access, root: Page) -> bool:
    """Let a root with one child take over that child's content."""
    child = access.pool.get(root.children[0])
    if child.kind not in (PageKind.LEAF, PageKind.INNER):
        return False
    map_changes = release(access, [child.page_no])
    root.kind, root.level = child.kind, child.level
    root.keys, root.vals, root.children = list(child.keys), list(child.vals), list(child.children)
    root.max_txn = max(root.max_txn, child.max_txn)
    root.used = used_size(root)
    access.change(RecordKind.STRUCT, [(root, PageOp.IMAGE, image_payload(root, access.page_size)), *map_changes])
    return True
