"""Where a backup is written: a directory, published by a rename, or an object store, published by its manifest.

    directory   <destination>.partial/…, all synced ─▶ manifest ─▶ rename to <destination> ─▶ sync of the parent
    store       <prefix>/…                          ─▶ <prefix>/backup_manifest.json

P1. Nothing is at <destination> before all of it is durable; a crash leaves a `.partial`, or objects without a manifest.
P2. A destination where something is already is refused before a byte is written, and so is a `.partial` that somebody left:
    another backup may be writing there. The first file, `backup_running`, is created only if it is absent and holds the
    backup's id; it goes when the backup is published.
P3. `abandon` and `remove_left_over` remove only what a backup of a known id has made.
P4. No backup lies in another one: whoever removes that would remove both.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Protocol

from thunderdb.archive.directory import is_url, open_store
from thunderdb.backup.holes import HOLE_BYTES, all_zeros
from thunderdb.backup.manifest import MANIFEST_NAME, is_backup_id, parse_manifest
from thunderdb.base.errors import Corruption, DiskFull, Refused, StorageError
from thunderdb.runtime.ports import Disk, File, ObjectStore, Ports, StoreWriter
from thunderdb.runtime.sync import Task, Tasks

PARTIAL = ".partial"
RUNNING_NAME = "backup_running"
SYNC_BYTES = 16 << 20
"""A file is synced after each of these: one sync of a gigabyte at its end would stop everybody else's."""


class Destination(Protocol):
    """A backup under construction."""

    place: str

    async def check(self, size_bytes: int) -> None:
        """Make sure that it can begin. Raises: Refused if something is there; DiskFull if it will not fit."""
        ...

    async def begin(self, backup_id: str) -> None:
        """Take possession (P2). Raises: Refused if somebody else was first."""
        ...

    async def writer(self, path: str) -> StoreWriter: ...

    async def put(self, path: str, data: bytes) -> None: ...

    async def publish(self, manifest: bytes) -> None:
        """Durable and complete when: it returns. Raises: Refused if somebody else was first."""
        ...

    async def abandon(self) -> None:
        """Remove what was written (P3). Raises: what the disk or the store raises."""
        ...


