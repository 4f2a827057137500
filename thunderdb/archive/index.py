"""What an archive holds: segments, timelines, notes; and how a reader gets at a segment.

X1. An index is what a listing showed at one moment; a segment that is closed in it stands before its partial one.
X2. A partial segment may be torn at its end (it is appended in place): its reader takes the records that are whole.
X3. A gap is a number that is missing between two that are there; it is shown, never passed over.
X4. The database may be at work meanwhile: what was listed may be gone by now (a partial segment that became a closed one), and
    what is there may not have been. A segment is missing only if a listing of now does not have it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Protocol

from thunderdb.archive.codec import Codec
from thunderdb.archive.history import History, parse_claim
from thunderdb.archive.names import complete_name, parse_complete_name, parse_object_name, plain_name
from thunderdb.archive.requests import Requests
from thunderdb.base.document import sealed, unsealed
from thunderdb.base.errors import Corruption
from thunderdb.base.ids import format_lsn, parse_lsn
from thunderdb.runtime.ports import ObjectStore, Offload
from thunderdb.wal.segment import SEGMENT_HEADER_SIZE, segment_name
from thunderdb.wal.timeline import history_name, parse_history_name

COMPLETE_VERSION = 2
_LOOKS = 6


@dataclass(frozen=True, slots=True)
class Entry:
    """One segment in the archive. `modified_ns` is wall time, 0 if the store does not say."""

    key: str
    size_bytes: int
    partial: bool
    modified_ns: int = 0


@dataclass(frozen=True, slots=True)
class Complete:
    """All that was committed up to the order time `time_us` lies below `lsn`, and the archive has the log up to there."""

    lsn: int
    time_us: int
    segment: int


@dataclass(frozen=True, slots=True)
class Gap:
    """Segments `first` to `last` of a timeline are missing."""

    timeline: int
    first: int
    last: int

    def __str__(self) -> str:
        first, last = segment_name(self.timeline, self.first), segment_name(self.timeline, self.last)
        return first if first == last else f"{first}..{last}"


@dataclass(slots=True)
class ArchiveIndex:
    """By (timeline, number) and by timeline. `partials` has every partial segment, those that a closed one replaced too."""

    segments: dict[tuple[int, int], Entry] = field(default_factory=dict)
    partials: dict[tuple[int, int], Entry] = field(default_factory=dict)
    histories: dict[int, History] = field(default_factory=dict)
    complete: dict[int, Complete] = field(default_factory=dict)

    def numbers(self, timeline: int, partial: bool = True) -> list[int]:
        """The segments of a timeline, sorted; without `partial`, closed ones only."""
        return sorted(
            number for (own, number), entry in self.segments.items() if own == timeline and (partial or not entry.partial)
        )  # fmt: skip

    def timelines(self) -> list[int]:
        return sorted({*self.histories, *(timeline for timeline, _ in self.segments)})

    def gaps(self) -> list[Gap]:
        """X3, over all timelines."""
        found: list[Gap] = []
        for timeline in self.timelines():
            found += gaps_in(timeline, self.numbers(timeline))
        return found

    @property
    def size_bytes(self) -> int:
        return sum(entry.size_bytes for entry in self.segments.values())


def gaps_in(timeline: int, numbers: Iterable[int]) -> list[Gap]:
    """The gaps in a sorted list of segment numbers."""
    found: list[Gap] = []
    before: int | None = None
    for number in numbers:
        if before is not None and number > before + 1:
            found.append(Gap(timeline, before + 1, number - 1))
        before = number
    return found


async def read_index(store: ObjectStore) -> ArchiveIndex:
    """List a store. Raises: StorageError, Corruption for a damaged history file (named)."""
    index = await _list(store)
    # X4: a note is read after the listing, and may know of a segment that has come in between.
    behind = any((timeline, complete.segment) not in index.segments for timeline, complete in index.complete.items())
    return replace(await _list(store), complete=index.complete) if behind else index


async def _list(store: ObjectStore) -> ArchiveIndex:
    index = ArchiveIndex()
    for stored in await store.list():
        name = parse_object_name(stored.key)
        if name is not None:
            _add(index, (name.timeline, name.number), Entry(stored.key, stored.size_bytes, name.partial, stored.modified_ns))
            continue
        timeline = parse_history_name(stored.key)
        if timeline is not None:
            index.histories[timeline] = parse_claim((await store.get(stored.key)).decode(errors="replace"), timeline)
        timeline = parse_complete_name(stored.key)
        if timeline is not None:
            try:
                index.complete[timeline] = decode_complete(await store.get(stored.key), stored.key)
            except Corruption:
                pass  # the segments say what is there; the next note replaces this one
    return index


def _add(index: ArchiveIndex, key: tuple[int, int], entry: Entry) -> None:
    if entry.partial:
        index.partials[key] = entry
    there = index.segments.get(key)
    if there is None or (there.partial and not entry.partial):
        index.segments[key] = entry


def encode_complete(timeline: int, complete: Complete) -> bytes:
    content = {
        "version": COMPLETE_VERSION, "timeline": timeline, "lsn": format_lsn(complete.lsn), "time_us": complete.time_us,
        "segment": segment_name(timeline, complete.segment),
    }  # fmt: skip
    return sealed(content)


def decode_complete(data: bytes, key: str) -> Complete:
    """Raises: Corruption."""
    try:
        found = unsealed(data, 2)
        return Complete(parse_lsn(found["lsn"]), int(found["time_us"]), int(found["segment"][8:], 16))
    except (ValueError, KeyError, TypeError):
        raise Corruption(f"{key} in the archive is damaged", "Remove it; the archiver writes it anew.") from None


async def read_complete(store: ObjectStore, timeline: int) -> Complete | None:
    try:
        return decode_complete(await store.get(complete_name(timeline)), complete_name(timeline))
    except FileNotFoundError:
        return None


class LogSource(Protocol):
    """Where a restore gets its log from."""

    place: str

    async def segment(self, timeline: int, number: int) -> bytes | None:
        """A segment's file, decoded, a closed one before a partial one (X2); None if it is not there."""
        ...

    async def history(self, timeline: int) -> str | None:
        """The text of a timeline's history file."""
        ...

    async def timelines(self) -> list[int]: ...


