"""How a file of a backup is stored: as it is, compressed, encrypted, or both.

    name            stored bytes
    X               the raw bytes
    X.zst           zstd frames back to back, each of at most FRAME_BYTES raw; `zstd -d` reads it
    X.enc           X sealed as one object (archive/cipher.py), with its name in the backup as the context
    X.zst.enc       X.zst sealed so: one chunk a frame

E1. Bytes go out in the order in which they came in, whatever the threads that compress them do.
E2. The digest is over the stored bytes, so that a backup can be checked without the key.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from backports import zstd
from xxhash import xxh3_128

from thunderdb.backup.holes import HOLE_BYTES, all_zeros
from thunderdb.backup.manifest import FileEntry
from thunderdb.base.errors import Corruption, Refused
from thunderdb.runtime.ports import Ports, StoreWriter
from thunderdb.runtime.sync import Task

FRAME_BYTES = 4 << 20
READ_BYTES = 1 << 20
PLAIN_READ_BYTES = 2 << 20
LEVEL = 1
QUEUE = 64
IN_FLIGHT = 2
COMPRESSED, ENCRYPTED = ".zst", ".enc"
ZEROS = bytes(FRAME_BYTES)


class FileSealer(Protocol):
    def chunk(self, data: bytes | memoryview, last: bool = False) -> bytes: ...


class FileOpener(Protocol):
    def feed(self, data: bytes) -> list[bytes]: ...

    def end(self) -> None: ...


class FileCipher(Protocol):
    """What encrypts a backup's files: archive.cipher.Cipher."""

    key_id: str

    def sealer(self, context: str) -> FileSealer: ...

    def opener(self, context: str) -> FileOpener: ...


Read = Callable[[int, int], Awaitable[bytes]]
"""(offset, size) -> bytes, fewer only at the end."""


def stored_name(path: str, compressed: bool, encrypted: bool) -> str:
    return path + (COMPRESSED if compressed else "") + (ENCRYPTED if encrypted else "")


def parse_stored_name(path: str) -> tuple[str, bool, bool]:
    """(plain path, compressed, encrypted)"""
    encrypted = path.endswith(ENCRYPTED)
    path = path.removesuffix(ENCRYPTED)
    return path.removesuffix(COMPRESSED), path.endswith(COMPRESSED), encrypted


class FrameWriter:
    """Encodes one file into a store's writer: at most IN_FLIGHT frames are being compressed while one is written."""

    def __init__(
        self, ports: Ports, writer: StoreWriter, path: str, compress: bool, cipher: FileCipher | None,
        on_written: Callable[[int], None] = lambda size: None,
    ) -> None:  # fmt: skip
        self.path = self.name_of(path, compress, cipher)
        self.raw_size = 0
        self.size = 0
        self._ports = ports
        self._writer = writer
        self._compress = compress
        self._sealer = None if cipher is None else cipher.sealer(self.path)
        self._on_written = on_written
        self._digest = xxh3_128()
        self._zeros: list[tuple[int, int]] = []
        self._held: bytes | None = None  # a sealed object's last chunk is known as such only at the end
        self._running: deque[Task[bytes]] = deque()

    @staticmethod
    def name_of(path: str, compress: bool, cipher: FileCipher | None) -> str:
        return stored_name(path, compress, cipher is not None)

    async def write(self, raw: bytes) -> None:
        """Add up to FRAME_BYTES; what is given at once becomes one frame."""
        self.raw_size += len(raw)
        if not self._compress:
            await self._seal(raw)
            return
        compressing = self._ports.offload.run(zstd.compress, raw, LEVEL)
        self._running.append(self._ports.tasks.spawn(compressing, "backup.compress"))
        while len(self._running) > IN_FLIGHT:
            await self._seal(await self._running.popleft())

    async def finish(self, pages: int | None = None) -> FileEntry:
        """Write what is left, and close. Durable when: the writer's close says so."""
        if self._compress and not self.raw_size:
            await self.write(b"")
        while self._running:
            await self._seal(await self._running.popleft())
        if self._sealer is not None:
            await self._out(await self._ports.offload.run(self._sealer.chunk, self._held or b"", True))
        await self._writer.close()
        return FileEntry(self.path, self.size, self.raw_size, self._digest.hexdigest(), pages, tuple(self._zeros))

    async def abort(self) -> None:
        """Give up: leave nothing running and nothing open."""
        while self._running:
            await self._running.popleft()
        await self._writer.abort()

    async def _seal(self, data: bytes) -> None:
        if self._sealer is None:
            await self._out(data)
            return
        data_now, self._held = self._held, data
        if data_now is not None:
            await self._out(await self._ports.offload.run(self._sealer.chunk, data_now))

    async def _out(self, data: bytes) -> None:
        self._digest.update(data)
        if len(data) >= HOLE_BYTES and not (self._compress or self._sealer) and all_zeros(data):
            joins = bool(self._zeros) and self._zeros[-1][1] == self.size
            start = self._zeros.pop()[0] if joins else self.size
            self._zeros.append((start, self.size + len(data)))
        self.size += len(data)
        await self._writer.write(data)
        self._on_written(len(data))


