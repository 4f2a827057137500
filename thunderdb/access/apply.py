"""Page changes: their payloads, and the one function that applies each of them, in normal work and in redo alike.

A log record holds, per page, an operation and its payload. All integers are little-endian.

ROW_CHANGE, little-endian:
offset  size  name
0       4     tree
4       2     key_size
6       1     had_old
7       1     new_flags
8       4     old_size

then key, the old value (with its stamp) and the new payload. The new stamp is the record's own (transaction, LSN).

RESTORE_CHANGE, little-endian:
offset  size  name
0       4     tree
4       2     key_size
6       1     present
7       1     spare

then key and, if present, the exact value with its stamp; absent removes the key.

CHILD_ENTRY, little-endian:
offset  size  name
0       4     child
4       2     key_size

IMAGE_HEADER, little-endian:
offset  size  name
0       1     codec
1       4     raw_size

A1. Applying is a plain function of (page, operation, payload, lsn, transaction); it reads no other page.
A2. An operation other than IMAGE is applied only to the page state that it was logged against (the caller checks the chain).
A3. Every operation keeps `page.used` and `page.max_txn` exact.

Source: ARIES (1992) section 3: redo is physical to a page, undo of rows is logical.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from enum import IntEnum

from backports import zstd

from thunderdb.base.errors import Corruption, InvariantViolated
from thunderdb.storage.frozen import locate
from thunderdb.storage.page import (
    GHOST,
    LARGE,
    VALUE_HEADER,
    Page,
    PageKind,
    decode_page,
    encode_page,
    inner_entry_size,
    leaf_entry_size,
    patch,
    thaw,
)
from thunderdb.storage.spacemap import set_allocated, set_free

ROW_CHANGE = struct.Struct("<IHBBI")
RESTORE_CHANGE = struct.Struct("<IHBB")
CHILD_ENTRY = struct.Struct("<IH")
IMAGE_HEADER = struct.Struct("<BI")
_COUNT = struct.Struct("<I")
_KEY_SIZE = struct.Struct("<H")

_COMPRESSOR = zstd.ZstdCompressor(level=1)  # one for all: making one costs more than an image does

IMAGE_RAW = 0
IMAGE_ZSTD = 1

__all__ = ["GHOST", "LARGE"]  # the value flags are the page format's; changes read them from here

VALUE_HEADER_SIZE = VALUE_HEADER.size


class PageOp(IntEnum):
    """What a record does to a page. Numbers are on disk and never reused."""

    ROW = 1
    IMAGE = 2
    MAP_SET = 3
    MAP_CLEAR = 4
    PURGE = 5
    CHILD_INSERT = 6
    CHILD_APPEND = 7
    CHILD_REMOVE = 8
    TRUNCATE = 9
    RESTORE = 10


def row_payload(tree: int, key: bytes, old: bytes | None, flags: int, payload: bytes) -> bytes:
    """A row's new version, with its old one: redo and undo in one."""
    if old is None:
        return ROW_CHANGE.pack(tree, len(key), 0, flags, 0) + key + payload
    return ROW_CHANGE.pack(tree, len(key), 1, flags, len(old)) + key + old + payload


def parse_row(payload: bytes) -> tuple[int, bytes, bytes | None]:
    """Return (tree, key, old value or None) of a ROW change: what its undo needs."""
    tree, key_size, had_old, _flags, old_size = ROW_CHANGE.unpack_from(payload)
    key_end = 12 + key_size
    return tree, payload[12:key_end], payload[key_end : key_end + old_size] if had_old else None


def restore_payload(tree: int, key: bytes, value: bytes | None) -> bytes:
    head = RESTORE_CHANGE.pack(tree, len(key), value is not None, 0)
    return head + key if value is None else head + key + value


def purge_payload(keys: list[bytes]) -> bytes:
    parts = [_COUNT.pack(len(keys))]
    for key in keys:
        parts.append(_KEY_SIZE.pack(len(key)))
        parts.append(key)
    return b"".join(parts)


def pages_payload(page_nos: list[int]) -> bytes:
    return struct.pack(f"<{len(page_nos)}I", *page_nos)


def child_insert_payload(index: int, key: bytes, child: int) -> bytes:
    return _COUNT.pack(index) + CHILD_ENTRY.pack(child, len(key)) + key


def child_append_payload(entries: list[tuple[bytes, int]]) -> bytes:
    return b"".join(CHILD_ENTRY.pack(child, len(key)) + key for key, child in entries)


def count_payload(count: int) -> bytes:
    return _COUNT.pack(count)


def image_payload(page: Page, page_size: int) -> bytes:
    """A compressed full-page image."""
    return packed_image(encode_page(page, page_size))


def packed_image(raw: bytes) -> bytes:
    """An encoded page as an IMAGE's payload (zstd level 1; raw where that is not smaller)."""
    packed = _COMPRESSOR.compress(raw, zstd.ZstdCompressor.FLUSH_FRAME)
    if len(packed) < len(raw):
        return IMAGE_HEADER.pack(IMAGE_ZSTD, len(raw)) + packed
    return IMAGE_HEADER.pack(IMAGE_RAW, len(raw)) + raw


def page_of_image(page_no: int, payload: bytes, lsn: int) -> Page:
    """The page that an IMAGE change at `lsn` leaves. Raises: Corruption."""
    codec, raw_size = IMAGE_HEADER.unpack_from(payload)
    body = payload[IMAGE_HEADER.size :]
    if codec == IMAGE_ZSTD:
        try:
            body = zstd.decompress(body)
        except zstd.ZstdError as error:
            raise Corruption(f"page {page_no}: its image in the log does not decompress: {error}") from error
    if len(body) != raw_size:
        raise Corruption(f"page {page_no}: its image in the log has {len(body)} bytes instead of {raw_size}")
    page = decode_page(body, page_no, raw_size)
    page.page_lsn = page.image_lsn = lsn
    return page


