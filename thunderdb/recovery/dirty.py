"""The pages that restart has to bring up, in columns: three numbers a page, whatever the length of the log.

`rec_lsns[page_no]` is 0 where nothing is to be done. The changes themselves stay in the log: a page's are found from
`newest_lsns` backwards, since each names the one before it (recovery/chain).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import compress, count

from thunderdb.storage.writeback import DirtyPage


class DirtyColumns:
    """A dirty page table by page number. `image_lsns` has the newest image, 0 if none is known."""

    __slots__ = ("rec_lsns", "newest_lsns", "image_lsns")

    def __init__(self) -> None:
        self.rec_lsns: array[int] = array("Q")
        self.newest_lsns: array[int] = array("Q")
        self.image_lsns: array[int] = array("Q")

    def reach(self, page_no: int) -> int:
        """Make room for the page, and some more; return for how many pages there is room."""
        more = page_no + 1 + page_no // 8 - len(self.rec_lsns)
        if more > 0:
            zeros = bytes(8 * more)
            for column in (self.rec_lsns, self.newest_lsns, self.image_lsns):
                column.frombytes(zeros)
        return len(self.rec_lsns)

    def merge(self, page_no: int, rec_lsn: int, newest_lsn: int, image_lsn: int) -> None:
        """Enter a page; where it is entered already, the older rec_lsn and the newer others win."""
        self.reach(page_no)
        known_lsn = self.rec_lsns[page_no]
        self.rec_lsns[page_no] = min(rec_lsn, known_lsn) if known_lsn else rec_lsn
        self.newest_lsns[page_no] = max(newest_lsn, self.newest_lsns[page_no])
        self.image_lsns[page_no] = max(image_lsn, self.image_lsns[page_no])

    def __contains__(self, page_no: int) -> bool:
        return page_no < len(self.rec_lsns) and self.rec_lsns[page_no] > 0

    def __len__(self) -> int:
        return len(self.rec_lsns) - self.rec_lsns.count(0)

    def __iter__(self) -> Iterator[int]:
        """The page numbers, ascending. What is removed meanwhile may or may not come."""
        return compress(count(), self.rec_lsns)

    def entry(self, page_no: int) -> DirtyPage:
        return DirtyPage(page_no, self.rec_lsns[page_no], self.newest_lsns[page_no], self.image_lsns[page_no])

    def table(self) -> list[DirtyPage]:
        """All entries, by page number."""
        rows = zip(count(), self.rec_lsns, self.newest_lsns, self.image_lsns, strict=False)
        return list(map(DirtyPage._make, compress(rows, self.rec_lsns)))

    @property
    def redo_lsn(self) -> int:
        """The oldest rec_lsn; 0 if there is no page."""
        return min(filter(None, self.rec_lsns), default=0)

    def end_page(self) -> int:
        """Behind the last page."""
        rec_lsns = self.rec_lsns
        return next((page_no + 1 for page_no in range(len(rec_lsns) - 1, -1, -1) if rec_lsns[page_no]), 0)
