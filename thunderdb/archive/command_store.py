"""An archive behind shell commands: one that stores a file, and perhaps one that fetches it.

    %f  the path of a file on this machine     %n  its name     %%  a percent sign

M1. Paths and names that are put into a command are made of safe characters only, so nothing in them means anything to a shell.
M2. With a restore command a file is fetched before it is stored: identical is success, for some stores refuse to overwrite.
M3. Without one, exit status 0 is all that is known: `verified` is false.
M4. A command that fails may mean that the file is not there, or that the store is out of reach: the exit status does not tell.
    So that a log ends here is believed only if, several times in turn, a file that was fetched before can be fetched once more
    and what is missing cannot: see `confirm`. What has come meanwhile, beside a live archive, is read then (`CameSince`). And a
    history file is written only where it was asked for as often: an overwritten one is a timeline with two owners.
M5. Commands may hold secrets: errors name the configuration key and what the command said on stderr, never the command.
"""

from __future__ import annotations

import re

from thunderdb.archive.codec import Codec
from thunderdb.archive.identity import Archived, read_archived
from thunderdb.archive.index import ArchiveIndex, Complete
from thunderdb.archive.names import object_name
from thunderdb.archive.target import Placed, different
from thunderdb.base.errors import ConfigError, StorageError
from thunderdb.runtime.ports import Command, Disk, File, Offload
from thunderdb.wal.segment import segment_name
from thunderdb.wal.timeline import history_name

SAFE = re.compile(r"[A-Za-z0-9_./+@:=,-]+", re.ASCII)
NOT_FOUND_MAX = 125
"""A shell's own failures (no such command, killed) have a higher exit status than what a command says itself."""
_MISSES = 3
_LOOKS = 3
_TURNS = 4
"""A command that fails now and then, one time in five, hides what is there in one of 10,000 restores."""


def expand(command: str, path: str, name: str) -> str:
    """Put path and name into a command. Raises: ConfigError for another %-sequence or unsafe characters (M1)."""
    for text in (path, name):
        if SAFE.fullmatch(text) is None or text.startswith("-"):
            raise ConfigError(
                f"{text!r} cannot be put into a command", "Use a directory whose path has letters, digits and _./+@:=,- only."
            )

    def replaced(match: re.Match[str]) -> str:
        values = {"f": path, "n": name, "%": "%"}
        if match[1] not in values:
            raise ConfigError(f"%{match[1]} means nothing in an archive or restore command", "Write %% for a percent sign.")
        return values[match[1]]

    return re.sub(r"%(.?)", replaced, command, flags=re.DOTALL)


class CameSince(StorageError):
    """A file could not be fetched, and now can: it came in between, or the command fails now and then. Look again."""


