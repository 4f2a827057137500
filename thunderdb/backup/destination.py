"""Where a restore goes: what may be in data_dir and wal_dir when it begins, and the marker that lets it go on.

    found                                                                                 verdict
    nothing (a lock file, lost+found)                                                     EMPTY
    files of this very backup, copied by hand, compressed or not, whole or cut short      COPY
    the marker `restore.json` of the same restore, control file RESTORING or BACKUP       INTERRUPTED
    that marker, and the database has been opened                                         OPENED: only the end is missing
    `restored.json` of the same restore, and nothing has happened since                   DONE: say so again
    anything else                                                                         refused, nothing changed

A copy is told by its control file, byte for byte: a backup's own control file says BACKUP, which no database that ever ran
says. A copy of a copy made by hand has a control file that the original may have, too; so there every file is compared.

D1. The marker is durable before anything else is changed, and goes last; what it becomes, `restored.json`, tells which restore
    made the database, as of which save of its control file.
D2. What is in the log directory is never the backup's because of its name: its bytes are compared.
D3. Between this look and the lock on data_dir somebody else may have been there, another restore above all: so what was seen
    is compared with what is there once the lock is held, and nothing is changed if it differs.
D4. A restore never goes into what it reads: the backup would be its own copy, and no backup afterwards.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from xxhash import xxh3_128

from thunderdb.backup.sources import BackupSource, StoredFile, decode_control
from thunderdb.base.config import Config
from thunderdb.base.errors import Corruption, Refused
from thunderdb.runtime.ports import Disk
from thunderdb.runtime.replace import replace_file, temporary_name
from thunderdb.storage.control import ControlState, DatabaseState
from thunderdb.storage.layout import CONTROL_FILE, LOCK_FILE, LOST_AND_FOUND, RESTORE_MARKER
from thunderdb.storage.written import written_file_names

MARKER_FILE = RESTORE_MARKER
MARKER_VERSION = 1
DONE_FILE = "restored.json"
_HARMLESS = frozenset((LOCK_FILE, LOST_AND_FOUND, MARKER_FILE, temporary_name(MARKER_FILE)))
_AT_REST = (DatabaseState.BACKUP, DatabaseState.CLEAN)
_COMPARE_BYTES = 1 << 20


class Kind(StrEnum):
    EMPTY = "empty"
    COPY = "copy"
    INTERRUPTED = "interrupted"
    OPENED = "opened"
    DONE = "done"
    BLOCKED = "blocked"  # refused, which a dry run only reports


class InTheWay(Refused):
    """What is there is not this backup's: it may be another one's."""


@dataclass(frozen=True, slots=True)
class Marker:
    """Which restore is going on: `request` is what the user asked for, the rest what became of it."""

    target: str
    backup: str
    timeline: str
    no_archive: bool
    stop_lsn: int
    line: int
    instance: str
    version: int = MARKER_VERSION

    @property
    def request(self) -> tuple[str, str, str, bool]:
        return self.target, self.backup, self.timeline, self.no_archive


@dataclass(frozen=True, slots=True)
class Destination:
    """What was found. `present_bytes`: in both directories, to be replaced or reused. `seen` names all of it (D3)."""

    kind: Kind
    marker: Marker | None
    present_bytes: int
    seen: str = ""


async def read_marker(disk: Disk, data_dir: str) -> Marker | None:
    """Raises: Refused for one that cannot be read."""
    try:
        found = json.loads(await disk.read_file(f"{data_dir}/{MARKER_FILE}"))
        return Marker(**found) if found["version"] == MARKER_VERSION else None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError, KeyError):
        raise Refused(
            f"{data_dir}/{MARKER_FILE} is damaged: it is not known which restore was interrupted there",
            "Empty data_dir and wal_dir, if nothing else is in them, and restore again.",
        ) from None


async def write_marker(disk: Disk, data_dir: str, marker: Marker) -> None:
    """Durable when: it returns (D1)."""
    await _write(disk, data_dir, MARKER_FILE, asdict(marker))


async def write_done(disk: Disk, data_dir: str, marker: Marker) -> None:
    """The restore has come to its end, and nobody has the database open (D1). Durable when: it returns."""
    control = await read_control(disk, data_dir)
    if control is not None:
        await _write(disk, data_dir, DONE_FILE, {"sequence": control.sequence, "restore": asdict(marker)})


async def _done(disk: Disk, data_dir: str, request: tuple[str, str, str, bool]) -> Marker | None:
    """The marker of that very restore, if it is done and the database has not been opened since: that saves its control file.

    BACKUP is how a restore leaves it, CLEAN how one does that has checked the database.
    """
    control = await read_control(disk, data_dir)
    try:
        found = json.loads(await disk.read_file(f"{data_dir}/{DONE_FILE}"))
        marker = Marker(**found["restore"])
        same = control is not None and control.sequence == found["sequence"] and control.state in _AT_REST
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError, KeyError):
        return None
    return marker if same and marker.request == request else None


async def _write(disk: Disk, data_dir: str, name: str, content: dict[str, Any]) -> None:
    await replace_file(disk, data_dir, name, json.dumps(content).encode() + b"\n")


async def names_in(disk: Disk, directory: str) -> list[str]:
    try:
        return await disk.list(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []


async def own_names(disk: Disk, config: Config, directory: str) -> list[str]:
    """What is in one of the two directories, but for the other one, which may lie in it."""
    others = {other.removeprefix(f"{directory}/").partition("/")[0] for other in (config.data_dir, config.wal_dir)}
    return [name for name in await names_in(disk, directory) if name not in others]


async def inspect(disk: Disk, config: Config, backup: BackupSource, request: tuple[str, str, str, bool]) -> Destination:
    """Look at the target, changing nothing. Raises: Refused for anything that is not ours to replace."""
    for directory in (config.data_dir, config.wal_dir):
        await _check_directory(disk, directory)
    data = [name for name in await own_names(disk, config, config.data_dir) if name not in _HARMLESS]
    wal = [name for name in await own_names(disk, config, config.wal_dir) if name not in (LOCK_FILE, LOST_AND_FOUND)]
    await _check_lock(disk, config.data_dir)
    seen = await look(disk, config)
    marker = await read_marker(disk, config.data_dir)
    sizes = await _sizes(disk, config.data_dir, data) | await _sizes(disk, config.wal_dir, wal)
    present = sum(sizes.values())
    if marker is not None:
        if marker.request != request:
            raise Refused(
                f"another restore into {config.data_dir} was interrupted (to {marker.target}, from {marker.backup})",
                "Run that command again; or empty data_dir and wal_dir to start this one.",
            )
        control = await read_control(disk, config.data_dir)
        if control is not None and control.system_id != backup.system_id:
            raise _foreign(config.data_dir, control, backup)
        opened = control is not None and control.state in (DatabaseState.RUNNING, DatabaseState.CLEAN)
        if opened and not await _same_control(disk, config.data_dir, backup):
            return Destination(Kind.OPENED, marker, present, seen)
        return Destination(Kind.INTERRUPTED, marker, present, seen)
    if not data and not wal:
        return Destination(Kind.EMPTY, None, 0, seen)
    done = await _done(disk, config.data_dir, request)
    if done is not None:
        return Destination(Kind.DONE, done, present, seen)
    await _check_copy(disk, config, backup, data, wal)
    return Destination(Kind.COPY, None, present, seen)


async def _check_directory(disk: Disk, directory: str) -> None:
    """Raises: Refused if it is something else, or could not be made."""
    path = directory
    while path.strip("/") and not await disk.is_dir(path):
        if await disk.exists(path):
            raise Refused(
                f"{directory} cannot be restored into: {path} is no directory", "Name others with --data-dir and --wal-dir."
            )
        path = path.rpartition("/")[0]


async def check_apart(disk: Disk, config: Config, sources: Sequence[str]) -> None:
    """D4; `sources` are directories. Raises: Refused."""
    for target in (config.data_dir, config.wal_dir):
        real = await disk.resolve(target)
        for source in sources:
            place = await disk.resolve(source)
            if _is_inside(real, place) or _is_inside(place, real):
                raise Refused(
                    f"{target} and {source}, which the restore reads, lie in each other: it would destroy its own source",
                    "Name other directories with data_dir and wal_dir, or copy the backup elsewhere first.",
                )


def _is_inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


async def look(disk: Disk, config: Config) -> str:
    """A name for what is there now: every file with its size, and what the small ones say that tell whose it is (D3)."""
    sizes: dict[str, int] = {}
    for directory in (config.data_dir, config.wal_dir):
        names = [name for name in await names_in(disk, directory) if name not in (LOCK_FILE, LOST_AND_FOUND)]
        sizes |= await _sizes(disk, directory, names)
    digest = xxh3_128(json.dumps(sorted(sizes.items())).encode())
    for name in (MARKER_FILE, CONTROL_FILE, DONE_FILE):
        if f"{config.data_dir}/{name}" in sizes:
            digest.update(await disk.read_file(f"{config.data_dir}/{name}"))
    return digest.hexdigest()


async def check_unchanged(disk: Disk, config: Config, found: Destination) -> None:
    """D3, under the lock. Raises: Refused."""
    if await look(disk, config) != found.seen:
        raise Refused(
            f"{config.data_dir} and {config.wal_dir} are not what they were when this restore was planned: another one, or "
            "somebody else, was at work there",
            "Nothing has been changed. See what is there now, and run the command again.",
        )


async def _check_lock(disk: Disk, data_dir: str) -> None:
    if await disk.exists(f"{data_dir}/{LOCK_FILE}"):
        lock = await disk.lock(f"{data_dir}/{LOCK_FILE}")  # Raises: Refused while a daemon runs on it
        await lock.release()


async def read_control(disk: Disk, data_dir: str) -> ControlState | None:
    path = f"{data_dir}/{CONTROL_FILE}"
    try:
        return decode_control(await disk.read_file(path), path)
    except (FileNotFoundError, Corruption):
        return None


async def _same_control(disk: Disk, data_dir: str, backup: BackupSource) -> bool:
    try:
        return await disk.read_file(f"{data_dir}/{CONTROL_FILE}") == backup.control_image
    except FileNotFoundError:
        return False


async def _sizes(disk: Disk, directory: str, names: list[str]) -> dict[str, int]:
    """Of the files, by path; a file that goes away meanwhile has none."""
    found: dict[str, int] = {}
    for name in names:
        path = f"{directory}/{name}"
        if not await disk.is_dir(path):
            try:
                file = await disk.open(path, writable=False)
            except FileNotFoundError:
                continue
            found[path] = await file.size()
            await file.close()
    return found


async def _check_copy(disk: Disk, config: Config, backup: BackupSource, data: list[str], wal: list[str]) -> None:
    """Raises: Refused unless both directories hold files of this backup and nothing else."""
    data_files = [file for file in backup.files if file.path.startswith("data/")]
    known = {f"{config.data_dir}/{file.path.removeprefix('data/')}": file for file in data_files}
    known |= {f"{config.wal_dir}/{file.path.removeprefix('wal/')}": file for file in backup.wal_files()}
    control = await read_control(disk, config.data_dir)
    trusted = backup.manifest is not None and await _same_control(disk, config.data_dir, backup)
    if control is not None and control.system_id != backup.system_id:
        raise _foreign(config.data_dir, control, backup)
    skip = set(written_file_names()) if trusted else set()
    for directory, names in ((config.data_dir, data), (config.wal_dir, wal)):
        for name in names:
            path = f"{directory}/{name}"
            file = known.get(path)
            if file is None and name not in skip:
                raise InTheWay(
                    f"{path} is not of the backup {backup.name}: something else is in the way",
                    f"Restore into an empty {directory}; nothing has been changed.",
                )
            if file is None or (trusted and directory == config.data_dir):
                continue
            if not await _is_beginning(disk, path, backup, file):
                raise InTheWay(
                    f"{path} differs from the backup {backup.name}: it is perhaps the original database",
                    f"Move {config.data_dir} and {config.wal_dir} away and restore into empty ones; nothing has been changed.",
                )


async def _is_beginning(disk: Disk, path: str, backup: BackupSource, file: StoredFile) -> bool:
    """D2: whether a file is the backup's stored file, or the beginning of it (a copy that was cut short)."""
    local = await disk.open(path, writable=False)
    size = await local.size()
    same = size <= file.size
    offset = 0
    while same and offset < size:
        here = await local.read(offset, _COMPARE_BYTES)
        same = bool(here) and here == await backup.store.get_range(file.path, offset, len(here))
        offset += len(here)
    await local.close()
    return same


def _foreign(data_dir: str, control: ControlState, backup: BackupSource) -> Refused:
    return InTheWay(
        f"{data_dir} holds another database (system id {control.system_id:016x}, the backup's is {backup.system_id:016x})",
        "Name other directories, or empty these if that database is not needed any more.",
    )
