"""The page: what a node of a tree, a space map or a piece of a large value looks like in memory and on disk.

In memory a page is decoded (sorted lists, `bisect` for search); it is encoded when it is written back. Every page starts with:

    PAGE_HEADER, little-endian:
    offset  size  name
    0       8     checksum
    8       8     page_lsn
    16      8     image_lsn
    24      8     max_txn
    32      4     page_no
    36      4     tree
    40      2     version
    42      1     kind
    43      1     level
    44      4     count
    48      4     used
    52      12    reserved

`checksum` is XXH3-64 over everything behind it, padding included. `count` is the number of entries (of bytes in a CHUNK or a
MAP), `used` the encoded size without padding. Behind the header come, back to back:

    LEAF    u16 key lengths × count, u16 value lengths × count, keys, values
    INNER   u16 key lengths × count, u32 children × count, keys      (keys[0] is b"": minus infinity)
    CHUNK   raw bytes × count
    MAP     bitmap, the rest of the page: one bit a page, set = allocated

A value in a leaf starts with its stamp:

    VALUE_HEADER, little-endian:
    offset  size  name
    0       8     stamp_txn
    8       8     stamp_lsn
    16      1     flags

G1. A page names itself: one read at the wrong place, or written there, is seen (misdirected).
G2. A page of zeros is never valid: the checksum of an encoded page covers a version that is not 0.
G3. `used` is what encoding would take, at any moment; who changes keys, vals or children keeps it so, and encode proves it.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Sequence
from enum import IntEnum, StrEnum
from itertools import accumulate
from typing import Any

from xxhash import xxh3_64_intdigest

from thunderdb.base.errors import Corruption, InvariantViolated
from thunderdb.storage.frozen import PATCH_LIMIT, Slices

PAGE_VERSION = 1
PAGE_HEADER = struct.Struct("<QQQQIIHBBII12s")
PAGE_HEADER_SIZE = PAGE_HEADER.size
VALUE_HEADER = struct.Struct("<QQB")
VALUE_HEADER_SIZE = VALUE_HEADER.size

GHOST = 1  # value flag: the row is deleted
LARGE = 2  # value flag: the payload is a reference to a large value

MIN_PAGE_SIZE = 4096
MAX_PAGE_SIZE = 32768

_CHECKSUM = struct.Struct("<Q")
_RESERVED = bytes(12)
_LEAF_ENTRY = 4
_INNER_ENTRY = 6
_BIG_ENDIAN = sys.byteorder == "big"

# What CPython takes for a page apart from its entries (object, lists, integers, pool entry), and per entry beyond its bytes:
# two objects of 33 bytes plus rounding, and two list slots with the room that a list keeps.
_BASE_BYTES = 1024
_FROZEN_BASE_BYTES = 768
_LEAF_ENTRY_BYTES = 2 * (33 + 7 + 9)
_INNER_ENTRY_BYTES = (33 + 7 + 9) + (32 + 9)
_FROZEN_ENTRY_BYTES = 4  # two sizes


class PageKind(IntEnum):
    MAP = 1
    LEAF = 2
    INNER = 3
    CHUNK = 4


_MAP, _LEAF, _INNER, _CHUNK = PageKind.MAP, PageKind.LEAF, PageKind.INNER, PageKind.CHUNK
_KINDS = {int(kind): kind for kind in PageKind}


class Damage(StrEnum):
    """What is wrong with a page."""

    ZERO = "zero page"
    SHORT = "past the end of its file"
    UNREADABLE = "cannot be read"
    CHECKSUM = "checksum does not match"
    MISDIRECTED = "another page's content"
    FORMAT = "bad format"
    LOST_WRITE = "lost write"


class PageCorruption(Corruption):
    """One page is not what was written. `args` is (page_no, damage, detail)."""

    def __init__(self, page_no: int, damage: Damage, detail: str = "") -> None:
        text = f"page {page_no}: {damage.value}" + (f" ({detail})" if detail else "")
        super().__init__(text, "rebuild it from the log, a replica or a backup")
        self.args = (page_no, damage, detail)
        self.page_no = page_no
        self.damage = damage
        self.detail = detail


def thaw(page: Page) -> None:
    """Make the page's keys and values lists that may be changed."""
    if type(page.keys) is Slices:
        page.keys = page.keys.copy()
        page.vals = page.vals.copy()
        page.charged_used = -1  # it takes more memory now: `BufferPool.changed` counts again