class CommandSource:
    """Fetches archived files by wal_restore_command, through a directory of its own. Satisfies `LogSource`."""

    def __init__(
        self, disk: Disk, command: Command, restore_command: str, scratch: str, timeout_s: float, codec: Codec, offload: Offload
    ) -> None:
        self.place = "wal_restore_command"
        self.last_error = ""
        self._fetched = ""
        self._missed: dict[str, None] = {}
        self._disk = disk
        self._command = command
        self._restore_command = restore_command
        self._scratch = scratch
        self._timeout_s = timeout_s
        self._codec = codec
        self._offload = offload

    async def fetch(self, name: str) -> bytes | None:
        """A file by its own name, however it was stored; None if the command says that it is not there."""
        for key in self._keys(name):
            stored = await self.fetch_key(key)
            if stored is not None:
                return await self._offload.run(self._codec.decode, stored, key)
        return None

    async def fetch_key(self, key: str) -> bytes | None:
        """What the command puts at %f for the name `key`. Raises: StorageError if it cannot be run, or takes too long."""
        path = f"{self._scratch}/{key}"
        await self._disk.make_dirs(self._scratch)
        await self._remove(path)
        status, stderr = await run_command(
            self._command, "wal_restore_command", expand(self._restore_command, path, key), self._timeout_s
        )
        if status != 0:
            self._missed[key] = None
            self.last_error = stderr.strip()
            await self._remove(path)
            if status > NOT_FOUND_MAX or status < 0:
                raise StorageError(f"wal_restore_command failed for {key} with exit status {status}{_said(stderr)}")
            return None
        try:
            data = await self._disk.read_file(path)
        except FileNotFoundError:
            return None
        await self._remove(path)
        self._missed.pop(key, None)
        self._fetched = key
        return data

    async def confirm(self, *names: str) -> None:
        """Make sure that what could not be fetched is not there (M4): `names` above all. Raises: StorageError if nothing can be
        fetched now; CameSince."""
        missed = [key for name in names for key in self._keys(name) if key in self._missed]
        for _ in range(_TURNS if missed else 1):
            if self._fetched and await self.fetch_key(self._fetched) is None:
                said = _said(self.last_error)
                raise StorageError(
                    f"wal_restore_command no longer fetches {self._fetched}, which it has fetched before{said}",
                    "Run it by hand, and then the restore again.",
                )
            for key in missed:
                if await self.fetch_key(key) is not None:
                    raise CameSince(
                        f"wal_restore_command fetches {key}, and did not a moment ago",
                        "Run the restore again; a command that fails for a while should try again by itself.",
                    )

    def _keys(self, name: str) -> list[str]:
        """How a file may be stored, the likeliest first."""
        if name.endswith(".history"):
            return [name]
        own = (self._codec.compress, self._codec.cipher is not None)
        forms = [own, *(other for other in ((False, False), (True, False)) if other != own)]
        return [object_name(name, compressed, encrypted) for compressed, encrypted in forms]

    async def segment(self, timeline: int, number: int) -> bytes | None:
        return await self.fetch(segment_name(timeline, number))

    async def history(self, timeline: int) -> str | None:
        found = await self.fetch_key(history_name(timeline))
        return None if found is None else found.decode(errors="replace")

    async def timelines(self) -> list[int]:
        """Those that have a history file, found by asking for one after the other. Raises: StorageError."""
        for _ in range(_LOOKS - 1):
            try:
                return await self._timelines()
            except CameSince:
                continue
        return await self._timelines()

    async def _timelines(self) -> list[int]:
        found: list[int] = []
        timeline, missed = 1, list[str]()
        while len(missed) < _MISSES:
            if await self.history(timeline) is None:
                missed.append(history_name(timeline))
            else:
                found.append(timeline)
                missed.clear()
            timeline += 1
        await self.confirm(*missed)
        return found

    async def _remove(self, path: str) -> None:
        try:
            await self._disk.unlink(path)
        except FileNotFoundError:
            pass


