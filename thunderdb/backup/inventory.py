"""What is there for retention to decide about: backups where they go, log in the archive, and holds in both.

I1. A backup counts as whole only if its manifest is believed and each of its files is there in its size. (What is in them,
    `--verify-backup` says.)
I2. Links are looked through and listed once: `full-latest` is no second backup.
I3. Backups elsewhere (made by hand, at any destination) count, so that the log they need stays; they are never removed here.
I4. What is damaged is listed as such, never left out. What does not answer now is an error: who knows which log it needs?
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from thunderdb.archive.codec import Codec
from thunderdb.archive.directory import is_url, open_store
from thunderdb.archive.holds import read_holds
from thunderdb.archive.index import ArchiveIndex, StoreSource
from thunderdb.archive.names import parse_object_name
from thunderdb.archive.retention import UNREADABLE, ArchiveFacts, BackupFacts, Hold, Policy, SegmentFacts
from thunderdb.backup.frames import parse_stored_name
from thunderdb.backup.manifest import FULL, MANIFEST_NAME, Manifest, parse_manifest
from thunderdb.backup.place import PARTIAL
from thunderdb.base.config import Config
from thunderdb.base.errors import Corruption, Refused
from thunderdb.runtime.ports import ObjectStore, Ports
from thunderdb.wal.segment import SEGMENT_HEADER, parse_segment_name

REMOVING = ".removing-"
"""A directory of this prefix is a backup no more, and is on its way out."""
REMOVING_MARK = "removing.json"
"""The same in a store, which has no renames."""
FOREIGN = "another database's"
ELSEWHERE = "kept elsewhere"
_START_LSN = 4
"""Index of start_lsn among the fields of a segment header."""


@dataclass(slots=True)
class Inventory:
    """`objects` of the archive are keys in `archive`; those of backups are whole places."""

    destination: str
    backups: list[BackupFacts] = field(default_factory=list)
    archive: ObjectStore | None = None
    facts: ArchiveFacts = field(default_factory=ArchiveFacts)
    holds: list[Hold] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    """Names below the destination that an interrupted removal has left."""
    unfinished: list[str] = field(default_factory=list)
    """Places where a backup is being written, or was interrupted."""
    manifests: dict[str, Manifest] = field(default_factory=dict)


def policy_of(config: Config) -> Policy:
    keep_ms = {"daily": config.keep_daily, "weekly": config.keep_weekly, "monthly": config.keep_monthly}
    keep_us = {label: value * 1000 for label, value in keep_ms.items()}
    return Policy({**keep_us, "incremental": keep_us["daily"]}, config.wal_archive_retention * 1000, config.minimum_redundancy)


async def take_inventory(
    ports: Ports, config: Config, codec: Codec, *, system_id: int = 0, timeline: int = 0, known: Sequence[str] = ()
) -> Inventory:
    """Look at everything. `known`: places of backups made elsewhere; `system_id`, `timeline`: the running database's, 0: any.

    Raises: StorageError where a listing or a manifest fails: what cannot be listed must not be taken for empty (I4).
    """
    found = Inventory(config.destination)
    places: dict[str, str] = {}
    if config.destination:
        for place in await _places_below(ports, found):
            places.setdefault(place, "")
        found.holds += await read_holds(open_store(ports, config.destination))
    for place in known:
        real = place if is_url(place) else await ports.disk.resolve(place)
        if await open_store(ports, real).size(MANIFEST_NAME) is not None:
            places.setdefault(real, ELSEWHERE)
    source: StoreSource | None = None
    if config.wal_archive_dir:
        found.archive = open_store(ports, config.wal_archive_dir)
        source = StoreSource(found.archive, codec, ports.offload)
        found.facts = _archive_facts(await source.index(), [stored.key for stored in await found.archive.list()], timeline)
        found.holds += await read_holds(found.archive)
    for place, label in places.items():
        facts = await _look_at(ports, place, found, source, system_id)
        if label and facts.label not in (UNREADABLE, FOREIGN):
            facts = replace(facts, label=label)
        found.backups.append(facts)
    return found


async def _places_below(ports: Ports, found: Inventory) -> list[str]:
    """Places of backups directly below the destination (I2), and what a removal has left."""
    root = found.destination
    if is_url(root):
        keys = [stored.key.partition("/") for stored in await open_store(ports, root).list()]
        found.leftovers = sorted({name for name, slash, rest in keys if slash and rest == REMOVING_MARK})
        names = sorted({name for name, slash, rest in keys if slash and rest == MANIFEST_NAME})
        return [f"{root}/{name}" for name in names if name not in found.leftovers]
    if not await ports.disk.exists(root):
        return []
    real_root, places = await ports.disk.resolve(root), []
    for name in await ports.disk.list(root):
        path = f"{real_root}/{name}"
        if name.startswith(REMOVING):
            found.leftovers.append(name)
        elif name.endswith(PARTIAL):
            found.unfinished.append(path)
        elif await ports.disk.is_dir(path) and await ports.disk.resolve(path) == path:
            if await ports.disk.exists(f"{path}/{MANIFEST_NAME}"):
                places.append(path)
    return places


async def _look_at(ports: Ports, place: str, found: Inventory, source: StoreSource | None, system_id: int) -> BackupFacts:
    store = open_store(ports, place)
    try:
        manifest = parse_manifest(await store.get(MANIFEST_NAME))
        sizes = {stored.key: stored.size_bytes for stored in await store.list()}
    except (Corruption, Refused, FileNotFoundError):
        name = place.rpartition("/")[2]
        return BackupFacts(place, name, True, UNREADABLE, False, 0, 0, 0, 0, 0, 0, 0)  # I4
    found.manifests[place] = manifest
    ours = system_id in (0, manifest.system_id)
    whole = ours and all(sizes.get(entry.path) == entry.size for entry in manifest.files)  # I1
    first, last = await _segments_of(manifest, found.facts, source)
    return BackupFacts(
        place, manifest.backup_id, manifest.type == FULL, manifest.label if ours else FOREIGN, whole, manifest.timeline,
        manifest.keep_lsn, manifest.end_lsn, manifest.end_time_us, manifest.finished_us, first, last, manifest.include_wal,
        manifest.base.backup_id if manifest.base else "", manifest.size_bytes,
    )  # fmt: skip


async def _segments_of(manifest: Manifest, facts: ArchiveFacts, source: StoreSource | None) -> tuple[int, int]:
    """Numbers of the segments that hold the backup's first and last log; 0 where they cannot be told."""
    names = [parse_segment_name(parse_stored_name(entry.path)[0].removeprefix("wal/")) for entry in manifest.in_folder("wal")]
    numbers = [name[1] for name in names if name is not None]
    if numbers:
        return min(numbers), max(numbers)
    own = sorted({segment.number for segment in facts.segments if segment.timeline == manifest.timeline})
    if source is None or not own:
        return 0, 0
    first = await _holding(source, manifest.timeline, own, manifest.keep_lsn)
    return first, await _holding(source, manifest.timeline, own, manifest.end_lsn)


