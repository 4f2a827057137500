"""The plan of a point-in-time recovery: everything that can be known, and refused, before a byte of the target changes.

    backup (and what it stands on) ─▶ line of timelines ─▶ log scanned to the stop ─▶ target directories ─▶ free space

N1. `plan_restore` writes nothing anywhere. What it refuses has changed nothing.
N2. Of a folder of backups the newest one that can be restored to the target is chosen; each that was passed over is a note.
N3. The plan names each piece of log with a digest of what was read: the restore lays down that, or nothing.
N4. An interrupted restore is planned to the stop that it had, whatever has been archived since.
N5. The newest timeline that descends from the backup is followed. One that has no log in the archive (a restore claimed its
    number, and nothing was ever shipped) is not, unless it is asked for: else one restore would hide what another could reach.
N6. A dry run is for looking before the database is stopped or its directories are emptied: what is in the way is only a note.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from xxhash import xxh3_128_hexdigest

from thunderdb.archive.cipher import Cipher, load_cipher
from thunderdb.archive.codec import Codec
from thunderdb.archive.command_store import CameSince, CommandSource
from thunderdb.archive.directory import is_url, open_store
from thunderdb.archive.index import LogSource, StoreSource
from thunderdb.archive.requests import Requests
from thunderdb.backup.branches import Followed, check_unambiguous
from thunderdb.backup.chain import is_backup, list_backups, open_chain
from thunderdb.backup.destination import Destination, InTheWay, Kind, check_apart, inspect, read_marker
from thunderdb.backup.logline import (
    Line,
    LineReader,
    choose_lines,
    has_log,
    read_lines,
)
from thunderdb.backup.rates import service_s
from thunderdb.backup.scan import KEEP_BYTES, Scan, Segment
from thunderdb.backup.sources import BackupLog, BackupSource, Survey, Unusable
from thunderdb.base.config import Config
from thunderdb.base.errors import Corruption, Refused
from thunderdb.base.ids import format_lsn
from thunderdb.recovery.target import Stop, Target, TargetKind, TooEarly
from thunderdb.runtime.ports import Ports
from thunderdb.wal.timeline import history_name

SCANS = 3
SPARE_SEGMENTS = 4


@dataclass(slots=True)
class Plan:
    """What a restore will do."""

    target: Target
    chain: list[BackupSource]
    sources: list[LogSource]
    archive: StoreSource | None
    archive_place: str
    line: Line
    lines: dict[int, Line]
    segments: list[Segment]
    kept: dict[str, bytes]
    stop: Stop
    losers: int
    destination: Destination
    request: tuple[str, str, str, bool]
    no_archive: bool
    page_bytes: int
    log_bytes: int
    newest_time_us: int
    notes: list[str] = field(default_factory=list)

    @property
    def backup(self) -> BackupSource:
        return self.chain[-1]

    @property
    def room_bytes(self) -> int:
        """How much log may be fetched ahead of who lays it down."""
        own = BackupLog(self.backup).room_bytes
        return max([own, *(source.room_bytes for source in self.sources if isinstance(source, StoreSource))])

    @property
    def next_timeline(self) -> int:
        """The lowest number that is above all that are known."""
        return max([self.backup.timeline, self.line.timeline, *self.lines]) + 1

    @property
    def estimated_s(self) -> float:
        """Until the first query is answered."""
        return service_s(self.page_bytes, self.log_bytes)


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line says, beside the target. `timeline` is a number, `current`, or empty for the newest."""

    target: Target
    backup_place: str
    archive_place: str = ""
    timeline: str = ""
    no_archive: bool = False
    dry_run: bool = False
    from_folder: bool = False
    keep_bytes: int = KEEP_BYTES


