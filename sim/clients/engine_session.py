"""A client on the engine's own API: each statement is run, and compared with the model while its locks are held.

The SQL session (sim/clients/sql_session.py) has the same methods, so that one workload drives both.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

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
    Row,
    State,
    Table,
    Violation,
    Work,
    changed,
    short,
    table_differences,
)
from thunderdb.base.errors import NodeStopped, QueryCancelled, SqlError, ThunderError
from thunderdb.engine.catalog import Column, TableDef
from thunderdb.engine.database import Database
from thunderdb.engine.rows import StalePlan
from thunderdb.txn.manager import READ_COMMITTED, REPEATABLE_READ, Txn
from thunderdb.wal.record import RecordKind
from thunderdb.wal.writer import LogWriter

TYPES = {"id": "int4", "bal": "int8", "ver": "int8", "code": "text", "body": "text", "note": "text"}
SEQUENCE = "numbers"
_COMMIT = int(RecordKind.COMMIT)
_RETRIES = 50


class TracedLog(LogWriter):
    """The log writer with each append in the trace (by the record's checksum), and each commit told to the oracle."""

    on_commit: Callable[[int], None] | None = None

    def _add(self, kind: int, length: int, body: bytes) -> Any:
        lsn = LogWriter._add(self, kind, length, body)
        scheduler = self._disk.scheduler  # type: ignore[attr-defined]
        scheduler.trace.event(scheduler.kernel._now, scheduler.node, 2, self.last_checksum.to_bytes(8, "little"), lsn)
        return lsn

    def append(
        self, kind: int, txn: int, prev_lsn: int, changes: Any = (), extra: bytes = b"", flags: int = 0
    ) -> Any:
        lsn = LogWriter.append(self, kind, txn, prev_lsn, changes, extra, flags)
        if kind == _COMMIT and self.on_commit is not None:
            self.on_commit(txn)
        return lsn


class SimDatabase(Database):
    """The database, composed for the simulator: appends are traced, and its small log keeps the page cleaner busy.

    A restart keeps less of the log than in production, so that pages are also brought up from log that is read again.
    """

    log_writer = TracedLog
    kept_log_bytes = 1 << 20

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.background.redo_bytes_a_second = 64 << 10
    log: TracedLog
    on_begin: Callable[[Txn], None] | None = None

    def begin(self, isolation: str = READ_COMMITTED, read_only: bool = False, sync_commit: bool | None = None) -> Txn:
        txn = Database.begin(self, isolation, read_only, sync_commit)
        if self.on_begin is not None:
            self.on_begin(txn)
        return txn


def column_type(name: str) -> str:
    """The SQL type of a column of the model, by its name."""
    return TYPES.get(name, "int4")


def model_of(definition: TableDef, rows: dict[Any, Row]) -> Table:
    """A definition as the model writes it."""
    indexes = {index.name: (index.columns, index.unique) for index in definition.indexes}
    return Table(tuple(column.name for column in definition.columns), bool(definition.pk), indexes, rows)


async def read_state(db: Database, skip: str) -> State:
    """Every table but `skip`, as a new transaction sees it. Raises: Violation (a key twice)."""
    txn = db.begin(REPEATABLE_READ, True)
    state: State = {}
    for definition in db.catalog.tables():
        if definition.name != skip:
            decode = db.rows.table(definition).row.decode
            rows: dict[Any, Row] = {}
            count = 0
            async for batch in db.scan(txn, definition.root):
                for _key, payload in batch:
                    row = tuple(decode(payload))
                    rows[row[0]] = row
                    count += 1
            if count != len(rows):
                raise Violation(f"table {definition.name} has {count} rows with {len(rows)} keys")
            state[definition.name] = model_of(definition, rows)
    await txn.commit()
    return state


class EngineSession:
    """One client's connection."""

    fails_block = False  # a failed statement leaves its transaction as it was
    over = True  # after a lost connection there is nothing to go on with

    def __init__(self, db: Database, oracle: Oracle) -> None:
        self.db = db
        self.oracle = oracle
        self.tasks = db.ports.tasks
        self.txn: Txn | None = None
        self.work = Work(0, True)
        self.seq = -1
        self.statements = 0
        self.limit = 0
        self.on_limit: Callable[[], None] | None = None

    # -- Transactions

    async def begin(self, repeatable: bool, sync: bool) -> None:
        oracle = self.oracle
        self.txn = txn = self.db.begin(REPEATABLE_READ if repeatable else READ_COMMITTED, False, sync)
        self.work = work = oracle.begin(sync)
        self.seq = -1

        def ended(committed: bool) -> None:
            if committed:
                oracle.ended(work)

        txn.on_end.append(ended)

    async def commit(self) -> None:
        txn, work = self._open()
        self.oracle.by_txn[txn.id] = work
        work.outcome = "committing"
        try:
            await txn.commit()
        except ThunderError:
            work.outcome = "unknown"
            raise
        self.txn = None
        self.oracle.ack(work)

    async def rollback(self) -> None:
        txn = self.txn
        if txn is None:
            return
        self.txn = None
        if txn.status == "active":
            self.work.outcome = "failed"
            await txn.rollback()

    async def savepoint(self) -> Any:
        txn, work = self._open()
        return txn.savepoint(), len(work.ops)

    async def rollback_to(self, mark: Any) -> None:
        txn, work = self._open()
        await txn.rollback_to(mark[0])
        del work.ops[mark[1] :]

    async def checkpoint(self) -> None:
        await self.db.checkpoint()

    async def vanish(self) -> None:
        """Leave; whoever serves this client rolls back, as far as the node still can."""
        try:
            await self.rollback()
        except NodeStopped:
            if not self.may_fail():
                raise

    def dead(self) -> None:
        """The node has died, and this client with it."""

    def may_fail(self) -> bool:
        """Whether the node has stopped, so that errors are right."""
        return self.db.failure is not None

    def cancel_wait(self) -> None:
        """What a cancel request or a lock time-out does."""
        if self.txn is not None:
            self.db.manager.locks.cancel_wait(self.txn, QueryCancelled("canceling statement due to user request"))

    def _open(self) -> tuple[Txn, Work]:
        if self.txn is None:
            raise Violation("the harness uses a session without a transaction")
        return self.txn, self.work

    async def _statement(self, operation: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        """Run a statement: its own snapshot, undone as a whole if it fails (E3), again if its table changed."""
        txn, work = self._open()
        self.statements += 1
        if self.on_limit is not None and self.statements >= self.limit:
            self.on_limit()
        for _ in range(_RETRIES):
            self._snapshot(txn)
            mark, ops = txn.savepoint(), len(work.ops)
            try:
                found = await operation(txn, work, *args)
            except StalePlan:
                del work.ops[ops:]
                await txn.rollback_to(mark)
                continue
            except SqlError:
                del work.ops[ops:]
                await txn.rollback_to(mark)
                txn.end_statement()
                raise
            txn.end_statement()
            return found
        raise Violation(f"a statement found its plan stale {_RETRIES} times")

    def _snapshot(self, txn: Txn) -> None:
        before = txn.snapshot
        txn.new_snapshot()
        if before is None or txn.isolation == READ_COMMITTED:
            self.seq = self.oracle.seq

    def _table(self, txn: Txn, name: str) -> TableDef:
        definition = self.db.catalog_for(txn).table(name)
        if definition is None:
            raise SqlError("42P01", f'relation "{name}" does not exist')
        return definition

    # -- Rows

    async def insert(self, name: str, fields: Mapping[str, Any]) -> None:
        await self._statement(self._insert, name, fields)

    async def _insert(self, txn: Txn, work: Work, name: str, fields: Mapping[str, Any]) -> None:
        definition = self._table(txn, name)
        row = tuple(fields.get(column.name) for column in definition.columns)
        conflict, _key = await self.db.rows.insert_or_conflict(txn, definition, list(row))
        if conflict is not None:
            if not self.oracle.unique_conflict(work, name, row):
                raise Violation(f"insert of {short(row)} into {name} conflicts on {conflict}, but no row is in its way")
            raise SqlError("23505", f"duplicate key: {conflict}")
        if definition.pk:
            other = self.oracle.current(work, name, row[0])
            if other is not None:
                raise Violation(f"insert of {short(row)} into {name} went over {short(other)}")
        work.ops.append((PUT, name, row))

    async def modify(self, name: str, key: Any, sets: Mapping[str, Any]) -> Row | None:
        """Lock the row, compare it with the model, and set some of its columns; None if there is no row."""
        return await self._statement(self._modify, name, key, sets)

    async def _modify(self, txn: Txn, work: Work, name: str, key: Any, sets: Mapping[str, Any]) -> Row | None:
        definition, row, row_key, payload = await self._locked(txn, work, name, key)
        if payload is None or row is None:
            return None
        new = changed(tuple(column.name for column in definition.columns), row, sets)
        try:
            await self.db.rows.update(txn, definition, row_key, payload, list(new))
        except SqlError as error:
            if error.sqlstate == "23505" and not self.oracle.unique_conflict(work, name, new, key):
                raise Violation(f"update of {name} to {short(new)}: {error}, but no row is in its way") from None
            raise
        work.ops.append((PUT, name, new))
        return new

    async def delete(self, name: str, key: Any) -> bool:
        return await self._statement(self._delete, name, key)

    async def _delete(self, txn: Txn, work: Work, name: str, key: Any) -> bool:
        definition, _row, row_key, payload = await self._locked(txn, work, name, key)
        if payload is None:
            return False
        await self.db.rows.delete(txn, definition, row_key, payload)
        work.ops.append((DEL, name, key))
        return True

    async def _locked(
        self, txn: Txn, work: Work, name: str, key: Any
    ) -> tuple[TableDef, Row | None, bytes, bytes | None]:
        definition = self._table(txn, name)
        if not definition.pk:
            raise SqlError("42P10", f"table {name} has no primary key")
        access = self.db.rows.table(definition)
        row_key = access.key_of([key])
        if row_key is None:
            raise Violation("a keyed table gave no key")
        payload = await self.db.rows.lock_row(txn, definition, row_key)
        row = None if payload is None else tuple(access.row.decode(payload))
        expected = self.oracle.current(work, name, key)
        if row != expected:
            raise Violation(f"under its lock {name}[{key}] is {short(row)}, but must be {short(expected)}")
        return definition, row, row_key, payload

    # -- Reading

    async def read(self, name: str) -> list[Row]:
        """Scan a table at the snapshot and compare it with the model there."""
        return await self._statement(self._read, name)

    async def _read(self, txn: Txn, work: Work, name: str) -> list[Row]:
        definition = self._table(txn, name)
        seq = self.seq
        decode = self.db.rows.table(definition).row.decode
        rows: dict[Any, Row] = {}
        count = 0
        async for batch in self.db.scan(txn, definition.root):
            for _key, payload in batch:
                row = tuple(decode(payload))
                rows[row[0]] = row
                count += 1
        expected = self.oracle.table_at(name, seq, work)
        if expected is not None:
            found = model_of(definition, rows)
            if count != len(rows):
                raise Violation(f"a snapshot of {name} has {count} rows with {len(rows)} keys")
            if found.rows != expected.rows:
                wrong = table_differences(name, expected, Table(expected.columns, expected.keyed, expected.indexes, rows))
                raise Violation(f"snapshot {seq} of {name}: {'; '.join(wrong[:6])}")
        return list(rows.values())

    async def read_index(self, name: str) -> None:
        """Scan each index at the snapshot: it must lead to exactly the rows of the model there."""
        await self._statement(self._read_index, name)

    async def _read_index(self, txn: Txn, work: Work, name: str) -> None:
        definition = self._table(txn, name)
        seq = self.seq
        access = self.db.rows.table(definition)
        for index in access.indexes:
            found: list[tuple[bytes, bytes]] = []
            async for batch in self.db.scan(txn, index.root):
                found += batch
            expected = self.oracle.table_at(name, seq, work)
            if expected is None or not definition.pk:
                continue
            wanted = []
            for row in expected.rows.values():
                key = access.key_of(row)
                if key is not None:
                    wanted.append((index.entry(row, key)[0], key))
            if sorted(wanted) != found:
                missing, extra = sorted({*wanted} - {*found}), sorted({*found} - {*wanted})
                raise Violation(
                    f"snapshot {seq} of index {index.definition.name}: {len(found)} entries for {len(wanted)} rows; missing "
                    f"{[(entry.hex(), key.hex()) for entry, key in missing[:4]]}, too many "
                    f"{[(entry.hex(), key.hex()) for entry, key in extra[:4]]}"
                )

    async def next_value(self) -> int:
        txn, _work = self._open()
        sequence = self.db.catalog_for(txn).sequence(SEQUENCE)
        if sequence is None:
            raise SqlError("42P01", f'relation "{SEQUENCE}" does not exist')
        return await self.db.ddl.nextval(sequence)

    # -- DDL

    async def create_table(self, name: str, columns: tuple[str, ...], keyed: bool) -> None:
        async def create(txn: Txn, work: Work) -> None:
            wanted = [Column(column, column_type(column)) for column in columns]
            await self.db.ddl.create_table(txn, name, wanted, pk=(0,) if keyed else ())
            work.ops.append((CREATE, name, Table(columns, keyed, {}, {})))

        await self._statement(create)

    async def create_sequence(self) -> None:
        async def create(txn: Txn, work: Work) -> None:
            await self.db.ddl.create_sequence(txn, SEQUENCE)

        await self._statement(create)

    async def drop_table(self, name: str) -> None:
        async def drop(txn: Txn, work: Work) -> None:
            await self.db.ddl.drop_table(txn, self._table(txn, name))
            work.ops.append((DROP, name))

        await self._statement(drop)

    async def truncate(self, name: str) -> None:
        async def truncate(txn: Txn, work: Work) -> None:
            await self.db.ddl.truncate(txn, [self._table(txn, name)])
            work.ops.append((TRUNCATE, name))

        await self._statement(truncate)

    async def create_index(self, name: str, index: str, columns: tuple[int, ...], unique: bool) -> None:
        async def create(txn: Txn, work: Work) -> None:
            definition = self._table(txn, name)
            await self.db.ddl.create_index(txn, definition, index, columns, unique=unique)
            work.ops.append((INDEX, name, index, (columns, unique)))

        await self._statement(create)

    async def drop_index(self, name: str, index: str) -> None:
        async def drop(txn: Txn, work: Work) -> None:
            definition = self._table(txn, name)
            for found in definition.indexes:
                if found.name == index:
                    await self.db.ddl.drop_index(txn, definition, found)
                    work.ops.append((NO_INDEX, name, index))
                    return
            raise SqlError("42704", f'index "{index}" does not exist')

        await self._statement(drop)

    async def add_column(self, name: str, column: str, default: int | None) -> None:
        async def add(txn: Txn, work: Work) -> None:
            await self.db.ddl.add_column(txn, self._table(txn, name), Column(column, column_type(column)), default)
            work.ops.append((COLUMN, name, column, default))

        await self._statement(add)

    async def add_key(self, name: str) -> None:
        async def add(txn: Txn, work: Work) -> None:
            await self.db.ddl.add_primary_key(txn, self._table(txn, name), (0,))
            work.ops.append((KEYED, name))

        await self._statement(add)
