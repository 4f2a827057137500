"""What a verification found, of a backup (verify.py) or of a copy made by hand (handmade.py)."""

from __future__ import annotations

from dataclasses import dataclass, field

from thunderdb.backup.manifest import Manifest
from thunderdb.base.ids import format_lsn

MAX_PROBLEMS = 1000


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. `page` and `lsn` where it has one."""

    file: str
    text: str
    page: int | None = None
    lsn: int | None = None

    def __str__(self) -> str:
        where = f"{self.file}: " if self.file else ""
        page = f"page {self.page}: " if self.page is not None else ""
        lsn = f" (at {format_lsn(self.lsn)})" if self.lsn is not None else ""
        return f"{where}{page}{self.text}{lsn}"


@dataclass(slots=True)
class VerifyReport:
    """What was found. `end_lsn`: the log reaches there. `links`: places of the chain, base first, the backup itself last.

    `log_bytes` of log were read and checked in `log_ns`.
    """

    place: str
    problems: list[Problem] = field(default_factory=list)
    manifest: Manifest | None = None
    backup_time: str = ""
    end_lsn: int = 0
    data_pages: int = 0
    wal_segments: int = 0
    bytes_read: int = 0
    log_bytes: int = 0
    log_ns: int = 0
    notes: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.problems

    def problem(self, file: str, text: str, page: int | None = None, lsn: int | None = None) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(file, text, page, lsn))
