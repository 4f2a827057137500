"""What the daemon does about backups and the archive: the archiver, the jobs, the schedule and retention of one open database.

open:   key ─▶ archiver ─▶ jobs (what a crash interrupted is settled) ─▶ schedule
close:  schedule ─▶ running backup ─▶ archiver (ships the tail); the database itself is closed after that
"""

from __future__ import annotations

import math
from typing import Any

from thunderdb.archive.archiver import Archiver
from thunderdb.archive.cipher import Cipher
from thunderdb.archive.codec import Codec
from thunderdb.archive.retention import show_time
from thunderdb.archive.status import ArchiveStatus
from thunderdb.backup.expire import Expired, decide, expire
from thunderdb.backup.jobs import COMPLETED, BackupJobs
from thunderdb.backup.schedule import BackupSchedule
from thunderdb.backup.take import BackupRequest
from thunderdb.base.config import Config
from thunderdb.base.errors import Refused, ThunderError
from thunderdb.base.events import Events
from thunderdb.base.ids import format_lsn, parse_lsn
from thunderdb.engine.database import Database
from thunderdb.runtime.ports import Ports
from thunderdb.wal.segment import segment_name


class NodeOperator:
    """Satisfies `admin_backup.Operator` over an open database. Made by `NodeOperator.open`."""

    def __init__(
        self, database: Database, ports: Ports, config: Config, cipher: Cipher | None, archiver: Archiver | None
    ) -> None:
        self.database = database
        self.ports = ports
        self.config = config
        self.archiver = archiver
        self.jobs = BackupJobs(database, ports, config, archiver, cipher)
        self.schedule = BackupSchedule(ports, config, self.jobs, database.events, self._retain)
        self._codec = Codec(config.wal_archive_compress, cipher)
        self._window: tuple[int, int] | None = None
        self._commits_covered = database.manager.commits
        """Commits of this process that a finished backup holds, too; only counted where there is no archive."""

    @classmethod
    async def open(
        cls, database: Database, ports: Ports, config: Config, events: Events, cipher: Cipher | None
    ) -> NodeOperator:
        """Begin. Raises: ConfigError, StorageError, with nothing left running."""
        archiver = await Archiver.open(database, config, ports, events)
        operator = cls(database, ports, config, cipher, archiver)
        try:
            await operator.jobs.load()
            if not operator._is_drill:
                await operator.schedule.start()
        except Exception:
            if archiver is not None:
                await archiver.stop()
            raise
        events.subscribe(operator._on_event)
        ports.tasks.detach(operator._look(), "recovery window")
        return operator

    async def close(self) -> None:
        """Stop everything; the database must still be open."""
        self.schedule.stop_soon()
        await self.jobs.close()
        await self.schedule.stop()
        if self.archiver is not None:
            await self.archiver.stop()

    # ---- what the admin API asks ----------------------------------------------------------------------------------------

    async def backup(self, request: dict[str, Any]) -> dict[str, Any]:
        job = await self.jobs.start(BackupRequest(**request))
        return {
            "status": "started",
            "backup_id": job.id,
            "destination": job.destination,
            "estimated_size_bytes": job.estimated_size_bytes,
        }

    async def backup_status(self, backup_id: str) -> dict[str, Any] | None:
        job = self.jobs.job(backup_id)
        return None if job is None else job.document()

    async def backups(self) -> list[dict[str, Any]]:
        return [job.document() for job in self.jobs.jobs()]

    async def cancel(self, backup_id: str) -> dict[str, Any] | None:
        job = await self.jobs.cancel(backup_id)
        return None if job is None else job.document()

    async def archive_status(self) -> dict[str, Any]:
        return archive_document(None if self.archiver is None else self.archiver.status())

    async def switch_wal(self) -> dict[str, Any]:
        if self.archiver is not None:
            number = await self.archiver.switch()
        else:
            await self.database.log.flush_all()
            number = self.database.log.switch_segment()
        name = segment_name(self.database.log.timeline, number) if number else None
        return {"switched": bool(number), "segment": name, "archived": bool(number) and self.archiver is not None}

    async def retention(self) -> dict[str, Any]:
        return (await self._decide()).document()

    async def real_path(self, path: str) -> str:
        """The path without links; what is not there yet is taken as it is written."""
        return await self.ports.disk.resolve(path)

    # ---- retention ------------------------------------------------------------------------------------------------------

    @property
    def _is_drill(self) -> bool:
        return self.archiver is not None and self.archiver.identity.no_archive

    def _whose(self) -> dict[str, Any]:
        state = self.database.control.state
        known = [job.destination for job in self.jobs.jobs() if job.status == COMPLETED]
        return {"system_id": state.system_id, "timeline": self.database.log.timeline, "known": known}

    async def _decide(self) -> Expired:
        decided = await decide(self.ports, self.config, self._codec, **self._whose())
        self._window = decided.window
        return decided

    async def _retain(self) -> None:
        """Carry retention out, unless the archive is not ours."""
        if self._is_drill or self.archiver is not None and self.archiver.status().refused:
            raise Refused("this database may not write to the archive")
        if any(not job.ended for job in self.jobs.jobs()):
            raise Refused("a backup is running, and may stand on what would go")
        done = await expire(self.ports, self.config, self._codec, self.database.events, **self._whose())
        self._window = done.window

    async def _look(self) -> None:
        """Find out what can be restored, for the metrics."""
        try:
            await self._decide()
        except (ThunderError, OSError) as error:
            self.database.events.emit("retention.failed", message=str(error))

    def _on_event(self, name: str, _: dict[str, Any]) -> None:
        if name == "backup.completed":
            self._commits_covered = self.database.manager.commits
            self.ports.tasks.detach(self._look(), "recovery window")

    # ---- metrics --------------------------------------------------------------------------------------------------------

    def gauges(self) -> dict[str, float]:
        """backup_metrics.P1, P2."""
        metrics = self.jobs.metrics()
        running = next((job for job in self.jobs.jobs() if not job.ended), None)
        created_s = self.database.control.state.created_wall_ns / 1e9
        succeeded = metrics.last_succeeded
        found: dict[str, float] = {
            "last_backup_status": math.nan if succeeded is None else float(succeeded),
            "last_backup_timestamp": created_s if metrics.last_success_us is None else metrics.last_success_us / 1e6,
            "last_backup_size_bytes": metrics.last_size_bytes or 0,
            "last_backup_duration_seconds": metrics.last_duration_s or 0.0,
            "last_backup_bytes_per_second": metrics.last_rate or 0.0,
            "backup_running": float(metrics.running),
            "backup_progress_ratio": running.progress if running is not None else 0.0,
            "wal_archive_enabled": float(self.archiver is not None and not self._is_drill),
        }
        if next_us := self.schedule.next_us():
            found["backup_next_timestamp"] = next_us / 1e6
        if self.archiver is not None:
            found.update(_archive_gauges(self.archiver.status()))
        else:
            found.update(self._gauges_without_archive())
        if self._window is not None:
            oldest_us, newest_us = self._window
            if self.archiver is not None:
                newest_us = max(newest_us, self.archiver.status().complete_until_us)
            found["recovery_window_oldest_timestamp"] = oldest_us / 1e6
            found["recovery_window_newest_timestamp"] = newest_us / 1e6
        return {f"thunderdb_{name}": value for name, value in found.items()}

    def _gauges_without_archive(self) -> dict[str, float]:
        """Only backups keep anything: all since the last one is exposed."""
        last = next((job for job in self.jobs.jobs() if job.status == COMPLETED and job.manifest), None)
        now_us = self.ports.clock.wall_ns() // 1000
        since_lsn = parse_lsn(last.manifest["end_lsn"]) if last is not None and last.manifest else 0
        since_us = last.started_us if last is not None else self.database.control.state.created_wall_ns // 1000
        commits = self.database.manager.commits - self._commits_covered
        exposed_bytes = max(0, self.database.log.flushed_lsn - max(since_lsn, 0)) if commits or last is None else 0
        return {
            "wal_archive_pending_segments": 0.0,
            "wal_archive_failing": 0.0,
            "wal_archive_gaps": 0.0,
            "rpo_exposed_transactions": commits,
            "rpo_exposed_bytes": exposed_bytes,
            "rpo_exposed_seconds": max(0.0, (now_us - since_us) / 1e6) if exposed_bytes else 0.0,
        }


