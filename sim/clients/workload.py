"""What clients do: bank transfers, random rows, large values, savepoints, DDL, snapshot readers, and leaving in the middle.

Tables: bank (id, bal, ver, note), items (id, ver, code unique, body), serials (ids from a sequence), and t0…t3, which come and
go. Keys and codes come from small spaces, so that clients meet each other; `ver` is new with each write, so that no two writes
look the same.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from sim.clients.engine_session import EngineSession
from sim.clients.reciting import Recital, recite
from sim.clients.scribe import Scribe
from sim.clients.sql_session import Disconnected, SqlClient
from sim.oracle.oracle import Plus, Violation
from sim.scenario.faults_plan import pick
from sim.scenario.scenario import Workload
from sim.scenario.script import IDLE_NS, Scripted
from sim.world.rand import Stream
from thunderdb.base.errors import DiskFull, NodeStopped, SqlError, StorageError

Session = EngineSession | SqlClient | Scribe
START_BALANCE = 1000
EXPECTED = frozenset({
    "40001", "40P01", "23505", "57014", "53100",
    "42P01", "42P07", "42703", "42701", "42704", "42P10", "42P16", "23502",
})  # fmt: skip
"""What a correct database may answer to this workload: conflicts, cancels, a full disk, and DDL that came in between."""

BANK, ITEMS, SERIALS, PROBE = "bank", "items", "serials", "probe"
BANK_COLUMNS = ("id", "bal", "ver", "note")
ITEM_COLUMNS = ("id", "ver", "code", "body")
SERIAL_COLUMNS = ("id", "ver")
PROBE_COLUMNS = ("id", "ver")
DDL_TABLES = ("t0", "t1", "t2", "t3")


def _result_type_changed(error: SqlError) -> bool:
    """Another client's ADD COLUMN came between Parse and Execute of a RETURNING *: PostgreSQL says the same."""
    return error.sqlstate == "0A000" and "cached plan must not change result type" in error.message


def _never(_error: BaseException) -> bool:
    return False


class Vanished(Exception):
    """The client leaves, as if its machine had died."""


async def set_up(session: Session, workload: Workload, stream: Stream) -> None:
    """Make the tables and fill them."""
    await session.begin(False, True)
    for name, columns in ((BANK, BANK_COLUMNS), (ITEMS, ITEM_COLUMNS), (SERIALS, SERIAL_COLUMNS), (PROBE, PROBE_COLUMNS)):
        await session.create_table(name, columns, True)
    await session.create_index(ITEMS, "items_code", (2,), True)
    await session.create_index(ITEMS, "items_ver", (1,), False)
    await session.create_sequence()
    await _commit(session)
    await session.begin(False, True)
    for key in range(workload.accounts):
        await session.insert(BANK, {"id": key, "bal": START_BALANCE, "ver": 0})
    await session.insert(PROBE, {"id": 1, "ver": 0})
    await _commit(session)
    await session.begin(False, True)
    for key in range(workload.items):
        await session.insert(ITEMS, {"id": key, "ver": 0, "code": f"c{key}", "body": "i" * stream.between(0, 300)})
    await session.commit()


async def _commit(session: Session) -> None:
    """Commit; the probe's table is the runner's own and not in the model."""
    session.work.ops = [op for op in session.work.ops if op[1] != PROBE]
    await session.commit()


