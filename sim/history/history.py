"""Random histories of one node, with everything that a restore may meet in them, and the truth at every LSN.

    open ─▶ set up ─▶ [ clients work: DML, DDL, checkpoints, log switches, copies by hand | crash ─▶ restart | stop ─▶ start ]…
         ─▶ last stop ─▶ each copy is opened elsewhere and compared with the truth

Y1. Same seed, same history and verdict, in any process (as sim/runner N1 to N3).
Y2. The truth (sim/oracle/truth.py) comes from the clients' own models and the log's hooks, never from what a restore returns.
"""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, TypeVar

from sim.clients.engine_session import EngineSession, read_state
from sim.clients.history_database import HistoryDatabase
from sim.clients.workload import (
    BANK,
    BANK_COLUMNS,
    ITEM_COLUMNS,
    ITEMS,
    PROBE,
    SERIAL_COLUMNS,
    SERIALS,
    START_BALANCE,
    Client,
)
from sim.history.checks import HistoryChecks
from sim.history.shape import MS, Outcome, Shape
from sim.history.targets import latest, restore_to
from sim.history.vault import KEY_FILE, Vault, back_up, clean_up, draw_vault
from sim.incident import commands
from sim.incident.copying import HandCopy, copy_by_hand, put_file
from sim.oracle.oracle import Violation
from sim.oracle.truth import Recorder
from sim.runs.runner import where
from sim.scenario.faults_plan import pick
from sim.scenario.scenario import Workload
from sim.world.disk import DeviceProfile
from sim.world.fates import AllLanded, NoneLanded
from sim.world.image import Fates
from sim.world.kernel import Livelock
from sim.world.rand import Stream
from sim.world.world import NodeDied, SimNode, Stuck, World
from thunderdb.archive.archiver import Archiver
from thunderdb.base.config import Config, parse
from thunderdb.base.events import Events
from thunderdb.base.ids import format_lsn
from thunderdb.runtime.sync import Future
from thunderdb.wal.record import RecordKind

T = TypeVar("T")

SECOND_NS = 1_000_000_000
LIMIT_NS = 100 * 3600 * SECOND_NS
CALL_NS = 60 * SECOND_NS
HOLD_NS = 20 * SECOND_NS
NODE = "a"
_COMMIT, _STEP = int(RecordKind.COMMIT), int(RecordKind.CLOCK_STEP)

MIX = {
    "transfer": 24, "insert": 14, "update": 16, "delete": 8, "large": 4, "mixed": 10, "read_items": 1, "sequence": 3,
    "ddl": 8, "abandon": 3, "checkpoint": 1,
}  # fmt: skip
SETTINGS: dict[str, Any] = {
    "page_size": "4KB", "buffer_pool_size": "1MB", "wal_buffer_size": "64KB", "wal_segment_size": "1MB", "max_wal_size": "1MB",
    "checkpoint_interval": "2s", "recovery_target": "5s",
}  # fmt: skip


def run(
    seed: int, shape: Shape | None = None, log: list[str] | None = None, kind: type[History] | None = None
) -> Outcome:  # fmt: skip
    """Run the history of a seed, and check all that came out of it."""
    history = (kind or History)(seed, shape or Shape(), log)
    outcome = history.outcome
    try:
        history.world.run(history.course(), limit_ns=LIMIT_NS)
        history.check()
    except (Violation, Stuck, Livelock) as error:
        outcome.violations.append(f"{type(error).__name__}: {error}")
    except Exception as error:
        outcome.violations.append(f"{type(error).__name__}: {error} ({where(error)})")
    outcome.trace_hash = history.world.trace.hexdigest()
    outcome.sim_ns = history.world.now_ns
    outcome.events = history.world.trace.events
    outcome.commits = len(history.recorder.line.path())
    history.world.close()
    return outcome