async def plan_restore(
    ports: Ports, config: Config, target: Target, backup_place: str, archive_place: str | None = None, *, timeline: str = "",
    no_archive: bool = False, dry_run: bool = False, cipher: Cipher | None = None, keep_bytes: int = KEEP_BYTES,
) -> Plan:  # fmt: skip
    """Plan, and refuse what cannot be done (N1). `keep_bytes` of log at most stay in memory until they are laid down.

    Raises: Refused (exit 3), Corruption and StorageError (4), ConfigError (2).
    """
    cipher = cipher if cipher is not None else await load_cipher(ports, config)
    request = Request(
        target, backup_place.rstrip("/") or "/", archive_place or "", timeline, no_archive, dry_run, keep_bytes=keep_bytes
    )  # fmt: skip
    if await is_backup(ports, request.backup_place):
        chain = await open_chain(ports, request.backup_place, cipher, config.store_requests)
        return await _plan_one(ports, config, request, chain, cipher)
    return await _plan_folder(ports, config, replace(request, from_folder=True), cipher)


async def _plan_folder(ports: Ports, config: Config, request: Request, cipher: Cipher | None) -> Plan:
    """N2."""
    in_the_way: InTheWay | None = None
    refused: TooEarly | None = None
    marker = await read_marker(ports.disk, config.data_dir)
    backups = await list_backups(ports, request.backup_place)
    notes = [f"passed over {listed.place}: {listed.problem}" for listed in backups if listed.problem]
    for listed in reversed([listed for listed in backups if not listed.problem]):
        try:
            chain = await open_chain(ports, listed.place, cipher, config.store_requests)
            if marker is not None and marker.backup != backup_key(chain[-1]):
                continue  # N4
            plan = await _plan_one(ports, config, request, chain, cipher)
        except TooEarly as error:
            refused = error
            notes.append(f"passed over {listed.place}: {error.message}")
            continue
        except InTheWay as error:
            in_the_way = in_the_way or error
            continue
        except (Unusable, Corruption, FileNotFoundError) as error:
            notes.append(f"passed over {listed.place}: {error}")
            continue
        plan.notes[:0] = notes
        return plan
    trouble = in_the_way or refused
    if trouble is not None:
        raise trouble
    detail = f" ({'; '.join(notes)})" if notes else ""
    raise Refused(f"there is no usable backup in {request.backup_place}{detail}", "Name another place with --restore-backup.")


def backup_key(backup: BackupSource) -> str:
    """Names one backup and its exact content."""
    if backup.manifest is not None:
        return f"{backup.manifest.backup_id}:{backup.manifest.checksum}"
    return f"copy:{xxh3_128_hexdigest(backup.control_image)}"


async def _plan_one(ports: Ports, config: Config, request: Request, chain: list[BackupSource], cipher: Cipher | None) -> Plan:
    backup = chain[-1]
    _check_config(config, backup)
    key = (request.target.text, backup_key(backup), request.timeline, request.no_archive)
    blocked = ""
    archive, source, place = _archive(ports, config, request, cipher)
    reads = [link.place for link in chain] + ([place] if archive is not None else [])
    try:
        await check_apart(ports.disk, config, [read for read in reads if not is_url(read)])
        destination = await inspect(ports.disk, config, backup, key)
    except Refused as error:
        if not request.dry_run:
            raise
        destination, blocked = Destination(Kind.BLOCKED, None, 0), _blocked(error)
    sources: list[LogSource] = [*([source] if source is not None else []), BackupLog(backup)]
    own = Line(backup.timeline, backup.history)
    await _check_archive(archive, backup)
    if isinstance(source, CommandSource):
        await _check_command(source, backup)
    if archive is not None and request.target.kind not in (TargetKind.TIME, TargetKind.LSN):
        await _check_holds(archive, backup)
    lines = await read_lines(sources, own)
    survey = await backup.survey()
    candidates = choose_lines(lines, own, backup.end_lsn, request.timeline)
    if request.from_folder and not request.timeline and destination.marker is None:
        await _check_newest_line(lines, candidates, sources, backup)
    if destination.marker is not None:
        candidates = [lines[destination.marker.line]] if destination.marker.line in lines else candidates
    scan, stop = await _scan(ports, request, backup, survey, sources, candidates, destination)
    line = scan.line
    if not request.timeline and destination.marker is None:
        followed = Followed(line, tuple(scan.starts), stop.kept.last_us or backup.end_time_us)
        await check_unambiguous(ports, sources, lines, followed, request.target, backup.system_id)
    page_bytes = backup.page_count * backup.page_size
    log_bytes = stop.lsn - scan.segments[0].piece.header.start_lsn
    plan = Plan(
        request.target, chain, sources, archive, place, line, lines, scan.segments, scan.kept, stop, scan.losers, destination,
        key, request.no_archive, page_bytes, log_bytes, scan.newest_us, scan.notes,
    )  # fmt: skip
    try:
        await _check_space(ports, config, plan)
    except Refused as error:
        if not request.dry_run:
            raise
        blocked = blocked or _blocked(error)
    if blocked:
        plan.notes.insert(0, blocked)
    return plan


