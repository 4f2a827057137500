"""`thunderdb --backup PLACE`: asks the running daemon over its admin API, shows how it goes, and waits for the end.

R1. Exit 0 only if the backup is completed. What the daemon refuses has the exit code of a refusal (3), a wrong request 2.
R2. Ctrl-C cancels the backup; a connection that is lost is tried again for a while, for the daemon may be busy.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

import click

from thunderdb.base.config import Config
from thunderdb.base.errors import ConfigError, Refused, StorageError, ThunderError
from thunderdb.base.units import format_size
from thunderdb.server.auth import read_token

SCHEMA = "thunderdb.backup/1"
POLL_S = 0.2
PATIENCE_S = 60.0
CALL_TIMEOUT_S = 60.0


class Unreachable(StorageError):
    """Nobody answered."""


class AdminClient:
    """Calls the admin API of the daemon that a configuration describes."""

    def __init__(self, config: Config) -> None:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.http_listen_addr, config.http_listen_addr)
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{config.http_port}"
        self._token = read_token(config.admin_token_file)

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Raises: ThunderError of the kind that fits the answer's status; Unreachable."""
        request = urllib.request.Request(self.url + path, method=method)
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        if self._token:
            request.add_header("Authorization", f"Bearer {self._token}")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=CALL_TIMEOUT_S) as answer:
                return _object(answer.read())
        except urllib.error.HTTPError as error:
            raise _error_of(error.code, _object(error.read())) from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            hint = "Is it running? --config must be the daemon's own, or name its port with --http-port."
            raise Unreachable(f"the daemon at {self.url} does not answer: {reason}", hint) from None


def backup_and_wait(config: Config, flags: Mapping[str, Any], as_json: bool) -> int:
    """Start, watch, report. Raises: ThunderError."""
    client = AdminClient(config)
    request: dict[str, Any] = {
        "destination": _absolute(flags["backup"]),
        "include_wal": not flags["no_wal"],
        "compress": flags["compress"],
        "type": "incremental" if flags["incremental"] else "full",
    }
    if flags["base"] is not None:
        request["base"] = _absolute(flags["base"])
    started = client.call("POST", "/admin/backup", request)
    backup_id = str(started["backup_id"])
    try:
        with _shown(backup_id, as_json) as show:
            job = _watch(client, backup_id, show)
    except KeyboardInterrupt:
        client.call("POST", f"/admin/backup/{backup_id}/cancel")
        click.echo(f"ERROR: backup {backup_id} was cancelled", err=True)
        return 1
    if as_json:
        click.echo(json.dumps({"schema": SCHEMA, **job}, indent=2))
    elif job["status"] == "completed":
        manifest = job.get("manifest") or {}
        click.echo(f"Backup completed: {backup_id}")
        click.echo(f"Destination: {job['destination']}")
        click.echo(f"Size: {job['size_bytes']:,} bytes")
        click.echo(f"LSN: {manifest.get('end_lsn', '?')}")
        click.echo(f"Data pages: {manifest.get('page_count', 0)}")
    else:
        click.echo(f"ERROR: backup {backup_id} failed: {job.get('error')}", err=True)
    return 0 if job["status"] == "completed" else 1


def _watch(client: AdminClient, backup_id: str, show: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Ask until it has ended (R2)."""
    lost_s: float | None = None
    while True:
        try:
            job = client.call("GET", f"/admin/backup/status/{backup_id}")
            lost_s = None
        except Unreachable:
            lost_s = time.monotonic() if lost_s is None else lost_s
            if time.monotonic() - lost_s > PATIENCE_S:
                raise
            time.sleep(1.0)
            continue
        show(job)
        if job["status"] in ("completed", "failed"):
            return job
        time.sleep(POLL_S)


class _shown:
    """A progress bar on a terminal, silence elsewhere."""

    def __init__(self, backup_id: str, as_json: bool) -> None:
        self._wanted = sys.stderr.isatty() and not as_json
        self._backup_id = backup_id
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Callable[[dict[str, Any]], None]:
        if self._wanted:
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._bar.start()
            self._task = self._bar.add_task(f"Backup {self._backup_id}", total=None)
        return self._show

    def _show(self, job: dict[str, Any]) -> None:
        if self._bar is not None:
            self._bar.update(self._task, total=job.get("bytes_total") or None, completed=job.get("bytes_done", 0))

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()


def _absolute(place: str) -> str:
    """A path as this shell sees it; the daemon has a working directory of its own."""
    return place if "://" in place else os.path.abspath(place)


def _object(raw: bytes) -> dict[str, Any]:
    try:
        found = json.loads(raw)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"message": f"not an answer of ThunderDB: {raw[:200]!r}"}


def _error_of(status: int, answer: dict[str, Any]) -> ThunderError:
    message, hint = str(answer.get("message", f"HTTP {status}")), str(answer.get("hint", ""))
    if status in (400, 401, 404, 405, 413):
        return ConfigError(message, hint)
    return Refused(message, hint) if status in (403, 409) else StorageError(message, hint)


def show_size(size_bytes: int) -> str:
    """A size as a person reads it: three digits and a unit."""
    for unit, factor in (("TB", 1 << 40), ("GB", 1 << 30), ("MB", 1 << 20), ("KB", 1 << 10)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f}{unit}"
    return format_size(size_bytes)
