"""Rebuild one page from the log: its latest full-page image, found backwards along the page's chain, and what came after.

Each change names its page's previous page_lsn, so a page's changes form a chain through the log. W3 and W7 keep the part of it
that a dirty page needs; for an older page the log may be gone, and then its damage is named, never hidden.

Source: ARIES (1992) section 9 (page-oriented recovery); Graefe and Kuno, single-page failures (2012).
"""

from __future__ import annotations

from thunderdb.access.apply import PageOp, apply, page_of_image
from thunderdb.base.errors import Corruption, ThunderError
from thunderdb.base.ids import format_lsn
from thunderdb.storage.page import Page
from thunderdb.wal.record import PageChange, Record
from thunderdb.wal.writer import LogWriter


async def rebuild_page(log: LogWriter, page_no: int, newest_lsn: int) -> Page:
    """The page as it was after the change at `newest_lsn`. Raises: Corruption if the log does not reach back to an image."""
    later: list[tuple[Record, PageChange]] = []
    lsn = newest_lsn
    while True:
        if not lsn:
            raise Corruption(f"page {page_no}: damaged, and the log has no image of it", "Restore it from a backup.")
        try:
            record = await log.read_record(lsn)
        except ThunderError as error:
            raise Corruption(
                f"page {page_no}: damaged, and the log at {format_lsn(lsn)} that would rebuild it cannot be read: {error}",
                "Restore it from a backup.",
            ) from error
        change = next((change for change in record.changes if change.page_no == page_no), None)
        if change is None:
            raise Corruption(f"page {page_no}: the log record at {format_lsn(lsn)} does not change it, but its chain says so")
        if change.op == PageOp.IMAGE:
            page = page_of_image(page_no, change.payload, lsn)
            break
        later.append((record, change))
        lsn = change.prev_page_lsn
    for record, change in reversed(later):
        apply(page, change.op, change.payload, record.lsn, record.txn)
        page.page_lsn = record.lsn
    return page
