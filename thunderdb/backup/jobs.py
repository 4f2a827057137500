"""Backups as jobs: started, watched, cancelled, remembered over restarts in data_dir/backups.json.

    started ─▶ running ─▶ completed
       └──────────┴─────▶ failed        cancelled ones too, with the error "cancelled"

J1. One backup at a time: a second start while one runs is refused, before anything is done.
J2. A job is on disk before its first byte is. After a restart one that had not ended is completed if its backup was published,
    else failed, and what it left is removed: nothing but its own (place.P3).
J3. What is remembered is bounded, and the newest completed job is always among it: the time of the last success survives.
J4. backups.json belongs to this instance: it is part of no backup. So only backups that this database made since it was made or
    restored are `known` as of its own history (incremental.I2).
J5. Losing backups.json costs memory of the past, never the start of the database.
"""

from __future__ import annotations

import datetime
import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from thunderdb.backup import incremental
from thunderdb.backup.frames import FileCipher
from thunderdb.backup.manifest import INCREMENTAL, Manifest, format_time, parse_manifest
from thunderdb.backup.place import open_destination, published_manifest, remove_left_over
from thunderdb.backup.settings import config_text
from thunderdb.backup.take import Backup, BackupCancelled, BackupRequest, LogArchive, Progress
from thunderdb.base.config import Config
from thunderdb.base.errors import InvariantViolated, NodeStopped, Refused, ThunderError
from thunderdb.base.ids import format_lsn
from thunderdb.engine.database import Database
from thunderdb.runtime.ports import Ports
from thunderdb.runtime.replace import replace_file
from thunderdb.runtime.sync import Task

JOBS_FILE = "backups.json"
VERSION = 1
REMEMBERED = 200
STARTED, RUNNING, COMPLETED, FAILED = "started", "running", "completed", "failed"
CANCELLED = "cancelled"
INTERRUPTED = "interrupted by a restart of the daemon"
SHUT_DOWN = "interrupted by a shutdown of the daemon"


