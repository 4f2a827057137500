"""A run whose oracle is isolation: clients append to lists over SQL and read them, through crashes; oracle/isolation.py judges.

    table lists (id int primary key, body text): ',3,17,42'; a transaction appends elements that nobody else ever appends

    append      UPDATE … SET body = body || ',17' (half of them RETURNING), or an INSERT … ON CONFLICT DO UPDATE
    rewrite     read the list, then write it back with an element more: a lost update if anybody came in between
    read, scan  one list; all of them in one statement
    lock        SELECT … FOR UPDATE
    savepoint   append, look, and go back to the savepoint
    single      an append or a read outside of a transaction block

Nothing here asks the engine who has committed: the history is what the clients were told, and what is there after a recovery.
A rewrite is only done where its level promises that it cannot lose anything: at REPEATABLE READ, else under FOR UPDATE.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, cast

from sim.clients.engine_session import EngineSession
from sim.clients.reciting import left_open
from sim.clients.scribe import Scribe
from sim.clients.sql_session import SqlClient
from sim.clients.workload import PROBE, PROBE_COLUMNS, Client, Session, Vanished
from sim.oracle.isolation import FAILED, OK, READ_COMMITTED, REPEATABLE_READ, UNKNOWN, Statement, Txn, check
from sim.oracle.oracle import Oracle, Recovered, State, Violation, Work
from sim.runs.runner import Result, Run
from sim.scenario.faults_plan import pick
from sim.scenario.scenario import Scenario
from sim.scenario.script import ENDS, Scripted
from sim.world.rand import Stream
from sim.world.trace import Sink
from thunderdb.base.errors import NodeStopped, SqlError, StorageError

LISTS = "lists"
COLUMNS = ("id", "body")
EXPECTED = frozenset({"40001", "40P01", "57014", "53100"})
"""A conflict, a deadlock, a cancel, a full disk. Nothing else is right to say here."""
OUTCOMES = {"acked": OK, "unknown": UNKNOWN, "committing": UNKNOWN}
SHOWN = 5


def run(scenario: Scenario, seed: int, record: bool | Sink = False, log: list[str] | None = None) -> Result:
    """Run a scenario of kind list_append with a seed."""
    return ListRun(scenario, seed, record, log).result()


class Observer(Oracle):
    """No model: it counts acknowledgements, and keeps what each life's clients, and each recovery, have seen."""

    def __init__(self, run: ListRun) -> None:
        super().__init__(lambda: run.world.now_ns)
        self.history: list[tuple[Txn, Work]] = []
        self.final: dict[int, tuple[int, ...]] = {}
        self.elements = 0

    def note(self, work: Work, level: str) -> Txn:
        txn = Txn(work.number, level)
        self.history.append((txn, work))
        return txn

    def element(self) -> int:
        self.elements += 1
        return self.elements

    def commit_appended(self, txn: int) -> None:
        """The log's word is not heard here."""

    def recovered(self, observed: State, clean: bool) -> Recovered:
        """A look at everything, while nobody else is there."""
        work = self.begin(True)
        work.outcome, work.acked_ns = "acked", self.now_ns()
        self.final = {key: elements_of(row[1]) for key, row in sorted(observed[LISTS].rows.items())}
        self.note(work, REPEATABLE_READ).statements.append(Statement(self.now_ns(), dict(self.final)))
        return Recovered()

    def settled(self) -> list[Txn]:
        """The history, with how each transaction ended."""
        for txn, work in self.history:
            txn.outcome = OUTCOMES.get(work.outcome, FAILED)
            txn.acked_ns = work.acked_ns if txn.outcome == OK else -1
        return [txn for txn, _ in self.history]


class ListRun(Run):
    """The run of one seed."""

    def __init__(self, scenario: Scenario, seed: int, record: bool | Sink = False, log: list[str] | None = None) -> None:
        super().__init__(scenario, seed, record, log)
        self.observer = Observer(self)
        self.oracle = self.observer

    async def _set_up(self) -> None:
        async def tables() -> None:
            session = EngineSession(self._database(), Oracle(lambda: self.world.now_ns))
            await session.begin(False, True)
            await session.create_table(PROBE, PROBE_COLUMNS, True)
            await session.create_table(LISTS, COLUMNS, True)
            session.oracle.by_txn.clear()
            await session.commit()
            await session.begin(False, True)
            await session.insert(PROBE, {"id": 1, "ver": 0})
            for key in range(self.scenario.workload.items):
                await session.insert(LISTS, {"id": key, "body": ""})
            await session.commit()

        await self._call(tables())

    def _client(self, session: Session, number: int, stream: Stream) -> Client:
        if not isinstance(session, SqlClient):
            raise Violation("lists are worked on over SQL")
        return ListClient(session, number, self.life, stream, self.scenario.workload, self.plan.mix, self.observer)

    def _judge(self, result: Result) -> None:
        super()._judge(result)
        if not result.violations:
            anomalies = check(self.observer.settled(), self.observer.final)
            result.violations += [f"isolation: {anomaly}" for anomaly in anomalies[:SHOWN]]


