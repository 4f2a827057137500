"""Encrypted backups: nothing readable in them, no restore or verification without the key, a wrong key said to be one."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.backup.helpers import BackupWorld
from thunderdb.archive.cipher import AesGcmCipher
from thunderdb.backup.manifest import MANIFEST_NAME
from thunderdb.base.errors import Refused


def cipher_of(world: BackupWorld, key: bytes = b"k" * 32) -> Any:
    return AesGcmCipher(key, world.random.bits)


@pytest.mark.parametrize("compress", [False, True])
def test_an_encrypted_backup(compress: bool) -> None:
    world = BackupWorld(rows=400)
    cipher = cipher_of(world)
    manifest = world.backup("/b/sealed", cipher=cipher, compress=compress, config_text="# harmless\n")
    assert manifest.encryption == {"key_id": cipher.key_id}
    for path in world.files_of("/b/sealed"):
        assert path.endswith((".enc", MANIFEST_NAME))
        data = bytes(world.disk.files[path])
        assert b"xxxxxxxxxxxx" not in data and b"harmless" not in data and b"k" * 32 not in data
    assert world.verify("/b/sealed", cipher).passed
    with pytest.raises(Refused, match="encrypted"):
        world.verify("/b/sealed")
    with pytest.raises(Refused, match="wrong key"):
        world.verify("/b/sealed", cipher_of(world, b"w" * 32))
    incremental = world.backup("/b/inc", cipher=cipher, type="incremental", base="/b/sealed")
    assert world.verify("/b/inc", cipher).passed and incremental.base is not None


def test_a_flipped_byte_of_an_encrypted_backup_is_seen() -> None:
    world = BackupWorld(rows=100)
    cipher = cipher_of(world)
    world.backup("/b/sealed", cipher=cipher)
    for path in world.files_of("/b/sealed"):
        data = world.disk.files[path]
        for offset in (70, len(data) // 2, len(data) - 1):
            data[offset] ^= 8
            report = world.verify("/b/sealed", cipher)
            data[offset] ^= 8
            assert not report.passed and report.problems[0].file == path.removeprefix("/b/sealed/")