def apply(page: Page, op: int, payload: bytes, lsn: int, txn: int) -> None:
    """Apply one change other than IMAGE to a page; the caller then sets its page_lsn."""
    if op == PageOp.ROW:
        _apply_row(page, payload, lsn, txn)
    elif op == PageOp.RESTORE:
        _apply_restore(page, payload)
    elif op == PageOp.MAP_SET:
        for (page_no,) in struct.iter_unpack("<I", payload):
            set_allocated(page, page_no)
    elif op == PageOp.MAP_CLEAR:
        for (page_no,) in struct.iter_unpack("<I", payload):
            set_free(page, page_no)
    elif op == PageOp.PURGE:
        _apply_purge(page, payload)
    elif op == PageOp.CHILD_INSERT:
        _apply_child_insert(page, payload)
    elif op == PageOp.CHILD_APPEND:
        _apply_child_append(page, payload)
    elif op == PageOp.CHILD_REMOVE:
        _remove_child(page, _COUNT.unpack(payload)[0])
    elif op == PageOp.TRUNCATE:
        _truncate(page, _COUNT.unpack(payload)[0])
    else:
        raise Corruption(f"page {page.page_no}: unknown page operation {op} in the log")


def put_value(page: Page, index: int, exists: bool, key: bytes, value: bytes, txn: int) -> None:
    """Set `key` at `index` of a leaf; the shared last step of every row change."""
    if type(page.keys) is not list:
        if exists and patch(page, index, value):
            if txn > page.max_txn:
                page.max_txn = txn
            return
        thaw(page)
    if exists:
        page.used += len(value) - len(page.vals[index])
        page.vals[index] = value
    else:
        page.keys.insert(index, key)
        page.vals.insert(index, value)
        page.used += leaf_entry_size(key, value)
    if txn > page.max_txn:
        page.max_txn = txn


def _apply_row(page: Page, payload: bytes, lsn: int, txn: int) -> None:
    _tree, key_size, had_old, flags, old_size = ROW_CHANGE.unpack_from(payload)
    key_end = 12 + key_size
    key = payload[12:key_end]
    index = locate(page.keys, key)
    exists = index >= 0
    if exists != bool(had_old):
        found = "there" if exists else "missing"
        raise InvariantViolated(f"page {page.page_no}: row change at {lsn} meets a key that is {found}")
    if not exists:
        index = bisect_left(page.keys, key)
    put_value(page, index, exists, key, VALUE_HEADER.pack(txn, lsn, flags) + payload[key_end + old_size :], txn)


def _apply_restore(page: Page, payload: bytes) -> None:
    _tree, key_size, present, _ = RESTORE_CHANGE.unpack_from(payload)
    key = payload[8 : 8 + key_size]
    index = bisect_left(page.keys, key)
    exists = index < len(page.keys) and page.keys[index] == key
    if present:
        value = payload[8 + key_size :]
        put_value(page, index, exists, key, value, VALUE_HEADER.unpack_from(value)[0])
    elif exists:
        _remove_entry(page, index)
    else:
        raise InvariantViolated(f"page {page.page_no}: nothing to remove at key {key.hex()}")


def _remove_entry(page: Page, index: int) -> None:
    thaw(page)
    page.used -= leaf_entry_size(page.keys[index], page.vals[index])
    del page.keys[index]
    del page.vals[index]


def _apply_purge(page: Page, payload: bytes) -> None:
    (count,) = _COUNT.unpack_from(payload)
    offset = 4
    for _ in range(count):
        (size,) = _KEY_SIZE.unpack_from(payload, offset)
        key = payload[offset + 2 : offset + 2 + size]
        offset += 2 + size
        index = locate(page.keys, key)
        if index < 0:
            raise InvariantViolated(f"page {page.page_no}: no ghost to purge at key {key.hex()}")
        _remove_entry(page, index)


def _apply_child_insert(page: Page, payload: bytes) -> None:
    (index,) = _COUNT.unpack_from(payload)
    child, key_size = CHILD_ENTRY.unpack_from(payload, 4)
    key = payload[10 : 10 + key_size]
    page.keys.insert(index, key)
    page.children.insert(index, child)
    page.used += inner_entry_size(key)


def _apply_child_append(page: Page, payload: bytes) -> None:
    offset = 0
    while offset < len(payload):
        child, key_size = CHILD_ENTRY.unpack_from(payload, offset)
        key = payload[offset + 6 : offset + 6 + key_size]
        offset += 6 + key_size
        page.keys.append(key)
        page.children.append(child)
        page.used += inner_entry_size(key)


def _remove_child(page: Page, index: int) -> None:
    page.used -= inner_entry_size(page.keys[index])
    del page.keys[index]
    del page.children[index]
    if index == 0 and page.keys:
        # The first child of a node covers everything below its next key, so its own key is minus infinity.
        page.used -= inner_entry_size(page.keys[0]) - inner_entry_size(b"")
        page.keys[0] = b""


def _truncate(page: Page, keep: int) -> None:
    thaw(page)
    if page.kind == PageKind.LEAF:
        page.used -= sum(map(leaf_entry_size, page.keys[keep:], page.vals[keep:]))
        del page.vals[keep:]
    else:
        page.used -= sum(map(inner_entry_size, page.keys[keep:]))
        del page.children[keep:]
    del page.keys[keep:]
