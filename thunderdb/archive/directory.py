"""A directory as an object store: on the node's own disk, or on what is mounted there.

D1. An object appears whole: it is written under `.<name>.tmp`, synced, renamed, and the directory is synced.
D2. Names that begin with a dot are nobody's objects. Each writer has a temporary name of its own (`.<name>.1.tmp`, …), so that
    two that write one object do not mix their bytes; what a crash left behind is removed when the object is deleted, or by
    `sweep`: for an object that is written again and again by one that is killed again and again.
D3. The exception is `extend`: an object that grows in place, whose reader takes the part that is whole.
D4. Files are 0600, directories 0700 (the Disk port's own modes).
D5. What is found may be in the operating system's cache only, with the process that wrote it dead: `settle` makes it durable,
    and nobody says that it is safe before.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from thunderdb.base.errors import StorageError, SyncFailed
from thunderdb.runtime.ports import Disk, File, ObjectStore, Ports, Stored
from thunderdb.runtime.store_options import check_key
from thunderdb.runtime.sync import Tasks

CHUNK = 1 << 20
LIST_BATCH = 100
LEFT_OVERS = 1000
_TEMPORARY = re.compile(r"\.(.+?)(?:\.[0-9]+)?\.tmp", re.DOTALL)


def is_url(place: str) -> bool:
    return "://" in place


def open_store(ports: Ports, place: str) -> ObjectStore:
    """The store at a directory's path or a URL. Raises: ConfigError for a URL of no known kind."""
    return ports.stores.open(place) if is_url(place) else DirectoryStore(ports.disk, place, ports.tasks)


async def settle(store: ObjectStore, key: str) -> None:
    """Make sure that an object that was found is durable (D5); an object store has seen to that before it answered."""
    if isinstance(store, DirectoryStore):
        await store.settle(key)


