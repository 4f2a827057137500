"""Where a backup is written: a directory, published by a rename, or an object store, published by its manifest.

    directory   <destination>.partial/…, all synced ─▶ manifest ─▶ rename to <destination> ─▶ sync of the parent
    store       <prefix>/…                          ─▶ <prefix>/backup_manifest.json

P1. Nothing is at <destination> before all of it is durable; a crash leaves a `.partial`, or objects without a manifest.
P2. A destination where something is already is refused before a byte is written, and so is a `.partial` that somebody left:
    another backup may be writing there.
P3. `abandon` removes only what this backup has made.
"""

from __future__ import annotations

from typing import Protocol

from thunderdb.archive.directory import is_url, open_store
from thunderdb.backup.manifest import MANIFEST_NAME
from thunderdb.base.errors import DiskFull, Refused, StorageError
from thunderdb.runtime.ports import Disk, File, ObjectStore, Ports, StoreWriter
from thunderdb.runtime.sync import Task, Tasks

PARTIAL = ".partial"
SYNC_BYTES = 64 << 20
"""A file is synced after each of these: one sync of a gigabyte at its end would stop everybody else's."""


class Destination(Protocol):
    """A backup under construction."""

    place: str

    async def prepare(self, size_bytes: int) -> None:
        """Make sure that it can begin. Raises: Refused if something is there; DiskFull if it will not fit."""
        ...

    async def writer(self, path: str) -> StoreWriter: ...

    async def put(self, path: str, data: bytes) -> None: ...

    async def publish(self, manifest: bytes) -> None:
        """Durable and complete when: it returns. Raises: Refused if somebody else was first."""
        ...

    async def abandon(self) -> None:
        """Remove what was written (P3). Raises: what the disk or the store raises."""
        ...


def open_destination(ports: Ports, place: str) -> Destination:
    """Raises: Refused for a path that is not absolute; ConfigError for a URL of no known kind."""
    if is_url(place):
        return StoreDestination(open_store(ports, place))
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
        self._prepared = False

    async def prepare(self, size_bytes: int) -> None:
        if await self._disk.exists(self.place):
            raise _exists(self.place)
        if await self._disk.exists(self.partial):
            raise Refused(
                f"{self.partial} exists: another backup is being written there, or one was interrupted",
                "If no backup is running, remove it, or choose another destination.",
            )
        await self._disk.make_dirs(self._parent)
        free = await self._disk.free_bytes(self._parent)
        if free < size_bytes:
            raise DiskFull(
                f"the backup needs up to {size_bytes} bytes, and {self._parent} has {free} left",
                hint="Free some space there, choose another destination, or compress.",
            )
        self._prepared = True
        await self._disk.make_dirs(self.partial)
        self._folders.append(self.partial)

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
        if await self._disk.exists(self.place):
            raise _exists(self.place)
        await self._disk.rename(self.partial, self.place)
        await self._disk.sync_dir(self._parent)

    async def abandon(self) -> None:
        if self._prepared:
            await remove_tree(self._disk, self.partial)
            await self._disk.sync_dir(self._parent)


class SyncedWriter:
    """A file written front to back. Satisfies `ports.StoreWriter`."""

    def __init__(self, tasks: Tasks, file: File) -> None:
        self._tasks = tasks
        self._file = file
        self._offset = 0
        self._unsynced = 0
        self._sync: Task[None] | None = None

    async def write(self, data: bytes | memoryview) -> None:
        await self._file.write(self._offset, data)
        self._offset += len(data)
        self._unsynced += len(data)
        if self._unsynced >= SYNC_BYTES:
            self._unsynced = 0
            await self._settle()
            self._sync = self._tasks.spawn(self._file.sync(), "backup.sync")

    async def close(self) -> None:
        await self._settle()
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
    def __init__(self, store: ObjectStore) -> None:
        self.place = store.place
        self._store = store
        self._written: list[str] = []
        self._manifest = b""

    async def prepare(self, size_bytes: int) -> None:
        found = await self._store.list()
        if any(stored.key == MANIFEST_NAME for stored in found):
            raise _exists(self.place)
        if found:
            raise Refused(
                f"{self.place} holds {len(found)} objects and no manifest: another backup is being written there, or one was "
                "interrupted",
                "If no backup is running, remove them, or choose another destination.",
            )

    async def writer(self, path: str) -> StoreWriter:
        self._written.append(path)
        return await self._store.writer(path)

    async def put(self, path: str, data: bytes) -> None:
        self._written.append(path)
        await self._store.put(path, data)

    async def publish(self, manifest: bytes) -> None:
        self._manifest = manifest
        try:
            if await self._store.put_new(MANIFEST_NAME, manifest):
                return
        except StorageError:
            if not await self._is_published():
                raise
        if not await self._is_published():  # P2; what a lost answer makes look like another's manifest may be ours
            raise _exists(self.place)

    async def abandon(self) -> None:
        if self._manifest and await self._is_published():
            await self._store.delete(MANIFEST_NAME)  # first: without it the rest is no backup
        for path in reversed(self._written):
            await self._store.delete(path)

    async def _is_published(self) -> bool:
        try:
            return await self._store.get(MANIFEST_NAME) == self._manifest
        except FileNotFoundError:
            return False


def _exists(place: str) -> Refused:
    return Refused(f"the destination {place} exists", "Choose another, or remove it; a backup is never overwritten.")


async def remove_tree(disk: Disk, path: str) -> None:
    """Remove a directory with all in it; fine if it is not there."""
    try:
        names = await disk.list(path)
    except FileNotFoundError:
        return
    for name in names:
        inside = f"{path}/{name}"
        if await disk.is_dir(inside) and not await _is_link(disk, path, name):
            await remove_tree(disk, inside)
        else:
            await disk.unlink(inside)
    await disk.remove_dir(path)


async def _is_link(disk: Disk, folder: str, name: str) -> bool:
    return await disk.resolve(f"{folder}/{name}") != f"{await disk.resolve(folder)}/{name}"
