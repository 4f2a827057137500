"""`thunderdb --retention-report`, `--expire`, `--hold` and `--release`: what is kept and why, read from the places themselves.

T1. Both work with and without a running daemon; the report changes nothing.
T2. A drill (restored with --no-archive) may not remove anything.
"""

from __future__ import annotations

import json
from itertools import groupby
from typing import Any

import click

from thunderdb.archive.cipher import load_cipher
from thunderdb.archive.codec import Codec
from thunderdb.archive.directory import open_store
from thunderdb.archive.holds import hold_key, lift_hold, place_hold
from thunderdb.archive.identity import read_identity
from thunderdb.archive.retention import Decision, Hold, show_time
from thunderdb.backup.expire import Expired, decide, expire
from thunderdb.backup.jobs import COMPLETED, FAILED, JOBS_FILE
from thunderdb.base.config import Config
from thunderdb.base.errors import ConfigError, Refused, StorageError
from thunderdb.base.events import Events
from thunderdb.base.units import parse_duration_ms
from thunderdb.runtime.ports import Disk
from thunderdb.runtime.real_ports import RealPorts, run_real
from thunderdb.server.logs import log_writer
from thunderdb.server.remote import show_size
from thunderdb.storage.control import SLOT_OFFSETS, SLOT_SIZE, decode_slot
from thunderdb.storage.layout import CONTROL_FILE


def run_retention(config: Config, *, remove: bool, as_json: bool) -> int:
    """Decide, remove if asked, print. Raises: ThunderError."""
    if not config.destination and not config.wal_archive_dir:
        raise ConfigError(
            "there is nothing to look at: neither [backup] destination nor wal_archive_dir is set",
            "Name the daemon's configuration with --config.",
        )

    async def main(ports: RealPorts) -> Expired:
        codec = Codec(config.wal_archive_compress, await load_cipher(ports, config))
        whose = await _whose(ports.disk, config)
        if not remove:
            return await decide(ports, config, codec, **whose)
        identity = await read_identity(ports.disk, config.data_dir)
        if identity is not None and identity.no_archive:
            raise Refused("this database is a drill (restored with --no-archive): it removes nothing", "Run it in production.")
        events = Events()
        events.subscribe(log_writer(config.level, config.format))
        if running := await _running_backup(ports.disk, config):
            raise Refused(f"backup {running} is running, and may stand on what would go", "Wait until it ends, or cancel it.")
        return await expire(ports, config, codec, events, **whose)

    done = run_real(main)
    click.echo(json.dumps(done.document(), indent=2) if as_json else "\n".join(lines(done, removed=remove)))
    return 0


def change_hold(config: Config, name: str, duration: str, *, release: bool) -> int:
    """Place a hold on everything, or lift one; in the archive, or where backups go if there is none. Raises: ThunderError."""
    place = config.wal_archive_dir or config.destination
    if not place:
        raise ConfigError(
            "there is nothing to hold: neither [backup] destination nor wal_archive_dir is set",
            "Name the daemon's configuration with --config.",
        )
    try:
        duration_us = parse_duration_ms(duration) * 1000
    except ValueError as error:
        raise ConfigError(f"--hold-for: {error}", "Write it like 12h or 30d.") from None

    async def main(ports: RealPorts) -> str:
        store = open_store(ports, place)
        if release:
            if await store.size(hold_key(name)) is None:
                raise Refused(f"there is no hold {name!r} in {place}", "--retention-report names those that there are.")
            await lift_hold(store, name)
            return f"Released: {name}"
        hold = Hold(name, ports.clock.wall_ns() // 1000 + duration_us)
        await place_hold(store, hold)
        return f"Held: nothing goes until {show_time(hold.expires_us)} ({name})"

    click.echo(run_real(main))
    return 0


async def _whose(disk: Disk, config: Config) -> dict[str, Any]:
    """System and timeline of the database that is configured, and the backups that it has made elsewhere."""
    found: dict[str, Any] = {}
    try:
        data = await disk.read_file(f"{config.data_dir}/{CONTROL_FILE}")
    except (OSError, StorageError):
        data = b""
    states = []
    for offset in SLOT_OFFSETS:
        try:
            states.append(decode_slot(data[offset : offset + SLOT_SIZE]))
        except (ValueError, Refused):
            pass  # a damaged slot: the other one says it, or nobody does
    if states:
        newest = max(states, key=lambda state: state.sequence)
        found = {"system_id": newest.system_id, "timeline": newest.timeline}
    found["known"] = [str(job["destination"]) for job in await _jobs(disk, config) if job.get("status") == COMPLETED]
    return found


async def _running_backup(disk: Disk, config: Config) -> str:
    """The id of a backup that has not ended, "" if there is none."""
    running = [job for job in await _jobs(disk, config) if job.get("status") not in (COMPLETED, FAILED)]
    return str(running[0].get("id")) if running else ""


async def _jobs(disk: Disk, config: Config) -> list[dict[str, Any]]:
    try:
        jobs = json.loads(await disk.read_file(f"{config.data_dir}/{JOBS_FILE}"))["jobs"]
    except (OSError, StorageError, ValueError, KeyError, TypeError):
        return []
    return [job for job in jobs if isinstance(job, dict) and "destination" in job]


def lines(done: Expired, removed: bool) -> list[str]:
    """One line for each backup, and one for each run of segments with the same fate."""
    window = done.window
    span = "nothing can be restored yet" if window is None else f"{show_time(window[0])} to {show_time(window[1])}"
    found = [f"Recovery window: {span}"]
    for kind, title in (("backup", "Backups"), ("segment", "Archived log"), ("other", "Other objects")):
        items = [item for item in done.decisions if item.kind == kind]
        if not items:
            continue
        found.append(f"{title}: {len(items)} ({show_size(sum(item.size_bytes for item in items))})")
        found += [f"  {line}" for line in _rows(items, done, removed)]
    gone = [item for item in done.decisions if not item.keep]
    size = show_size(sum(item.size_bytes for item in gone))
    if removed:
        found.append(f"Removed: {len(done.removed)} objects ({size}); {len(done.held)} were held")
    else:
        found.append(f"May go: {len(gone)} objects ({size}); --expire removes them")
    return found


def _rows(items: list[Decision], done: Expired, removed: bool) -> list[str]:
    rows: list[str] = []
    gone = set(done.removed)

    def fate(item: Decision) -> str:
        return "keep" if item.keep else "removed" if item.object in gone else "held" if removed else "may go"

    def alike(item: Decision) -> tuple[str, ...]:
        return (fate(item), item.reason) if item.kind != "backup" else (fate(item), item.reason, item.object)

    for (word, reason, *_), group in groupby(items, key=alike):
        run = list(group)
        size = show_size(sum(item.size_bytes for item in run))
        name = run[0].object if len(run) == 1 else f"{run[0].object} … {run[-1].object} ({len(run)})"
        rows.append(f"{word:<8}{name}  {size}  {reason}")
    return rows
