"""One run: a scenario and a seed in, a verdict out. Same seed, same result, in any process.

    open ─▶ set up ─▶ [ clients work ─▶ outage ─▶ restarts, perhaps struck again ─▶ probe write ─▶ oracle ─▶ check ]… ─▶ heal
         ─▶ clients work on (liveness) ─▶ clean stop ─▶ open ─▶ oracle ─▶ check

N1. The first Violation ends the run; its text says what was wrong, and the verdict is "violation".
N2. An error of the engine that no fault explains is a violation, too; so is waiting for ever.
N4. A page that is repaired is a violation where no fault has hurt just that page (sim/oracle/repairs.py).
N3. Nothing here reads real time; whoever measures it does so around `run`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from sim.clients.engine_session import EngineSession, SimDatabase, read_state
from sim.clients.probe import probe_write
from sim.clients.scribe import Book, Scribe
from sim.clients.sql_session import Server, SqlClient
from sim.clients.workload import PROBE, Client, Session, set_up
from sim.oracle.oracle import Oracle, Violation
from sim.oracle.repairs import Repairs
from sim.scenario.faults_plan import Outage, Plan, Strike, draw, fates_of
from sim.scenario.scenario import Scenario
from sim.scenario.script import script_of
from sim.world import devices
from sim.world.disk import DiskFaults
from sim.world.kernel import Livelock
from sim.world.rand import Stream
from sim.world.trace import Sink
from sim.world.world import NodeDied, SimNode, Stuck, World
from thunderdb.base.errors import DiskFull, SyncFailed, ThunderError
from thunderdb.base.events import Events
from thunderdb.engine.check import check_database
from thunderdb.runtime.sync import Future

T = TypeVar("T")

MS = 1_000_000
SECOND_NS = 1_000_000_000
LIMIT_NS = 600 * SECOND_NS
DISK_FULL_TRIES = 50
DISK_FULL_PAUSE_NS = 100_000_000
BIG_DISK = 1 << 50
LIVELY = 3
NODE, CLIENTS = "a", "clients"
LAST_WORDS_NS = 3 * MS


class _Lost(Exception):
    """More was lost than promised: the run is over."""


@dataclass(slots=True)
class Result:
    """What a run showed. Durations in simulated nanoseconds."""

    scenario: str
    seed: int
    verdict: str = "ok"
    violations: list[str] = field(default_factory=list)
    trace_hash: str = ""
    rpo_transactions: int = 0
    rpo_ns: int = 0
    rto_ns: int = 0
    sim_ns: int = 0
    events: int = 0
    events_by_kind: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    transactions: int = 0
    driver: str = ""
    errors: dict[str, int] = field(default_factory=dict)
    operator_ns: int = 0
    """Of the RTO: until somebody had noticed and acted."""
    given_up: int = 0
    """Acknowledged after the moment that somebody chose to go back to."""
    recovered_lsn: int = 0
    coverage: dict[str, int] = field(default_factory=dict)
    """Fault|file kind|phase → how often."""
    marks: list[tuple[int, str, str]] = field(default_factory=list)
    """(time, kind, what): the moments of an incident."""
    damaged: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)


def run(scenario: Scenario, seed: int, record: bool | Sink = False, log: list[str] | None = None) -> Result:
    """Run a scenario with a seed. `log`, if given, collects the engine's events."""
    return Run(scenario, seed, record, log).result()


