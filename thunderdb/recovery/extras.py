"""What records carry beside page changes: the times of a commit, where an undo goes on, and a checkpoint's tables.

COMMIT_EXTRA, little-endian:
offset  size  name
0       8     order_us
8       8     wall_us

CLOCK_STEP_EXTRA, little-endian:
offset  size  name
0       8     from_us
8       8     to_us

UNDO_NEXT, little-endian:
offset  size  name
0       8     undo_next_lsn

NOTE_HEADER, little-endian:
offset  size  name
0       8     txn
8       1     verb

followed by the table's name in UTF-8: what a transaction did to it, so that a restore can find the moment before.

A checkpoint begins with

CHECKPOINT_BEGIN_EXTRA, little-endian:
offset  size  name
0       8     next_txn
8       8     order_us
16      8     wall_ns

then come its tables, each record of them with

TABLES_HEADER, little-endian:
offset  size  name
0       8     begin_lsn
8       4     transaction_count
12      4     page_count

followed by transaction_count of

TRANSACTION_ENTRY, little-endian:
offset  size  name
0       8     id
8       8     first_lsn
16      8     last_lsn

and page_count of

PAGE_ENTRY, little-endian:
offset  size  name
0       4     page_no
4       8     rec_lsn
12      8     page_lsn
20      8     image_lsn

The tables are cut into records of at most CHUNK entries.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum

from thunderdb.storage.writeback import DirtyPage

COMMIT_EXTRA = struct.Struct("<QQ")
CLOCK_STEP_EXTRA = struct.Struct("<QQ")
UNDO_NEXT = struct.Struct("<Q")
CHECKPOINT_BEGIN_EXTRA = struct.Struct("<QQQ")
TABLES_HEADER = struct.Struct("<QII")
TRANSACTION_ENTRY = struct.Struct("<QQQ")
PAGE_ENTRY = struct.Struct("<IQQQ")
NOTE_HEADER = struct.Struct("<QB")
CHUNK = 1000


class NoteVerb(IntEnum):
    """Numbers are on disk and never reused."""

    DROP = 1
    TRUNCATE = 2


TransactionRow = tuple[int, int, int]
PageRow = tuple[int, int, int, int]


def encode_note(txn: int, verb: NoteVerb, table: str) -> bytes:
    return NOTE_HEADER.pack(txn, verb) + table.encode()


def decode_note(extra: bytes) -> tuple[int, NoteVerb, str]:
    """(transaction, what it did, table) of a NOTE record."""
    txn, verb = NOTE_HEADER.unpack_from(extra)
    return txn, NoteVerb(verb), extra[NOTE_HEADER.size :].decode()


def encode_tables(begin_lsn: int, transactions: list[TransactionRow], pages: list[DirtyPage]) -> Iterator[bytes]:
    """Yield the `extra` of each CHECKPOINT_TABLES record."""
    for start in range(0, max(len(transactions), len(pages)), CHUNK):
        some_transactions, some_pages = transactions[start : start + CHUNK], pages[start : start + CHUNK]
        parts = [TABLES_HEADER.pack(begin_lsn, len(some_transactions), len(some_pages))]
        parts += [TRANSACTION_ENTRY.pack(*row) for row in some_transactions]
        parts += [PAGE_ENTRY.pack(page.page_no, page.rec_lsn, page.page_lsn, page.image_lsn) for page in some_pages]
        yield b"".join(parts)


def decode_tables(extra: bytes) -> tuple[int, list[TransactionRow], list[PageRow]]:
    """Return (begin_lsn, transactions, pages) of one CHECKPOINT_TABLES record."""
    begin_lsn, transaction_count, page_count = TABLES_HEADER.unpack_from(extra)
    at = TABLES_HEADER.size
    split = at + transaction_count * TRANSACTION_ENTRY.size
    transactions: list[TransactionRow] = list(TRANSACTION_ENTRY.iter_unpack(extra[at:split]))
    pages: list[PageRow] = list(PAGE_ENTRY.iter_unpack(extra[split : split + page_count * PAGE_ENTRY.size]))
    return begin_lsn, transactions, pages
