"""The archive and the backups of a history: where they are, what was promised of them, and what is expected of them.

V1. What `take_backup` has returned is a backup: it verifies, and it restores. What a crash left is one or is not, never half.
V2. The archive has the log up to what its archiver last said (`archived_lsn`), whatever dies afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sim.disk import DiskFaults
from sim.rand import Stream
from sim.truth import Line
from sim.world import SimNode
from thunderdb.archive.archiver import Archiver
from thunderdb.archive.cipher import Cipher, load_cipher
from thunderdb.backup.manifest import Manifest
from thunderdb.backup.take import BackupRequest, take_backup
from thunderdb.base.config import Config
from thunderdb.base.errors import NodeStopped, Refused, StorageError
from thunderdb.engine.database import Database

KEY_FILE = "/etc/thunderdb/backup.key"
CONFIG_TEXT = "[storage]\n"


@dataclass(slots=True)
class Taken:
    """A backup that said it was complete. `home` is the directory that it was taken from."""

    place: str
    manifest: Manifest
    line: Line
    home: int
    base: Taken | None = None


@dataclass(slots=True)
class Vault:
    """Drawn per history. `place` is a directory of the node's disk, or a bucket."""

    archive: str
    backups: str
    settings: dict[str, Any]
    encrypted: bool
    taken: list[Taken] = field(default_factory=list)
    archived: dict[int, int] = field(default_factory=dict)
    """By timeline: how far its archiver said that the archive is (V2)."""
    number: int = 0

    @property
    def in_store(self) -> bool:
        return "://" in self.archive

    def outage(self, node: SimNode, down: bool) -> None:
        """The archive cannot be written for a while."""
        if self.in_store:
            node.world.store.faults.down = down
        else:
            node.set_faults(DiskFaults({"write_error": 1.0}, self.archive) if down else DiskFaults())


def draw_vault(stream: Stream) -> Vault:
    url = stream.random() < 0.35
    encrypted = stream.random() < 0.15
    settings: dict[str, Any] = {
        "wal_archive_enabled": True,
        "wal_archive_dir": "s3://bucket/wal" if url else "/mnt/archive",
        "wal_archive_lag": stream.choice(("10ms", "50ms", "200ms")),
        "wal_archive_timeout": stream.choice(("1s", "5s", "60s")),
        "wal_archive_compress": stream.random() < 0.3,
    }
    if encrypted:
        settings["backup_key_file"] = KEY_FILE
    place = "s3://bucket/backups" if stream.random() < 0.25 else "/mnt/backups"
    return Vault(settings["wal_archive_dir"], place, settings, encrypted)


async def cipher_of(node: SimNode, config: Config) -> Cipher | None:
    return await load_cipher(node.ports, config)


def request_of(vault: Vault, stream: Stream, line: Line) -> tuple[BackupRequest, Taken | None]:
    """A backup of any kind, under a new name."""
    vault.number += 1
    bases = [taken for taken in vault.taken if taken.line.number in line.ancestors()]
    base = stream.choice(bases[-3:]) if bases and stream.random() < 0.5 else None
    request = BackupRequest(
        f"{vault.backups}/b{vault.number:03d}",
        include_wal=stream.random() < 0.8,
        compress=stream.random() < 0.4,
        type="full" if base is None else "incremental",
        base=None if base is None else base.place,
        rate_limit=stream.choice((None, None, 4 << 20, 32 << 20)),
    )
    return request, base


async def back_up(
    node: SimNode, db: Database, archiver: Archiver | None, vault: Vault, config: Config, stream: Stream, line: Line, home: int
) -> Taken | None:
    """Take a backup on the node; None where it is refused with reason, or the node stops."""
    request, base = request_of(vault, stream, line)
    known = frozenset(taken.manifest.checksum for taken in vault.taken if taken.home == home)
    try:
        manifest = await take_backup(
            db, node.ports, request, backup_id=f"bk-20260101-{vault.number:06d}", cipher=await cipher_of(node, config),
            archiver=archiver, config_text=CONFIG_TEXT, known=known,
        )  # fmt: skip
    except Refused:
        if base is None or base.home == home:
            raise
        return None  # the base is of before the last restore, and nothing shows that it belongs to this history
    except NodeStopped:
        return None
    except StorageError:
        if vault.in_store or "://" in vault.backups:
            return None  # an outage
        raise
    taken = Taken(request.destination, manifest, line, home, base)
    vault.taken.append(taken)
    return taken
