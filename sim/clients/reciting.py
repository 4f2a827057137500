"""A client that does what a script says (sim/scenario/script.py) instead of drawing it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sim.scenario.script import ENDS, IDLE, IDLE_NS, LEFT_OPEN_NS, PLAIN, Op, Scripted, Told
from thunderdb.base.errors import SqlError

if TYPE_CHECKING:
    from sim.clients.workload import Client

_SLICE_NS = 10_000_000
SERIALS = "serials"
DDL_TABLES = ("t0", "t1", "t2", "t3")


async def recite(client: Client, lines: tuple[Scripted, ...]) -> None:
    """Do one transaction after the other, each at its time (S1), until the client is told to stop."""
    session: Any = client.session
    began_ns = session.oracle.now_ns()
    for one in lines:
        wait_ns = began_ns + one.at_ns - session.oracle.now_ns()
        if wait_ns > 0:
            await session.tasks.sleep(wait_ns)
        if client.stopping:
            return
        if one.kind == IDLE:
            await _idle(client, one)
            continue
        if not one.do:
            continue  # S4: its life ended while it thought
        if client.budget is not None:
            client.budget[0] -= 1
        if hasattr(session, "_stream"):
            session._stream = Told(one.habits)
        client.asked_ns = session.oracle.now_ns()
        goes_on = await client.turn(one.kind, one.cancel_ns, client.recited(one))
        client.asked_ns = -1
        if not goes_on:
            return


async def _idle(client: Client, one: Scripted) -> None:
    """S4."""
    for _ in range(one.do[0][1]):
        if client.stopping:
            return
        await client.session.tasks.sleep(IDLE_NS)


async def left_open(client: Client, one: Scripted) -> None:
    """S3."""
    if one.do and one.do[0][0] == "begin" and not any(op[0] in ENDS for op in one.do):
        for _ in range(LEFT_OPEN_NS // _SLICE_NS):
            if client.stopping:
                return
            await client.session.tasks.sleep(_SLICE_NS)


class Recital:
    """One transaction of the mixed workload, statement by statement."""

    def __init__(self, client: Client, one: Scripted) -> None:
        self.client = client
        self.session: Any = client.session
        self.one = one
        self.marks: dict[int, Any] = {}
        self.number: int | None = None

    async def run(self) -> None:
        for position, op in enumerate(self.one.do):
            try:
                await self._do(op)
            except SqlError as error:
                if not self._goes_on(error, position):
                    raise
        await left_open(self.client, self.one)

    def _goes_on(self, error: SqlError, position: int) -> bool:
        """Whether the client goes on after a duplicate key, as a mixed transaction does."""
        if error.sqlstate != "23505" or self.one.kind not in ("mixed", "abandon"):
            return False
        rest = self.one.do[position + 1 :]
        if self.session.fails_block:
            return bool(rest) and rest[0][0] == "back" and rest[0][1] in self.marks
        return bool(rest) and rest[0][0] != "rollback"

    async def _do(self, op: Op) -> None:
        """S2."""
        session, name, args = self.session, op[0], op[1:]
        if name == "sleep":
            await session.tasks.sleep(args[0])
        elif name == "mark":
            self.marks[args[0]] = await session.savepoint()
        elif name == "back":
            if args[0] in self.marks:
                await session.rollback_to(self.marks[args[0]])
                self.marks = {number: mark for number, mark in self.marks.items() if number <= args[0]}
        elif name == "next":
            self.number = await session.next_value()
        elif name == "insert" and args[0] == SERIALS:
            if self.number is not None:
                number, self.number = self.number, None
                await self.client.serial(number, args[1]["ver"])
        elif name in ("insert", "modify", "delete"):
            if self._possible(name, args[0], args[1]):
                await getattr(session, name)(*args)
        elif name in ("begin", "rollback", *PLAIN):
            await getattr(session, name)(*args)
        else:
            raise ValueError(f"a script says {name!r}, which no session can do")

    def _possible(self, what: str, name: str, values: Any) -> bool:
        """A table without a key must get no id twice, or the model cannot tell its rows apart."""
        if name not in DDL_TABLES:
            return True
        table = self.session.oracle.table_now(self.session.work, name)
        if table is None or table.keyed:
            return True  # without the table it is refused, which is right
        return bool(what == "insert" and values["id"] == values["ver"] % (1 << 31))
