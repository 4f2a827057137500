"""Targets of a restore: what each must give, and the restore of each on another machine, interrupted now and then.

T1. An aim says exactly which commits are there afterwards. `sure` ones must be restored; the others may be refused, in words,
    but what is restored is exact in any case.
T2. A restore that was interrupted anywhere is run again, with the same command, and gives the same result.
T4. A store whose requests fail may fail a restore, in words; what it does not fail is exact. The same command ends well later.
T3. The other machine sees the archive and the backups as they were left (a copy of them), so targets do not disturb each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from sim.clients.engine_session import EngineSession, SimDatabase, read_state
from sim.clients.workload import PROBE, Client
from sim.history.vault import Taken, Vault, cipher_of
from sim.incident import commands
from sim.oracle.oracle import Violation, differences
from sim.oracle.truth import Commit, Line, Recorder, before_txn, before_verb, below, cut_after, state_of, until_time, verbs
from sim.scenario.scenario import Workload
from sim.world.image import DiskImage
from sim.world.rand import Stream, derive
from sim.world.world import NodeDied, SimNode, World
from thunderdb.backup.plan import plan_restore
from thunderdb.backup.restore import RestoreReport, restore
from thunderdb.backup.scan import KEEP_BYTES
from thunderdb.backup.verify import verify_backup
from thunderdb.base.config import Config
from thunderdb.base.errors import Refused, StorageError
from thunderdb.base.events import Events
from thunderdb.base.ids import format_lsn
from thunderdb.engine.check import check_database
from thunderdb.recovery.target import format_time, parse_target

MS = 1_000_000
SECOND_NS = 1_000_000_000
LIMIT_NS = 3600 * SECOND_NS
TRIES = 4
KEPT = (KEEP_BYTES, 0, 64 << 10)
"""How much log a restore may keep in memory between its plan and its end; what is beyond is read twice."""
MIX = {"transfer": 5, "insert": 5, "update": 5, "delete": 2, "large": 1}


@dataclass(frozen=True, slots=True)
class Aim:
    """A target as it is written, and what it must give. `cut_lsn` is where the log is cut; `ambiguous` times name no moment."""

    text: str
    cut_lsn: int
    commits: tuple[Commit, ...]
    sure: bool = False
    ambiguous: bool = False
    time_us: int = 0
    forbidden: bool = False
    """A time that the wall clock jumped over: to be refused."""


def latest(line: Line, archived_lsn: int) -> Aim:
    return Aim("latest", archived_lsn, tuple(below(line.path(), archived_lsn)))


def aims(
    line: Line, usable: list[Taken], archived_lsn: int, stream: Stream, count: int, window_us: int = 0
) -> list[Aim]:  # fmt: skip
    """Random targets on a line's path. `archived_lsn`: how far the archive surely is; before `window_us` nothing is sure."""
    path = line.path()
    least = min((backup.manifest.end_lsn for backup in usable), default=0)
    if window_us:
        least = max(least, min((commit.lsn for commit in path if commit.order_us >= window_us), default=archived_lsn))
    found: list[Aim] = []
    for _ in range(count):
        aim = _draw(line, path, stream)
        if aim.cut_lsn >= archived_lsn and aim.text.startswith(("before:drop:", "before:truncate:")):
            continue  # an archive that does not have the newest one names the one before it, and is right
        enough = any(serves(backup, aim) for backup in usable) and least <= aim.cut_lsn < archived_lsn
        found.append(replace(aim, sure=enough and not aim.ambiguous))
    return found


def serves(backup: Taken, aim: Aim) -> bool:
    """Whether a backup can be restored to an aim on its line. (Its end's time may be a little later than its last commit.)"""
    manifest = backup.manifest
    return manifest.end_lsn <= aim.cut_lsn and (not aim.time_us or manifest.end_time_us <= aim.time_us)


def at_end(line: Line, taken: Taken) -> Aim:
    """Where a backup ends: it restores to there with its own log, or with what retention must keep for it."""
    end_lsn = taken.manifest.end_lsn
    inside = max(lsn for lsn in line.all_starts() if lsn < end_lsn)
    return Aim(f"lsn:{format_lsn(inside)}", end_lsn, tuple(below(line.path(), end_lsn)), sure=True)


