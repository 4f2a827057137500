"""Random histories with backups in them: full and incremental, under load, over crashes of the node and of its power.

The backups lie on the node's own disk, so a power cut tears what of them was not synced. At the end every destination that was
ever published is verified, restored on another machine, and compared with the truth at its end LSN.
"""

from __future__ import annotations

from dataclasses import dataclass

from sim.copying import put_file
from sim.history import LIMIT_NS, MS, Elsewhere, History, Shape
from sim.image import DiskImage
from sim.oracle import Violation
from sim.rand import derive
from sim.truth import Commit
from thunderdb.archive.directory import open_store
from thunderdb.backup.frames import FrameReader, parse_stored_name
from thunderdb.backup.incremental import INCREMENTAL_HEADER, INCREMENTAL_SUFFIX, page_no_of
from thunderdb.backup.jobs import COMPLETED, BackupJobs, Job
from thunderdb.backup.manifest import MANIFEST_NAME, Manifest, parse_manifest
from thunderdb.backup.take import BackupRequest
from thunderdb.backup.verify import verify_backup
from thunderdb.base.errors import Refused
from thunderdb.runtime.ports import Ports
from thunderdb.storage.files import page_file_name

BACKUPS = "/backups"
STORE = "s3://bucket/backups"
SHAPE = Shape(
    steps=(8, 14),
    weights={"backup": 6, "work": 3, "checkpoint": 2, "switch": 2, "power_cut": 2, "kill": 2, "stop": 1, "cancel": 1},
    clients=(1, 3), think_ns=(0, 4 * MS), work_ns=(2 * MS, 30 * MS),
)  # fmt: skip


@dataclass(slots=True)
class Asked:
    """A backup that was begun, and what had been acknowledged before."""

    job: Job
    must: list[Commit]


class BackupHistory(History):
    """A history whose steps are mostly backups."""

    def __init__(self, seed: int, shape: Shape = SHAPE, log: list[str] | None = None) -> None:
        super().__init__(seed, shape, log)
        self.asked: dict[str, Asked] = {}
        self.jobs: BackupJobs | None = None
        self.number = 0

    async def course(self) -> None:
        await super().course()
        await self._check_backups()

    async def _open(self, struck: bool = False) -> None:
        await super()._open(struck)
        jobs = BackupJobs(self.db, self.node.ports, self.config())
        await self.call(jobs.load())
        for job in jobs.jobs():
            if not job.ended:
                raise Violation(f"{job.id} is {job.status} after a restart")
            if f"{job.destination}.partial" in self.node.image.dirs:
                raise Violation(f"{job.destination}.partial was left over")
        self.jobs = jobs

    async def _stop_clean(self) -> None:
        if self.jobs is not None:
            await self.call(self.jobs.close())
        await super()._stop_clean()

    async def _buried(self) -> None:
        self.jobs = None
        await super()._buried()

    async def _do_backup(self) -> None:
        jobs, stream = self.jobs, self.stream
        if jobs is None:
            raise Violation("there are no jobs")
        self.number += 1
        kind = stream.choice(("full", "full", "incremental"))
        request = BackupRequest(
            f"{stream.choice((BACKUPS, BACKUPS, STORE))}/{self.number:03d}", type=kind, compress=stream.random() < 0.4,
            rate_limit=stream.choice((None, None, 20 << 20)),
        )  # fmt: skip
        must = [c for c in self.recorder.known() if c.work.sync and c.work.outcome == "acked"]
        try:
            job = await self.call(jobs.start(request))
        except Refused as refused:
            self.outcome.counts["refused"] += 1
            if "running already" not in refused.message and "no backup that" not in refused.message:
                raise
            return
        self.asked[job.destination] = Asked(job, must)
        self.outcome.counts[f"{kind} begun"] += 1
        if stream.random() < 0.5:
            await self._ended(self.node.call(jobs.wait(job.id)))
            ended = jobs.job(job.id)
            if ended is not None and ended.error:
                raise Violation(f"{job.id} failed: {ended.error}")

    async def _do_cancel(self) -> None:
        jobs = self.jobs
        if jobs is not None and jobs.jobs():
            newest = jobs.jobs()[0]
            await self._ended(self.node.call(jobs.cancel(newest.id)))

    # -- What came of them

    async def _check_backups(self) -> None:
        """Each backup that is there is whole; each that was called completed is there."""
        self.node.restart()
        ports, path = self.node.ports, self.recorder.line.path()
        names = [name for name in self.node.image.dirs if name.rpartition("/")[0] == BACKUPS]
        listed = [stored.key.partition("/") for stored in await self.node.call(ports.stores.open(STORE).list())]
        names += [f"{STORE}/{name}" for name, _, rest in listed if rest == MANIFEST_NAME]
        for name in {name for name, _, _ in listed}:
            if f"{STORE}/{name}" not in names:
                raise Violation(f"{STORE}/{name} was left over")
        for destination, asked in self.asked.items():
            if asked.job.status == COMPLETED and destination not in names:
                raise Violation(f"{destination} was completed and is gone")
        for place in sorted(names):
            report = await self.node.call(verify_backup(ports, place))
            if not report.passed or report.manifest is None:
                raise Violation(f"{place}: {report.problems[0] if report.problems else 'no manifest'}")
            self.outcome.counts[f"{report.manifest.type} verified"] += 1
            image, end_lsn = DiskImage(), report.manifest.end_lsn
            for name, content in (await self.node.call(restored_files(ports, report.links))).items():
                folder, _, rest = name.partition("/")
                put_file(image, f"{self.data_dir if folder == 'data' else self.wal_dir}/{rest}", content)
            exact = [commit for commit in path if commit.lsn < end_lsn]
            kept = Elsewhere(derive(self.seed, place) & 0xFFFF_FFFF, image).open(self.config(), path, exact)
            missing = [commit for commit in self.asked[place].must if commit.lsn not in kept]
            if missing:
                raise Violation(f"{place}: transaction {missing[0].txn}, acknowledged before it began, is not in it")