class StoreSource:
    """An archive in a store (or any directory with log segments in it: a backup's wal/). Satisfies `LogSource`."""

    def __init__(self, store: ObjectStore, codec: Codec, offload: Offload, requests: Requests | None = None) -> None:
        self.store = store
        self.place = store.place
        self.requests = requests
        self._codec = codec
        self._offload = offload
        self._index: ArchiveIndex | None = None

    async def index(self, fresh: bool = False) -> ArchiveIndex:
        """What the archive holds, as listed at first use, or now."""
        if self._index is None or fresh:
            self._index = await read_index(self.store)
        return self._index

    async def segment(self, timeline: int, number: int) -> bytes | None:
        for look in range(_LOOKS):  # X4
            index = await self.index(fresh=look > 0)
            entry = index.segments.get((timeline, number))
            if entry is None and look > 0:
                return None
            if entry is None:
                continue
            try:
                stored = await self._get(entry)
            except FileNotFoundError:
                continue
            raw = await self._offload.run(self._codec.decode, stored, entry.key)
            if entry.partial and not raw[:SEGMENT_HEADER_SIZE].strip(b"\0"):
                del index.segments[timeline, number]  # X2: its name was durable before anything in it: there is no log yet
                return None
            return raw
        return None

    async def _get(self, entry: Entry) -> bytes:
        """A partial segment may be replaced meanwhile: by a longer one that begins with it, if it is stored as it is."""
        if self.requests is None or (entry.partial and plain_name(entry.key) != entry.key):
            return await self.store.get(entry.key)
        return await self.requests.get(entry.key, entry.size_bytes)

    @property
    def room_bytes(self) -> int:
        """How much may be fetched ahead of who reads it; 0 for a directory, which is read front to back."""
        return 0 if self.requests is None or self.requests.limit == 1 else self.requests.room_bytes

    def closed_size(self, timeline: int, number: int) -> int | None:
        """How many bytes a closed segment takes, as listed last; None if none was."""
        entry = None if self._index is None else self._index.segments.get((timeline, number))
        return None if entry is None or entry.partial else entry.size_bytes

    async def history(self, timeline: int) -> str | None:
        try:
            return (await self.store.get(history_name(timeline))).decode(errors="replace")
        except FileNotFoundError:
            return None

    async def timelines(self) -> list[int]:
        return (await self.index()).timelines()
