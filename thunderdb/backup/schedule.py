"""The schedule: takes the backups that are due, keeps the link to the newest one, and lets retention run.

    every half minute, and at the next moment:  due(…) ─▶ a job ─▶ wait for its end ─▶ remember ─▶ full-latest ─▶ retention

S1. What is due is decided by cron.due alone; what was done is remembered in data_dir/schedule.json over restarts.
S2. Nothing starts while a backup runs, whoever began it; what is due then stays due.
S3. A failure is an event and a failed job, is tried again (cron.D3), and never stops the schedule.
S4. Retention runs after a successful backup and once an hour; a failure of it is an event, and removes nothing more.
S5. A drill (a database restored with --no-archive) has no schedule and removes nothing: the production's is not its own.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from thunderdb.archive.directory import is_url
from thunderdb.backup import cron
from thunderdb.backup.jobs import COMPLETED, BackupJobs
from thunderdb.backup.manifest import FULL, INCREMENTAL
from thunderdb.backup.take import BackupRequest
from thunderdb.base.config import Config
from thunderdb.base.errors import InvariantViolated, NodeStopped, Refused, ThunderError
from thunderdb.base.events import Events
from thunderdb.runtime.ports import Ports
from thunderdb.runtime.replace import replace_file
from thunderdb.runtime.sync import Event, Task

STATE_FILE = "schedule.json"
LATEST = "full-latest"
LONGEST_WAIT_US = 30_000_000
RETENTION_EVERY_US = 3_600_000_000


class BackupSchedule:
    """The schedule of one open database. `retain` carries retention out."""

    def __init__(
        self, ports: Ports, config: Config, jobs: BackupJobs, events: Events, retain: Callable[[], Awaitable[None]]
    ) -> None:
        self.ports = ports
        self.config = config
        self.jobs = jobs
        self.events = events
        self.schedule = cron.schedule_of(config) if config.destination else {}
        self._retain = retain
        self._stop = Event(ports.tasks)
        self._task: Task[None] | None = None
        self._past = cron.Past()
        self._retained_us = 0

    async def start(self) -> None:
        """Begin, in the background. A missing or damaged memory owes nothing (cron.D4)."""
        try:
            self._past = cron.decode_past(json.loads(await self.ports.disk.read_file(f"{self.config.data_dir}/{STATE_FILE}")))
        except (FileNotFoundError, ValueError):
            pass
        self._retained_us = self._now_us()
        self._task = self.ports.tasks.detach(self._loop(), "schedule")

    def stop_soon(self) -> None:
        """Start nothing more."""
        self._stop.set()

    async def stop(self) -> None:
        """Wait until nothing of it runs; the jobs must have been closed, or it waits for their end."""
        self._stop.set()
        if self._task is not None:
            await self._task

    def next_us(self) -> int:
        """The next moment of the schedule, 0 without one."""
        return min((time for time in cron.upcoming(self.schedule, self._now_us()).values() if time), default=0)

    async def tick(self) -> None:
        """Take the backup that is due, if one is; run retention if it is time."""
        now_us = self._now_us()
        past = cron.seen(self.schedule, self._past, now_us)
        if past != self._past:
            await self._remember(past)
        label = cron.due(self.schedule, self._past, now_us)
        if label is not None and all(job.ended for job in self.jobs.jobs()):  # S2
            done = await self._take(label, now_us)
            if self._stop.is_set():
                return  # a shutdown is no failure: what was due stays due
            if done is None:
                await self._remember(cron.failed(self._past, self._now_us()))
                return
            await self._remember(cron.succeeded(self.schedule, self._past, done, now_us))
            await self._retention()
        elif now_us - self._retained_us >= RETENTION_EVERY_US or now_us < self._retained_us:
            await self._retention()

    async def _loop(self) -> None:
        while not self._stop.is_set():
            try:
                await self.tick()
            except InvariantViolated:
                raise
            except (ThunderError, OSError) as error:
                self.events.emit("schedule.failed", message=str(error))
            wait_us = LONGEST_WAIT_US
            if (next_us := self.next_us()) > 0:
                wait_us = max(1000, min(wait_us, next_us - self._now_us()))
            await self._stop.wait_timeout(wait_us * 1000)

    async def _take(self, label: str, now_us: int) -> str | None:
        """Take a backup; return the label that it counts for, None if it failed (S3)."""
        try:
            try:
                return await self._one(label, now_us)
            except Refused:
                if label != cron.INCREMENTAL or self._stop.is_set():
                    raise
                # Nothing to stand on (none yet, or it is gone, or a new timeline): a full one, which those to come stand on.
                return await self._one("daily", now_us)
        except NodeStopped:
            return None
        except (ThunderError, OSError) as error:
            self.events.emit("schedule.failed", message=f"the {label} backup did not start: {error}")
            return None

    async def _one(self, label: str, now_us: int) -> str | None:
        name = cron.destination_name(label, now_us)
        kind = INCREMENTAL if label == cron.INCREMENTAL else FULL
        request = BackupRequest(
            f"{self.config.destination}/{name}", compress=self.config.schedule_compress, type=kind, label=label
        )
        self.events.emit("schedule.due", label=label, destination=request.destination)
        started = await self.jobs.start(request)
        job = await self.jobs.wait(started.id)
        if job is None or job.status != COMPLETED:
            return None
        if kind == FULL and not is_url(self.config.destination):
            await self._link(name)
        return label

    async def _link(self, name: str) -> None:
        """Let `full-latest` lead to the newest full backup; without it the backup is none the worse (S3)."""
        disk, folder = self.ports.disk, self.config.destination
        try:
            await disk.symlink(name, f"{folder}/{LATEST}")
            await disk.sync_dir(folder)
        except (ThunderError, OSError) as error:
            self.events.emit("schedule.failed", message=f"{folder}/{LATEST} does not lead to {name}: {error}")

    async def _retention(self) -> None:
        """S4."""
        self._retained_us = self._now_us()
        try:
            await self._retain()
        except InvariantViolated:
            raise
        except (ThunderError, OSError) as error:
            self.events.emit("retention.failed", message=str(error))

    async def _remember(self, past: cron.Past) -> None:
        """Durable when: it returns. A full disk costs the memory, not the schedule."""
        self._past = past
        document: dict[str, Any] = cron.encode_past(past)
        try:
            await replace_file(self.ports.disk, self.config.data_dir, STATE_FILE, json.dumps(document).encode() + b"\n")
        except (ThunderError, OSError) as error:
            self.events.emit("schedule.failed", message=f"{STATE_FILE} was not written: {error}")

    def _now_us(self) -> int:
        return self.ports.clock.wall_ns() // 1000