async def _holding(source: StoreSource, timeline: int, numbers: list[int], lsn: int) -> int:
    """The newest segment that begins at or below an LSN, by bisection: only headers tell where a segment begins."""
    low, high = 0, len(numbers)
    while low < high:
        middle = (low + high) // 2
        raw = await source.segment(timeline, numbers[middle])
        if raw is None or len(raw) < SEGMENT_HEADER.size:
            return 0
        if SEGMENT_HEADER.unpack_from(raw)[_START_LSN] <= lsn:
            low = middle + 1
        else:
            high = middle
    return numbers[low - 1] if low else 0


def _archive_facts(index: ArchiveIndex, keys: list[str], timeline: int) -> ArchiveFacts:
    entries = {entry.key: key for table in (index.segments, index.partials) for key, entry in table.items()}
    sizes = {entry.key: entry.size_bytes for table in (index.segments, index.partials) for entry in table.values()}
    partial = {key for key in entries if (name := parse_object_name(key)) is not None and name.partial}
    return ArchiveFacts(
        [SegmentFacts(key, *entries[key], key in partial, sizes[key]) for key in sorted(entries)],
        {own: {fork.timeline: fork.switch_lsn for fork in history.forks} for own, history in index.histories.items()},
        {own: complete.time_us for own, complete in index.complete.items()},
        timeline or max(index.timelines(), default=0),
        [key for key in keys if key not in entries and not key.startswith("hold.")],
    )