def _blocked(error: Refused) -> str:
    """N6."""
    return f"as things are, the restore itself would be refused: {error.message}"


async def _check_newest_line(
    lines: dict[int, Line], candidates: list[Line], sources: list[LogSource], backup: BackupSource
) -> None:
    """N2: a backup of the part of a timeline that a restore has given up comes into question only if it is asked for by name.

    Raises: TooEarly, which it is: the newest timeline left this backup's before its end.
    """
    for timeline in sorted(lines, reverse=True):
        if any(line.timeline == timeline for line in candidates):
            return
        if await has_log(sources, timeline):
            raise TooEarly(
                f"timeline {timeline}, the newest, does not run through the backup {backup.name} in {backup.place}",
                f"Name that backup itself, or --timeline {candidates[0].timeline}, to follow the timeline that was left.",
            )


async def _scan(
    ports: Ports, request: Request, backup: BackupSource, survey: Survey, sources: list[LogSource], candidates: list[Line],
    destination: Destination,
) -> tuple[Scan, Stop]:  # fmt: skip
    """N5, again where the log turned out to go on behind what was taken for its end, beside a live archive."""
    for _ in range(SCANS - 1):
        try:
            return await _follow(ports, request, backup, survey, sources, candidates, destination)
        except CameSince:
            continue
    return await _follow(ports, request, backup, survey, sources, candidates, destination)


async def _follow(
    ports: Ports, request: Request, backup: BackupSource, survey: Survey, sources: list[LogSource], candidates: list[Line],
    destination: Destination,
) -> tuple[Scan, Stop]:  # fmt: skip
    """N5: follow the newest line that has log of its own."""
    notes: list[str] = []
    marker = destination.marker
    for line in candidates:
        only = line is candidates[-1]
        if not only and line.forks and not await has_log(sources, line.timeline):
            notes.append(_no_log(line))
            continue
        reader = LineReader(ports, sources, line, backup.system_id, _records_from(request.target), ahead=True)
        scan = Scan(ports, reader, backup, survey)
        try:
            known_lsn = marker.stop_lsn if marker is not None else 0
            stop = await scan.run(request.target, known_lsn, request.dry_run, request.keep_bytes)
        except Refused:
            if only or scan.reached_own or not line.forks:
                raise
        else:
            if only or scan.reached_own or scan.cut_found:
                scan.notes[:0] = notes
                return scan, stop
        notes.append(_no_log(line))
    raise Refused("there is no timeline to follow")


def _no_log(line: Line) -> str:
    fork = line.forks[-1]
    return (
        f"timeline {line.timeline} was begun at lsn:{format_lsn(fork.switch_lsn)} of timeline {fork.timeline}, but nothing of "
        f"it is in the archive: it is not followed (--timeline {line.timeline} would restore to where it began)"
    )


def _records_from(target: Target) -> int | None:
    return target.lsn if target.kind is TargetKind.LSN else None