def open_destination(ports: Ports, place: str, requests: int = 1) -> Destination:
    """`requests` to a store may be under way.

    Raises: Refused for a path that is not absolute; ConfigError for a URL of no known kind.
    """
    if is_url(place):
        return StoreDestination(open_store(ports, place), max(1, requests // 2))  # a part is twice what a reader asks for
    if not place.startswith("/") or any(part in (".", "..") for part in place.split("/")) or not place.strip("/"):
        raise Refused(f"the destination {place!r} is not an absolute path", "Name a directory from the root on.")
    return DirectoryDestination(ports.tasks, ports.disk, place)


class DirectoryDestination:
    def __init__(self, tasks: Tasks, disk: Disk, path: str) -> None:
        self.place = path.rstrip("/")
        self.partial = self.place + PARTIAL
        self._tasks = tasks
        self._disk = disk
        self._parent = self.place.rpartition("/")[0] or "/"
        self._folders: list[str] = []
        self._begun = False

    async def check(self, size_bytes: int) -> None:
        if await self._disk.exists(self.place):
            raise _exists(self.place)
        if await self._disk.exists(self.partial):
            raise _unfinished(self.partial)
        try:
            await self._disk.make_dirs(self._parent)
        except (FileExistsError, NotADirectoryError):
            raise Refused(
                f"the destination {self.place} lies below something that is no directory", "Name one below a directory."
            ) from None
        free = await self._disk.free_bytes(self._parent)
        if free < size_bytes:
            raise DiskFull(
                f"the backup needs up to {size_bytes} bytes, and {self._parent} has {free} left",
                hint="Free some space there, choose another destination, or compress.",
            )

    async def begin(self, backup_id: str) -> None:
        await self._disk.make_dirs(self.partial)
        self._folders.append(self.partial)
        try:
            await self.put(RUNNING_NAME, backup_id.encode())
        except FileExistsError:
            raise _unfinished(self.partial) from None
        self._begun = True
        await self._disk.sync_dir(self.partial)

    async def writer(self, path: str) -> StoreWriter:
        folder, _, _name = f"{self.partial}/{path}".rpartition("/")
        if folder not in self._folders:
            await self._disk.make_dirs(folder)
            self._folders.append(folder)
        file = await self._disk.open(f"{self.partial}/{path}", create=True, exclusive=True)
        return SyncedWriter(self._tasks, file)

    async def put(self, path: str, data: bytes) -> None:
        writer = await self.writer(path)
        await writer.write(data)
        await writer.close()

    async def publish(self, manifest: bytes) -> None:
        for folder in reversed(self._folders):
            await self._disk.sync_dir(folder)
        await self.put(MANIFEST_NAME, manifest)
        await self._disk.sync_dir(self.partial)
        await self._disk.unlink(f"{self.partial}/{RUNNING_NAME}")
        await self._disk.sync_dir(self.partial)
        if await self._disk.exists(self.place):
            raise _exists(self.place)
        await self._disk.rename(self.partial, self.place)
        await self._disk.sync_dir(self._parent)

    async def abandon(self) -> None:
        if self._begun:
            await remove_tree(self._disk, self.partial)
            await self._disk.sync_dir(self._parent)


class SyncedWriter:
    """A file written front to back; long zeros become holes (holes.py). Satisfies `ports.StoreWriter`."""

    def __init__(self, tasks: Tasks, file: File) -> None:
        self._tasks = tasks
        self._file = file
        self._offset = 0
        self._unsynced = 0
        self._end = 0  # of what was written; what lies behind it is a hole
        self._sync: Task[None] | None = None

    async def write(self, data: bytes | memoryview) -> None:
        if not data:
            return
        if len(data) >= HOLE_BYTES and all_zeros(data):
            self._offset += len(data)
            return
        await self._file.write(self._offset, data)
        self._offset = self._end = self._offset + len(data)
        self._unsynced += len(data)
        if self._unsynced >= SYNC_BYTES:
            self._unsynced = 0
            await self._settle()
            self._sync = self._tasks.spawn(self._file.sync(), "backup.sync")

    async def close(self) -> None:
        await self._settle()
        if self._offset > self._end:
            await self._file.truncate(self._offset)
        await self._file.sync()
        await self._file.close()

    async def abort(self) -> None:
        try:
            await self._settle()
        except StorageError:
            pass  # it is given up anyway
        await self._file.close()

    async def _settle(self) -> None:
        running, self._sync = self._sync, None
        if running is not None:
            await running


class StoreDestination:
    def __init__(self, store: ObjectStore, requests: int) -> None:
        self.place = store.place
        self._requests = requests
        self._store = store
        self._written: list[str] = []
        self._id = b""
        self._manifest = b""

    async def check(self, size_bytes: int) -> None:
        found = await self._store.list()
        if any(stored.key == MANIFEST_NAME for stored in found):
            raise _exists(self.place)
        if found:
            raise _unfinished(self.place)

    async def begin(self, backup_id: str) -> None:
        self._id = backup_id.encode()
        try:
            created = await self._store.put_new(RUNNING_NAME, self._id)
        except StorageError:
            if not await self._has(RUNNING_NAME, self._id):  # the answer may have been lost, not the note
                raise
            created = True
        if not created and not await self._has(RUNNING_NAME, self._id):
            raise _unfinished(self.place)

    async def writer(self, path: str) -> StoreWriter:
        self._written.append(path)
        return await self._store.writer(path, self._requests)

    async def put(self, path: str, data: bytes) -> None:
        self._written.append(path)
        await self._store.put(path, data)

    async def publish(self, manifest: bytes) -> None:
        self._manifest = manifest
        try:
            created = await self._store.put_new(MANIFEST_NAME, manifest)
        except StorageError:
            if not await self._is_published():
                raise
            created = True
        if not created and not await self._is_published():  # what a lost answer makes look like another's may be ours
            raise _exists(self.place)
        try:
            await self._store.delete(RUNNING_NAME)
        except StorageError:
            pass  # the manifest is there: it is a backup, and a note that says otherwise changes nothing

    async def abandon(self) -> None:
        if not self._id or not await self._has(RUNNING_NAME, self._id):
            return  # somebody else's (P3)
        if self._manifest and await self._is_published():
            await self._store.delete(MANIFEST_NAME)  # first: without it the rest is no backup
        for path in reversed(self._written):
            await self._store.delete(path)
        await self._store.delete(RUNNING_NAME)  # last: what is left over until then is known as ours

    async def _is_published(self) -> bool:
        return await self._has(MANIFEST_NAME, self._manifest)

    async def _has(self, key: str, data: bytes) -> bool:
        try:
            return await self._store.get(key) == data
        except FileNotFoundError:
            return False


def _unfinished(place: str) -> Refused:
    return Refused(
        f"{place} exists: another backup is being written there, or one was interrupted",
        "If no backup is running, remove it, or choose another destination.",
    )


def _exists(place: str) -> Refused:
    return Refused(f"the destination {place} exists", "Choose another, or remove it; a backup is never overwritten.")


async def check_not_inside(ports: Ports, place: str) -> None:
    """P4. Raises: Refused. Of an object store only the folder itself is looked at: farther up that may be forbidden."""
    if is_url(place):
        folders = [folder for folder in [_above(place)] if "/" in folder.partition("://")[2]]
    else:
        folders = [_above(await ports.disk.resolve(place))]
        while folders[-1]:
            folders.append(_above(folders[-1]))
    for folder in filter(None, folders):
        for name in (MANIFEST_NAME, RUNNING_NAME):
            if await _is_there(ports, folder, name):
                raise Refused(
                    f"the destination {place} lies in {folder}, which is a backup: whoever removes that would remove both",
                    "Choose a destination beside it.",
                )


def _above(place: str) -> str:
    return place.rstrip("/").rpartition("/")[0]


async def _is_there(ports: Ports, folder: str, name: str) -> bool:
    if not is_url(folder):
        return await ports.disk.exists(f"{folder}/{name}")
    try:
        return await open_store(ports, folder).size(name) is not None
    except StorageError:
        return False  # the destination's own checks come next, and say what there is to say


async def published_manifest(ports: Ports, place: str) -> bytes | None:
    """The manifest of the backup at `place`, if there is a complete one, which then is durable.

    It may have been renamed by a process that was killed before the rename was. Raises: what the disk or the store raises.
    """
    try:
        manifest = await open_store(ports, place).get(MANIFEST_NAME)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not is_url(place):
        await ports.disk.sync_dir(place.rstrip("/").rpartition("/")[0] or "/")
    return manifest


async def remove_left_over(ports: Ports, place: str, backup_id: str) -> bool:
    """Remove what the backup of that id left unfinished for `place` (P3); return whether there was anything."""
    if is_url(place):
        store = open_store(ports, place)
        try:
            ours = await store.get(RUNNING_NAME) == backup_id.encode()
        except FileNotFoundError:
            return False
        if not ours or await published_manifest(ports, place) is not None:
            return False
        for stored in await store.list():
            if stored.key != RUNNING_NAME:
                await store.delete(stored.key)
        await store.delete(RUNNING_NAME)  # last: what a crash leaves is still known as ours
        return True
    partial = place.rstrip("/") + PARTIAL
    if not await ports.disk.is_dir(partial) or not await _is_of(ports.disk, partial, backup_id):
        return False
    await remove_tree(ports.disk, partial)
    await ports.disk.sync_dir(partial.rpartition("/")[0] or "/")
    return True


async def _is_of(disk: Disk, partial: str, backup_id: str) -> bool:
    """Whether a `.partial` was made by that backup. One that is empty was, or will not be missed."""
    names = await disk.list(partial)
    if RUNNING_NAME in names:
        data = await disk.read_file(f"{partial}/{RUNNING_NAME}")
        begun = is_backup_id(data.decode(errors="replace"))
        return data == backup_id.encode() or (not begun and names == [RUNNING_NAME])  # it died before it had said its name
    if MANIFEST_NAME in names:
        try:
            return parse_manifest(await disk.read_file(f"{partial}/{MANIFEST_NAME}")).backup_id == backup_id
        except (Corruption, Refused):
            return False
    return not names


async def remove_tree(disk: Disk, path: str) -> None:
    """Remove a directory with all in it; fine if it is not there, or if somebody else removes it at the same time.

    What says whose it is goes only when the rest is durably gone: so after a crash it is still known as ours.
    """
    try:
        names = await disk.list(path)
    except FileNotFoundError:
        return
    labels = [name for name in (RUNNING_NAME, MANIFEST_NAME) if name in names]
    for name in names:
        inside = f"{path}/{name}"
        if await disk.is_dir(inside) and not await _is_link(disk, path, name):
            await remove_tree(disk, inside)
        elif name not in labels:
            await _gone(disk.unlink(inside))
    if labels:
        await _gone(disk.sync_dir(path))
    for name in labels:
        await _gone(disk.unlink(f"{path}/{name}"))
    await _gone(disk.remove_dir(path))


async def _gone(removal: Coroutine[Any, Any, None]) -> None:
    try:
        await removal
    except FileNotFoundError:
        pass  # so it is


async def _is_link(disk: Disk, folder: str, name: str) -> bool:
    return await disk.resolve(f"{folder}/{name}") != f"{await disk.resolve(folder)}/{name}"