@dataclass(slots=True)
class Job:
    """A backup as it is remembered. `manifest` is what its manifest says in short, once there is one."""

    id: str
    destination: str
    type: str
    label: str
    include_wal: bool
    compress: bool
    estimated_size_bytes: int
    status: str = STARTED
    started_us: int = 0
    ended_us: int = 0
    error: str | None = None
    size_bytes: int = 0
    bytes_done: int = 0
    bytes_total: int = 0
    rate: float = 0.0
    eta_s: float | None = None
    progress: float = 0.0
    manifest: dict[str, Any] | None = None
    left_over: bool = False
    """Something of it is still there that could not be removed; each start of the database tries again."""

    @property
    def ended(self) -> bool:
        return self.status in (COMPLETED, FAILED)

    def document(self) -> dict[str, Any]:
        """What GET /admin/backup/status/<id> answers."""
        return {
            "status": self.status, "backup_id": self.id, "destination": self.destination, "type": self.type,
            "label": self.label, "include_wal": self.include_wal, "compress": self.compress,
            "progress": round(self.progress, 4), "bytes_done": self.bytes_done, "bytes_total": self.bytes_total,
            "rate_bytes_per_sec": round(self.rate), "eta_seconds": self.eta_s,
            "estimated_size_bytes": self.estimated_size_bytes, "size_bytes": self.size_bytes, "error": self.error,
            "started_at": format_time(self.started_us), "finished_at": format_time(self.ended_us) if self.ended_us else None,
            "manifest": self.manifest,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class BackupMetrics:
    """What is known of the last backups; None until there was one. A cancelled backup counts as none."""

    last_succeeded: bool | None = None
    last_success_us: int | None = None
    last_size_bytes: int | None = None
    last_duration_s: float | None = None
    last_rate: float | None = None
    running: bool = False


@dataclass(slots=True)
class _Running:
    job: Job
    backup: Backup
    began_ns: int
    task: Task[None] | None = None
    reason: str = CANCELLED


@dataclass(slots=True)
class BackupJobs:
    """The jobs of one open database. Call `load` once before anything else."""

    db: Database
    ports: Ports
    config: Config
    archiver: LogArchive | None = None
    cipher: FileCipher | None = None
    _jobs: dict[str, Job] = field(default_factory=dict)
    _running: _Running | None = None
    _starting: bool = False
    _closed: bool = False

    @property
    def path(self) -> str:
        return f"{self.config.data_dir}/{JOBS_FILE}"

    async def load(self) -> None:
        """Read what is remembered, and settle what a crash interrupted (J2, J5)."""
        try:
            self._jobs = _decode(await self.ports.disk.read_file(self.path))
        except FileNotFoundError:
            return
        except (ThunderError, OSError, ValueError, TypeError, KeyError) as error:
            self.db.events.emit("backup.jobs_forgotten", path=self.path, error=str(error))
            return
        unsettled = [job for job in self._jobs.values() if not job.ended or job.left_over]
        for job in unsettled:
            await self._settle(job)
        if unsettled:
            await self._save()

    async def start(self, request: BackupRequest) -> Job:
        """Begin a backup and return at once. Raises: Refused (exists, one is running, no base …), DiskFull, StorageError."""
        if self._closed or self.db.closing:
            raise NodeStopped("the database system is shutting down")
        ending = self._running
        if ending is not None and ending.job.ended and ending.task is not None:
            await ending.task  # who saw that it had ended may start the next: it is only being written down
        if self._running is not None or self._starting:
            busy = self._running.job.id if self._running is not None else "another one"
            raise Refused(f"a backup is running already ({busy})", "Wait until it ends, or cancel it.")
        self._starting = True
        try:
            return await self._start(request)
        finally:
            self._starting = False

    def job(self, backup_id: str) -> Job | None:
        self._refresh()
        return self._jobs.get(backup_id)

    def jobs(self) -> list[Job]:
        """All that are remembered, newest first."""
        self._refresh()
        return sorted(self._jobs.values(), key=lambda job: (job.started_us, job.id), reverse=True)

    async def cancel(self, backup_id: str) -> Job | None:
        """Stop a backup and wait until nothing of it is left; one that has ended stays as it is. None for an unknown id."""
        running = self._running
        if running is not None and running.job.id == backup_id:
            running.backup.progress.cancel()
            if running.task is not None:
                await running.task
        return self.job(backup_id)

    async def wait(self, backup_id: str) -> Job | None:
        """The job when it has ended."""
        running = self._running
        if running is not None and running.job.id == backup_id and running.task is not None:
            await running.task
        return self.job(backup_id)

    async def close(self) -> None:
        """Stop what runs; before the database is closed."""
        self._closed = True
        running = self._running
        if running is not None:
            running.reason = SHUT_DOWN
            running.backup.progress.cancel()
            if running.task is not None:
                await running.task

    def metrics(self) -> BackupMetrics:
        ended = sorted(
            (job for job in self._jobs.values() if job.ended and job.error != CANCELLED), key=lambda job: job.ended_us
        )  # fmt: skip
        good = [job for job in ended if job.status == COMPLETED]
        if not ended:
            return BackupMetrics(running=self._running is not None)
        last = good[-1] if good else None
        duration_s = (last.ended_us - last.started_us) / 1e6 if last else None
        return BackupMetrics(
            ended[-1].status == COMPLETED, last.ended_us if last else None, last.size_bytes if last else None, duration_s,
            last.rate if last else None, self._running is not None,
        )  # fmt: skip

    # -- Running

    async def _start(self, request: BackupRequest) -> Job:
        backup_id = self._new_id()
        if request.type == INCREMENTAL and not request.base:
            request = replace(request, base=await self._newest_base(request.destination))
        if request.rate_limit is None:
            request = replace(request, rate_limit=self.config.backup_rate_limit)
        for other in self._jobs.values():
            if other.left_over and other.destination == request.destination:
                await self._clean(other)
        progress = Progress()
        backup = Backup(
            self.db, self.ports, request, backup_id, self.cipher, self.archiver, progress, config_text(self.config),
            open_destination(self.ports, request.destination, self.db.config.store_requests),
        )  # fmt: skip
        await backup.prepare(self.known())
        job = Job(
            backup_id, request.destination, request.type, request.label, request.include_wal, request.compress,
            progress.bytes_total, started_us=self.ports.clock.wall_ns() // 1000, bytes_total=progress.bytes_total,
        )  # fmt: skip
        self._jobs[backup_id] = job
        try:
            await self._save()
        except (ThunderError, OSError):
            del self._jobs[backup_id]
            raise
        self._running = running = _Running(job, backup, self.ports.clock.monotonic_ns())
        self.db.events.emit(
            "backup.started", backup_id=backup_id, destination=request.destination, type=request.type, label=request.label
        )  # fmt: skip
        running.task = self.ports.tasks.detach(self._run(running), "backup")
        return job

    async def _run(self, running: _Running) -> None:
        job = running.job
        bug: InvariantViolated | None = None
        await self.ports.tasks.yield_now()
        job.status = RUNNING
        try:
            manifest = await running.backup.run()
        except BackupCancelled:
            self._end(running, FAILED, running.reason)
        except InvariantViolated as error:
            self._end(running, FAILED, str(error))
            bug = error  # the database's own: it stops the node
        except (ThunderError, OSError) as error:
            self._end(running, FAILED, str(error) or type(error).__name__)
        except Exception as error:  # a bug of the backup's; the database goes on without one
            self._end(running, FAILED, f"internal error: {type(error).__name__}: {error}")
        else:
            job.manifest, job.size_bytes = summary(manifest), manifest.size_bytes
            self._end(running, COMPLETED, None)
        try:
            await self._save()
        except (ThunderError, OSError) as error:
            self.db.events.emit("backup.jobs_not_saved", path=self.path, error=str(error))
        self._running = None
        if bug is not None:
            raise bug

    def _end(self, running: _Running, status: str, error: str | None) -> None:
        job = running.job
        self._refresh()
        job.status, job.error, job.eta_s, job.left_over = status, error, None, running.backup.left_over
        job.ended_us = max(self.ports.clock.wall_ns() // 1000, job.started_us)
        if status == COMPLETED:
            job.progress = 1.0
            self.db.events.emit(
                "backup.completed", backup_id=job.id, destination=job.destination, size_bytes=job.size_bytes,
                duration_ns=self.ports.clock.monotonic_ns() - running.began_ns,
            )  # fmt: skip
        else:
            self.db.events.emit("backup.failed", backup_id=job.id, destination=job.destination, error=str(error))

    def _refresh(self) -> None:
        """Bring the running job's figures up to date."""
        running = self._running
        if running is None or running.job.ended:
            return
        job, progress = running.job, running.backup.progress
        job.bytes_done, job.bytes_total, job.progress = progress.bytes_done, progress.bytes_total, progress.share
        elapsed_s = (self.ports.clock.monotonic_ns() - running.began_ns) / 1e9
        job.rate = job.bytes_done / elapsed_s if elapsed_s > 0 else 0.0
        job.eta_s = round((job.bytes_total - job.bytes_done) / job.rate, 1) if job.rate > 0 else None

    def _new_id(self) -> str:
        """bk-YYYYMMDD-HHMMSS in UTC, with a suffix where that is taken."""
        moment = datetime.datetime.fromtimestamp(self.ports.clock.wall_ns() // 1_000_000_000, datetime.UTC)
        backup_id, number = f"bk-{moment:%Y%m%d-%H%M%S}", 1
        plain = backup_id
        while backup_id in self._jobs:
            number += 1
            backup_id = f"{plain}-{number}"
        return backup_id

    # -- What is remembered

    def known(self) -> frozenset[str]:
        """Checksums of the manifests of the backups that this database made (J4)."""
        return frozenset(job.manifest["checksum"] for job in self._jobs.values() if job.manifest is not None)

    async def _newest_base(self, destination: str) -> str | None:
        """The place of the newest completed backup in the same folder that is still there, with all that it stands on."""
        for job in self.jobs():
            if job.status != COMPLETED or job.manifest is None:
                continue
            try:
                manifest = await incremental.read_base(self.ports, job.destination)
                await incremental.check_neighbour(self.ports, job.destination, manifest, destination)
            except (ThunderError, OSError):
                continue
            if manifest.checksum == job.manifest["checksum"]:
                return job.destination
        return None

    async def _settle(self, job: Job) -> None:
        """J2."""
        interrupted = not job.ended
        if interrupted:
            job.ended_us = self.ports.clock.wall_ns() // 1000
            job.status, job.error, job.eta_s = FAILED, INTERRUPTED, None
        try:
            data = await published_manifest(self.ports, job.destination)
            manifest = parse_manifest(data) if data is not None else None
            if manifest is not None and manifest.backup_id == job.id:
                job.status, job.error, job.progress, job.ended_us = COMPLETED, None, 1.0, manifest.finished_us
                job.manifest, job.size_bytes, job.left_over = summary(manifest), manifest.size_bytes, False
                return
        except (ThunderError, OSError) as error:
            self.db.events.emit("backup.left_over", place=job.destination, error=str(error))
        await self._clean(job)
        if interrupted:
            self.db.events.emit("backup.failed", backup_id=job.id, destination=job.destination, error=job.error)

    async def _clean(self, job: Job) -> None:
        try:
            await remove_left_over(self.ports, job.destination, job.id)
            job.left_over = False
        except (ThunderError, OSError) as error:
            job.left_over = True
            self.db.events.emit("backup.left_over", place=job.destination, error=str(error))

    async def _save(self) -> None:
        """Write backups.json anew. Durable when: it returns. Crash: it is as before."""
        self._forget()
        data = json.dumps({"version": VERSION, "jobs": [asdict(job) for job in self._jobs.values()]}, indent=1).encode()
        await replace_file(self.ports.disk, self.config.data_dir, JOBS_FILE, data)

    def _forget(self) -> None:
        """J3."""
        newest_first = self.jobs()
        keep = {job.id for job in newest_first[:REMEMBERED]}
        keep |= {job.id for job in [job for job in newest_first if job.status == COMPLETED][:REMEMBERED]}
        self._jobs = {job_id: job for job_id, job in self._jobs.items() if job_id in keep}


def summary(manifest: Manifest) -> dict[str, Any]:
    """What a status shows of a manifest."""
    return {
        "backup_id": manifest.backup_id, "type": manifest.type, "label": manifest.label, "timeline": manifest.timeline,
        "start_lsn": format_lsn(manifest.start_lsn), "end_lsn": format_lsn(manifest.end_lsn),
        "page_count": manifest.page_count, "files": len(manifest.files), "size_bytes": manifest.size_bytes,
        "base": manifest.base.backup_id if manifest.base is not None else None, "encrypted": manifest.encryption is not None,
        "checksum": manifest.checksum,
    }  # fmt: skip


def _decode(data: bytes) -> dict[str, Job]:
    """Raises: ValueError, TypeError, KeyError for what is not ours."""
    document = json.loads(data)
    if document["version"] != VERSION:
        raise ValueError(f"version {document['version']} instead of {VERSION}")
    jobs = [Job(**fields) for fields in document["jobs"]]
    return {job.id: job for job in jobs}
