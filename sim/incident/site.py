"""An installation under an incident: a machine with its database, archiver and clients, the stores beside it, and the truth.

    site = Site(scenario, seed)
    await site.open()                 # start the daemon's parts: database, archiver
    site.start_clients()
    ...                               # faults and operators (sim/incident/breakage.py, sim/incident/actions.py)
    await site.settle(...)            # compare what came back with the truth, and go on from it

I1. The truth (sim/oracle/truth.py) is every commit record with its LSN and order time, from the log's own hook.
I2. What came back is exactly the state after the commits below one LSN; which of the acknowledged ones are missing is counted,
    and nothing else may differ.
I3. Everything the report shows as a moment is a mark; marks are taken where the thing happens.
I4. Liveness: while the node is up and nothing is wrong with its disk or process, a client's transaction is acknowledged within
    `promises.service`, whatever the archive does. Looked at before each step of the timeline, and at the end.
I5. A database stops by itself only if its own disk fails, or holds what it should not.
I6. A page is repaired only where a fault has hurt just that page.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from sim.clients.engine_session import EngineSession, read_state
from sim.clients.history_database import HistoryDatabase, ScaledDatabase
from sim.clients.probe import probe_write
from sim.clients.scribe import Book, Scribe
from sim.clients.workload import ITEMS, PROBE, Client, set_up
from sim.incident import commands
from sim.incident.copying import copy_tree
from sim.incident.trouble import Troubles
from sim.oracle.oracle import Violation, differences
from sim.oracle.repairs import Repairs
from sim.oracle.truth import Commit, Line, Recorder, check_order, state_of
from sim.scenario.scenario import Scenario, Workload
from sim.scenario.script import script_of
from sim.world import devices
from sim.world.costs import COSTS_NS
from sim.world.disk import DeviceProfile, DiskFaults
from sim.world.kernel import Livelock
from sim.world.rand import Stream, derive
from sim.world.store import Bucket
from sim.world.trace import Sink
from sim.world.world import NodeDied, SimNode, World
from thunderdb.archive.archiver import Archiver
from thunderdb.base.config import Config
from thunderdb.base.errors import DiskFull, ThunderError
from thunderdb.base.events import Events
from thunderdb.engine.check import check_database
from thunderdb.runtime.sync import Future

T = TypeVar("T")

MS = 1_000_000
SECOND_NS = 1_000_000_000
DATA_DIR, WAL_DIR = "/var/lib/thunderdb/data", "/var/lib/thunderdb/wal"
ROW_BYTES = 1400
"""About what a row of `items` takes in a database of a few MB with pages of 16 KB: index entries, and room that is not used."""
ROWS_A_LOAD = 100
PATIENCE_NS = 24 * 3600 * SECOND_NS
SHORT_PATIENCE_NS = 900 * SECOND_NS
"""Where the work is limited in number, nothing takes long."""
TRIES = 50
STUCK_NS = 20 * SECOND_NS
DISK_TIMES = ("read_ns", "write_ns", "sync_ns", "entry_ns")
MARKED = {"restore.pages": "pages laid down", "restore.log": "log laid down"}
"""Events that are moments of the report."""
ONCE = (
    "recovery.settle", "recovery.wanted_page", "recovery.wanted_change", "recovery.wanted_read", "undo", "process.start",
    "process.command",
)  # fmt: skip
"""Costs that do not grow with the database: a rollback and a query want as many pages of a large one as of a small one."""
NO_EXCUSE = ("store", "clock", "region")
"""Faults during which a database goes on serving."""
DEFAULT_MIX = {"transfer": 30, "insert": 12, "update": 20, "delete": 8, "mixed": 4, "sequence": 2}


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment of the report's timeline."""

    time_ns: int
    what: str
    kind: str
    """fault, operator, backup, restore, service or event."""


@dataclass(slots=True)
class Loss:
    """What a recovery did not bring back of what had been acknowledged."""

    lost: int = 0
    oldest_acked_ns: int = 0
    given_up: int = 0
    """Acknowledged after the moment that somebody chose to go back to."""
    unsynced: int = 0
    """With sync_commit off: only a clean stop keeps all of them."""