async def restored_files(ports: Ports, links: list[str]) -> dict[str, bytes]:
    """data/ and wal/ of a backup as they have to be on disk: the plainest restore there is, of a chain given base first."""
    manifests = [parse_manifest(await open_store(ports, link).get(MANIFEST_NAME)) for link in links]
    last = manifests[-1]
    pages = bytearray(last.page_count * last.page_size)
    found: dict[str, bytes] = {}
    for link, manifest in zip(links, manifests, strict=True):
        for entry in manifest.files:
            plain = parse_stored_name(entry.path)[0]
            content = await _decoded(ports, link, entry.path)
            if plain.startswith("data/pages."):
                _lay_pages(pages, plain, content, manifest)
            elif manifest is last and plain.startswith(("data/", "wal/")):
                found[plain] = content
    size = last.pages_per_file * last.page_size
    for number in range(-(-len(pages) // size)):
        found[f"data/{page_file_name(number)}"] = bytes(pages[number * size : (number + 1) * size])
    return found


def _lay_pages(pages: bytearray, name: str, content: bytes, manifest: Manifest) -> None:
    size = manifest.page_size
    first = int(name.removeprefix("data/pages.").removesuffix(INCREMENTAL_SUFFIX)) * manifest.pages_per_file
    if not name.endswith(INCREMENTAL_SUFFIX):
        pages[first * size : first * size + len(content)] = content
        return
    for at in range(INCREMENTAL_HEADER.size, len(content), size):
        page_no = page_no_of(content[at : at + size])
        pages[page_no * size : (page_no + 1) * size] = content[at : at + size]


async def _decoded(ports: Ports, link: str, name: str) -> bytes:
    data = await open_store(ports, link).get(name)

    async def read(offset: int, size: int) -> bytes:
        return data[offset : offset + size]

    reader = FrameReader(ports, read, name, len(data), None)
    parts = []
    while part := await reader.next():
        parts.append(part)
    return b"".join(parts)


def run(seed: int, log: list[str] | None = None) -> BackupHistory:
    """Run the history of a seed. Raises: Violation, or whatever went wrong."""
    history = BackupHistory(seed, SHAPE, log)
    try:
        history.world.run(history.course(), limit_ns=LIMIT_NS)
    finally:
        history.world.close()
    return history


