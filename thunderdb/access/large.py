"""Large values: a payload too long for a leaf, cut into chunk pages that hang in a tree of their own.

LARGE_REF, little-endian:
offset  size  name
0       4     root
4       8     size_bytes
12      8     checksum

V1. A large value is written once and never changed; an update writes a new one and drops the old one.
V2. Its tree is made, adopted and dropped like any tree (access/garbage.py), so rollback and restart leak nothing and a reader
    with an old snapshot still finds it.
"""

from __future__ import annotations

import struct

import xxhash

from thunderdb.access.bulk import BATCH_PAGES, LeafContent, append_all
from thunderdb.access.context import Access, Chain
from thunderdb.access.garbage import adopt_tree, create_tree, drop_tree
from thunderdb.base.errors import Corruption, LimitExceeded
from thunderdb.storage.page import PAGE_HEADER_SIZE, PageKind

LARGE_REF = struct.Struct("<IQQ")
MAX_VALUE_BYTES = 256 << 20


async def store(access: Access, chain: Chain, data: bytes) -> bytes:
    """Write `data` as a large value of the transaction; return the reference to keep in the row.

    Raises: LimitExceeded (over MAX_VALUE_BYTES), DiskFull.
    """
    if len(data) > MAX_VALUE_BYTES:
        raise LimitExceeded(f"row of {len(data)} bytes exceeds the limit of {MAX_VALUE_BYTES} bytes")
    root = await access.run(create_tree, access, chain)
    await access.run(adopt_tree, access, chain, root)
    step = access.page_size - PAGE_HEADER_SIZE
    batch = step * BATCH_PAGES
    for start in range(0, len(data), batch):
        leaves = [
            LeafContent((offset // step).to_bytes(4, "big"), [], [], 0, data=bytes(data[offset : offset + step]))
            for offset in range(start, min(start + batch, len(data)), step)
        ]
        await append_all(access, root, leaves)
    return LARGE_REF.pack(root, len(data), xxhash.xxh3_64_intdigest(data))


async def load(access: Access, reference: bytes) -> bytes:
    """Read a large value whole. Raises: Corruption if it is not what was stored."""
    root, size, checksum = LARGE_REF.unpack(reference)
    parts: list[bytes] = []
    for page_no in await access.run(_chunks, access, root):
        parts.append(await access.run(_chunk_data, access, page_no))
    data = b"".join(parts)
    if len(data) != size or xxhash.xxh3_64_intdigest(data) != checksum:
        raise Corruption(f"large value at page {root}: its chunks do not add up to what was stored")
    return data


async def drop(access: Access, chain: Chain, reference: bytes) -> None:
    """Give up a large value from the transaction's commit on (V1)."""
    root, _size, _checksum = LARGE_REF.unpack(reference)
    await access.run(drop_tree, access, chain, root)


def _chunks(access: Access, root: int) -> list[int]:
    page = access.pool.get(root)
    if page.kind != PageKind.INNER:
        raise Corruption(f"large value at page {root}: not a tree of chunks")
    if page.level == 1:
        return list(page.children)
    return [chunk for child in page.children for chunk in _chunks(access, child)]


def _chunk_data(access: Access, page_no: int) -> bytes:
    page = access.pool.get(page_no)
    if page.kind != PageKind.CHUNK:
        raise Corruption(f"page {page_no}: expected a chunk of a large value")
    return bytes(page.data)