def _check_config(config: Config, backup: BackupSource) -> None:
    if config.page_size != backup.page_size:
        raise Refused(
            f"page_size is {config.page_size}, but the backup was made with {backup.page_size}",
            f'Set page_size = "{backup.page_size // 1024}KB" in [storage].',
        )


def _archive(
    ports: Ports, config: Config, request: Request, cipher: Cipher | None
) -> tuple[StoreSource | None, LogSource | None, str]:
    """The archive to read from: the one named, else the configuration's."""
    codec = Codec(config.wal_archive_compress, cipher)
    place = request.archive_place or config.wal_archive_dir
    if place:
        store = open_store(ports, place)
        requests = Requests(ports.tasks, store, config.store_requests) if is_url(place) else None
        source = StoreSource(store, codec, ports.offload, requests)
        return source, source, place
    if config.wal_restore_command:
        scratch = f"{config.wal_dir.rstrip('/').rpartition('/')[0]}/.restore.tmp"
        timeout_s = config.wal_command_timeout / 1000
        command = CommandSource(
            ports.disk, ports.command, config.wal_restore_command, scratch, timeout_s, codec, ports.offload
        )  # fmt: skip
        return None, command, command.place
    return None, None, ""


async def _check_archive(archive: StoreSource | None, backup: BackupSource) -> None:
    """Raises: Refused for the archive of another database."""
    if archive is None:
        return
    for timeline, history in sorted((await archive.index()).histories.items()):
        if history.system_id is not None and history.system_id != backup.system_id:
            raise Refused(
                f"the archive in {archive.place} is of another database: timeline {timeline} has system id "
                f"{history.system_id:016x}, the backup {backup.system_id:016x}",
                "Name the archive of this database with --wal-archive-dir.",
            )


async def _check_command(source: CommandSource, backup: BackupSource) -> None:
    """A command cannot be asked what there is, and fails alike for a file that is not there and a store out of reach; but of a
    timeline that was archived there is a history file. Raises: Refused."""
    if await source.history(backup.timeline) is None:
        said = f": {source.last_error}" if source.last_error else ""
        raise Refused(
            f"wal_restore_command does not fetch {history_name(backup.timeline)}, which any archive of that timeline has{said}",
            "Run it by hand; or leave it out of the configuration, to restore to what the backup itself holds.",
        )


async def _check_holds(archive: StoreSource, backup: BackupSource) -> None:
    """`latest` over an archive that is not mounted, or misspelt, would be the backup alone. Raises: Refused."""
    index = await archive.index()
    if backup.timeline not in index.histories and not index.numbers(backup.timeline):
        raise Refused(
            f"the archive in {archive.place} holds nothing of timeline {backup.timeline}, on which the backup was made",
            "Mount it, or name another with --wal-archive-dir; with no archive configured, the backup's own log is the end.",
        )


async def _check_space(ports: Ports, config: Config, plan: Plan) -> None:
    """Raises: Refused where the disks are too small."""
    disk = ports.disk
    spare = SPARE_SEGMENTS * config.wal_segment_size
    needs = [(config.data_dir, plan.page_bytes), (config.wal_dir, plan.log_bytes + spare)]
    free = [await disk.free_bytes(await _existing(ports, directory)) for directory, _need in needs]
    if free[0] == free[1]:  # most likely one file system
        needs = [(f"{config.data_dir} and {config.wal_dir}", needs[0][1] + needs[1][1])]
    for (where, need), there in zip(needs, free, strict=False):
        if need > there + plan.destination.present_bytes:
            raise Refused(
                f"the restore needs {need:,} bytes in {where}, and {there:,} are free",
                "Free some space, or name directories on a larger disk.",
            )


async def _existing(ports: Ports, path: str) -> str:
    while path not in ("", "/") and not await ports.disk.is_dir(path):
        path = path.rpartition("/")[0]
    return path or "/"


