"""Writes down what clients do while they do it: a session that is used as any other makes a script (sim/scenario/script.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sim.clients.engine_session import EngineSession
from sim.clients.sql_session import SqlClient
from sim.oracle.oracle import Work
from sim.scenario.script import ENDS, IDLE, PLAIN, Op, Script, Scripted
from sim.world.rand import Stream


@dataclass(slots=True)
class _Entry:
    """One transaction while it is being written down."""

    client: int
    at_ns: int
    kind: str
    cancel_ns: int
    do: list[Op] = field(default_factory=list)
    habits: list[float] = field(default_factory=list)


class Book:
    """The script of a run that is under way, a list of entries for each life."""

    def __init__(self) -> None:
        self.lives: list[list[_Entry]] = []

    def life(self) -> list[_Entry]:
        self.lives.append([])
        return self.lives[-1]

    def script(self) -> Script:
        return tuple(
            tuple(Scripted(e.client, e.at_ns, e.kind, tuple(e.do), e.cancel_ns, tuple(e.habits)) for e in life)
            for life in self.lives
        )


class Scribe:
    """A session that writes down what its client does with it, and otherwise is that session."""

    def __init__(self, session: EngineSession | SqlClient | Scribe, number: int, life: list[_Entry]) -> None:
        self._session: Any = session
        self._number = number
        self._life = life
        self._began_ns = session.oracle.now_ns()
        self._entry = _Entry(number, 0, "", -1)
        self._next: _Entry | None = None
        """The next transaction's, while the client thinks before it."""
        self._marks = 0
        self.tasks = _Tasks(self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    @property
    def work(self) -> Work:
        found: Work = self._session.work
        return found

    @work.setter
    def work(self, work: Work) -> None:
        self._session.work = work

    def _now_ns(self) -> int:
        now_ns: int = self._session.oracle.now_ns() - self._began_ns
        return now_ns

    def turn(self, kind: str, cancel_ns: int) -> None:
        """The next transaction begins."""
        if self._next is None:
            self._life.append(_Entry(self._number, self._now_ns(), "", -1))
        self._entry, self._next = self._life[-1] if self._next is None else self._next, None
        self._entry.kind, self._entry.cancel_ns = kind, cancel_ns
        self._marks = 0
        if hasattr(self._session, "_stream"):
            self._session._stream = _Noted(self._session._stream, self._entry.habits)

    def thinks(self, think_ns: int) -> None:
        """S4: write down when the client will go on, as its life may end before that."""
        self._next = _Entry(self._number, self._now_ns() + think_ns, "", -1)
        self._life.append(self._next)

    def idles(self) -> None:
        """S4: one look more whether there is anything to do."""
        entry = self._next if self._next is not None else self._entry
        if entry.kind != IDLE:
            self.turn(IDLE, -1)
            self.op(IDLE, 0)
            entry = self._entry
        entry.do[0] = (IDLE, entry.do[0][1] + 1)

    def op(self, *op: Any) -> None:
        self._entry.do.append(op)

    # -- What is written down

    async def begin(self, repeatable: bool, sync: bool) -> None:
        self.op("begin", repeatable, sync)
        await self._session.begin(repeatable, sync)

    async def rollback(self) -> None:
        """Called after each transaction, however it has ended."""
        if not self._entry.do or self._entry.do[-1][0] not in ENDS:
            self.op("rollback")
        await self._session.rollback()

    async def savepoint(self) -> Any:
        self._marks += 1
        number = self._marks
        self.op("mark", number)
        return number, await self._session.savepoint()

    async def rollback_to(self, mark: Any) -> None:
        self.op("back", mark[0])
        await self._session.rollback_to(mark[1])

    async def modify(self, name: str, key: Any, sets: Mapping[str, Any]) -> Any:
        self.op("modify", name, key, dict(sets))
        return await self._session.modify(name, key, sets)

    async def insert(self, name: str, fields: Mapping[str, Any]) -> None:
        self.op("insert", name, dict(fields))
        await self._session.insert(name, fields)

    async def next_value(self) -> int:
        self.op("next")
        found: int = await self._session.next_value()
        return found


def _written(name: str) -> Any:
    async def method(self: Scribe, *args: Any) -> Any:
        self.op(name, *args)
        return await getattr(self._session, name)(*args)

    return method


for _name in PLAIN:
    setattr(Scribe, _name, _written(_name))


class _Tasks:
    """The session's tasks; what a transaction sleeps is part of it."""

    def __init__(self, scribe: Scribe) -> None:
        self._scribe = scribe

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scribe._session.tasks, name)

    async def sleep(self, duration_ns: int) -> None:
        self._scribe.op("sleep", duration_ns)
        await self._scribe._session.tasks.sleep(duration_ns)


class _Noted(Stream):
    """A stream whose draws are written down."""

    def __new__(cls, stream: Stream, noted: list[float]) -> _Noted:
        return super().__new__(cls)

    def __init__(self, stream: Stream, noted: list[float]) -> None:
        super().__init__(0)
        self._from: Stream = stream._from if isinstance(stream, _Noted) else stream
        self._noted = noted

    def random(self) -> float:
        drawn = self._from.random()
        self._noted.append(drawn)
        return drawn
