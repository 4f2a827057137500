"""Encryption of archived log and of backups: AES-256-GCM in chunks, each object under a key of its own.

A sealed object is a header and then one or more chunks; the last one says so:

    SEALED_HEADER, little-endian:
    offset  size  name
    0       8     checksum
    8       8     magic
    16      4     version
    20      4     reserved
    24      8     key_id
    32      16    salt

    SEALED_CHUNK, little-endian:
    offset  size  name
    0       4     size
    4       4     last

Behind a SEALED_CHUNK stand `size` bytes: the ciphertext of at most 4 MB and its tag of 16 bytes. `checksum` is XXH3-64 of the
rest of the header: damage to it is told from a wrong key.

X1. An object's key is HKDF-SHA256(master key, its random salt). The nonce is the chunk's number and whether it is the last, so
    that no nonce is ever used twice under one key, and chunks cannot be moved, repeated or cut off.
X2. What is authenticated with every chunk is the header and the context, the object's name: one object cannot stand in for
    another.
X3. A wrong key is noticed by `key_id`, which is derived from the master key, before anything is decoded.
X4. Neither the key nor what a key command prints is ever part of an error, an event or a repr.

Source: the STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizár, 2015) as age uses it; RFC 5869 for HKDF.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Protocol

from xxhash import xxh3_64_intdigest

from thunderdb.base.config import Config
from thunderdb.base.errors import ConfigError, Corruption, InvariantViolated, Refused, StorageError
from thunderdb.runtime.ports import Ports

SEALED_HEADER = struct.Struct("<Q8sII8s16s")
SEALED_CHUNK = struct.Struct("<II")
CHUNK_BYTES = 4 << 20
TAG_BYTES = 16
KEY_BYTES = 32
SALT_BYTES = 16
KEY_COMMAND_TIMEOUT_S = 60.0
_MAGIC = b"TDBseal\0"
_VERSION = 1
_INSTALL = "pip install 'thunderdb[encryption]'"


class Cipher(Protocol):
    """Seals and opens whole objects, or objects too large for memory chunk by chunk. Safe to use from `ports.offload`."""

    key_id: str

    def seal(self, data: bytes, context: str) -> bytes:
        """A complete sealed object."""
        ...

    def open(self, data: bytes, context: str) -> bytes:
        """What was sealed. Raises: Refused for a wrong key, Corruption for what is not as it was sealed."""
        ...

    def sealer(self, context: str) -> Sealer: ...

    def opener(self, context: str) -> Opener: ...


class Sealer(Protocol):
    """One object, front to back."""

    def chunk(self, data: bytes | memoryview, last: bool = False) -> bytes:
        """The sealed bytes to append for `data`, of at most CHUNK_BYTES; the header comes with the first ones."""
        ...


class Opener(Protocol):
    """One sealed object, front to back, in pieces of any size."""

    def feed(self, data: bytes) -> list[bytes]:
        """The chunks that are now complete, opened. Raises: as `Cipher.open`."""
        ...

    def end(self) -> None:
        """Say that nothing follows. Raises: Corruption if the last chunk has not been seen."""
        ...


def sealed_size(raw_bytes: int) -> int:
    """Size of the sealed object that holds `raw_bytes` in chunks of CHUNK_BYTES."""
    chunks = max(1, -(-raw_bytes // CHUNK_BYTES))
    return SEALED_HEADER.size + raw_bytes + chunks * (SEALED_CHUNK.size + TAG_BYTES)


async def load_cipher(ports: Ports, config: Config) -> Cipher | None:
    """The cipher of the configured key; None where no key is configured. Raises: ConfigError."""
    if config.backup_key_file:
        key = await _key_from_file(ports, config.backup_key_file)
    elif config.backup_key_command:
        key = await _key_from_command(ports, config.backup_key_command)
    else:
        return None
    return AesGcmCipher(key, ports.random.bits)


class AesGcmCipher:
    """Satisfies `Cipher`. `random_bits` is `ports.random.bits`."""

    __slots__ = ("key_id", "_master", "_random_bits", "_primitives")

    def __init__(self, master_key: bytes, random_bits: Callable[[int], int]) -> None:
        if len(master_key) != KEY_BYTES:
            raise ConfigError(f"a key for encryption has {KEY_BYTES} bytes, not {len(master_key)}")
        self._primitives = _Primitives()
        self._master = master_key
        self._random_bits = random_bits
        self.key_id = self._primitives.derive(master_key, b"", b"thunderdb key id v1", 8).hex()

    def __repr__(self) -> str:
        return f"AesGcmCipher(key_id={self.key_id})"  # X4

    def seal(self, data: bytes, context: str) -> bytes:
        sealer = self.sealer(context)
        view = memoryview(data)
        starts = range(0, max(1, len(data)), CHUNK_BYTES)
        return b"".join(sealer.chunk(view[at : at + CHUNK_BYTES], at == starts[-1]) for at in starts)

    def open(self, data: bytes, context: str) -> bytes:
        opener = self.opener(context)
        raw = b"".join(opener.feed(data))
        opener.end()
        return raw

    def sealer(self, context: str) -> AesGcmSealer:
        salt = self._random_bits(8 * SALT_BYTES).to_bytes(SALT_BYTES, "big")
        header = _encode_header(bytes.fromhex(self.key_id), salt)
        return AesGcmSealer(self._aead(salt), header, context)

    def opener(self, context: str) -> AesGcmOpener:
        return AesGcmOpener(self, context)

    def aead_of(self, header: bytes, context: str) -> Any:
        """The key of the object with this header. Raises: Corruption, Refused."""
        key_id, salt = _decode_header(header, context)
        if key_id.hex() != self.key_id:  # X3
            raise Refused(
                f"wrong key: {context} is sealed with key {key_id.hex()}, and the configured key is {self.key_id}",
                "set backup_key_file or backup_key_command to the key that was in use when it was written",
            )
        return self._aead(salt)

    def _aead(self, salt: bytes) -> Any:
        return self._primitives.aead(self._primitives.derive(self._master, salt, b"thunderdb object v1", KEY_BYTES))


class AesGcmSealer:
    """Satisfies `Sealer`."""

    __slots__ = ("_aead", "_header", "_authenticated", "_number", "_ended")

    def __init__(self, aead: Any, header: bytes, context: str) -> None:
        self._aead = aead
        self._header = header
        self._authenticated = header + context.encode()
        self._number = 0
        self._ended = False

    def chunk(self, data: bytes | memoryview, last: bool = False) -> bytes:
        if self._ended or len(data) > CHUNK_BYTES:
            raise InvariantViolated("a sealed object has nothing behind its last chunk, and no chunk of more than 4 MB")
        sealed: bytes = self._aead.encrypt(_nonce(self._number, last), data, self._authenticated)
        header = self._header if self._number == 0 else b""
        self._number += 1
        self._ended = last
        return b"".join((header, SEALED_CHUNK.pack(len(sealed), last), sealed))


class AesGcmOpener:
    """Satisfies `Opener`. Holds at most one chunk that is not complete."""

    __slots__ = ("_cipher", "_context", "_aead", "_authenticated", "_number", "_ended", "_buffer")

    def __init__(self, cipher: AesGcmCipher, context: str) -> None:
        self._cipher = cipher
        self._context = context
        self._aead: Any = None
        self._authenticated = b""
        self._number = 0
        self._ended = False
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        self._buffer += data
        at = self._begin()
        opened: list[bytes] = []
        while self._aead is not None and len(self._buffer) >= at + SEALED_CHUNK.size:
            size, last = SEALED_CHUNK.unpack_from(self._buffer, at)
            if self._ended or last > 1 or not TAG_BYTES <= size <= CHUNK_BYTES + TAG_BYTES:
                raise self._damaged("what follows is no chunk")
            end = at + SEALED_CHUNK.size + size
            if len(self._buffer) < end:
                break
            opened.append(self._open_chunk(bytes(memoryview(self._buffer)[at + SEALED_CHUNK.size : end]), bool(last)))
            at = end
        del self._buffer[:at]
        if self._ended and self._buffer:
            raise self._damaged("something stands behind its last chunk")
        return opened

    def end(self) -> None:
        if self._buffer and self._aead is None:
            _decode_header(bytes(self._buffer), self._context)
        if not self._ended or self._buffer:
            raise self._damaged("it was cut off")

    def _begin(self) -> int:
        """Read the header once it is complete; return where the chunks begin in the buffer."""
        if self._aead is not None or len(self._buffer) < SEALED_HEADER.size:
            return 0
        header = bytes(self._buffer[: SEALED_HEADER.size])
        self._aead = self._cipher.aead_of(header, self._context)
        self._authenticated = header + self._context.encode()  # X2
        return SEALED_HEADER.size

    def _open_chunk(self, sealed: bytes, last: bool) -> bytes:
        opened = self._cipher._primitives.decrypt(self._aead, _nonce(self._number, last), sealed, self._authenticated)
        if opened is None:
            raise self._damaged("it is not what was sealed, or not under this name")
        self._number += 1
        self._ended = last
        return opened

    def _damaged(self, why: str) -> Corruption:
        return Corruption(f"{self._context}: sealed chunk {self._number} is damaged: {why}")


class _Primitives:
    """The `cryptography` package, imported when the first cipher is made."""

    __slots__ = ("aead", "_hkdf", "_sha256", "_invalid_tag")

    def __init__(self) -> None:
        try:
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
            from cryptography.hazmat.primitives.hashes import SHA256
            from cryptography.hazmat.primitives.kdf.hkdf import HKDF
        except ImportError:
            raise ConfigError("encryption needs the package cryptography, which is not installed", _INSTALL) from None
        self.aead: Any = AESGCM
        self._hkdf: Any = HKDF
        self._sha256: Any = SHA256
        self._invalid_tag: Any = InvalidTag

    def derive(self, key: bytes, salt: bytes, info: bytes, size: int) -> bytes:
        derived: bytes = self._hkdf(algorithm=self._sha256(), length=size, salt=salt, info=info).derive(key)
        return derived

    def decrypt(self, aead: Any, nonce: bytes, sealed: bytes, authenticated: bytes) -> bytes | None:
        try:
            opened: bytes = aead.decrypt(nonce, sealed, authenticated)
        except self._invalid_tag:
            return None
        return opened


def _nonce(number: int, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])  # X1


def _encode_header(key_id: bytes, salt: bytes) -> bytes:
    header = bytearray(SEALED_HEADER.pack(0, _MAGIC, _VERSION, 0, key_id, salt))
    struct.pack_into("<Q", header, 0, xxh3_64_intdigest(memoryview(header)[8:]))
    return bytes(header)


def _decode_header(header: bytes, context: str) -> tuple[bytes, bytes]:
    """Return key_id and salt. Raises: Corruption, Refused."""
    if len(header) < SEALED_HEADER.size:
        raise Corruption(f"{context}: too short to be sealed: {len(header)} bytes")
    checksum, magic, version, _, key_id, salt = SEALED_HEADER.unpack_from(header)
    if magic != _MAGIC:
        raise Corruption(f"{context} is not sealed, although its name says so")
    if checksum != xxh3_64_intdigest(header[8 : SEALED_HEADER.size]):
        raise Corruption(f"{context}: the header of the sealed object is damaged")
    if version != _VERSION:
        raise Refused(f"{context} is sealed in format {version}, and this version reads {_VERSION}", "use a newer ThunderDB")
    return key_id, salt


async def _key_from_file(ports: Ports, path: str) -> bytes:
    try:
        mode = await ports.disk.mode(path)
        data = await ports.disk.read_file(path)
    except FileNotFoundError:
        raise ConfigError(f'backup_key_file = "{path}": there is no such file') from None
    except (PermissionError, StorageError) as error:
        raise ConfigError(f'backup_key_file = "{path}" cannot be read: {error}') from None
    if mode & 0o077:
        raise ConfigError(
            f'backup_key_file = "{path}" may be read or written by others than its owner (mode {mode:04o})', f"chmod 600 {path}"
        )
    return _parse_key(data, f'backup_key_file = "{path}"')


async def _key_from_command(ports: Ports, command: str) -> bytes:
    """Neither the command nor its output appears in an error: either may hold the secret (X4)."""
    hint = "run the command by hand, as the user that runs thunderdb"
    try:
        status, output = await ports.command.capture(command, KEY_COMMAND_TIMEOUT_S)
    except TimeoutError:
        raise ConfigError(f"backup_key_command did not end within {KEY_COMMAND_TIMEOUT_S:g} s", hint) from None
    if status != 0:
        raise ConfigError(f"backup_key_command failed with exit status {status}", hint)
    return _parse_key(output, "the output of backup_key_command")


def _parse_key(data: bytes, what: str) -> bytes:
    if len(data) == KEY_BYTES:
        return data
    text = data.strip()
    if len(text) == 2 * KEY_BYTES and not text.strip(b"0123456789abcdefABCDEF"):
        return bytes.fromhex(text.decode())
    raise ConfigError(
        f"{what} is no key: expected {KEY_BYTES} bytes or {2 * KEY_BYTES} hexadecimal digits, found {len(data)} bytes",
        "openssl rand -hex 32 makes one",
    )