class FrameReader:
    """Decodes one file. `digest` and `size` are of the stored bytes read so far, so of all of them at the end.

    `zeros` are stretches of a file stored plain that need not be read: the manifest says what is in them. So many reads are
    under way `ahead` of what was asked for, of `piece_bytes` each; who gives up in between calls `cancel`.
    """

    def __init__(
        self, ports: Ports, read: Read, path: str, stored_size: int, cipher: FileCipher | None,
        zeros: Sequence[tuple[int, int]] = (), ahead: int = 0, piece_bytes: int = 0,
    ) -> None:  # fmt: skip
        _plain, self._compressed, encrypted = parse_stored_name(path)
        if encrypted and cipher is None:
            raise Refused(f"{path} is encrypted", "Name its key with backup_key_file or backup_key_command in [backup].")
        self.path = path
        self.size = 0
        self.raw_size = 0
        self._ports = ports
        self._read = read
        self._stored_size = stored_size
        self._opener = cipher.opener(path) if encrypted and cipher is not None else None
        self._digest = xxh3_128()
        self._decompressor: zstd.ZstdDecompressor | None = None
        self._ended = False
        self._zeros = deque(zeros)
        self._ahead = ahead
        plain = not self._compressed and not encrypted
        self._piece_bytes = piece_bytes or (PLAIN_READ_BYTES if plain else READ_BYTES)
        self._planned = 0
        self._pieces: deque[tuple[int, Task[bytes] | None]] = deque()  # size, and the read of what is not zeros
        self._reading = 0

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()

    async def next(self) -> bytes:
        """The next raw bytes; empty at the end. Raises: Corruption naming the file; Refused for a wrong key; StorageError."""
        while self.size < self._stored_size:
            data = await self._stored()
            if not data:
                raise Corruption(f"{self.path}: it ends after {self.size} of {self._stored_size} bytes")
            self._digest.update(data)
            self.size += len(data)
            decode = self._compressed or self._opener is not None
            raw = await self._ports.offload.run(self._decode, data) if decode else data
            if raw:
                self.raw_size += len(raw)
                return raw
        if not self._ended:
            self._ended = True
            if self._opener is not None:
                self._opener.end()
            if self._decompressor is not None and not self._decompressor.eof:
                raise Corruption(f"{self.path}: its last frame is not complete")
        return b""

    async def _stored(self) -> bytes:
        """The next stored bytes; those that are known to be zeros are not read."""
        if not self._ahead:
            count, zeros = self._span()
            if zeros:
                return ZEROS if count == FRAME_BYTES else ZEROS[:count]
            data = await self._read(self.size, count)
            self._planned = self.size + len(data)
            return data
        self._plan()
        count, reading = self._pieces.popleft()
        if reading is None:
            return ZEROS if count == FRAME_BYTES else ZEROS[:count]
        self._reading -= 1
        try:
            data = await reading
        except BaseException:
            self.cancel()
            raise
        if len(data) != count:  # an object that is shorter than it should be: nothing behind it is where it was thought
            self.cancel()
            self._planned = self.size + len(data)
        return data

    def _plan(self) -> None:
        """Begin the reads that come next."""
        while self._planned < self._stored_size and self._reading <= self._ahead and len(self._pieces) < QUEUE:
            offset = self._planned
            count, zeros = self._span()
            if zeros:
                self._pieces.append((count, None))
            else:
                self._pieces.append((count, self._ports.tasks.spawn(self._bytes(offset, count), "backup.read")))
                self._reading += 1

    async def _bytes(self, offset: int, count: int) -> bytes:
        return await self._read(offset, count)

    def _span(self) -> tuple[int, bool]:
        """How many bytes come next, and whether they are zeros that need not be read."""
        offset = self._planned
        count = self._stored_size - offset
        if self._zeros and self._zeros[0][0] <= offset:
            end = self._zeros[0][1]
            count = min(count, end - offset, FRAME_BYTES)
            if offset + count >= end:
                self._zeros.popleft()
            self._planned += count
            return count, True
        if self._zeros:
            count = min(count, self._zeros[0][0] - offset)
        count = min(self._piece_bytes, count)
        self._planned += count
        return count, False

    def cancel(self) -> None:
        """Give up what is under way; nobody hears of it any more."""
        for _count, reading in self._pieces:
            if reading is not None:
                reading.cancel()
        self._pieces.clear()
        self._reading = 0

    async def skim(self) -> None:
        """Read what is left for the digest alone, whatever it decodes to."""
        self.cancel()
        while self.size < self._stored_size:
            data = await self._read(self.size, min(READ_BYTES, self._stored_size - self.size))
            if not data:
                return
            self._digest.update(data)
            self.size += len(data)

    def _decode(self, data: bytes) -> bytes:
        """Runs in a thread, one call at a time."""
        pieces = [data] if self._opener is None else self._opener.feed(data)
        return b"".join(map(self._decompress, pieces)) if self._compressed else b"".join(pieces)

    def _decompress(self, data: bytes) -> bytes:
        parts = []
        while data:
            if self._decompressor is None or self._decompressor.eof:
                self._decompressor = zstd.ZstdDecompressor()
            try:
                parts.append(self._decompressor.decompress(data))
            except zstd.ZstdError as error:
                raise Corruption(f"{self.path}: not what was compressed, before byte {self.size}: {error}") from None
            data = self._decompressor.unused_data if self._decompressor.eof else b""
        return b"".join(parts)
