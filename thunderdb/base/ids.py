"""Identifiers of the storage engine, as distinct types so that a checker catches a swap.

I1. An LSN is a byte position in the log, dense over all segments of a timeline; 0 means "none".
I2. A page number addresses a page over all page files; page 0 is a space map page, so 0 also means "no page" in a child list.
I3. Transaction id 0 belongs to the system: changes that are never rolled back.
"""

from __future__ import annotations

import re
from typing import NewType

LSN = NewType("LSN", int)
PageNo = NewType("PageNo", int)
TxnId = NewType("TxnId", int)
Timeline = NewType("Timeline", int)

NO_LSN = LSN(0)
FIRST_LSN = LSN(0x1000)
SYSTEM_TXN = TxnId(0)
FIRST_TXN = TxnId(1)
FIRST_TIMELINE = Timeline(1)

_LSN_TEXT = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


def format_lsn(lsn: int) -> str:
    """Print an LSN the way PostgreSQL does: high and low 32 bits in hex, `0/1A3B4C5D`."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def parse_lsn(text: str) -> LSN:
    """Read `0/1A3B4C5D`.

    Raises: ValueError, naming the text, if it is not an LSN.
    """
    match = _LSN_TEXT.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"not an LSN: {text!r} (expected hex like 0/1A3B4C5D)")
    return LSN((int(match[1], 16) << 32) | int(match[2], 16))