class CommandTarget:
    """An archive that is written by wal_archive_command. Satisfies `target.Target`; it has no tail and no notes."""

    has_tail = False

    def __init__(
        self, disk: Disk, command: Command, offload: Offload, archive_command: str, timeout_s: float, codec: Codec,
        wal_dir: str, data_dir: str, source: CommandSource | None,
    ) -> None:  # fmt: skip
        self.place = "wal_archive_command"
        self.source = source
        self._disk = disk
        self._command = command
        self._offload = offload
        self._archive_command = archive_command
        self._timeout_s = timeout_s
        self._codec = codec
        self._wal_dir = wal_dir
        self._data_dir = data_dir
        self._scratch = f"{data_dir}/archive.tmp"

    @property
    def verified(self) -> bool:
        return self.source is not None

    async def index(self) -> ArchiveIndex | None:
        return None

    async def remembered(self) -> Archived | None:
        return await read_archived(self._disk, self._data_dir)

    async def fetch(self, name: str) -> bytes | None:
        return None if self.source is None else await self.source.fetch(name)

    async def has(self, name: str, raw: bytes) -> bool:
        return self.source is not None and await self.source.fetch(name) == raw

    async def put(self, name: str, raw: bytes) -> Placed:
        """All of it: a command is run for one file after the other, and what it did is looked at at once."""
        return Placed(name, b"", False, await self._push(name, raw))

    async def confirm(self, name: str, raw: bytes, placed: Placed) -> int:
        return placed.size

    async def _push(self, name: str, raw: bytes) -> int:
        key = self._codec.key(name)
        if self.source is not None:
            there = await self.source.fetch(name)  # M2
            if there is not None:
                return self._same(there, raw, key, name)
        if self._codec.plain:
            size = len(raw)
            failure = await self._run(f"{self._wal_dir}/{name}", name)
        else:
            data = await self._offload.run(self._codec.encode, raw, name)
            size = len(data)
            failure = await self._run_with(key, data)
        if self.source is not None:
            there = await self.source.fetch(name)
            if there is not None:
                self._same(there, raw, key, name)
                return size
            failure = failure or f"wal_archive_command ended with exit status 0, but {name} cannot be fetched{self._hint()}"
        if failure:
            raise StorageError(failure)
        return size

    async def claim(self, name: str, body: bytes) -> bytes | None:
        for _ in range(_TURNS if self.source is not None else 0):  # M4
            there = None if self.source is None else await self.source.fetch_key(name)
            if there is not None:
                return there
        failure = await self._run_with(name, body)
        there = None if self.source is None else await self.source.fetch_key(name)
        if there is not None:
            return there
        if failure:
            raise StorageError(failure)
        if self.source is not None:
            raise StorageError(f"wal_archive_command ended with exit status 0, but {name} cannot be fetched{self._hint()}")
        return None

    async def extend_tail(self, timeline: int, number: int, file: File, end: int) -> int:
        return 0

    def resume_tail(self, timeline: int, number: int, size: int, key: str, stored_size: int) -> None:
        return None

    async def drop_tail(self, timeline: int, number: int) -> None:
        return None

    async def drop(self, key: str) -> None:
        return None

    async def sweep(self, timeline: int) -> None:
        return None

    async def note(self, timeline: int, complete: Complete) -> None:
        return None

    async def noted(self, timeline: int) -> Complete | None:
        return None

    def _same(self, there: bytes, raw: bytes, key: str, name: str) -> int:
        if there != raw:
            raise different("the archive", key, name)
        return len(there)

    def _hint(self) -> str:
        said = self.source.last_error if self.source is not None else ""
        return _said(said)

    async def _run_with(self, key: str, data: bytes) -> str:
        """Run the command over a file that is made for it."""
        await self._disk.make_dirs(self._scratch)
        path = f"{self._scratch}/{key}"
        file = await self._disk.open(path, create=True)
        try:
            await file.truncate(0)
            await file.write(0, data)
        except Exception:
            await file.close()
            raise
        await file.close()
        failure = await self._run(path, key)
        await self._disk.unlink(path)
        return failure

    async def _run(self, path: str, name: str) -> str:
        """Archive one file; return what went wrong, or nothing."""
        command = expand(self._archive_command, path, name)
        try:
            status, stderr = await run_command(self._command, "wal_archive_command", command, self._timeout_s)
        except StorageError as error:
            return error.message
        return f"wal_archive_command failed for {name} with exit status {status}{_said(stderr)}" if status else ""


async def run_command(command: Command, key: str, text: str, timeout_s: float) -> tuple[int, str]:
    """Raises: StorageError, naming the configuration key, when it takes too long (M5)."""
    try:
        return await command.run(text, timeout_s)
    except TimeoutError:
        raise StorageError(f"{key} did not end within {timeout_s:g} s", "See wal_command_timeout in [storage].") from None


def _said(stderr: str) -> str:
    text = " ".join(stderr.split())
    return f": {text}" if text else ""
