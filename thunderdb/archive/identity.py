"""Who writes: the instance's identity, and what it remembers of its archive. Two small files in data_dir.

    identity    {"version": 2, "instance": 32 hex digits, "no_archive": bool, "checksum": …}
    archived    {"version": 2, "place": …, "timeline": …, "number": …, "history": bool, "size_bytes": …, "time_us": …,
                 "noted_us": …, "checksum": …}

Version 1 has no checksum (base/document.py).

I1. The identity is durable before anything is claimed with it. It is part of no backup; a restore makes a new one. So of two
    databases from one backup only one owns a timeline.
I2. With `no_archive` the database is a drill: it archives nothing, whatever its configuration says.
I3. `archived` is a memory, not a proof: it tells an archive that was emptied (or not mounted) from a new one, and is all there
    is to know about a command that archives without one that reads back.
I4. No note in an archive says "complete up to T" before a commit later than T is in the log, or T is in `noted_us`: so a start
    knows what was promised, even if its clock was set back and the archive is out of reach.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from thunderdb.base.document import sealed, unsealed
from thunderdb.base.errors import Corruption
from thunderdb.runtime.ports import Disk, Random
from thunderdb.runtime.replace import replace_file

IDENTITY_FILE = "identity"
ARCHIVED_FILE = "archived"
VERSION = 2
DAMAGED_HINT = (
    "Remove it and archive to a new place, or write into it the owner that the archive's history file names: "
    '{"version": 1, "instance": "..."}.'
)


@dataclass(frozen=True, slots=True)
class Identity:
    instance: str
    no_archive: bool = False


@dataclass(frozen=True, slots=True)
class Archived:
    """The newest segment of `timeline` that was archived at `place`, 0 for none; how much that is in all, and when it was.

    `noted_us`: up to when some archive was said to be complete (I4), as an order time.
    """

    place: str
    timeline: int
    number: int = 0
    history: bool = False
    size_bytes: int = 0
    time_us: int = 0
    noted_us: int = 0


def new_identity(random: Random, no_archive: bool = False) -> Identity:
    return Identity(f"{random.bits(128):032x}", no_archive)


async def read_identity(disk: Disk, data_dir: str) -> Identity | None:
    """None if there is none yet. Raises: Corruption, StorageError."""
    found = await _read(disk, f"{data_dir}/{IDENTITY_FILE}")
    if found is None:
        return None
    instance = found.get("instance")
    if not isinstance(instance, str) or len(instance) != 32:
        raise Corruption(f"{data_dir}/{IDENTITY_FILE} is damaged: it names no instance", DAMAGED_HINT)
    return Identity(instance, bool(found.get("no_archive")))


async def write_identity(disk: Disk, data_dir: str, identity: Identity) -> None:
    """Durable when: it returns (I1)."""
    await _write(disk, data_dir, IDENTITY_FILE, {"version": VERSION, **asdict(identity)})


async def own_identity(disk: Disk, data_dir: str, random: Random) -> Identity:
    """The instance's identity, made if there is none yet."""
    identity = await read_identity(disk, data_dir)
    if identity is None:
        identity = new_identity(random)
        await write_identity(disk, data_dir, identity)
    else:
        await disk.sync_dir(data_dir)  # I1: whoever renamed it may have been killed before that was durable
    return identity


async def read_archived(disk: Disk, data_dir: str) -> Archived | None:
    try:
        found = await _read(disk, f"{data_dir}/{ARCHIVED_FILE}")
        return None if found is None else Archived(
            str(found["place"]), int(found["timeline"]), int(found["number"]), bool(found["history"]),
            int(found.get("size_bytes", 0)), int(found.get("time_us", 0)), int(found.get("noted_us", 0)),
        )  # fmt: skip
    except (Corruption, KeyError, ValueError, TypeError):
        return None  # I3: it is a memory, and the archive itself is looked at anyway


async def write_archived(disk: Disk, data_dir: str, archived: Archived) -> None:
    await _write(disk, data_dir, ARCHIVED_FILE, {"version": VERSION, **asdict(archived)})


async def _read(disk: Disk, path: str) -> dict[str, Any] | None:
    try:
        data = await disk.read_file(path)
    except FileNotFoundError:
        return None
    try:
        found = unsealed(data, 2)
    except ValueError as error:
        raise Corruption(f"{path} is damaged: {error}", DAMAGED_HINT) from None
    if found.get("version") not in (1, VERSION):
        raise Corruption(f"{path} is of another version", f"This program knows version {VERSION}.")
    return found


async def _write(disk: Disk, directory: str, name: str, content: dict[str, Any]) -> None:
    await replace_file(disk, directory, name, sealed(content))
