"""What backup and archive hold, looked at from outside: which objects there were, and which of them are still as they were.

The log tells when it closes a segment, the archiver when it has shipped one; the rest is read from the stores' objects and the
directories' files, never from what a restore says.

E1. An object of a store is intact if it has its first bytes, those between a segment's header and its records apart, which mean
    nothing; a file of a directory, if nobody damaged it, and it has the bytes with which it was said to be archived, or its
    backup to be complete.
E2. What retention has removed is gone by right: it is not missed here, but nothing is promised of it either.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sim.incident.site import Site
from sim.oracle.truth import Line
from thunderdb.archive.names import ObjectName, parse_object_name
from thunderdb.backup.manifest import MANIFEST_NAME
from thunderdb.wal.segment import SEGMENT_HEADER, SEGMENT_HEADER_SIZE, SEGMENT_MAGIC, segment_name


@dataclass(frozen=True, slots=True)
class Closed:
    """A closed segment of the log, [start_lsn, end_lsn). `start_lsn` is -1 if its predecessor was never seen."""

    timeline: int
    number: int
    start_lsn: int
    end_lsn: int

    @property
    def name(self) -> str:
        return segment_name(self.timeline, self.number)


class Evidence:
    """Looks on during one run."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.ends: dict[tuple[int, int], int] = {}
        """(timeline, number) → where that segment ended."""
        self.pushed: set[str] = set()
        self.first: dict[str, bytes] = {}
        """Path → digest, for files of directories outside of the database."""
        self.refused = ""
        """The archiver has stopped for good, and says why."""

    def happened(self, name: str, fields: dict[str, Any]) -> None:
        if name == "wal.segment_closed" and self.site.db_ is not None:
            self.ends[self.site.db.log.timeline, fields["number"]] = fields["lsn"]
        elif name == "archive.pushed":
            self.pushed.add(fields["segment"])
            again = f"{self.archive}/{fields['segment']}"
            self.site.spoiled = [
                one for one in self.site.spoiled if not one.startswith(again) or ".partial" in one or self._hurt_meanwhile(one)
            ]
            self.keep(name for name in self.names(self.archive) if name.startswith(again) and ".partial" not in name)
        elif name == "sim.backup_complete":
            self.keep(self.names(fields["place"]))
        elif name == "archive.refused":
            self.refused = fields["message"]

    # -- Objects

    @property
    def archive(self) -> str:
        return self.site.archive

    def names(self, place: str) -> Iterator[str]:
        """Everything below a place that there is now."""
        if "://" in place:
            objects = self.site.world.store.objects
            yield from (url for url in sorted(objects) if url.startswith(place + "/"))
        else:
            yield from (path for path in sorted(self.site.node.image.names) if path.startswith(place + "/"))

    def intact(self, name: str) -> bool:
        """E1."""
        if "://" in name:
            found, first = self.site.world.store.objects.get(name), self.site.world.store.first.get(name)
            return found is not None and first is not None and self._meaning(name, found[0]) == self._meaning(name, first)
        if name not in self.site.node.image.names or name in self.site.spoiled:
            return False
        return self.first.get(name) in (None, self._digest(name))

    def keep(self, paths: Iterable[str]) -> None:
        """These have just been said to be complete: what files of directories are now is what they have to be (E1)."""
        image = self.site.node.image
        self.first.update({path: self._digest(path) for path in paths if path in image.names and path not in self.first})

    def _digest(self, path: str) -> bytes:
        image = self.site.node.image
        return hashlib.blake2b(self._meaning(path, image.inodes[image.names[path]].read(0, 1 << 62)), digest_size=16).digest()

    def _meaning(self, name: str, data: bytes) -> bytes:
        """What of an object anything depends on: a segment stored as it is has zeros between its header and its first record.

        In a backup these count, too: its manifest has a digest of the whole file.
        """
        backup, wal, segment = name.rpartition("/wal/")
        manifest = f"{backup}/{MANIFEST_NAME}"
        if wal and (manifest in self.site.world.store.objects or manifest in self.site.node.image.names):
            return data
        if parse_object_name(segment.rpartition("/")[2]) is None or not data.startswith(SEGMENT_MAGIC):
            return data
        return data[: SEGMENT_HEADER.size] + data[SEGMENT_HEADER_SIZE:]

    def _hurt_meanwhile(self, name: str) -> bool:
        """Whether an object was damaged or lost after it was stored, and before the archiver was told so."""
        return "://" in name and not self.intact(name)

    def spoiled_in(self, place: str) -> list[str]:
        """What was damaged below a place, by a hand that had no right to."""
        return [name for name in self.site.spoiled if name.startswith(place + "/")]

    # -- Log

    def closed(self, line: Line) -> list[Closed]:
        """The closed segments on the path of a line, oldest first."""
        found: list[Closed] = []
        chain: list[Line] = []
        at: Line | None = line
        while at is not None:
            chain.append(at)
            at = at.parent
        for one, child in zip(reversed(chain), [*reversed(chain[:-1]), None], strict=True):
            for (timeline, number), end_lsn in sorted(self.ends.items()):
                if timeline != one.number:
                    continue
                start_lsn = self.ends.get((timeline, number - 1), -1)
                if child is None or start_lsn < child.switch_lsn:
                    found.append(Closed(timeline, number, start_lsn, end_lsn))
        return found

    def stored(self, closed: Closed) -> str:
        """Under which name a closed segment is in the archive now; empty if it is not."""
        for name in self.names(self.archive):
            parsed = parse_object_name(name[len(self.archive) + 1 :])
            if parsed is not None and not parsed.partial and self._is(parsed, closed):
                return name
        return ""

    def _is(self, parsed: ObjectName, closed: Closed) -> bool:
        return (parsed.timeline, parsed.number) == (closed.timeline, closed.number)

    def has_partial(self, closed: Closed) -> bool:
        for name in self.names(self.archive):
            parsed = parse_object_name(name[len(self.archive) + 1 :])
            if parsed is not None and parsed.partial and self._is(parsed, closed):
                return True
        return False

    def elsewhere(self, closed: Closed, line: Line) -> bool:
        """Whether the archive has that part of the log under another timeline's number, too: a restore brings it along."""
        others = [number for number in line.ancestors() if number != closed.timeline]
        return any(self.stored(Closed(number, closed.number, -1, closed.end_lsn)) for number in others)

    def missing(self, absent: bool = True) -> list[str]:
        """What was said to be shipped, and is not there as it was first put, though nobody has damaged or removed it.

        Without `absent` only what is there is looked at.
        """
        found = []
        for (timeline, number), end_lsn in sorted(self.ends.items()):
            closed = Closed(timeline, number, -1, end_lsn)
            hurt = any(one.startswith(f"{self.archive}/{closed.name}") for one in self.site.spoiled)
            if closed.name not in self.pushed or hurt or self.gone_by_right(closed):
                continue
            name = self.stored(closed)
            if not name and absent:
                found.append(f"{closed.name} was said to be archived, and is not there")
            elif name and not self.intact(name):
                found.append(f"{name} was archived, and has been overwritten with something else")
        return found

    def gone_by_right(self, closed: Closed) -> bool:
        """E2."""
        return any(name.startswith(closed.name) for name in self.site.retired)