def archive_document(status: ArchiveStatus | None) -> dict[str, Any]:
    """What GET /admin/wal/archive/status answers: the manual's fields first."""
    if status is None:
        return {
            "archiving_enabled": False, "last_archived_segment": None, "last_archive_time": None, "segments_pending": 0,
            "archive_rate_bytes_per_sec": 0, "total_archived_bytes": 0,
        }  # fmt: skip
    return {
        "archiving_enabled": status.archiving_enabled,
        "last_archived_segment": status.last_archived_segment or None,
        "last_archive_time": show_time(status.last_archive_time_us) if status.last_archive_time_us else None,
        "segments_pending": status.segments_pending,
        "archive_rate_bytes_per_sec": status.archive_rate_bytes_per_sec,
        "total_archived_bytes": status.total_archived_bytes,
        "place": status.place,
        "verified": status.verified,
        "failing": status.failing,
        "refused": status.refused,
        "last_error": status.last_error or None,
        "gaps": [str(gap) for gap in status.gaps],
        "archived_lsn": format_lsn(status.archived_lsn),
        "complete_until": show_time(status.complete_until_us) if status.complete_until_us else None,
        "lag_seconds": round(status.lag_seconds, 3),
        "lag_bytes": status.lag_bytes,
        "exposed": {
            "transactions": status.exposed_transactions,
            "bytes": status.exposed_bytes,
            "seconds": round(status.exposed_seconds, 3),
        },
    }


def _archive_gauges(status: ArchiveStatus) -> dict[str, float]:
    found: dict[str, float] = {
        "wal_archive_pending_segments": status.segments_pending,
        "wal_archive_failing": float(status.failing),
        "wal_archive_gaps": len(status.gaps),
        "wal_archive_lag_seconds": status.lag_seconds,
        "wal_archive_lag_bytes": status.lag_bytes,
        "wal_archive_archived_bytes_total": status.total_archived_bytes,
        "rpo_exposed_transactions": status.exposed_transactions,
        "rpo_exposed_bytes": status.exposed_bytes,
        "rpo_exposed_seconds": status.exposed_seconds,
    }
    if status.last_archive_time_us:
        found["wal_archive_last_timestamp"] = status.last_archive_time_us / 1e6
    return found