def freeze(page: Page, image: bytes) -> None:
    """Let a leaf's entries lie in `image`, which is what it encodes to now; the lists, or the older image, go (Z1)."""
    if type(page.keys) is Slices:
        page.keys.move_to(image)
        page.vals.move_to(image)
        page.charged_used = -1
    elif page.kind is _LEAF:
        count = len(page.keys)
        sizes = _unpack("H", image[PAGE_HEADER_SIZE : PAGE_HEADER_SIZE + 4 * count])
        page.keys = keys = Slices(image, sizes, 0, count, PAGE_HEADER_SIZE + 4 * count)
        page.vals = Slices(image, sizes, count, count, keys.end)
        page.charged_used = -1


def patch(page: Page, index: int, value: bytes) -> bool:
    """Change a value of a frozen leaf within its size, and leave the page frozen; False if that cannot be (Z2)."""
    vals = page.vals
    took = vals.extra_bytes
    if not vals.patch(index, value):
        return False
    if vals.extra_bytes != took:
        if len(vals.patches) > PATCH_LIMIT:
            body = bytearray(vals.image)
            vals.write_patches(body)
            freeze(page, bytes(body))
        page.charged_used = -1
    return True


class Page:
    """A page in memory.

    `changes` counts those since the page's last image in the log, as far as they were made, or redone, in this memory.
    Fields from `pins` on belong to the buffer pool. `keys` and `vals` may be Slices: `patch` or `thaw` before a change.
    """

    __slots__ = (
        "page_no",
        "kind",
        "level",
        "tree",
        "page_lsn",
        "image_lsn",
        "max_txn",
        "keys",
        "vals",
        "children",
        "data",
        "used",
        "changes",
        "pins",
        "rec_lsn",
        "referenced",
        "charge",
        "charged_used",
    )

    def __init__(self, page_no: int, kind: PageKind, level: int = 0, tree: int = 0) -> None:
        self.page_no = page_no
        self.kind = kind
        self.level = level
        self.tree = tree
        self.page_lsn = 0
        self.image_lsn = 0
        self.max_txn = 0
        self.keys: Any = []
        self.vals: Any = []
        self.children: list[int] = []
        self.data: bytes | bytearray = b""
        self.used = PAGE_HEADER_SIZE
        self.changes = 0
        self.pins = 0
        self.rec_lsn = 0
        self.referenced = True
        self.charge = 0
        self.charged_used = 0

    def __repr__(self) -> str:
        return f"<Page {self.page_no} {self.kind.name} lsn={self.page_lsn} entries={len(self.keys)} used={self.used}>"


def new_page(page_no: int, kind: PageKind, page_size: int) -> Page:
    """A fresh, empty page; a MAP has a bitmap of zeros."""
    page = Page(page_no, kind)
    if kind is _MAP:
        page.data = bytearray(page_size - PAGE_HEADER_SIZE)
        page.used = page_size
    return page


def leaf_entry_size(key: bytes, val: bytes) -> int:
    """What an entry adds to a leaf's `used`."""
    return _LEAF_ENTRY + len(key) + len(val)


def inner_entry_size(key: bytes) -> int:
    """What an entry (a key and its child) adds to an inner page's `used`."""
    return _INNER_ENTRY + len(key)