class History(HistoryChecks):
    """The history of one seed, under way."""

    def __init__(self, seed: int, shape: Shape, log: list[str] | None = None) -> None:
        self.seed = seed
        self.shape = shape
        self.log = log
        self.outcome = Outcome(seed)
        self.world = World(seed)
        self.stream = self.world.streams.stream("history")
        profile = DeviceProfile(sync_ns=self.stream.choice((100_000, 300_000, 2 * MS)))
        self.node: SimNode = self.world.node(NODE, profile=profile)
        self.node.on_command = commands.handler(self.node, self.node.stream("commands"))
        self.lives: list[tuple[int, list[int]]] = []
        """Where the log went on in each attempt since the last one that succeeded, and what it wrote."""
        self.home = 0
        """Which of the node's directories is in use: a restore in the middle moves to the next."""
        self.recorder = Recorder(lambda: self.world.now_ns)
        self.workload = Workload(
            accounts=shape.accounts, items=shape.items, think_ns=shape.think_ns, large_bytes=(1_000, 9_000), async_commit=0.1
        )
        self.clients: list[Client] = []
        self.calls: list[Future[Any]] = []
        self.copies: list[HandCopy] = []
        extra = self.world.streams.stream("vault")
        self.vault: Vault | None = draw_vault(self.stream, extra, shape.stores) if shape.vault else None
        self.archiver: Archiver | None = None
        self.life = 0
        self.stopped = False
        self.clean = False
        """The database was shut down, and has not been started since."""
        self.next_lsn = 0
        self.db_: HistoryDatabase | None = None

    # -- Places

    @property
    def data_dir(self) -> str:
        return f"/var/lib/thunderdb{self.home}/data"

    @property
    def wal_dir(self) -> str:
        return f"/var/lib/thunderdb{self.home}/wal"

    def config(self) -> Config:
        settings = {} if self.vault is None else self.vault.settings
        return parse("", flags={**SETTINGS, **settings, "data_dir": self.data_dir, "wal_dir": self.wal_dir})

    @property
    def db(self) -> HistoryDatabase:
        if self.db_ is None:
            raise Violation("the database is not open")
        return self.db_

    # -- The course

    async def course(self) -> None:
        if self.vault is not None and self.vault.command:
            self.outcome.counts["archives behind commands"] += 1
        if self.vault is not None and self.vault.encrypted:
            put_file(self.node.image, KEY_FILE, bytes(range(32)))
        await self._open()
        await self.call(self._set_up(self.session()))
        self._start_clients()
        for _ in range(self.stream.between(*self.shape.steps)):
            kind = pick(self.stream, self.shape.weights)
            self.note(f"step {kind}")
            self.outcome.counts[kind] += 1
            await getattr(self, f"_do_{kind}")()
            if self.stopped:
                return
        await self._do_work()
        if self.vault is not None and self.stream.random() < 0.4:
            # The machine is lost: what the archive has is all there is.
            self.node.crash(self.stream.random() < 0.5, self._fates())
            await self._buried()
            self._leave()
            return
        await self._stop_clean()
        await self._open()
        await self._stop_clean()

    async def _set_up(self, session: EngineSession) -> None:
        await session.begin(False, True)
        for name, columns in ((BANK, BANK_COLUMNS), (ITEMS, ITEM_COLUMNS), (SERIALS, SERIAL_COLUMNS)):
            await session.create_table(name, columns, True)
        await session.create_index(ITEMS, "items_code", (2,), True)
        await session.create_sequence()
        await session.commit()
        await session.begin(False, True)
        for key in range(self.workload.accounts):
            await session.insert(BANK, {"id": key, "bal": START_BALANCE, "ver": 0})
        for key in range(self.workload.items):
            await session.insert(ITEMS, {"id": key, "ver": 0, "code": f"c{key}", "body": "i" * self.stream.between(0, 200)})
        await session.commit()

    # -- Steps

    async def _do_work(self) -> None:
        await self.sleep(self.stream.between(*self.shape.work_ns))
        self._check_calls()

    async def _do_checkpoint(self) -> None:
        await self.call(self.db.checkpoint())

    async def _do_switch(self) -> None:
        await self.call(self._switch())

    async def _switch(self) -> None:
        await self.db.log.flush_all()
        self.db.log.switch_segment()

    async def _do_clock(self) -> None:
        self.node.clock.jump(self.stream.choice((300 * MS, -300 * MS, 5 * SECOND_NS, -5 * SECOND_NS)))

    async def _do_power_cut(self) -> None:
        await self._die(power=True)

    async def _do_kill(self) -> None:
        await self._die(power=False)

    async def _do_stop(self) -> None:
        await self._stop_clean()
        await self._open()
        self._start_clients()

    async def _do_copy(self) -> None:
        """Checkpoint, copy data, copy wal, while everything goes on; the copy ends some time, or the node dies before."""
        if len(self.db.control.state.copy_floors) >= 7:
            return
        await self.call(self.db.checkpoint(HOLD_NS))
        copy = HandCopy(self.recorder.line)
        recorder = self.recorder

        def before_wal() -> None:
            copy.must = [c for c in recorder.known() if c.work.sync and c.work.outcome == "acked"]

        async def copying() -> None:
            await copy_by_hand(self.node, self.data_dir, self.wal_dir, copy, self._fresh("copy"), before_wal)
            copy.known = recorder.known()

        call = self.node.call(copying(), "copy")
        self.copies.append(copy)
        if self.stream.random() < 0.5:
            await self._ended(call)
        else:
            self.calls.append(call)

    async def _do_backup(self) -> None:
        """A backup of any kind while everything goes on; it ends some time, or the node dies before."""
        vault = self.vault
        if vault is None:
            return
        coro = back_up(
            self.node, self.db, self.archiver, vault, self.config(), self._fresh("backup"), self.recorder.line, self.home
        )  # fmt: skip
        call = self.node.call(coro, "backup")
        if self.stream.random() < 0.6:
            await self._ended(call)
        else:
            self.calls.append(call)

    async def _do_outage(self) -> None:
        """The archive cannot be written for a while; nothing else may notice."""
        vault = self.vault
        if vault is None:
            return

        async def outage() -> None:
            self.outcome.counts[vault.outage(self.node, self._fresh("outage"))] += 1
            vault.outages += 1
            await self.sleep(self.stream.between(10 * MS, 300 * MS))
            vault.heal(self.node)

        self.world.tasks.spawn(outage(), "outage")

    async def _do_pitr(self) -> None:
        """Back to some moment, into the next home; the history goes on there, on a timeline of its own."""
        vault, recorder = self.vault, self.recorder
        if vault is None:
            return
        vault.heal(self.node)
        if self.stream.random() < 0.5:
            await self._stop_clean()
        else:
            self.node.crash(self.stream.random() < 0.5, self._fates())
            await self._buried()
        self._leave()
        line = recorder.line
        archived_lsn = vault.archived.get(line.number, 0)
        found = [aim for aim in self._aims(line, 4) if aim.sure]
        if archived_lsn and any(True for _ in vault.usable(line)):
            found.append(replace(latest(line, archived_lsn), sure=True))
        if not found:
            self.stopped = True
            return
        aim = self.stream.choice(found)
        self.note(f"pitr {aim.text} cut {format_lsn(aim.cut_lsn)} {len(aim.commits)} commits")
        self.home += 1
        self.node.image.power_cut(AllLanded())  # long after the crash: the cache has been written out
        report = await restore_to(
            self.node, self.config(), vault, aim, vault.backups, HistoryDatabase, self.stream, self.outcome.counts,
            self._events(), False, line.number,
        )  # fmt: skip
        if report is None:  # there are two timelines, and it was not said which
            self.stopped = True
            return
        self._check_stop(aim, report.stop_lsn)
        recorder.forked(report.timeline, report.stop_lsn)
        if report.timeline in vault.archived:
            raise Violation(f"timeline {report.timeline} is used a second time")
        await self._open()
        self._start_clients()

    def _leave(self) -> None:
        """The log that the machine has is never read again: which of its last commits there are, the archive decides."""
        recorder, line = self.recorder, self.recorder.line
        if recorder.starts:
            line.end_lsn = self.next_lsn
        line.commits += recorder.records
        line.starts += recorder.starts
        line.steps += recorder.steps
        recorder.records, recorder.starts, recorder.steps = [], [], []

    async def _do_retention(self) -> None:
        """The node is down for an hour or two; then retention runs."""
        vault = self.vault
        if vault is None:
            return
        vault.heal(self.node)
        await self._stop_clean()
        await self.sleep(self.stream.choice((20, 50, 90, 150)) * 60 * SECOND_NS)
        await self._open()
        config = self.config()
        await self.call(clean_up(self.node, self.db, vault, config))
        self._start_clients()

    async def _ended(self, call: Future[Any]) -> None:
        try:
            await self.world.tasks.wait_for(call, CALL_NS)
        except NodeDied:
            pass

    # -- Death and life

    async def _die(self, power: bool) -> None:
        node, stream = self.node, self.stream
        if stream.random() < 0.6:
            died = node.died
            node.crash_at(stream.between(1, 60), power, self._fates())
            try:
                await self.world.tasks.wait_for(died, 100 * MS)
            except TimeoutError:
                node.set_boundary(None)
        if node.alive:
            node.crash(power, self._fates())
        await self._buried()
        await self.sleep(stream.between(MS, 50 * MS))
        await self._open(struck=stream.random() < 0.2)
        self._start_clients()

    def _fates(self) -> Fates | None:
        return self.stream.choice((None, None, AllLanded(), NoneLanded()))

    async def _buried(self) -> None:
        self._note_archived()
        self.recorder.crashed(self.node.crash_ns)
        for call in self.calls:
            await self._ended(call)
        self.calls.clear()
        self.clients.clear()
        if self.node.fatal is not None:
            raise Violation(f"the node stopped: {self.node.fatal}")
        self.db_ = None
        self.archiver = None
        self.node.ports.disk.log_lives.clear()  # the recorder has it
        self._bury()

    async def _open(self, struck: bool = False) -> None:
        """Open, perhaps die in it once, and compare what is there with the truth."""
        node = self.node
        for strike in (struck, False):
            if not node.alive:
                node.restart()
            if strike:
                node.crash_at(self.stream.between(1, 40), self.stream.random() < 0.5, self._fates())
            try:
                self.db_ = await self.call(HistoryDatabase.open(node.ports, self.config(), self._events()))
            except NodeDied:
                self._bury()
                continue
            node.set_boundary(None)
            break
        db = self.db
        observed = await self.call(read_state(db, PROBE))
        lives, self.lives = [*self.lives, *node.ports.disk.log_lives], []
        node.ports.disk.log_lives.clear()
        # An earlier attempt's own records are behind the end that it found.
        first_end_lsn, clean, self.clean = min(end_lsn for end_lsn, _ in lives), self.clean, False
        self.outcome.counts["commits lost"] += self.recorder.settle(observed, first_end_lsn, clean)
        line = self.recorder.line
        line.starts = sorted({*line.starts, *(lsn for _, starts in lives for lsn in starts if lsn < db.log.end_lsn)})
        line.end_lsn = db.log.end_lsn
        self.recorder.starts = db.log.starts
        db.log.recorder = self.recorder
        if self.vault is not None:
            self.archiver = await self.call(Archiver.open(db, db.config, node.ports, db.events))
        self.life += 1

    def _bury(self) -> None:
        self.lives += self.node.ports.disk.log_lives
        self.world.bury()

    def session(self) -> EngineSession:
        return EngineSession(self.db, self.recorder)

    def _start_clients(self) -> None:
        for number in range(self.stream.between(*self.shape.clients)):
            session = self.session()
            stream = self.world.streams.stream(f"client.{number}")
            client = Client(session, number, self.life, stream, self.workload, MIX)
            self.clients.append(client)
            self.calls.append(self.node.call(client.run()))

    async def _stop_clean(self) -> None:
        for client in self.clients:
            client.stopping = True
        for call in self.calls:
            await self.world.tasks.wait_for(call, CALL_NS)
        if self.archiver is not None:
            await self.call(self.archiver.stop())
        await self.call(self.db.close())
        self.clean = True
        self.node.crash(power=self.stream.random() < 0.5)
        await self._buried()

    # -- The archive

    def _note_archived(self) -> None:
        """V2, asked of the dead."""
        if self.db_ is not None:
            self.next_lsn = int(self.db_.log.next_lsn)
        if self.archiver is not None and self.vault is not None:
            status = self.archiver.status()
            if status.refused:
                raise Violation(f"the archiver refuses: {status.last_error}")
            number = self.recorder.line.number
            self.vault.archived[number] = max(self.vault.archived.get(number, 0), self.archiver.archived_lsn)

    # -- Helpers

    def _fresh(self, name: str) -> Stream:
        self.outcome.counts[f"streams.{name}"] += 1
        return self.world.streams.stream(f"{name}.{self.outcome.counts[f'streams.{name}']}")

    def _events(self) -> Events:
        events = Events()
        if self.log is not None:
            events.subscribe(lambda name, fields: self.note(f"{name} {' '.join(f'{k}={v}' for k, v in fields.items())}"))
        return events

    def note(self, text: str) -> None:
        if self.log is not None:
            self.log.append(f"{self.world.now_ns / 1e9:.6f} {text}")

    def _check_calls(self) -> None:
        for call in self.calls:
            error = call.error()
            if error is not None and not isinstance(error, NodeDied):
                raise error

    async def sleep(self, duration_ns: int) -> None:
        await self.world.tasks.sleep(duration_ns)

    async def call(self, coro: Coroutine[Any, Any, T]) -> T:
        return await self.world.tasks.wait_for(self.node.call(coro), CALL_NS)
