"""How a file is stored in the archive: as it is, compressed (zstd), encrypted, or both; compressed first.

The functions are pure and release the interpreter lock for most of their time: run them through `ports.offload`.
"""

from __future__ import annotations

from backports import zstd

from thunderdb.archive.cipher import Cipher
from thunderdb.archive.names import COMPRESSED, ENCRYPTED, object_name, plain_name
from thunderdb.base.errors import Corruption, Refused

LEVEL = 1


class Codec:
    """What the configuration wants new objects to be, and how to read any."""

    __slots__ = ("compress", "cipher")

    def __init__(self, compress: bool = False, cipher: Cipher | None = None) -> None:
        self.compress = compress
        self.cipher = cipher

    @property
    def plain(self) -> bool:
        """Whether files are stored as they are."""
        return not self.compress and self.cipher is None

    def key(self, name: str) -> str:
        """The key under which a file of that name is stored."""
        return object_name(name, self.compress, self.cipher is not None)

    def encode(self, raw: bytes, name: str) -> bytes:
        """The object for the file `name`, to be stored under `key(name)`."""
        data = zstd.compress(raw, LEVEL) if self.compress else raw
        return data if self.cipher is None else self.cipher.seal(data, name)

    def decode(self, stored: bytes, key: str) -> bytes:
        """The file that is stored under `key`, however that was done. Raises: Corruption, Refused (no key, a wrong one)."""
        data = stored
        if key.endswith(ENCRYPTED):
            if self.cipher is None:
                raise Refused(f"{key} is encrypted", "Name its key with backup_key_file or backup_key_command in [backup].")
            data = self.cipher.open(data, plain_name(key))
        if key.removesuffix(ENCRYPTED).endswith(COMPRESSED):
            try:
                data = zstd.decompress(data)
            except zstd.ZstdError as error:
                raise Corruption(f"{key} cannot be decompressed: {error}") from None
        return data
