"""A client that speaks SQL over the simulated network to the daemon's own session code; the same methods as EngineSession.

Q1. What a client knows, it knows from answers. The oracle learns from the engine which transactions have committed, and when
    (`by_txn`, from the server's table of sessions at the moment of COMMIT): so a lost answer leaves no doubt in the model.
Q2. A snapshot was taken some time between the request and the answer: a read must equal the model at one moment in between, and
    at REPEATABLE READ at one and the same moment for the whole transaction.
Q3. After a statement's answer its row locks are held, so the row before it was what the model has now (O4).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from sim.clients.engine_session import SEQUENCE, SimDatabase, column_type
from sim.clients.pg_client import PORT, Disconnected, PgConnection, Reply, texts
from sim.oracle.oracle import (
    COLUMN,
    CREATE,
    DEL,
    DROP,
    INDEX,
    KEYED,
    NO_INDEX,
    PUT,
    TRUNCATE,
    Oracle,
    Plus,
    Row,
    Table,
    Violation,
    Work,
    changed,
    short,
    table_differences,
)
from sim.world.rand import Stream
from sim.world.world import SimNode, SimPorts
from thunderdb.base.errors import NodeStopped, SqlError, StorageError
from thunderdb.base.events import Events
from thunderdb.runtime.ports import Listener
from thunderdb.server.sessions import Sessions
from thunderdb.sql.executor import SqlSession
from thunderdb.txn.manager import Txn

__all__ = ["Disconnected", "Server", "SqlClient"]

_KNOWN_ROWS, _KNOWN_BYTES = 4096, 256
_STOPPED = ("57P01", "57P03")


class Server:
    """The daemon's listening half, composed on simulated ports."""

    def __init__(self, node: SimNode, db: SimDatabase, oracle: Oracle, events: Events) -> None:
        self.node = node
        self.db = db
        ports = node.ports
        self.sessions = Sessions(ports.tasks, ports.random, events, 100)
        self.listener: Listener | None = None

        def begun(txn: Txn) -> None:
            txn.on_end.append(lambda committed: oracle.txn_ended(txn.id) if committed else None)

        db.on_begin = begun

    async def start(self) -> None:
        ports = self.node.ports
        self.listener = await ports.network.listen(self.node.name, PORT, self.sessions.accept)

        def make(user: str, parameters: Mapping[str, str], pid: int) -> SqlSession:
            return SqlSession(self.db, user, ports.clock, parameters, pid)

        self.sessions.open(make)

    async def stop(self) -> None:
        if self.listener is not None:
            await self.listener.close()
        await self.sessions.shut_down(1_000_000_000)

    def txn_of(self, pid: int) -> int:
        """The transaction that a session is in (0: none, or nothing changed yet)."""
        session = self.sessions.by_pid.get(pid)
        sql = None if session is None else session._sql
        txn = None if sql is None else sql.txn
        return 0 if txn is None else int(txn.id)