def _draw(line: Line, path: list[Commit], stream: Stream) -> Aim:
    kind = stream.choice(("time", "time", "lsn", "lsn", "txn", "verb", "step"))
    jumps = [(low, high) for _, (low, high) in line.all_steps() if high - low > 1 and path[0].order_us <= low]
    if kind == "step" and jumps:
        low, high = stream.choice(jumps)
        return replace(_at_time(line, path, (low + high) // 2), forbidden=True)
    # Mostly late ones: the early ones lie before every backup.
    commit = path[max(0, len(path) - 1 - int(stream.random() ** 1.5 * len(path)))]
    if kind == "lsn":
        return _at_lsn(line, path, commit.lsn + stream.choice((0, 0, -1, 1, 40)))
    if kind == "txn":
        kept = before_txn(path, commit.txn) or []
        return Aim(f"before:txn:{commit.txn}", commit.lsn, tuple(kept))
    found = verbs(path)
    if kind == "verb" and found:
        verb, table = stream.choice(found)
        kept = before_verb(path, verb, table) or []
        return Aim(f"before:{verb}:{table}", path[len(kept)].lsn, tuple(kept))
    return _at_time(line, path, commit.order_us + stream.choice((0, 0, -1, 1)))


def _at_lsn(line: Line, path: list[Commit], lsn: int) -> Aim:
    cut_lsn = cut_after(line, lsn)
    return Aim(f"lsn:{format_lsn(lsn)}", cut_lsn, tuple(below(path, cut_lsn)))


def _at_time(line: Line, path: list[Commit], time_us: int) -> Aim:
    kept = until_time(path, time_us)
    cut_lsn = path[len(kept)].lsn if len(kept) < len(path) else line.end_lsn
    return Aim(format_time(time_us), cut_lsn, tuple(kept), ambiguous=_ambiguous(line, path, time_us), time_us=time_us)


def _ambiguous(line: Line, path: list[Commit], time_us: int) -> bool:
    """Whether a step of the clock made it mean nothing, or two moments: set back any time since the commit before it."""
    for lsn, (from_us, to_us) in line.all_steps():
        if from_us < to_us:
            if from_us < time_us < to_us:
                return True
            continue
        before_us = max((commit.order_us for commit in path if commit.lsn < lsn), default=from_us)
        if to_us - (from_us - before_us) <= time_us <= from_us:
            return True
    return False


async def restore_to(
    node: SimNode, config: Config, vault: Vault, aim: Aim, place: str, database: type[SimDatabase], stream: Stream,
    counts: Counter[str], events: Events, no_archive: bool, timeline: int,
) -> RestoreReport | None:  # fmt: skip
    """Restore on a node, struck now and then (T1, T2); None where it was refused with reason. Raises: Violation."""
    strikes = stream.between(1, 2) if stream.random() < 0.35 else 0
    # A timeline of which nothing is in the archive is followed only if it is asked for.
    wish = str(timeline) if stream.random() < 0.8 or not vault.archived.get(timeline) else ""

    async def once() -> RestoreReport:
        ports, cipher = node.ports, await cipher_of(node, config)
        plan = await plan_restore(
            ports, config, parse_target(aim.text), place, vault.named, no_archive=no_archive, cipher=cipher,
            timeline=wish, keep_bytes=KEPT[aim.cut_lsn % len(KEPT)],
        )  # fmt: skip
        return await restore(ports, config, plan, events, no_archive, database=database)

    weather = node.world.streams.stream("restore.weather")
    if vault.in_store and weather.random() < 0.4:
        counts[f"restores under {vault.outage(node, weather)}"] += 1
    else:
        vault.heal(node)
    for attempt in range(TRIES):
        if not node.alive:
            node.restart()
        if attempt == TRIES - 2:
            vault.heal(node)
        if attempt < strikes:
            node.crash_at(int(stream.random() ** 2 * 160) + 1, stream.random() < 0.6)
        try:
            report = await node.call(once())
        except NodeDied:
            counts["restores struck"] += 1
            node.world.bury()
            continue
        except (Refused, StorageError) as error:
            node.set_boundary(None)
            if node.world.store.faults.any:  # T4: what failed is done again, once the store is well
                counts["restores that a store failed"] += 1
                vault.heal(node)
                continue
            if not isinstance(error, Refused):
                raise
            # Which of two is for the user to say; and behind commands a timeline is known once its history has been pushed.
            unpushed = vault.command and not vault.archived.get(timeline) and "is not known" in error.message
            if aim.sure and not unpushed and not (not wish and "timeline" in error.message):
                raise Violation(f"restore of {aim.text} from {place} is refused: {error} {error.hint}") from error
            counts["refused"] += 1
            return None
        node.set_boundary(None)
        vault.heal(node)
        if aim.forbidden:
            raise Violation(f"{aim.text} is a time that never was, and was restored")
        return report
    raise Violation(f"restore of {aim.text} does not end")


class Elsewhere:
    """Another machine, in a world of its own, with a copy of a disk and of the object stores."""

    def __init__(self, seed: int, image: DiskImage, source: World | None, counts: Counter[str]) -> None:
        self.world = World(seed)
        self.stream = self.world.streams.stream("elsewhere")
        self.counts = counts
        self.log: Callable[[str], None] | None = None
        if source is not None:
            # Put there long before this world's first moment, so that no listing is behind them.
            self.world.store.objects = {url: (data, -3600 * SECOND_NS) for url, (data, _) in source.store.objects.items()}
        self.node = self.world.node("elsewhere", image)
        self.node.on_command = commands.handler(self.node, self.node.stream("commands"))

    def close(self) -> None:
        self.world.close()

    def events(self) -> Events:
        events = Events()
        if self.log is not None:
            say = self.log
            events.subscribe(lambda name, fields: say(f"elsewhere {name} {' '.join(f'{k}={v}' for k, v in fields.items())}"))
        return events

    def verify(self, config: Config, places: list[str]) -> None:
        """V1. Raises: Violation."""

        async def course() -> None:
            for place in places:
                cipher = await cipher_of(self.node, config)
                report = await self.node.call(verify_backup(self.node.ports, place, cipher, config.store_requests))
                if not report.passed:
                    first = report.problems[0]
                    raise Violation(f"backup {place} does not verify: {first.file} page {first.page}: {first.text}")

        self.world.run(course(), LIMIT_NS)

    def restore(
        self, config: Config, vault: Vault, aim: Aim, place: str, database: type[SimDatabase], timeline: int
    ) -> RestoreReport | None:  # fmt: skip
        """T1, T2: restore to an aim; None where that was refused with reason. Raises: Violation."""
        no_archive = self.stream.random() < 0.5
        coro = restore_to(
            self.node, config, vault, aim, place, database, self.stream, self.counts, self.events(), no_archive, timeline
        )  # fmt: skip
        return self.world.run(coro, LIMIT_NS)

    def compare(
        self, config: Config, database: type[SimDatabase], known: list[Commit], exact: list[Commit] | None = None
    ) -> tuple[list[Commit], int]:
        """Open; compare with the commits below the log's end, or with exactly these; check everything. Raises: Violation."""
        node = self.node

        async def course() -> tuple[list[Commit], int]:
            if not node.alive:
                node.restart()
            db = await node.call(database.open(node.ports, config, self.events()))
            end_lsn: int = db.log.end_lsn  # type: ignore[attr-defined]
            commits = below(known, end_lsn) if exact is None else exact
            wrong = differences(state_of(commits), await node.call(read_state(db, PROBE)))
            if wrong:
                raise Violation(f"with the log's end at {end_lsn:#x}: {len(wrong)} differ: {'; '.join(wrong[:6])}")
            problems = await node.call(check_database(db))
            if problems:
                raise Violation(f"check: {'; '.join(problems[:3])}")
            await node.call(db.close())
            return commits, end_lsn

        return self.world.run(course(), LIMIT_NS)

    def go_on(self, config: Config, database: type[SimDatabase], commits: list[Commit], workload: Workload) -> None:
        """What was restored is a database like any other: it works, is killed, and is still right. Raises: Violation."""
        node = self.node

        async def course() -> None:
            recorder = Recorder(lambda: self.world.now_ns)
            recorder.line = Line(1, commits=list(commits))
            recorder.rebase(state_of(commits))
            db = await node.call(database.open(node.ports, config, self.events()))
            db.log.recorder = recorder  # type: ignore[attr-defined]
            client = Client(EngineSession(db, recorder), 1, 1, self.stream, workload, MIX)
            call = node.call(client.run())
            await self.world.tasks.sleep(20 * MS)
            node.crash(power=self.stream.random() < 0.5)
            recorder.crashed(node.crash_ns)
            try:
                await call
            except NodeDied:
                pass
            self.world.bury()
            node.restart()
            db = await node.call(database.open(node.ports, config, self.events()))
            recorder.settle(await node.call(read_state(db, PROBE)), db.log.end_lsn)  # type: ignore[attr-defined]
            await node.call(db.close())

        self.world.run(course(), LIMIT_NS)


def seed_of(seed: int, name: str) -> int:
    return derive(seed, name) & 0xFFFF_FFFF
