"""The archive and the backups of a history: where they are, what was promised of them, and what is expected of them.

V1. What `take_backup` has returned is a backup: it verifies, and it restores. What a crash left is one or is not, never half.
V3. Retention removes no backup before its time, and nothing that the times of the window need.
V2. The archive has the log up to what its archiver last said (`archived_lsn`), whatever dies afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sim.oracle.oracle import Violation
from sim.oracle.truth import Line
from sim.world.disk import DiskFaults
from sim.world.rand import Stream
from sim.world.world import SimNode
from thunderdb.archive.archiver import Archiver
from thunderdb.archive.cipher import Cipher, load_cipher
from thunderdb.archive.codec import Codec
from thunderdb.backup.expire import expire
from thunderdb.backup.manifest import Manifest
from thunderdb.backup.take import BackupRequest, take_backup
from thunderdb.base.config import Config
from thunderdb.base.errors import NodeStopped, Refused, StorageError
from thunderdb.engine.database import Database

KEY_FILE = "/etc/thunderdb/backup.key"
MS_NS = 1_000_000
HOUR_US = 3_600_000_000
REQUEST_FAULTS = ("error_before", "error_after", "truncated", "timeout", "lag_ns")
"""Errors and throttling, lost replies, bodies cut short, requests that time out, listings that are behind."""
CONFIG_TEXT = "[storage]\n"


@dataclass(slots=True)
class Taken:
    """A backup that said it was complete. `home` is the directory that it was taken from."""

    place: str
    manifest: Manifest
    line: Line
    home: int
    base: Taken | None = None
    removed: bool = False


@dataclass(slots=True)
class Vault:
    """Drawn per history. `archive` and `backups` are directories of the node's disk, or in a bucket; with `command`, the node
    knows its archive by two commands only."""

    archive: str
    backups: str
    settings: dict[str, Any]
    encrypted: bool
    command: bool = False
    taken: list[Taken] = field(default_factory=list)
    archived: dict[int, int] = field(default_factory=dict)
    """By timeline: how far its archiver said that the archive is (V2)."""
    number: int = 0
    outages: int = 0
    cleaned: bool = False
    window_us: int = 0
    """Retention keeps every time from here on restorable."""

    def usable(self, line: Line) -> list[Taken]:
        """The backups on the path of a line; those that retention has removed count, their times must be restorable (V3)."""
        return [taken for taken in self.taken if fits(taken, line)]

    @property
    def named(self) -> str:
        """The archive as a restore is told of it: one behind commands is in the configuration only."""
        return "" if self.command else self.archive

    @property
    def in_store(self) -> bool:
        return "://" in self.archive

    def outage(self, node: SimNode, stream: Stream) -> str:
        """The archive cannot be written for a while, or each request may fail; what it is called."""
        if not self.in_store:
            node.set_faults(DiskFaults({"write_error": 1.0}, self.archive))
            return "outage"
        faults = node.world.store.faults
        kinds = ["down", *REQUEST_FAULTS]
        kind = stream.choice((*kinds, "all of them"))
        if kind == "down":
            faults.down = True
        for name in REQUEST_FAULTS if kind == "all of them" else (kind,):
            if name == "lag_ns":
                faults.lag_ns = stream.choice((MS_NS, 200 * MS_NS, 5_000 * MS_NS))
            elif name != "down":
                setattr(faults, name, stream.choice((0.02, 0.2, 0.6)))
        return f"store {kind}"

    def heal(self, node: SimNode) -> None:
        node.world.store.faults.clear()
        node.set_faults(DiskFaults())


def draw_vault(stream: Stream, extra: Stream, stores: bool = False) -> Vault:
    """`extra` decides what came to be drawn later, so that the seeds keep the rest; `stores`: nothing is
    kept in a directory."""
    url = stream.random() < 0.35 or stores
    encrypted = stream.random() < 0.15
    settings: dict[str, Any] = {
        "wal_archive_enabled": True,
        "wal_archive_dir": "s3://bucket/wal" if url else "/mnt/archive",
        "wal_archive_lag": stream.choice(("10ms", "50ms", "200ms")),
        "wal_archive_timeout": stream.choice(("1s", "5s", "60s")),
        "wal_archive_compress": stream.random() < 0.3,
        "wal_archive_retention": stream.choice(("1m", "40m", "2h")),
        "keep_daily": "1h",
        "minimum_redundancy": stream.choice((1, 1, 2, 3)),
    }
    if encrypted:
        settings["backup_key_file"] = KEY_FILE
    place = "s3://bucket/backups" if stream.random() < 0.25 or stores else "/mnt/backups"
    settings["destination"] = place
    archive, command = settings["wal_archive_dir"], extra.random() < (0.4 if stores else 0.2)
    if command:
        archive = "s3://bucket/wal"
        del settings["wal_archive_dir"]
        settings["wal_archive_command"] = f"put {archive} %f %n"
        settings["wal_restore_command"] = f"get {archive} %n %f"
    return Vault(archive, place, settings, encrypted, command)


async def cipher_of(node: SimNode, config: Config) -> Cipher | None:
    return await load_cipher(node.ports, config)


def request_of(vault: Vault, stream: Stream, line: Line) -> tuple[BackupRequest, Taken | None]:
    """A backup of any kind, under a new name."""
    vault.number += 1
    bases = [taken for taken in vault.usable(line) if not taken.removed]
    base = stream.choice(bases[-3:]) if bases and stream.random() < 0.5 else None
    request = BackupRequest(
        f"{vault.backups}/b{vault.number:03d}",
        include_wal=stream.random() < 0.8,
        compress=stream.random() < 0.4,
        type="full" if base is None else "incremental",
        base=None if base is None else base.place,
        rate_limit=stream.choice((None, None, 4 << 20, 32 << 20)),
        label=stream.choice(("daily", "daily", "manual")) if base is None else "incremental",
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
        if vault.outages:
            return None
        raise
    taken = Taken(request.destination, manifest, line, home, base)
    vault.taken.append(taken)
    return taken


def fits(backup: Taken, line: Line) -> bool:
    """Whether a backup lies on the path of a line."""
    at: Line | None = line
    while at is not None:
        if at is backup.line:
            return True
        if at.parent is backup.line and backup.manifest.end_lsn > at.switch_lsn:
            return False
        at = at.parent
    return False


async def clean_up(node: SimNode, db: Database, vault: Vault, config: Config) -> None:
    """Run retention on the node, and hold it to V3. Raises: Violation."""
    codec = Codec(config.wal_archive_compress, await cipher_of(node, config))
    state = db.control.state
    run = await expire(node.ports, config, codec, db.events, system_id=state.system_id, timeline=db.log.timeline)
    check_removed(vault, run.removed, run.now_us, config.minimum_redundancy)
    vault.cleaned = True
    vault.window_us = max(vault.window_us, run.now_us - config.wal_archive_retention * 1000)


def check_removed(vault: Vault, removed: list[str], now_us: int, redundancy: int) -> None:
    for taken in [taken for taken in vault.taken if taken.base is None][-redundancy:]:
        if taken.place in removed:
            raise Violation(f"retention removed {taken.place}, one of the newest {redundancy} full backups")
    for taken in vault.taken:
        if taken.place in removed:
            manifest = taken.manifest
            if manifest.label == "manual" or manifest.finished_us + HOUR_US > now_us:
                raise Violation(f"retention removed {taken.place} ({manifest.label}) before its time")
            taken.removed = True
    left = [taken for taken in vault.taken if not taken.removed]
    for taken in left:
        if taken.base is not None and taken.base.removed:
            raise Violation(f"retention removed {taken.base.place}, on which {taken.place} stands")