class SqlClient:
    """One client with one connection at a time."""

    fails_block = True

    def __init__(self, ports: SimPorts, server: Server, oracle: Oracle, stream: Stream) -> None:
        self.oracle = oracle
        self.tasks = ports.tasks
        self.db = server.db
        self.over = False
        self.work = Work(0, True)
        self.statements = 0
        self.limit = 0
        self.on_limit: Callable[[], None] | None = None
        self._ports = ports
        self._server = server
        self._stream = stream
        self._connection: PgConnection | None = None
        self._open = False
        self._repeatable = False
        self._moments: list[int] | None = None
        self._marks = 0
        self._before = 0
        self._first = -1

    # -- The connection

    def dead(self) -> None:
        """The server's machine has died; no more answers will come."""
        self.over = True
        if self._connection is not None:
            self._connection.lost()

    async def _connected(self) -> PgConnection:
        connection = self._connection
        if connection is None or connection.closed:
            if self.over:
                raise Disconnected("the server is gone")
            self._connection = connection = PgConnection(self._ports)
            await connection.connect(self._server.node.name, {})
        return connection

    async def ask(self, sql: str, values: tuple[Any, ...] | None = None) -> Reply:
        """Send a statement as it is; with values, half of the time through the extended protocol. Raises: SqlError, …"""
        try:
            connection = await self._connected()
            if values is not None and self._stream.random() < 0.5:
                return await connection.extended(sql, values)
            if values is not None:
                for number in range(len(values), 0, -1):
                    sql = sql.replace(f"${number}", literal(values[number - 1]))
            return await connection.query(sql)
        except SqlError as error:
            raise _fatal(error) from None

    def may_fail(self) -> bool:
        return self.over or self.db.failure is not None

    def cancel_wait(self) -> None:
        """What a cancel request does (its own connection is left out)."""
        connection = self._connection
        if connection is not None and not connection.closed:
            session = self._server.sessions.by_pid.get(connection.pid)
            if session is not None and self._server.node.alive:
                session.cancel()

    async def checkpoint(self) -> None:
        if self._server.node.alive:
            self._server.node.call(self.db.checkpoint())

    async def vanish(self) -> None:
        """Reset the connection in the middle of a transaction."""
        self._open = False
        if self.work.outcome == "open":
            self.work.outcome = "failed"
        if self._connection is not None:
            self._connection.abort()

    # -- Transactions

    async def begin(self, repeatable: bool, sync: bool) -> None:
        self.work = self.oracle.begin(sync)
        self._moments, self._repeatable, self._marks, self._first = None, repeatable, 0, -1
        await self.ask("BEGIN ISOLATION LEVEL REPEATABLE READ" if repeatable else "BEGIN")
        self._open = True
        if not sync:
            await self.ask("SET LOCAL synchronous_commit = off")

    async def commit(self) -> None:
        work, connection = self.work, self._connection
        if connection is None:
            raise Disconnected("never connected")
        txn = self._server.txn_of(connection.pid) if self._server.node.alive else 0
        if txn:
            self.oracle.by_txn[txn] = work
        elif work.ops and not connection.closed and self._server.node.alive:
            raise Violation("a transaction has changed rows, but has no id")
        work.outcome = "committing"
        if self._stream.random() < 0.02:
            await self._commit_and_vanish(connection)
        try:
            reply = await connection.query("COMMIT")
        except Disconnected:
            work.outcome, self._open = "unknown", False
            raise
        except SqlError as error:
            work.outcome, self._open = "unknown", False
            raise _fatal(error) from None
        self._open = False
        if reply.tag != "COMMIT":
            raise Violation(f"COMMIT was answered {reply.tag}")
        self.oracle.ack(work)

    async def _commit_and_vanish(self, connection: PgConnection) -> None:
        """Send COMMIT, and go without waiting for the answer: the outcome is unknown to this client."""
        connection._send(b"Q\0\0\0\x0bCOMMIT\0")
        await self.tasks.sleep(self._stream.between(0, 600_000))
        self.work.outcome, self._open = "unknown", False
        connection.abort()
        raise Disconnected("vanished in COMMIT")

    async def rollback(self) -> None:
        if not self._open:
            return
        self._open = False
        if self.work.outcome == "open":
            self.work.outcome = "failed"
        await self.ask("ROLLBACK")

    async def savepoint(self) -> Any:
        self._marks += 1
        name = f"s{self._marks}"
        await self.ask(f"SAVEPOINT {name}")
        return name, len(self.work.ops)

    async def rollback_to(self, mark: Any) -> None:
        await self.ask(f"ROLLBACK TO SAVEPOINT {mark[0]}")
        del self.work.ops[mark[1] :]

    async def _statement(self, sql: str, values: tuple[Any, ...] | None = None) -> Reply:
        """Run a statement of the open transaction; Q2's moments are those from now to its answer."""
        self.statements += 1
        if self.on_limit is not None and self.statements >= self.limit:
            self.on_limit()
        self._before = before = self.oracle.seq
        if self._first < 0:
            self._first = before
        reply = await self.ask(sql, values)
        if self._moments is None or not self._repeatable:
            # A statement of this transaction that failed may have taken its snapshot, or not.
            first = before if self._first < 0 or not self._repeatable else self._first
            self._moments = list(range(first, self.oracle.seq + 1))
        return reply

    # -- Rows

    async def insert(self, name: str, fields: Mapping[str, Any]) -> None:
        names = ", ".join(fields)
        holders = ", ".join(f"${number}" for number in range(1, len(fields) + 1))
        row = tuple(fields.values())
        try:
            reply = await self._statement(f"INSERT INTO {name} ({names}) VALUES ({holders}) RETURNING *", row)
        except SqlError as error:
            if error.sqlstate == "23505":
                self._justify(name, fields, None)
            raise
        (found,) = _rows(reply)
        given = dict(zip(reply.columns, found, strict=True))
        if any(given.get(column) != value for column, value in fields.items()):
            raise Violation(f"insert into {name} returned {short(found)} for {short(row)}")
        table, other = self.oracle.state.get(name), self.oracle.current(self.work, name, found[0])
        if other is not None and table is not None and table.keyed:
            raise Violation(f"insert of {short(found)} into {name} went over {short(other)}")
        self.work.ops.append((PUT, name, found))

    def _justify(self, name: str, fields: Mapping[str, Any], key: Any) -> None:
        table = self.oracle.table_now(self.work, name)
        if table is None or self._before != self.oracle.seq:
            return  # others have committed meanwhile: the row in the way may be gone again
        row = tuple(fields.get(column) for column in table.columns)
        if not self.oracle.unique_conflict(self.work, name, row, key):
            raise Violation(f"{name}: {short(row)} conflicts, but no row is in its way")

    async def modify(self, name: str, key: Any, sets: Mapping[str, Any]) -> Row | None:
        """Update one row by its key; compare what comes back with the model (Q3)."""
        parts: list[str] = []
        values: list[Any] = []
        for column, value in sets.items():
            if isinstance(value, Plus):
                parts.append(f"{column} = {column} {'+' if value.amount >= 0 else '-'} {abs(value.amount)}")
            else:
                values.append(value)
                parts.append(f"{column} = ${len(values)}")
        values.append(key)
        sql = f"UPDATE {name} SET {', '.join(parts)} WHERE id = ${len(values)} RETURNING *"
        try:
            reply = await self._statement(sql, tuple(values))
        except SqlError as error:
            if error.sqlstate == "23505" and "code" in sets:
                old = self.oracle.current(self.work, name, key)
                table = self.oracle.table_now(self.work, name)
                if old is not None and table is not None:
                    new = changed(table.columns, old, sets)
                    self._justify(name, dict(zip(table.columns, new, strict=True)), key)
            raise
        rows = _rows(reply)
        old = self.oracle.current(self.work, name, key)
        if not rows:
            self._missed(name, key, old)
            return None
        if old is None:
            raise Violation(f"update of {name}[{key}] returned {short(rows[0])}, but there is no such row")
        expected = changed(reply.columns, old, sets)
        if rows != [expected]:
            raise Violation(f"update of {name}[{key}] gave {short(rows[0])}, must be {short(expected)}")
        self.work.ops.append((PUT, name, expected))
        return expected

    async def delete(self, name: str, key: Any) -> bool:
        reply = await self._statement(f"DELETE FROM {name} WHERE id = $1", (key,))
        if reply.tag == "DELETE 0":
            self._missed(name, key, self.oracle.current(self.work, name, key))
            return False
        if reply.tag != "DELETE 1":
            raise Violation(f"delete by key was answered {reply.tag}")
        if self.oracle.current(self.work, name, key) is None:
            raise Violation(f"{name}[{key}] was deleted, but there is no such row")
        self.work.ops.append((DEL, name, key))
        return True

    def _missed(self, name: str, key: Any, now: Row | None) -> None:
        """A statement found no row. Right if there was none at some moment at which it may have looked."""
        if now is None:
            return
        for seq in self._moments or ():
            table = self.oracle.table_at(name, seq, self.work)
            if table is None or key not in table.rows:
                return
        raise Violation(f"{name}[{key}] was not found, but is {short(now)}")

    # -- Reading

    async def read(self, name: str) -> list[Row]:
        reply = await self._statement(f"SELECT * FROM {name}")
        rows = _rows(reply)
        found = {row[0]: row for row in rows}
        if len(found) != len(rows):
            raise Violation(f"a snapshot of {name} has {len(rows)} rows with {len(found)} keys")
        self._settle(name, found)
        return rows

    def _settle(self, name: str, found: dict[Any, Row]) -> None:
        """Q2: keep the moments at which the table was as found."""
        kept: list[int] = []
        wrong: list[str] = []
        for seq in self._moments or ():
            expected = self.oracle.table_at(name, seq, self.work)
            if expected is None:
                return
            if expected.rows == found:
                kept.append(seq)
            elif not wrong:
                wrong = table_differences(name, expected, Table(expected.columns, expected.keyed, expected.indexes, found))
        if not kept:
            raise Violation(f"snapshot of {name} is at none of {self._moments}: {'; '.join(wrong[:6])}")
        self._moments = kept

    async def read_index(self, name: str) -> None:
        """Look up some rows by the unique index, through whatever path the planner takes."""
        table = self.oracle.table_now(self.work, name)
        if table is None:
            return
        code = f"c{self._stream.between(0, 200)}"
        reply = await self._statement(f"SELECT * FROM {name} WHERE code = $1", (code,))
        found = {row[0]: row for row in _rows(reply)}
        kept = []
        for seq in self._moments or ():
            expected = self.oracle.table_at(name, seq, self.work)
            if expected is None:
                return
            if {row[0]: row for row in expected.rows.values() if row[2] == code} == found:
                kept.append(seq)
        if not kept:
            raise Violation(f"snapshot of {name} where code = {code} is at none of {self._moments}: {found}")
        self._moments = kept

    async def next_value(self) -> int:
        reply = await self._statement(f"SELECT nextval('{SEQUENCE}')")
        return int(reply.rows[0][0] or "0")

    # -- DDL

    async def create_table(self, name: str, columns: tuple[str, ...], keyed: bool) -> None:
        parts = [f"{column} {_SQL_TYPES[column_type(column)]}" for column in columns]
        if keyed:
            parts[0] += " PRIMARY KEY"
        await self._statement(f"CREATE TABLE {name} ({', '.join(parts)})")
        self.work.ops.append((CREATE, name, Table(columns, keyed, {}, {})))

    async def create_sequence(self) -> None:
        await self._statement(f"CREATE SEQUENCE {SEQUENCE}")

    async def drop_table(self, name: str) -> None:
        await self._statement(f"DROP TABLE {name}")
        self.work.ops.append((DROP, name))

    async def truncate(self, name: str) -> None:
        await self._statement(f"TRUNCATE {name}")
        self.work.ops.append((TRUNCATE, name))

    async def create_index(self, name: str, index: str, columns: tuple[int, ...], unique: bool) -> None:
        table = self.oracle.table_now(self.work, name)
        if table is None:
            raise SqlError("42P01", f"no table {name}")
        names = ", ".join(table.columns[column] for column in columns)
        await self._statement(f"CREATE {'UNIQUE ' if unique else ''}INDEX {index} ON {name} ({names})")
        self.work.ops.append((INDEX, name, index, (columns, unique)))

    async def drop_index(self, name: str, index: str) -> None:
        await self._statement(f"DROP INDEX {index}")
        self.work.ops.append((NO_INDEX, name, index))

    async def add_column(self, name: str, column: str, default: int | None) -> None:
        text = "" if default is None else f" DEFAULT {default}"
        await self._statement(f"ALTER TABLE {name} ADD COLUMN {column} int{text}")
        self.work.ops.append((COLUMN, name, column, default))

    async def add_key(self, name: str) -> None:
        await self._statement(f"ALTER TABLE {name} ADD PRIMARY KEY (id)")
        self.work.ops.append((KEYED, name))