def used_size(page: Page) -> int:
    """Compute `used` from scratch."""
    if page.kind is _LEAF:
        return PAGE_HEADER_SIZE + _LEAF_ENTRY * len(page.keys) + sum(map(len, page.keys)) + sum(map(len, page.vals))
    if page.kind is _INNER:
        return PAGE_HEADER_SIZE + _INNER_ENTRY * len(page.keys) + sum(map(len, page.keys))
    return PAGE_HEADER_SIZE + len(page.data)


def decoded_size(page: Page) -> int:
    """Estimate, never far below the truth, the bytes of memory that the page takes decoded."""
    if type(page.keys) is Slices:
        keys, vals = page.keys, page.vals
        return _FROZEN_BASE_BYTES + len(keys.image) + _FROZEN_ENTRY_BYTES * keys.count + keys.extra_bytes + vals.extra_bytes
    if page.kind is _LEAF:
        return _BASE_BYTES + page.used + _LEAF_ENTRY_BYTES * len(page.keys)
    return _BASE_BYTES + page.used + _INNER_ENTRY_BYTES * len(page.keys)


def copy_page(page: Page) -> Page:
    """A copy that shares no list with the original and has no pool state (pins, rec_lsn)."""
    copy = Page(page.page_no, page.kind, page.level, page.tree)
    copy.page_lsn, copy.image_lsn, copy.max_txn = page.page_lsn, page.image_lsn, page.max_txn
    copy.keys, copy.vals, copy.children = page.keys.copy(), page.vals.copy(), page.children.copy()
    copy.data = bytearray(page.data) if isinstance(page.data, bytearray) else page.data
    copy.used = page.used
    return copy


def encode_page(page: Page, page_size: int) -> bytes:
    """Encode into exactly `page_size` bytes, checksum set.

    Raises: InvariantViolated if the page does not fit or its `used` is not what it takes (G3).
    """
    if page.used > page_size:
        raise InvariantViolated(f"page {page.page_no} takes {page.used} bytes, more than {page_size}")
    kind = page.kind
    parts: Sequence[bytes | bytearray]
    if type(page.keys) is Slices:
        return _encode_frozen(page, page_size)
    if kind is _LEAF:
        count, parts = _leaf_parts(page)
    elif kind is _INNER:
        count, parts = _inner_parts(page)
    else:
        count, parts = len(page.data), [page.data]
    body = b"".join([bytes(PAGE_HEADER_SIZE), *parts, bytes(page_size - page.used)])
    if len(body) != page_size:
        raise InvariantViolated(f"page {page.page_no} says it takes {page.used} bytes, but takes {used_size(page)}")
    return _sealed(page, count, bytearray(body))


def _encode_frozen(page: Page, page_size: int) -> bytes:
    vals: Slices = page.vals
    if len(vals.image) != page_size or vals.end != page.used:
        raise InvariantViolated(f"frozen page {page.page_no} says it takes {page.used} bytes, but takes {vals.end}")
    body = bytearray(vals.image)
    vals.write_patches(body)
    return _sealed(page, vals.count, body)


def _sealed(page: Page, count: int, body: bytearray) -> bytes:
    """Fill in the header and the checksum."""
    PAGE_HEADER.pack_into(
        body, 0, 0, page.page_lsn, page.image_lsn, page.max_txn, page.page_no, page.tree, PAGE_VERSION, page.kind, page.level,
        count, page.used, _RESERVED,
    )  # fmt: skip
    _CHECKSUM.pack_into(body, 0, xxh3_64_intdigest(memoryview(body)[8:]))
    return bytes(body)


def _leaf_parts(page: Page) -> tuple[int, list[bytes | bytearray]]:
    keys, vals = page.keys, page.vals
    if len(keys) != len(vals):
        raise InvariantViolated(f"leaf {page.page_no} has {len(keys)} keys and {len(vals)} values")
    return len(keys), [_pack("H", map(len, keys)), _pack("H", map(len, vals)), *keys, *vals]


