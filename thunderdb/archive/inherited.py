"""What a timeline need not ship, because its ancestor has: a restore lays the log below its fork down under a new name.

    segment n of timeline t, all of it below the fork to t  ==  segment n of the ancestor, but for the header's timeline

E1. It counts as archived only if the archive has that segment of the ancestor now, whole, durable, and with this very content.
    Whatever is not so (gone, damaged, sealed with a key that is lost) is shipped under the own name, as any other.
E2. Nobody misses what is not there under the own name: readers look for each number on every timeline of the line, from the one
    that owns its first LSN on (backup/logline.L2), and retention keeps log for a timeline's whole lineage.
"""

from __future__ import annotations

from dataclasses import replace

from thunderdb.archive.target import Target
from thunderdb.base.errors import Corruption, Refused
from thunderdb.runtime.ports import Disk
from thunderdb.wal.segment import SEGMENT_HEADER_SIZE, decode_segment_header, encode_segment_header, segment_name
from thunderdb.wal.timeline import Fork, history_name, parse_history, timeline_at


async def own_forks(disk: Disk, directory: str, timeline: int) -> tuple[Fork, ...]:
    """Where the log in a directory comes from. Raises: Corruption."""
    try:
        text = (await disk.read_file(f"{directory}/{history_name(timeline)}")).decode(errors="replace")
    except FileNotFoundError:
        return ()  # timeline 1 grew out of nothing
    return parse_history(text, timeline)


async def inherited(
    target: Target, forks: tuple[Fork, ...], timeline: int, number: int, raw: bytes, end_lsn: int, system_id: int
) -> str:
    """The ancestor's segment in the archive that is this closed one; empty if it is to be shipped. Raises: StorageError."""
    owner = timeline_at(forks, timeline, end_lsn - 1)
    if owner == timeline:
        return ""
    header = decode_segment_header(raw[:SEGMENT_HEADER_SIZE], timeline, number, system_id)
    there = encode_segment_header(replace(header, timeline=owner)) + raw[SEGMENT_HEADER_SIZE:]
    name = segment_name(owner, number)
    try:
        return name if await target.has(name, there) else ""
    except (Corruption, Refused):
        return ""  # E1