class DirectoryStore:
    """Satisfies `ports.ObjectStore`."""

    request_bytes = 2 << 20

    def __init__(self, disk: Disk, directory: str, tasks: Tasks | None = None) -> None:
        self.place = directory.rstrip("/") or "/"
        self._disk = disk
        self._tasks = tasks
        self._distrusted: set[str] = set()  # a sync of these has failed

    async def get(self, key: str) -> bytes:
        return await self._disk.read_file(self._path(key))

    async def get_range(self, key: str, offset: int, size: int) -> bytes:
        file = await self._disk.open(self._path(key), writable=False)
        try:
            data = await file.read(offset, size)
        except Exception:
            await file.close()
            raise
        await file.close()
        return data

    async def size(self, key: str) -> int | None:
        try:
            file = await self._disk.open(self._path(key), writable=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        size = await file.size()
        await file.close()
        return size

    async def put(self, key: str, data: bytes) -> None:
        writer = await self.writer(key)
        try:
            await writer.write(data)
        except Exception:
            await writer.abort()
            raise
        await writer.close()

    async def put_new(self, key: str, data: bytes) -> bool:
        writer = await self._begin(key)
        try:
            await writer.write(data)
            await writer.finish_new()
        except FileExistsError:
            await writer.abort()
            await self.settle(key)
            return False
        except Exception:
            await writer.abort()
            raise
        return True

    async def settle(self, key: str) -> None:
        """D5: make an object durable, whoever put it there. Raises: FileNotFoundError. Durable when: it returns.

        A sync that failed is never tried again (W4): the object is written anew, with the bytes that the cache has.
        """
        path = self._path(key)
        if key not in self._distrusted:
            file = await self._disk.open(path, writable=False)
            try:
                await file.sync()
            except SyncFailed:
                self._distrusted.add(key)
            await file.close()
        if key in self._distrusted:
            await self.put(key, await self.get(key))
            self._distrusted.discard(key)
        await self._disk.sync_dir(path.rpartition("/")[0] or "/")

    async def extend(self, key: str, offset: int, data: bytes) -> None:
        """Write at `offset` of an object that is there and cut it behind that. Durable when: it returns.

        Crash: what was below `offset` stays; what is behind may be torn, so this is for objects whose reader can tell.
        """
        file = await self._disk.open(self._path(key))
        try:
            if await file.size() > offset:
                await file.truncate(offset)
            await file.write(offset, data)
            await file.sync()
        except Exception:
            await file.close()
            raise
        await file.close()

    async def writer(self, key: str, requests: int = 1) -> DirectoryWriter:
        return await self._begin(key)

    async def list(self, prefix: str = "") -> list[Stored]:
        found: dict[str, Stored] = {}
        folder = prefix.rpartition("/")[0]
        await self._walk(folder, prefix, found)
        return [found[key] for key in sorted(found)]

    async def delete(self, key: str) -> None:
        path = self._path(key)
        folder, _, name = path.rpartition("/")
        try:
            await self._disk.unlink(path)
        except FileNotFoundError:
            return
        for entry in await self._disk.list(folder or "/"):
            if _is_temporary(entry, name):
                await self._remove_left_over(f"{folder}/{entry}")
        await self._disk.sync_dir(folder or "/")

    async def sweep(self, ours: Callable[[str], bool]) -> int:
        """Remove what writers of our objects, which are dead, have left behind (D2); return how many. Not below folders."""
        if not await self._disk.is_dir(self.place):
            return 0
        found = 0
        for entry in await self._disk.list(self.place):
            match = _TEMPORARY.fullmatch(entry)
            if match is not None and ours(match[1]):
                await self._remove_left_over(f"{self.place}/{entry}")
                found += 1
        return found

    async def _remove_left_over(self, path: str) -> None:
        try:
            await self._disk.unlink(path)
        except FileNotFoundError:
            pass  # its writer, alive after all, has renamed or removed it

    async def _begin(self, key: str) -> DirectoryWriter:
        path = self._path(key)
        folder, _, name = path.rpartition("/")
        await self._disk.make_dirs(folder or "/")
        for number in range(LEFT_OVERS):
            temporary = f"{folder}/.{name}.{number}.tmp" if number else f"{folder}/.{name}.tmp"
            try:
                file = await self._disk.open(temporary, create=True, exclusive=True)
            except FileExistsError:
                continue  # D2
            return DirectoryWriter(self._disk, file, temporary, path)
        raise StorageError(f"{folder} holds {LEFT_OVERS} unfinished copies of {name}", f"remove {folder}/.{name}.*.tmp")

    async def _walk(self, folder: str, prefix: str, found: dict[str, Stored]) -> None:
        path = f"{self.place}/{folder}" if folder else self.place
        if not await self._disk.is_dir(path):
            return
        try:
            names = await self._disk.list(path)
        except FileNotFoundError:
            return
        for index, name in enumerate(names):
            if self._tasks is not None and index % LIST_BATCH == LIST_BATCH - 1:
                await self._tasks.yield_now()  # thousands of files: nobody is to wait for all of them
            key = f"{folder}/{name}" if folder else name
            if name.startswith("."):
                continue  # D2
            if not key.startswith(prefix) and not prefix.startswith(key + "/"):
                continue
            if await self._disk.is_dir(self._path(key)):
                await self._walk(key, prefix, found)
            elif key.startswith(prefix):
                size = await self.size(key)
                if size is not None:
                    found[key] = Stored(key, size)

    def _path(self, key: str) -> str:
        return f"{self.place}/{check_key(key)}"


def _is_temporary(entry: str, name: str) -> bool:
    """Whether it is a temporary name of this object, and not of one whose name only begins alike."""
    match = _TEMPORARY.fullmatch(entry)
    return match is not None and match[1] == name


class DirectoryWriter:
    """Satisfies `ports.StoreWriter` (D1)."""

    def __init__(self, disk: Disk, file: File, temporary: str, path: str) -> None:
        self._disk = disk
        self._file = file
        self._temporary = temporary
        self._path = path
        self._offset = 0

    async def write(self, data: bytes | memoryview) -> None:
        await self._file.write(self._offset, data)
        self._offset += len(data)

    async def close(self) -> None:
        await self._settle()
        await self._disk.rename(self._temporary, self._path)
        await self._disk.sync_dir(self._path.rpartition("/")[0] or "/")

    async def finish_new(self) -> None:
        """`close`, unless the object exists. Raises: FileExistsError."""
        await self._settle()
        await self._disk.rename_new(self._temporary, self._path)
        await self._disk.sync_dir(self._path.rpartition("/")[0] or "/")

    async def abort(self) -> None:
        try:
            await self._file.close()
            await self._disk.unlink(self._temporary)
        except (OSError, StorageError):
            pass  # what is left begins with a dot: nobody's object (D2)

    async def _settle(self) -> None:
        await self._file.sync()
        await self._file.close()