def _inner_parts(page: Page) -> tuple[int, list[bytes | bytearray]]:
    keys, children = page.keys, page.children
    if len(keys) != len(children) or (keys and keys[0]):
        raise InvariantViolated(f"inner page {page.page_no}: {len(keys)} keys, {len(children)} children; or keys[0] not empty")
    return len(keys), [_pack("H", map(len, keys)), _pack("I", children), *keys]


def _pack(code: str, numbers: object) -> bytes:
    packed = array(code, numbers)  # type: ignore[call-overload]
    if _BIG_ENDIAN:
        packed.byteswap()
    return bytes(packed)


def _unpack(code: str, raw: bytes) -> array[int]:
    numbers = array(code, raw)
    if _BIG_ENDIAN:
        numbers.byteswap()
    return numbers


def decode_page(image: bytes, page_no: int, page_size: int) -> Page:
    """Verify and decode a page as it was read for `page_no`.

    Raises: PageCorruption, naming the page and what is wrong with it.
    """
    image = bytes(image)  # a no-op for bytes; slices below must be bytes
    if len(image) != page_size:
        raise PageCorruption(page_no, Damage.SHORT, f"{len(image)} of {page_size} bytes")
    checksum, page_lsn, image_lsn, max_txn, own_no, tree, version, code, level, count, used, _ = PAGE_HEADER.unpack_from(image)
    if checksum != xxh3_64_intdigest(memoryview(image)[8:]):
        damage = Damage.CHECKSUM if image.strip(b"\0") else Damage.ZERO
        raise PageCorruption(page_no, damage)
    if own_no != page_no:
        raise PageCorruption(page_no, Damage.MISDIRECTED, f"it is page {own_no}")
    kind = _KINDS.get(code)
    if version != PAGE_VERSION or kind is None or not PAGE_HEADER_SIZE <= used <= page_size:
        raise PageCorruption(page_no, Damage.FORMAT, f"version {version}, kind {code}, {used} bytes used")
    page = Page(page_no, kind, level, tree)
    page.page_lsn, page.image_lsn, page.max_txn = page_lsn, image_lsn, max_txn
    if kind is _LEAF:
        _decode_leaf(page, image, count, used)
    elif kind is _INNER:
        _decode_inner(page, image, count, used)
    else:
        if PAGE_HEADER_SIZE + count != used or (kind is _MAP and used != page_size):
            raise PageCorruption(page_no, Damage.FORMAT, f"{count} bytes of data, {used} used")
        page.data = bytearray(image[PAGE_HEADER_SIZE:]) if kind is _MAP else image[PAGE_HEADER_SIZE:used]
    page.used = used
    return page


def _decode_leaf(page: Page, image: bytes, count: int, used: int) -> None:
    start = PAGE_HEADER_SIZE + 4 * count
    if start > used:
        raise PageCorruption(page.page_no, Damage.FORMAT, f"{count} entries, {used} bytes used")
    sizes = _unpack("H", image[PAGE_HEADER_SIZE:start])
    page.keys = keys = Slices(image, sizes, 0, count, start)
    page.vals = vals = Slices(image, sizes, count, count, keys.end)
    if vals.end != used:
        raise PageCorruption(page.page_no, Damage.FORMAT, f"entries end at {vals.end}, {used} bytes used")


def _decode_inner(page: Page, image: bytes, count: int, used: int) -> None:
    middle = PAGE_HEADER_SIZE + 2 * count
    start = middle + 4 * count
    if start > used:
        raise PageCorruption(page.page_no, Damage.FORMAT, f"{count} entries, {used} bytes used")
    lengths = _unpack("H", image[PAGE_HEADER_SIZE:middle])
    ends = list(accumulate(lengths, initial=start))
    if ends[-1] != used or (count and lengths[0]):
        raise PageCorruption(page.page_no, Damage.FORMAT, f"entries end at {ends[-1]}, {used} bytes used")
    page.children = _unpack("I", image[middle:start]).tolist()
    page.keys = list(map(image.__getitem__, map(slice, ends, ends[1:])))