class Site:
    """The installation of one run."""

    def __init__(self, scenario: Scenario, seed: int, record: bool | Sink = False, log: list[str] | None = None) -> None:
        self.scenario = scenario
        self.seed = seed
        self.world = World(seed, record)
        self.log = log
        self.config: Config = scenario.config(DATA_DIR, WAL_DIR)
        self.recorder = Recorder(lambda: self.world.now_ns)
        self.trouble = Troubles(lambda: self.world.now_ns)
        self.patience_ns = PATIENCE_NS if scenario.long or not scenario.workload.transactions else SHORT_PATIENCE_NS
        """A call that takes longer waits for ever."""
        self.archived: dict[int, int] = {}
        """By timeline: how far its archiver has said that the archive is."""
        self.node = self._machine("a")
        self.lines: dict[int, Line] = {1: self.recorder.line}
        self.machines = 1
        self.region = scenario.topology.nodes[0].region
        self._make_stores()
        self.db_: HistoryDatabase | None = None
        self.archiver: Archiver | None = None
        self.clients: list[Client] = []
        self.calls: list[Future[None]] = []
        self.life = 0
        self.log_lives: list[tuple[int, list[int]]] = []
        """Where the log went on in each start since the last one that was compared: one that died may have written to it."""
        self.marks: list[Mark] = []
        self.events: list[tuple[str, int]] = []
        self.observer: Callable[[str, dict[str, Any]], None] | None = None
        self.waiting: list[tuple[str, int, Future[None]]] = []
        self.phase = "set up"
        self.fatal: BaseException | None = None
        self.unexplained: BaseException | None = None
        """With what the database has stopped though nothing was wrong with its disk."""
        self.repairs = Repairs(lambda: self.node.image, self.config.data_dir, self.config.page_size)
        """I6."""
        self.spoiled: list[str] = []
        self.retired: set[str] = set()
        """What retention has removed: names of objects, places of backups."""
        self.known_before = 0
        """How many of the recorder's commits are of earlier starts."""
        self.diverged = False
        """A disk that lied has taken back what was archived already: nothing can be said of the archive any more."""
        self.damages = 0
        """How many files and objects were damaged so far."""
        self.stopped_clean = False
        """The database was shut down, and has not been started since."""
        self.damaged = False
        """Its own files were damaged: whether anybody notices is what the timeline asks."""
        self.began_work_ns = 0
        self.shut_down_ns = -1
        """Since when clients are at work."""
        self.client_count = Stream(derive(seed, "clients")).between(*scenario.workload.clients)
        self.workload = self._workload()
        self.book: Book | None = None
        self.budget: list[int] | None = [self.workload.transactions] if self.workload.transactions else None
        self.mix = dict(scenario.workload.mix) or dict(DEFAULT_MIX)

    @property
    def phase(self) -> str:
        return self.world.phase

    @phase.setter
    def phase(self, phase: str) -> None:
        self.world.phase = phase

    # -- Machines and stores

    def _machine(self, name: str) -> SimNode:
        node = self.world.node(name, profile=devices.disk(self.scenario.device))
        node.on_command = commands.handler(node, node.stream("commands"))
        return node

    def new_machine(self) -> SimNode:
        """Another machine, with an empty disk, and the same mounts of other machines' disks."""
        node = self._machine(f"{self.node.name[0]}{self.machines}")
        self.machines += 1
        for place in self.scenario.topology.stores:
            if "://" not in place:
                copy_tree(self.node.image, node.image, place)
        return node

    def _make_stores(self) -> None:
        for place, store in self.scenario.topology.stores.items():
            if "://" in place:
                self.world.store.buckets[place] = Bucket(place, devices.store(dict(store.profile)))

    def scale_store(self, place: str, on: bool) -> None:
        """While bulk is read from or written to a store, its bytes stand for those of the large database."""
        scale = self.scenario.scale if on else 1
        for name, bucket in self.world.store.buckets.items():
            if place == name or place.startswith(name + "/"):
                profile = devices.store(dict(self.scenario.topology.stores[name].profile))
                bucket.profile = replace(profile, scale=scale)

    def scale_bulk(self, on: bool) -> None:
        """The same for every store and for the machines' own disks: a recovery under way, and nothing beside it."""
        scale = self.scenario.scale if on else 1
        for name in self.world.store.buckets:
            self.scale_store(name, on)
        for node in self.world.nodes.values():
            plain: DeviceProfile = devices.disk(self.scenario.device)
            node.profile.scale = scale
            node.profile.inline_writes = 0.0 if scale > 1 else plain.inline_writes
            node.profile.cached_reads = 0.0 if scale > 1 else plain.cached_reads
            for kind, cost in COSTS_NS.items() if self.scenario.cpu else ():
                node.costs_ns[kind] = cost if kind in ONCE else cost * scale

    def usual_speed(self, node: SimNode) -> None:
        """A disk is as fast as the scenario says."""
        plain = devices.disk(self.scenario.device)
        for name in DISK_TIMES:
            setattr(node.profile, name, getattr(plain, name))

    def _workload(self) -> Workload:
        given, scenario = self.scenario.workload, self.scenario
        items = given.items
        if scenario.sizes.data_bytes:
            items = max(50, scenario.sizes.data_bytes // scenario.scale // ROW_BYTES)
        if not given.rate_per_s:
            return replace(given, items=items)
        mean_ns = int(self.client_count * SECOND_NS / given.rate_per_s)
        return replace(given, items=items, think_ns=(mean_ns // 2, mean_ns * 3 // 2))

    # -- What is going on

    def note(self, what: str, kind: str) -> None:
        """I3."""
        self.marks.append(Mark(self.world.now_ns, what, kind))
        if self.log is not None:
            self.log.append(f"{self.world.now_ns / 1e9:.6f} -- {kind}: {what}")

    def fired(self, fault: str, kind: str) -> None:
        """A fault has been injected: for the coverage table, by fault, file kind and phase."""
        self.world.struck(fault, kind)

    def happened(self, name: str, fields: dict[str, Any]) -> None:
        """An event of the engine, or of this harness."""
        self.events.append((name, self.world.now_ns))
        self.repairs.happened(name, fields)
        if self.observer is not None:
            self.observer(name, fields)
        if name == "wal.disk_full":  # it looks for room before it would need it, and meets no error
            self.fired("disk_full", "segment")
        if name in MARKED:
            self.note(MARKED[name], "restore")
        if self.log is not None:
            shown = " ".join(f"{key}={value}" for key, value in fields.items())
            self.log.append(f"{self.world.now_ns / 1e9:.6f} {name} {shown}")
        for entry in list(self.waiting):
            if entry[0] == name:
                self.waiting.remove(entry)
                if entry[1] > 1:
                    self.waiting.append((name, entry[1] - 1, entry[2]))
                else:
                    entry[2].set_result(None)

    def count(self, name: str) -> int:
        """How many events of a name there were."""
        return sum(1 for found, _ in self.events if found == name)

    async def event(self, name: str, nth: int, since: int, within_ns: int = 0) -> None:
        """Wait for the nth event of a name from position `since` on. Raises: Violation if it never comes (no `within_ns`)."""
        seen = sum(1 for found, _ in self.events[since:] if found == name)
        if seen >= nth:
            return
        come: Future[None] = Future(self.world.scheduler)
        self.waiting.append((name, nth - seen, come))
        try:
            await self.world.tasks.wait_for(come, within_ns or self.patience_ns)
        except TimeoutError:
            self.waiting = [entry for entry in self.waiting if entry[2] is not come]
            if within_ns:
                return
            raise Violation(f"the timeline waits for an event {name}, which does not come") from None

    # -- The daemon's life

    @property
    def db(self) -> HistoryDatabase:
        if self.db_ is None:
            raise Violation("the timeline asks for a database that is not running")
        return self.db_

    @property
    def up(self) -> bool:
        return self.db_ is not None and self.node.alive

    def new_events(self) -> Events:
        events = Events()
        events.subscribe(self.happened)
        return events

    async def open(self) -> None:
        """Start on what the directories hold. Raises: what the engine raises, NodeDied."""
        node = self.node
        if not node.alive:
            node.restart()
            node.ports.disk.set_faults(node.faults)
        self.fatal, self.stopped_clean = None, False
        node.ports.disk.log_lives = self.log_lives
        self.known_before = len(self.recorder.records)
        events = self.new_events()
        await self.call(node.ports.tasks.work("process.start", 1))
        database = ScaledDatabase if self.scenario.scale > 1 else HistoryDatabase
        db = await self.call(database.open(node.ports, self.config, events))
        db.background.redo_bytes_a_second = 20 << 20
        self.adopt(db)
        self.archiver = await self.call(Archiver.open(db, self.config, node.ports, events))

    def adopt(self, db: HistoryDatabase) -> None:
        self.db_ = db
        db.on_fatal = self._failed
        db.log.recorder = self.recorder

    def _failed(self, error: BaseException) -> None:
        """I5."""
        self.fatal = error
        if not self.troubled and self.unexplained is None:
            self.unexplained = error

    def check_fatal(self) -> None:
        """I5. Raises: Violation."""
        if self.unexplained is not None:
            error, self.unexplained = self.unexplained, None
            raise Violation(f"the node stopped, though its disk was well: {type(error).__name__}: {error}")

    async def set_up(self) -> None:
        """Make the tables, fill them, and write every page, so that recovery begins behind all this."""
        stream = self.world.streams.stream("set_up")
        session, wanted = EngineSession(self.db, self.recorder), self.workload.items
        await self.call(set_up(session, replace(self.workload, items=min(wanted, ROWS_A_LOAD)), stream))
        for first in range(ROWS_A_LOAD, wanted, ROWS_A_LOAD):
            await self.call(_load(session, range(first, min(first + ROWS_A_LOAD, wanted)), stream))
        await self.call(self.db.log.flush_all())
        self.db.log.switch_segment()
        for _ in range(2):
            await self.call(self.db.checkpointer.run(flush_all=True))

    def start_clients(self) -> None:
        self.life += 1
        self.log_lives.clear()
        self.began_work_ns = self.world.now_ns
        script = script_of(self.scenario.workload.script, self.life)
        life = None if self.book is None else self.book.life()
        for number in range(self.client_count):
            session = EngineSession(self.db, self.recorder)
            stream = self.world.streams.stream(f"client.{number}")
            client = Client(session, number, self.life, stream, self.workload, self.mix)
            client.budget = self.budget
            if script is not None:
                client.script = tuple(one for one in script if one.client == number)
            if life is not None:
                client.record(Scribe(session, number, life))
            client.forgives = self.explained
            self.clients.append(client)
            self.calls.append(self.node.call(client.run()))

    @property
    def recited(self) -> bool:
        """Whether the clients have done all that a script says."""
        return self.workload.script is not None and all(call.done() for call in self.calls)

    async def stop_clients(self) -> None:
        for client in self.clients:
            client.stopping = True
        calls, self.calls, self.clients = self.calls, [], []
        for call in calls:
            await self.ended(call)

    async def ended(self, call: Future[Any]) -> None:
        try:
            await self.world.tasks.wait_for(call, STUCK_NS if self.troubled else self.patience_ns)
        except TimeoutError:
            if not self.troubled:
                raise Violation("a client waits for ever") from None
            self.node.crash(power=False)  # for the lock of one whose damaged page cannot be rolled back, say
        except NodeDied:
            pass
        except ThunderError as error:
            if not self.explained(error):
                raise

    async def stop(self) -> None:
        """A clean shutdown: clients go, the archiver ships the rest, the database closes; in trouble, it is killed."""
        await self.stop_clients()
        self.shut_down_ns = self.world.now_ns
        try:
            if self.archiver is not None:
                await self.call(self.archiver.stop())
            await self.call(self.db.close())
            self.stopped_clean = self.fatal is None
        except ThunderError as error:
            if not self.explained(error):
                await self._process_ends()  # on a full disk, say: the next start recovers
                raise
        except NodeDied:
            if not self.troubled:
                raise
        await self._process_ends()

    async def _process_ends(self) -> None:
        self.node.crash(power=False)
        await self.buried()
        self.shut_down_ns = self.world.now_ns

    async def found_dead(self) -> bool:
        """Whether the database has stopped by itself (an error that it cannot go on from); then its process is gone, too."""
        if self.db_ is None or (self.fatal is None and self.node.alive):
            return False
        if self.node.alive:
            self.node.crash(power=False)
        await self.buried()
        return True

    async def give_up(self) -> None:
        """The database opened, but does not serve: it is stopped."""
        if self.node.alive:
            self.node.crash(power=False)
        await self.buried()

    async def buried(self) -> None:
        """The node is dead: settle the model and the clients."""
        self.recorder.crashed(self.node.crash_ns)
        self.note_archived()
        for call in self.calls:
            await self.ended(call)
        self.calls.clear()
        self.clients.clear()
        self.check_fatal()
        for error in (self.node.fatal, self.fatal):
            if error is not None and not isinstance(error, ThunderError):
                raise Violation(f"the node stopped: {type(error).__name__}: {error}")
        self.db_ = self.archiver = None
        self.node.fatal = self.fatal = None
        self.world.bury()

    @property
    def archive(self) -> str:
        """Where the archive's objects are, also those behind a command; empty if nothing is archived."""
        if not self.config.wal_archive_enabled:
            return ""
        return self.config.wal_archive_dir or self.config.wal_archive_command.split(" ")[1]

    def note_archived(self) -> None:
        """How far the archive is, from what its archiver says."""
        if self.archiver is not None:
            timeline = self.archiver.timeline
            self.archived[timeline] = max(self.archived.get(timeline, 0), self.archiver.archived_lsn)

    # -- The truth

    async def observe(self, db: HistoryDatabase | None = None) -> dict[str, Any]:
        return await self.call(read_state(db or self.db, PROBE))

    async def settle(self, end_lsn: int) -> Loss:
        """I2: what a restart on this machine's own directories found. Raises: Violation."""
        recorder = self.recorder
        first_end_lsn = min([end_lsn, *(lsn for lsn, _ in self.log_lives)])
        self.log_lives.clear()
        kept = [commit for commit in recorder.records if commit.lsn < first_end_lsn]
        gone = recorder.records[len(kept) :]
        # Backups and archive may have what is gone here. (What this start itself has written since lies behind its end, too.)
        before = recorder.records[len(kept) : self.known_before]
        self.diverged = self.diverged or bool(before and self.troubled)
        if self.troubled and any(commit.lsn >= first_end_lsn for commit in recorder.line.commits):
            # A disk that lied has taken back what an earlier start had found, and had compared.
            recorder.line.commits = [commit for commit in recorder.line.commits if commit.lsn < first_end_lsn]
            self.diverged = True
        observed = await self._compare(recorder.line.path() + kept, end_lsn)
        recorder.line.commits += kept
        recorder.line.end_lsn = end_lsn
        recorder.records = []
        recorder.rebase(observed)
        return _loss(gone, False)

    async def settle_restore(self, source: int, timeline: int, stop_lsn: int, chosen: list[Commit] | None) -> Loss:
        """I2: what a restore brought back: the commits below its stop, or exactly those chosen. Raises: Violation."""
        recorder = self.recorder
        self.log_lives.clear()
        self.end_line()
        path = self.path_of(source)
        kept = [commit for commit in path if commit.lsn < stop_lsn] if chosen is None else chosen
        observed = await self._compare(kept, stop_lsn)
        recorder.line = self.lines[source]
        recorder.forked(timeline, stop_lsn)
        self.lines[timeline] = recorder.line
        recorder.rebase(observed)
        return _loss(path[len(kept) :], chosen is not None)

    def path_of(self, timeline: int) -> list[Commit]:
        """Every commit on a timeline, what its database has appended so far included. Raises: Violation."""
        line = self.lines.get(timeline)
        if line is None:
            raise Violation(f"the restore followed timeline {timeline}, which nobody wrote")
        return line.path() + (self.recorder.records if line is self.recorder.line else [])

    def end_line(self) -> None:
        """What the dead machine had appended stays in the truth: whether it can be had again, the archive decides."""
        recorder = self.recorder
        recorder.line.commits += recorder.records
        recorder.records = []

    async def _compare(self, kept: list[Commit], end_lsn: int) -> dict[str, Any]:
        observed = await self.observe()
        check_order(kept)
        wrong = differences(state_of(kept), observed)
        if wrong:
            raise Violation(f"recovered to {end_lsn:#x}, with {len(kept)} commits: {'; '.join(wrong[:6])}")
        return observed

    async def check(self, db: HistoryDatabase | None = None) -> list[str]:
        """The whole database."""
        return await self.call(check_database(db or self.db))

    async def first_service(self) -> None:
        """The first write after an outage: RTO ends with its acknowledgement."""
        await self.probe()
        self.note("first service", "service")

    async def probe(self) -> None:
        for _ in range(TRIES):
            try:
                await self.call(self._probe_write())
                return
            except DiskFull:
                await self.sleep(100 * MS)
        raise Violation("the disk has space again, but writes are still refused")

    async def _probe_write(self) -> None:
        await probe_write(self.db, self.recorder.by_txn)
        self.recorder.last_ack_ns = self.world.now_ns

    # -- Helpers

    def check_service(self) -> None:
        """I4. Raises: Violation."""
        idle = not self.clients or (self.budget is not None and self.budget[0] <= 0)
        excused = any(count > 0 and not name.startswith(NO_EXCUSE) for name, count in self.trouble.active.items())
        if not self.up or idle or excused or self.troubled:
            return
        limit_ns = self.scenario.promises.service_ns + 3 * self.workload.think_ns[1]
        since_ns = max(self.began_work_ns, self.trouble.ended_ns, self.recorder.last_ack_ns)
        waited_ns = self.waited_ns(since_ns)
        if waited_ns > limit_ns:
            raise Violation(f"no service for {waited_ns / 1e9:.1f} s, though nothing is wrong; promised {limit_ns / 1e9:g} s")

    def waited_ns(self, since_ns: int) -> int:
        """How long service has been asked for in vain. Clients always ask; a script may say nothing for an hour, or end."""
        now_ns = self.world.now_ns
        if self.workload.script is None:
            return now_ns - since_ns
        asked = [now_ns - max(since_ns, one.asked_ns) for one in self.clients if one.asked_ns >= 0]
        return max([0, *asked, *(one.refused_ns - since_ns for one in self.clients)])

    def check_calls(self) -> None:
        """A client that has ended with an error has found something."""
        for call in self.calls:
            error = call.error()
            if error is not None and not isinstance(error, NodeDied) and not self.explained(error):
                raise error

    @property
    def spoilt(self) -> bool:
        """Whether the machine's own disk holds what it should not."""
        return self.damaged or self.trouble.lied

    @property
    def troubled(self) -> bool:
        """The same, or it fails, or did a moment ago."""
        return self.spoilt or self.trouble.disk

    def explained(self, error: BaseException) -> bool:
        """A query that needs a damaged page is refused by name: right, where somebody has damaged the files."""
        return self.troubled and isinstance(error, ThunderError)

    async def sleep(self, duration_ns: int) -> None:
        if duration_ns > 0:
            await self.world.tasks.sleep(duration_ns)

    async def call(self, coro: Coroutine[Any, Any, T], node: SimNode | None = None) -> T:
        """Run on the node, and wait. Raises: NodeDied; Violation if it takes for ever."""
        try:
            return await self.world.tasks.wait_for((node or self.node).call(coro), self.patience_ns)
        except TimeoutError:
            raise Violation("a call waits for ever") from None

    def clear_faults(self) -> None:
        """Heal everything."""
        self.trouble.clear()
        for node in self.world.nodes.values():
            node.set_faults(DiskFaults())
            node.image.readable()
            node.image.capacity_bytes = 1 << 50
            node.image.away.clear()
            self.usual_speed(node)
            if node.alive:
                node.ports.disk.armed.clear()
                node.resume()
        for bucket in self.world.store.buckets.values():
            bucket.faults.clear()


async def _load(session: EngineSession, keys: range, stream: Stream) -> None:
    await session.begin(False, True)
    for key in keys:
        await session.insert(ITEMS, {"id": key, "ver": 0, "code": f"c{key}", "body": "i" * stream.between(0, 300)})
    await session.commit()


def _loss(gone: list[Commit], by_choice: bool) -> Loss:
    loss = Loss()
    for commit in gone:
        if commit.ops and commit.work.sync and commit.work.outcome == "acked":
            if by_choice:
                loss.given_up += 1
            else:
                loss.lost += 1
                loss.oldest_acked_ns = loss.oldest_acked_ns or commit.work.acked_ns
        elif commit.ops and commit.work.outcome == "acked" and not by_choice:
            loss.unsynced += 1
    return loss


__all__ = ["Livelock", "Loss", "Mark", "Site"]
