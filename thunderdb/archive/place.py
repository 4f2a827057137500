"""Where a configuration archives to, and where it fetches from."""

from __future__ import annotations

from thunderdb.archive.cipher import Cipher
from thunderdb.archive.codec import Codec
from thunderdb.archive.command_store import CommandSource, CommandTarget
from thunderdb.archive.directory import open_store
from thunderdb.archive.target import StoreTarget, Target
from thunderdb.base.config import Config
from thunderdb.runtime.ports import Ports


def make_target(ports: Ports, config: Config, cipher: Cipher | None) -> Target:
    """Where a configuration archives to. Raises: ConfigError."""
    codec = Codec(config.wal_archive_compress, cipher)
    if config.wal_archive_dir:
        return StoreTarget(open_store(ports, config.wal_archive_dir), codec, ports.offload)
    timeout_s = config.wal_command_timeout / 1000
    return CommandTarget(
        ports.disk, ports.command, ports.offload, config.wal_archive_command, timeout_s, codec, config.wal_dir,
        config.data_dir, command_source(ports, config, cipher) if config.wal_restore_command else None,
    )  # fmt: skip


def command_source(ports: Ports, config: Config, cipher: Cipher | None) -> CommandSource:
    """What wal_restore_command of a configuration fetches."""
    return CommandSource(
        ports.disk, ports.command, config.wal_restore_command, f"{config.data_dir}/archive.tmp",
        config.wal_command_timeout / 1000, Codec(config.wal_archive_compress, cipher), ports.offload,
    )  # fmt: skip