_SQL_TYPES = {"int4": "int", "int8": "bigint", "text": "text"}


def literal(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, int):
        return str(value)
    return "'" + str(value).replace("'", "''") + "'"


def _rows(reply: Reply) -> list[Row]:
    if not reply.bodies:
        return []
    decode = _decoder(reply.columns)
    return [decode(body) for body in reply.bodies]


@functools.lru_cache(64)
def _decoder(columns: tuple[str, ...]) -> Callable[[bytes], Row]:
    """DataRow to row. A table is read again and again, and most of its rows come as they came before."""
    kinds = [column_type(column) for column in columns]
    known: dict[bytes, Row] = {}

    def decode(body: bytes) -> Row:
        row = known.get(body)
        if row is None:
            values = zip(kinds, texts(body), strict=True)
            row = tuple([value if value is None or kind == "text" else int(value) for kind, value in values])
            if len(body) < _KNOWN_BYTES:
                if len(known) == _KNOWN_ROWS:
                    known.clear()
                known[body] = row
        return row

    return decode


def _fatal(error: SqlError) -> Exception:
    """What the engine would have raised for an error that came over the wire."""
    if error.sqlstate in _STOPPED:
        return NodeStopped(error.message)
    if error.sqlstate == "58030":
        return StorageError(error.message)
    return error