class Client:
    """One client: transactions one after another until it is told to stop, or the node dies."""

    def __init__(
        self, session: Session, number: int, life: int, stream: Stream, workload: Workload, mix: dict[str, int]
    ) -> None:
        self.session = session
        self.stream = stream
        self.workload = workload
        self.mix = mix
        self.stopping = False
        self.transactions = 0
        self.forgives: Callable[[BaseException], bool] = _never
        """Errors that somebody else is to blame for: the transaction is rolled back, and the client goes on."""
        self.budget: list[int] | None = None
        """Transactions left to all clients together; None: no end."""
        self._number = number
        self._tasks = session.tasks
        self._scribe: Scribe | None = None
        self.script: tuple[Scripted, ...] | None = None
        """What to do instead of drawing it."""
        self.asked_ns = self.refused_ns = -1
        """Of a script: when it began the transaction that is under way; when it was refused one for want of room."""
        self._version = (life * 100 + number) * 1_000_000
        self._do: dict[str, Callable[[], Awaitable[None]]] = {
            "transfer": self._transfer, "insert": self._insert, "update": self._update, "delete": self._delete,
            "large": self._large, "mixed": self._mixed, "read_bank": self._read_bank, "read_items": self._read_items,
            "sequence": self._sequence, "ddl": self._ddl, "abandon": self._abandon,
        }  # fmt: skip

    def record(self, scribe: Scribe) -> None:
        """Write down all that is done from now on."""
        self.session = self._scribe = scribe

    async def run(self) -> None:
        """Work. Raises: Violation; whatever a correct database would not raise."""
        stream, scribe = self.stream, self._scribe
        if self.script is not None:
            await recite(self, self.script)
            return
        while not self.stopping:
            if self.budget is not None:
                if self.budget[0] <= 0:
                    if self.session.may_fail():
                        return  # nobody is there any more who could say that it is over
                    if scribe is not None:
                        scribe.idles()
                    await self._tasks.sleep(IDLE_NS)
                    continue
                self.budget[0] -= 1
            kind = pick(stream, self.mix)
            cancel_ns = stream.between(0, 20_000_000) if stream.random() < 0.1 else -1
            if scribe is not None:
                scribe.turn(kind, cancel_ns)
            if not await self.turn(kind, cancel_ns, self._drawn(kind)):
                return
            think_ns = stream.between(*self.workload.think_ns)
            if scribe is not None:
                scribe.thinks(think_ns)
            if think_ns:
                await self._tasks.sleep(think_ns)

    async def turn(self, kind: str, cancel_ns: int, work: Coroutine[Any, Any, None]) -> bool:
        """One transaction, and what its errors ask for; return whether the client can go on."""
        session, stream = self.session, self.stream
        timer = None
        if cancel_ns >= 0:
            timer = session.tasks.scheduler.call_later(cancel_ns, session.cancel_wait)
        try:
            await work
        except SqlError as error:
            if error.sqlstate not in EXPECTED and not _result_type_changed(error):
                raise Violation(f"{kind}: unexpected error {error.sqlstate}: {error}") from error
            session.oracle.counts[error.sqlstate] = session.oracle.counts.get(error.sqlstate, 0) + 1
            if isinstance(error, DiskFull):
                self.refused_ns = session.oracle.now_ns()
                await self._tasks.sleep(5_000_000)
        except Vanished:
            # The server notices later; until then the locks stay.
            await session.tasks.sleep(stream.between(0, 60_000_000))
            await session.vanish()
        except (NodeStopped, StorageError) as error:
            if session.may_fail():
                return False
            if not self.forgives(error):
                raise
        except Disconnected:
            if session.over:
                return False
        try:
            await session.rollback()
        except (NodeStopped, StorageError) as error:
            if not session.may_fail() and not self.forgives(error):
                raise
            return False
        except Disconnected:
            if session.over:
                return False
        if timer is not None:
            timer.cancel()
        self.transactions += 1
        return True

    async def recited(self, one: Scripted) -> None:
        """A transaction that a script says."""
        await Recital(self, one).run()

    async def _drawn(self, kind: str) -> None:
        if kind == "checkpoint":
            await self.session.checkpoint()
        else:
            await self._transaction(kind)

    async def _transaction(self, kind: str) -> None:
        stream, work = self.stream, self.workload
        repeatable = stream.random() < work.repeatable_read
        await self.session.begin(repeatable, stream.random() >= work.async_commit)
        await self._do[kind]()
        if stream.random() < 0.06:
            await self.session.rollback()
        else:
            await self.session.commit()

    def _ver(self) -> int:
        self._version += 1
        return self._version

    # -- The bank

    async def _transfer(self) -> None:
        stream, count = self.stream, self.workload.accounts
        source, target = stream.between(0, count - 1), stream.between(0, count - 2)
        target += target >= source
        if stream.random() < 0.7 and source > target:
            source, target = target, source  # mostly in one order, so that deadlocks stay rare
        amount = stream.between(1, 50)
        await self._move(source, -amount)
        await self._move(target, amount)

    async def _move(self, account: int, amount: int) -> None:
        ver = self._ver()
        note = "n" * self.stream.between(0, 120)

        if await self.session.modify(BANK, account, {"bal": Plus(amount), "ver": ver, "note": note}) is None:
            raise Violation(f"account {account} is gone")

    async def _read_bank(self) -> None:
        total = self.workload.accounts * START_BALANCE
        for _ in range(self.stream.between(1, 3)):
            rows = await self.session.read(BANK)
            found = sum(row[1] for row in rows)
            if found != total:
                raise Violation(f"the bank's sum is {found} in a snapshot, not {total}")
            if self.stream.random() < 0.5:
                await self.session.tasks.sleep(self.stream.between(0, 8_000_000))

    # -- Rows

    def _key(self) -> int:
        return self.stream.between(0, self.workload.items * 3 // 2)

    def _code(self) -> str | None:
        if self.stream.random() < 0.1:
            return None
        return f"c{self.stream.between(0, self.workload.items * 2)}"

    def _body(self, large: bool = False) -> str:
        stream = self.stream
        if large:
            size = stream.between(*self.workload.large_bytes)
            return (f"{self._version}-" * (size // 4 + 1))[:size]
        return chr(97 + stream.between(0, 25)) * stream.between(0, 400)

    async def _insert(self, large: bool = False) -> None:
        fields = {"id": self._key(), "ver": self._ver(), "code": self._code(), "body": self._body(large)}
        await self.session.insert(ITEMS, fields)

    async def _update(self, large: bool = False) -> None:
        sets: dict[str, Any] = {"ver": self._ver(), "body": self._body(large)}
        if self.stream.random() < 0.3:
            sets["code"] = self._code()
        await self.session.modify(ITEMS, self._key(), sets)

    async def _delete(self) -> None:
        await self.session.delete(ITEMS, self._key())

    async def _large(self) -> None:
        if self.stream.random() < 0.5:
            await self._insert(large=True)
        else:
            await self._update(large=True)

    async def _read_items(self) -> None:
        for _ in range(self.stream.between(1, 2)):
            if self.stream.random() < 0.5:
                await self.session.read(ITEMS)
            else:
                await self.session.read_index(ITEMS)
            if self.stream.random() < 0.3:
                await self.session.tasks.sleep(self.stream.between(0, 30_000_000))

    async def _sequence(self) -> None:
        for _ in range(self.stream.between(1, 3)):
            number, ver = await self.session.next_value(), self._ver()
            await self.serial(number, ver)

    async def serial(self, number: int, ver: int) -> None:
        """Use a number that the sequence gave."""
        try:
            await self.session.insert(SERIALS, {"id": number, "ver": ver})
        except SqlError as error:
            if error.sqlstate == "23505":
                raise Violation(f"the sequence gave {number} a second time") from error
            raise

    async def _step(self) -> None:
        kind = self.stream.between(0, 9)
        if kind < 2:
            await self._insert()
        elif kind < 5:
            await self._update()
        elif kind < 7:
            await self._delete()
        elif kind == 7:
            await self._large()
        elif kind == 8:
            await self.session.read(ITEMS)
        else:
            await self._table_row()

    async def _mixed(self) -> None:
        """Several statements, with savepoints to which it returns, also nested."""
        marks: list[Any] = []
        for _ in range(self.stream.between(2, 8)):
            draw = self.stream.random()
            if draw < 0.25:
                marks.append(await self.session.savepoint())
            elif draw < 0.45 and marks:
                at = self.stream.between(0, len(marks) - 1)
                await self.session.rollback_to(marks[at])
                del marks[at + 1 :]
            else:
                try:
                    await self._step()
                except SqlError as error:
                    if error.sqlstate != "23505" or (self.session.fails_block and not marks):
                        raise
                    if self.session.fails_block:
                        await self.session.rollback_to(marks[-1])

    async def _abandon(self) -> None:
        for _ in range(self.stream.between(1, 3)):
            await self._step()
        raise Vanished

    # -- Tables that come and go

    async def _table_row(self) -> None:
        name = self.stream.choice(DDL_TABLES)
        ver = self._ver()
        key = self.stream.between(0, 60)
        if self.session.oracle.state.get(name) is None:
            return
        unkeyed = not self.session.oracle.state[name].keyed
        if unkeyed:
            key = ver  # without a primary key nothing else keeps ids apart
        if unkeyed or self.stream.random() < 0.6:
            fields = {"id": key % (1 << 31), "ver": ver, "body": self._body(self.stream.random() < 0.1)}
            await self.session.insert(name, fields)
        else:
            await self.session.modify(name, key, {"ver": ver, "body": self._body()})

    async def _ddl(self) -> None:
        for _ in range(self.stream.between(1, 2)):
            await self._ddl_step()
            if self.stream.random() < 0.5:
                await self._table_row()

    async def _ddl_step(self) -> None:
        session, stream = self.session, self.stream
        name = stream.choice(DDL_TABLES)
        work = session.work
        table = session.oracle.table_now(work, name)
        draw = stream.between(0, 9)
        if table is None:
            keyed = stream.random() < 0.6
            await session.create_table(name, ("id", "ver", "body"), keyed)
            for key in range(stream.between(0, 25)):
                ver = self._ver()
                key = key if keyed else ver % (1 << 31)
                await session.insert(name, {"id": key, "ver": ver, "body": self._body(stream.random() < 0.05)})
        elif draw < 2:
            await session.drop_table(name)
        elif draw < 4:
            await session.truncate(name)
        elif draw < 6:
            column = f"c{len(table.columns)}"
            await session.add_column(name, column, stream.choice((None, 7, self._number)))
        elif draw < 7 and not table.keyed:
            await session.add_key(name)
        elif f"{name}_ver" in table.indexes:
            await session.drop_index(name, f"{name}_ver")
        elif draw < 9:
            await session.create_index(name, f"{name}_ver", (1,), stream.random() < 0.5)
        else:
            await self._items_index()

    async def _items_index(self) -> None:
        """Drop and make the index of items again."""
        table = self.session.oracle.table_now(self.session.work, ITEMS)
        if table is not None and "items_ver" in table.indexes:
            await self.session.drop_index(ITEMS, "items_ver")
        else:
            await self.session.create_index(ITEMS, "items_ver", (1,), False)
