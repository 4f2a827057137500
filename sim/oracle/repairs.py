"""Which repairs a fault explains: an engine that makes good what nothing broke hides a defect of its own.

    a page was found old, or damaged ─▶ has a fault hurt just this place of the disk? ─▶ if not: unexplained

The disk knows the sectors that a fault took away, until something lands on them whole (image.G7). A fault excuses these and no
others, and no longer than that.

R1. A failed fsync excuses no page that is *older* than what the log says (`recovery.lost_write`): the node has been told, so it
    may not have forgotten that these pages are not on disk (W4, W6). It does excuse one that is torn.
R2. Nor does a write that a power cut has torn: it excuses a page that is damaged, and no other. Such a page is read where its
    image is older than its rec_lsn: it had been written whole since, and what was written next was torn.
R3. A read that the disk refused needs no place that was hurt: in here only an injected fault refuses one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sim.world.image import TORN, DiskImage
from thunderdb.storage.files import FILE_LIMIT, page_file_name
from thunderdb.storage.page import Damage

OLDER, CORRUPT = "recovery.lost_write", "pool.page_corrupt"
TORN_ONLY = ("sync_error", TORN)
"""What may leave a page damaged, but not old."""


class Repairs:
    """Looks on during one run, at one machine at a time."""

    def __init__(self, image: Callable[[], DiskImage], data_dir: str, page_size: int) -> None:
        self._image = image
        self._data_dir = data_dir
        self._page_size = page_size
        self.unexplained: list[str] = []

    def happened(self, name: str, fields: dict[str, Any]) -> None:
        """An event of the engine."""
        if name != OLDER and name != CORRUPT:
            return
        page_no: int = fields["page_no"]
        fault = self._fault(page_no)
        if fault and (fault not in TORN_ONLY or name == CORRUPT):
            return
        older = name == OLDER
        if not older and fields["error"].startswith(f"page {page_no}: {Damage.UNREADABLE}"):
            return  # R3
        what = f"is at {fields['page_lsn']}, not {fields['expected_lsn']}" if older else f"is damaged ({fields['error']})"
        self.unexplained.append(f"page {page_no} {what}, though no fault has hurt it")

    def _fault(self, page_no: int) -> str:
        number, at = divmod(page_no, FILE_LIMIT // self._page_size)
        path = f"{self._data_dir}/{page_file_name(number)}"
        return self._image().hurt_at(path, at * self._page_size, self._page_size)