class ListClient(Client):
    """One client. What it was told goes into the observer's history."""

    def __init__(
        self, session: SqlClient, number: int, life: int, stream: Stream, workload: Any, mix: dict[str, int], observer: Observer
    ) -> None:
        super().__init__(session, number, life, stream, workload, mix)
        self.sql = session
        self.observer = observer
        self.txn = Txn(0)
        self._backs: list[tuple[str, int]] = []
        """The savepoints of this transaction, and how many statements it had."""
        self.statements = {name: weight for name, weight in mix.items() if name in _STATEMENTS} or {"append": 1}
        self._marks = 0

    def record(self, scribe: Scribe) -> None:
        super().record(scribe)
        self.sql = cast(SqlClient, scribe)

    async def _transaction(self, kind: str) -> None:
        await self._told(kind, self._single(self._draw_single()) if kind == "single" else self._block(kind))

    async def recited(self, one: Scripted) -> None:
        if one.do and one.do[0][0] == "checkpoint":
            await self.session.checkpoint()
            return
        single = one.kind == "single"
        await self._told(one.kind, self._single(self._recite(one)) if single else self._recite(one))

    async def _told(self, kind: str, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except SqlError as error:
            if error.sqlstate not in EXPECTED:
                raise Violation(f"{kind}: unexpected error {error.sqlstate}: {error}") from error
            raise

    async def _recite(self, one: Scripted) -> None:
        for name, *args in one.do:
            if name in _OPS:
                await _OPS[name](self, *args)
            elif name == "begin":
                await self._begin(*args)
            elif name == "sleep":
                await self.sql.tasks.sleep(args[0])
            elif name in ENDS:
                await getattr(self.sql, name)()
            else:
                raise ValueError(f"a script says {name!r}, which no list can do")
        await left_open(self, one)

    async def _single(self, work: Coroutine[Any, Any, None]) -> None:
        """A statement that is a transaction of its own; if it is not answered, nobody knows."""
        self.sql.work = note = self.observer.begin(True)
        self.txn = self.observer.note(note, READ_COMMITTED)
        note.outcome = "committing"
        try:
            await work
        except (NodeStopped, StorageError):
            raise
        except SqlError:
            note.outcome = "failed"
            raise
        self.observer.ack(note)

    async def _draw_single(self) -> None:
        await self._statement("append" if self.stream.random() < 0.6 else "scan")

    async def _begin(self, repeatable: bool, sync: bool) -> None:
        self._backs.clear()
        await self.sql.begin(repeatable, sync)
        self.txn = self.observer.note(self.sql.work, REPEATABLE_READ if repeatable else READ_COMMITTED)

    async def _block(self, first: str) -> None:
        stream = self.stream
        await self._begin(stream.random() < self.workload.repeatable_read, True)
        if first in _STATEMENTS:
            await self._statement(first)
        for _ in range(stream.between(0, 4)):
            if stream.random() < 0.4:
                await self.sql.tasks.sleep(stream.between(0, 3_000_000))
            await self._statement(pick(stream, self.statements))
        if first == "abandon":
            raise Vanished
        await (self.sql.rollback() if stream.random() < 0.08 else self.sql.commit())

    async def _statement(self, kind: str) -> None:
        """Draw a statement, and do it."""
        key, stream = self.stream.between(0, self.workload.items - 1), self.stream
        if kind == "append":
            await self._do_append(key)
        elif kind == "rewrite":
            await self._op("rewrite", key, self.txn.level == REPEATABLE_READ and stream.random() < 0.7)
        elif kind == "savepoint":
            await self._op("mark")
            await self._do_append(key)
            if stream.random() < 0.5:
                await self._op("read", key)
            if stream.random() < 0.7:
                await self._op("back")
        else:
            await self._op(kind, *(() if kind == "scan" else (key,)))

    async def _do_append(self, key: int) -> None:
        draw = self.stream.random()
        await self._op("append", key, "upsert" if draw < 0.15 else "plain" if draw < 0.5 else "returning")

    async def _op(self, name: str, *args: Any) -> None:
        if self._scribe is not None:
            self._scribe.op(name, *args)
        await _OPS[name](self, *args)

    async def _ask(self, sql: str, values: tuple[Any, ...] = (), locked: bool = False, **appends: Any) -> Any:
        """Send a statement, and write down that it was sent before it has an answer."""
        note = Statement(self.observer.now_ns(), {}, appends.get("appends", {}), locked)
        self.txn.statements.append(note)
        return note, await self.sql.ask(sql, values or None)

    # -- The statements

    async def _append(self, key: int, how: str) -> None:
        element = self.observer.element()
        text, appends = f",{element}", {key: element}
        if how == "upsert":
            sql = f"INSERT INTO {LISTS} VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET body = {LISTS}.body || $2"
            _, reply = await self._ask(sql, (key, text), appends=appends)
            _answered(reply.tag, "INSERT 0 1")
        elif how == "plain":
            _, reply = await self._ask(f"UPDATE {LISTS} SET body = body || $1 WHERE id = $2", (text, key), appends=appends)
            _answered(reply.tag, "UPDATE 1")
        else:
            sql = f"UPDATE {LISTS} SET body = body || $1 WHERE id = $2 RETURNING body"
            note, reply = await self._ask(sql, (text, key), True, appends=appends)
            _answered(reply.tag, "UPDATE 1")
            note.reads[key] = elements_of(reply.rows[0][0])

    async def _rewrite(self, key: int, sure: bool) -> None:
        elements = await (self._read(key) if sure and self.txn.level == REPEATABLE_READ else self._lock(key))
        element = self.observer.element()
        text = "".join(f",{one}" for one in (*elements, element))
        _, reply = await self._ask(f"UPDATE {LISTS} SET body = $1 WHERE id = $2", (text, key), appends={key: element})
        _answered(reply.tag, "UPDATE 1")

    async def _read(self, key: int) -> tuple[int, ...]:
        note, reply = await self._ask(f"SELECT body FROM {LISTS} WHERE id = $1", (key,))
        note.reads[key] = found = elements_of(_only(reply.rows)[0])
        return found

    async def _lock(self, key: int) -> tuple[int, ...]:
        note, reply = await self._ask(f"SELECT body FROM {LISTS} WHERE id = $1 FOR UPDATE", (key,), True)
        note.reads[key] = found = elements_of(_only(reply.rows)[0])
        return found

    async def _scan(self) -> None:
        note, reply = await self._ask(f"SELECT id, body FROM {LISTS}")
        if len(reply.rows) != self.workload.items:
            raise Violation(f"a scan returns {len(reply.rows)} of {self.workload.items} lists")
        note.reads.update({int(one): elements_of(body) for one, body in reply.rows})

    async def _mark(self) -> None:
        self._marks += 1
        await self.sql.ask(f"SAVEPOINT s{self._marks}")
        self._backs.append((f"s{self._marks}", len(self.txn.statements)))

    async def _back(self) -> None:
        if self._backs:
            name, at = self._backs.pop()
            await self.sql.ask(f"ROLLBACK TO SAVEPOINT {name}")
            self.txn.statements.append(Statement(self.observer.now_ns(), back_to=at))


_STATEMENTS = ("append", "rewrite", "read", "scan", "lock", "savepoint")
_OPS: dict[str, Any] = {
    "append": ListClient._append, "rewrite": ListClient._rewrite, "read": ListClient._read, "scan": ListClient._scan,
    "lock": ListClient._lock, "mark": ListClient._mark, "back": ListClient._back,
}  # fmt: skip
"""What a script says of a list transaction, beside begin, sleep and how it ends."""


def elements_of(text: str | None) -> tuple[int, ...]:
    """The elements of a list as it is stored."""
    return tuple(int(one) for one in (text or "").split(",") if one)


def _only(rows: list[Any]) -> Any:
    if len(rows) != 1:
        raise Violation(f"a list is there {len(rows)} times")
    return rows[0]


def _answered(tag: str, wanted: str) -> None:
    if tag != wanted:
        raise Violation(f"an append was answered {tag}, not {wanted}")