class Run:
    """The run of one seed."""

    def __init__(self, scenario: Scenario, seed: int, record: bool | Sink = False, log: list[str] | None = None) -> None:
        self.scenario = scenario
        self.seed = seed
        self.plan: Plan = scenario.plan or draw(scenario, seed)
        self.world = World(seed, record)
        self.node: SimNode = self.world.node(NODE, profile=devices.disk({**scenario.device, "sync_ns": self.plan.sync_ns}))
        self.world.net.default.reset_chance = self.plan.reset
        self.config = scenario.config()
        self.oracle = Oracle(lambda: self.world.now_ns)
        self.db: SimDatabase | None = None
        self.server: Server | None = None
        self.clients: list[Client] = []
        self.calls: list[Future[None]] = []
        self.life = 0
        self.probe_value = 0
        self.fault_ns = -1
        self.rto_ns = 0
        self.lost: Counter[str] = Counter()
        self.rpo_ns = 0
        self.fatal: BaseException | None = None
        self.repairs = Repairs(lambda: self.node.image, self.config.data_dir, self.config.page_size)
        self.log = log
        self.book: Book | None = None
        """Where to write down what the clients do."""
        self.begins_ns: list[int] = []
        self.ends_ns: list[int] = []
        """Of each life: when its clients began, and when an outage struck."""
        self.budget: list[int] | None = [scenario.workload.transactions] if scenario.workload.transactions else None

    def result(self) -> Result:
        world, result = self.world, Result(self.scenario.name, self.seed, driver=self.plan.driver)
        try:
            world.run(self._main(), limit_ns=LIMIT_NS)
        except _Lost:
            pass
        except (Violation, Stuck, Livelock) as error:
            result.violations.append(f"{type(error).__name__}: {error}")
        except Exception as error:  # N2
            result.violations.append(f"{type(error).__name__}: {error} ({where(error)})")
        result.rpo_transactions, result.rpo_ns, result.rto_ns = self.lost["sync"], self.rpo_ns, self.rto_ns
        result.violations += self.repairs.unexplained[:1]
        self._judge(result)
        result.trace_hash = world.trace.hexdigest()
        result.sim_ns = world.now_ns
        result.events = world.trace.events
        result.events_by_kind = world.trace.by_op()
        result.coverage = dict(sorted(world.coverage.items()))
        result.faults = {kind: world.fired[kind] for kind in sorted(world.fired)}
        result.transactions = self.oracle.acked
        result.errors = dict(sorted(self.oracle.counts.items()))
        result.verdict = "violation" if result.violations else "ok"
        world.close()
        return result

    def _judge(self, result: Result) -> None:
        promises = self.scenario.promises
        if 0 <= promises.rpo < result.rpo_transactions:
            result.violations.append(f"rpo: {result.rpo_transactions} acknowledged transactions lost, promised {promises.rpo}")
        if result.rto_ns > promises.rto_ns:
            result.violations.append(f"rto: {result.rto_ns / 1e9:.6f} s, promised {promises.rto_ns / 1e9:g} s")

    # -- The course of the run

    async def _main(self) -> None:
        self.node.set_faults(DiskFaults(self.plan.disk, stall_ns=self.scenario.faults.stall_ns))
        await self._open(self.plan.at_creation)
        await self._set_up()
        for outage in self.plan.outages:
            clean = await self._live(outage)
            self.ends_ns.append(self.node.crash_ns)
            await self._recover(outage, clean)
        self.node.set_faults(DiskFaults())
        for one, other in ((CLIENTS, NODE), (NODE, CLIENTS)):
            self.world.net.link(one, other).reset_chance = 0.0
        await self._finish()

    async def _set_up(self) -> None:
        """Make the tables that the clients work on."""
        await self._call(set_up(self._session(), self.scenario.workload, self.world.streams.stream("set_up")))

    def _client(self, session: Session, number: int, stream: Stream) -> Client:
        return Client(session, number, self.life, stream, self.scenario.workload, self.plan.mix)

    async def _finish(self) -> None:
        """Everything is healed: service must go on, stop cleanly, and leave nothing behind that is not right."""
        self.world.net.keepalive(NODE)
        self.budget = None
        self._start_clients()
        await self._sleep(self.plan.last_life_ns)
        before = self.oracle.acked
        deadline_ns = self.world.now_ns + self.scenario.promises.service_ns
        while self.oracle.acked < before + LIVELY:
            if self.world.now_ns > deadline_ns:
                raise Violation(f"no service: {self.oracle.acked - before} acknowledgements since everything was healed")
            self._check_calls()
            if self.scenario.workload.script is not None and all(call.done() for call in self.calls):
                break  # all that it says is done
            await self._sleep(5 * MS)
        await self._stop_clean()
        await self._recover(None, True)
        if self.server is not None:
            await self._call(self.server.stop())
        await self._call(self._database().close())

    async def _live(self, outage: Outage) -> bool:
        """Serve until the outage has struck; return whether it was a clean stop."""
        self._start_clients()
        if outage.full_at_ns >= 0:
            self.world.tasks.spawn(self._fill_disk(outage))
        if outage.cut_at_ns >= 0 and self.server is not None:
            self.world.tasks.spawn(self._cut_network(outage))
        await self._sleep(outage.after_ns)
        self._check_calls()
        if outage.kind == "stop":
            self._heal()
            await self._stop_clean()
            return True
        if outage.kind == "sync_error":
            await self._fail_sync(outage)
        else:
            await self._strike(outage.strike)
        self.fault_ns = self.node.crash_ns
        await self._buried(outage)
        return False

    async def _strike(self, strike: Strike) -> None:
        node = self.node
        if strike.boundary:
            self._arm(strike)
            died = node.died
            try:
                await self.world.tasks.wait_for(died, 300 * MS)
            except TimeoutError:
                node.set_boundary(None)
        if node.alive:
            self._check_calls()
            self.world.struck("power_cut" if strike.power else "kill", "machine")
            node.crash(strike.power, fates_of(strike.fates))

    def _arm(self, strike: Strike) -> None:
        """Have the node die at a boundary to come."""
        node, left = self.node, strike.boundary

        def hook(_action: str, path: str, _before: bool) -> None:
            nonlocal left
            if strike.dirty and node.image.is_quiet():
                return
            left -= 1
            if left == 0:
                node.set_boundary(None)
                self.world.fired["at_boundary"] += 1
                self.world.fault_at(f"{'power_cut' if strike.power else 'kill'} at I/O", path)
                node.crash(strike.power, fates_of(strike.fates))

        node.set_boundary(hook)

    async def _fail_sync(self, outage: Outage) -> None:
        """An fsync fails; the node must stop by itself, and answer nothing that it does not have."""
        self.node.ports.disk.arm("sync_error", skip=outage.skip_syncs)
        for _ in range(200):
            if self.fatal is not None or not self.node.alive:
                break
            await self._sleep(2 * MS)
        await self._sleep(outage.exit_ns)
        if self.fatal is not None and not isinstance(self.fatal, SyncFailed):
            raise Violation(f"the node stopped with {type(self.fatal).__name__}: {self.fatal}")
        if self.node.alive:
            self.node.crash(outage.strike.power, fates_of(outage.strike.fates))

    async def _buried(self, outage: Outage | None) -> None:
        """The node is dead: settle the model and the clients."""
        if self.server is not None:
            await self._sleep(LAST_WORDS_NS)  # what it had answered before is still on its way
            for client in self.clients:
                client.session.dead()
            self.world.net.heal_all()
        self.oracle.crashed(self.fault_ns)
        for call in self.calls:
            try:
                await call
            except NodeDied:
                pass
        self.calls.clear()
        self.clients.clear()
        self._check_fatal()
        self.db = self.server = None
        self.world.bury()

    async def _fill_disk(self, outage: Outage) -> None:
        life = self.life
        await self._sleep(outage.full_at_ns)
        if self.life != life or not self.node.alive:
            return
        image = self.node.image
        image.capacity_bytes = image.used_bytes + outage.full_room
        await self._sleep(outage.full_for_ns)
        if self.life == life:
            self._heal()

    async def _cut_network(self, outage: Outage) -> None:
        life = self.life
        await self._sleep(outage.cut_at_ns)
        if self.life == life and self.node.alive:
            one, other = (NODE, CLIENTS) if outage.cut_for_ns % 2 else (CLIENTS, NODE)
            self.world.net.partition(one, other, outage.cut_one_way)
            await self._sleep(outage.cut_for_ns)
            if self.life == life and self.node.alive:
                self.world.net.heal_all()
                await self._sleep(MS)
                # A client that left meanwhile could not say so, and its transaction may hold locks.
                if self.life == life and self.node.alive:
                    self.world.net.keepalive(NODE)

    def _heal(self) -> None:
        self.node.image.capacity_bytes = BIG_DISK
        self.world.net.heal_all()

    # -- Restart

    async def _recover(self, outage: Outage | None, clean: bool) -> None:
        strikes = () if outage is None else outage.in_recovery
        await self._sleep(MS if outage is None else outage.down_ns)
        await self._open(strikes)
        self._heal()
        if not clean:
            await self._probe()
        database = self._database()
        observed = await self._call(read_state(database, PROBE))
        kept = self.oracle.recovered(observed, clean)
        if kept.lost:
            self.lost["sync"] += kept.lost
            self.rpo_ns = max(self.rpo_ns, self.fault_ns - kept.oldest_lost_ns)
            if 0 <= self.scenario.promises.rpo < self.lost["sync"]:
                raise _Lost  # N1: the verdict says how many
        self.lost["async"] += kept.lost_async
        problems = await self._call(check_database(database))
        if problems:
            raise Violation(f"check: {len(problems)} problems: {'; '.join(problems[:4])}")

    async def _open(self, strikes: tuple[Strike, ...]) -> None:
        """Start the node and open its database, struck again while it recovers."""
        node, self.world.phase = self.node, "restart"
        for attempt in range(len(strikes) + 3):
            if not node.alive:
                node.restart()
            strike = strikes[attempt] if attempt < len(strikes) else None
            if strike is not None:
                if not strike.boundary:
                    node.crash(strike.power, fates_of(strike.fates))
                    continue
                self._arm(strike)
            self.fatal = None
            events = Events()
            events.subscribe(self.repairs.happened)
            if self.log is not None:
                events.subscribe(self._note)
            try:
                db = await self._within(node.call(SimDatabase.open(node.ports, self.config, events)), "open")
            except NodeDied:
                self.world.fired["struck_in_recovery"] += strike is not None
                self._check_fatal()
                self.world.bury()
                await self._sleep(MS)
                continue
            except DiskFull:
                if node.image.capacity_bytes == BIG_DISK:
                    raise
                self.world.fired["open_on_full_disk"] += 1
                self._heal()
                node.crash(power=False)
                continue
            node.set_boundary(None)
            self.db = db
            db.on_fatal = self._failed
            db.log.on_commit = self.oracle.commit_appended
            self.life += 1
            self.world.phase = "serving"
            if self.plan.driver == "sql":
                self.server = Server(node, db, self.oracle, events)
                await self._call(self.server.start())
            return
        raise Violation("the database does not open")

    def _note(self, name: str, fields: dict[str, Any]) -> None:
        if self.log is not None:
            shown = " ".join(f"{key}={value}" for key, value in fields.items())
            self.log.append(f"{self.world.now_ns / 1e9:.6f} {name} {shown}")

    def _failed(self, error: BaseException) -> None:
        self.fatal = error

    async def _probe(self) -> None:
        """The first write after an outage: RTO ends with its acknowledgement."""
        for _ in range(DISK_FULL_TRIES):
            try:
                await self._call(self._probe_write(self._database()))
                break
            except DiskFull:
                # The log looks for space again once a second; until then a database that was full says so.
                await self.world.tasks.sleep(DISK_FULL_PAUSE_NS)
        else:
            raise Violation("the disk has space again, but writes are still refused")
        if self.fault_ns >= 0:
            self.rto_ns = max(self.rto_ns, self.world.now_ns - self.fault_ns)
            self.fault_ns = -1

    async def _probe_write(self, db: SimDatabase) -> None:
        self.probe_value = await probe_write(db, self.oracle.by_txn, self.probe_value)

    # -- Clients

    def _session(self) -> Session:
        return EngineSession(self._database(), self.oracle)

    def _start_clients(self) -> None:
        self.begins_ns.append(self.world.now_ns)
        script = script_of(self.scenario.workload.script, self.life)
        life = None if self.book is None else self.book.life()
        for number in range(self.plan.clients):
            stream = self.world.streams.stream(f"client.{number}")
            if self.server is None:
                home, session = self.node, self._session()
            else:
                home = self.world.node(CLIENTS)
                habits = self.world.streams.stream(f"client.{number}.habits")
                session = SqlClient(home.ports, self.server, self.oracle, habits)
            client = self._client(session, number, stream)
            client.budget = self.budget
            if script is not None:
                client.script = tuple(one for one in script if one.client == number)
            if life is not None:
                client.record(Scribe(session, number, life))
            self.clients.append(client)
            self.calls.append(home.call(client.run()))

    async def _stop_clean(self) -> None:
        for client in self.clients:
            client.stopping = True
        for number, call in enumerate(self.calls):
            await self._within(call, f"client {number}")
        self.calls.clear()
        self.clients.clear()
        if self.server is not None:
            await self._call(self.server.stop())
        await self._call(self._database().close())
        self._check_fatal()
        self.node.crash(power=self.world.streams.stream("stop").random() < 0.5)
        self.oracle.crashed(-1)
        self.db = self.server = None
        self.world.fired["clean_stop"] += 1

    def _check_calls(self) -> None:
        """A client that has ended with an error has found something."""
        for call in self.calls:
            error = call.error()
            if error is not None and not isinstance(error, NodeDied):
                raise error

    def _check_fatal(self) -> None:
        for error in (self.node.fatal, self.fatal):
            if error is not None and not isinstance(error, SyncFailed):
                raise Violation(f"the node stopped: {type(error).__name__}: {error} ({where(error)})")

    # -- Helpers

    def _database(self) -> SimDatabase:
        if self.db is None:
            raise Violation("the database is not open")
        return self.db

    async def _sleep(self, duration_ns: int) -> None:
        await self.world.tasks.sleep(duration_ns)

    async def _call(self, coro: Coroutine[Any, Any, T]) -> T:
        return await self._within(self.node.call(coro), "a call")

    async def _within(self, future: Future[T], what: str) -> T:
        """Await an outcome that has to come while nothing is broken."""
        try:
            return await self.world.tasks.wait_for(future, self.scenario.promises.service_ns)
        except TimeoutError:
            raise Violation(f"{what} takes more than {self.scenario.promises.service_ns / 1e9:g} s") from None


def where(error: BaseException) -> str:
    """The last places of a traceback, for a message of one line."""
    places: list[str] = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{code.co_filename.rpartition('/')[2]}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return " < ".join(reversed(places[-5:]))


def shortened(scenario: Scenario, **changes: Any) -> Scenario:
    """The scenario with other workload values (tests)."""
    return replace(scenario, workload=replace(scenario.workload, **changes))


__all__ = ["Result", "Run", "ThunderError", "run"]
