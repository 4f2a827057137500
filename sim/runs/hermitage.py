"""Hermitage: the classical anomalies as scripts over two or three sessions, played in any order that keeps each session's own.

    play(CASES["P4"], level, order, driver)  ->  ["T1 select … -> 10", "T1 update … -> UPDATE 1", "T2 update … -> waits", …]

A driver sends a statement on a session and says which sessions have been answered once all others are blocked: the engine
behind its wire protocol in the simulator (`SimDriver`), a real PostgreSQL (tests/daemon/test_hermitage.py). Same script, same
order, same transcript.

M1. A session whose statement waits gets its next ones only after that one's answer.
M2. Rows are sorted: SQL promises no order.

Source: github.com/ept/hermitage (Kleppmann, 2014); names as in Adya (1999).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sim.clients.engine_session import SimDatabase
from sim.clients.pg_client import Disconnected, PgConnection, Reply
from sim.clients.sql_session import Server
from sim.oracle.oracle import Oracle
from sim.world.rand import Stream
from sim.world.world import World
from thunderdb.base.config import parse
from thunderdb.base.errors import SqlError
from thunderdb.base.events import Events

LEVELS = ("read committed", "repeatable read")
SETUP = (
    "CREATE TABLE IF NOT EXISTS test (id int PRIMARY KEY, value int)", "DELETE FROM test",
    "INSERT INTO test VALUES (1, 10), (2, 20)",
)  # fmt: skip
SETTLE_NS = 200_000_000


@dataclass(frozen=True, slots=True)
class Case:
    """`steps` in their usual order: (session, statement). Each session begins a transaction before."""

    name: str
    about: str
    steps: tuple[tuple[int, str], ...]

    @property
    def sessions(self) -> int:
        return max(session for session, _ in self.steps)

    @property
    def usual(self) -> tuple[int, ...]:
        return tuple(session for session, _ in self.steps)

    def of(self, session: int) -> list[str]:
        return [sql for one, sql in self.steps if one == session]


def _case(name: str, about: str, text: str) -> Case:
    steps = [line.split(" ", 1) for line in text.strip().splitlines()]
    return Case(name, about, tuple((int(who.strip()), _LONG.get(sql, sql)) for who, sql in ((a, b.strip()) for a, b in steps)))


_LONG = {"all": "SELECT id, value FROM test", "one": "SELECT value FROM test WHERE id = 1",
         "two": "SELECT value FROM test WHERE id = 2", "thirds": "SELECT id, value FROM test WHERE value % 3 = 0"}  # fmt: skip
_SET = "UPDATE test SET value = {} WHERE id = {}"
for _id in (1, 2):
    for _value in (11, 12, 18, 19, 21, 22, 101):
        _LONG[f"{_id}={_value}"] = _SET.format(_value, _id)

CASES = {case.name: case for case in (
    _case("G0", "write cycles", "1 1=11\n2 1=12\n1 2=21\n1 COMMIT\n2 2=22\n2 COMMIT"),
    _case("G1a", "aborted reads", "1 1=101\n2 all\n1 ROLLBACK\n2 all\n2 COMMIT"),
    _case("G1b", "intermediate reads", "1 1=101\n2 all\n1 1=11\n1 COMMIT\n2 all\n2 COMMIT"),
    _case("G1c", "circular information flow", "1 1=11\n2 2=22\n1 two\n2 one\n1 COMMIT\n2 COMMIT"),
    _case("OTV", "observed transaction vanishes",
          "1 1=11\n1 2=19\n2 1=12\n1 COMMIT\n3 one\n2 2=18\n3 two\n2 COMMIT\n3 two\n3 one\n3 COMMIT"),
    _case("PMP", "predicate-many-preceders",
          "1 SELECT id FROM test WHERE value = 30\n2 INSERT INTO test VALUES (3, 30)\n2 COMMIT\n1 thirds\n1 COMMIT"),
    _case("PMP-write", "predicate-many-preceders, by a write",
          "1 UPDATE test SET value = value + 10\n2 DELETE FROM test WHERE value = 20\n1 COMMIT\n2 all\n2 COMMIT"),
    _case("P4", "lost update", "1 one\n2 one\n1 1=11\n2 1=12\n1 COMMIT\n2 COMMIT"),
    _case("G-single", "read skew", "1 one\n2 one\n2 two\n2 1=12\n2 2=18\n2 COMMIT\n1 two\n1 COMMIT"),
    _case("G-single-predicate", "read skew over a predicate",
          "1 SELECT id FROM test WHERE value % 5 = 0\n2 UPDATE test SET value = 12 WHERE value = 10\n2 COMMIT\n1 thirds\n"
          "1 COMMIT"),
    _case("G-single-write", "read skew, by a write",
          "1 one\n2 all\n2 1=12\n2 2=18\n2 COMMIT\n1 DELETE FROM test WHERE value = 20\n1 COMMIT"),
    _case("G2-item", "write skew", "1 all\n2 all\n1 1=11\n2 2=21\n1 COMMIT\n2 COMMIT"),
    _case("G2", "write skew over a predicate",
          "1 thirds\n2 thirds\n1 INSERT INTO test VALUES (3, 30)\n2 INSERT INTO test VALUES (4, 42)\n1 COMMIT\n2 COMMIT"),
)}  # fmt: skip


class Driver(Protocol):
    """Sessions are numbered from 1; session 0 sets up and looks at the end."""

    def send(self, session: int, sql: str) -> None: ...

    def settle(self) -> dict[int, str]:
        """What has been answered since, by session, once every other statement waits for a lock."""
        ...


def play(case: Case, level: str, order: Sequence[int], driver: Driver) -> list[str]:
    """The transcript of a case in one order of its sessions."""
    player = _Player(driver)
    for sql in SETUP:
        player.step(0, sql)
    for session in range(1, case.sessions + 1):
        player.step(session, f"BEGIN ISOLATION LEVEL {level}")
    player.lines.clear()
    queues = {session: case.of(session) for session in range(1, case.sessions + 1)}
    for session in order:
        player.step(session, queues[session].pop(0))
    player.step(0, "SELECT id, value FROM test")
    return player.lines


class _Player:
    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.lines: list[str] = []
        self._busy: dict[int, str] = {}
        self._later: dict[int, list[str]] = {}

    def step(self, session: int, sql: str) -> None:
        """M1."""
        if session in self._busy:
            self._later.setdefault(session, []).append(sql)
            return
        self._send(session, sql)
        fresh = session
        while True:
            answers = self.driver.settle()
            for other in sorted(answers):
                self.lines.append(f"T{other} {self._busy.pop(other)} -> {answers[other]}")
            if fresh in self._busy:
                self.lines.append(f"T{fresh} {sql} -> waits")
            fresh = -1
            ready = [other for other in sorted(answers) if self._later.get(other)]
            if not ready:
                return
            for other in ready:
                self._send(other, self._later[other].pop(0))

    def _send(self, session: int, sql: str) -> None:
        self._busy[session] = sql
        self.driver.send(session, sql)


def orders(case: Case) -> Iterator[tuple[int, ...]]:
    """Every order that keeps each session's own."""
    counts = [len(case.of(session)) for session in range(1, case.sessions + 1)]

    def rest(left: list[int], so_far: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        if not any(left):
            yield so_far
        for at, count in enumerate(left):
            if count:
                yield from rest([*left[:at], count - 1, *left[at + 1 :]], (*so_far, at + 1))

    return rest(counts, ())


def drawn(case: Case, seed: int, count: int) -> list[tuple[int, ...]]:
    """The usual order, and so many others."""
    stream = Stream(seed)
    found = {case.usual: None}
    for _ in range(count):
        order = list(case.usual)
        for at in range(len(order) - 1, 0, -1):
            other = stream.between(0, at)
            order[at], order[other] = order[other], order[at]
        found[tuple(order)] = None
    return list(found)


def answer(tag: str, rows: Sequence[Sequence[Any]]) -> str:
    """A statement's answer in a transcript (M2)."""
    if tag.startswith("SELECT"):
        return "; ".join(sorted(",".join(str(value) for value in row) for row in rows)) or "no row"
    return tag


class SimDriver:
    """The daemon's own session code, over the simulated network."""

    def __init__(self, seed: int = 0) -> None:
        self.world = World(seed)
        self._home = self.world.node("clients")
        self._answers: dict[int, str] = {}
        self._connections: dict[int, PgConnection] = {}
        node = self.world.node("a")
        config = parse("", flags={"page_size": "4KB", "buffer_pool_size": "1MB", "wal_segment_size": "1MB",
                                  "data_dir": "/var/lib/thunderdb/data", "wal_dir": "/var/lib/thunderdb/wal"})  # fmt: skip
        events = Events()

        async def begin() -> None:
            db = await node.call(SimDatabase.open(node.ports, config, events))
            await node.call(Server(node, db, Oracle(lambda: 0), events).start())

        self.world.run(begin())

    def send(self, session: int, sql: str) -> None:
        self._home.call(self._ask(session, sql))

    async def _ask(self, session: int, sql: str) -> None:
        connection = self._connections.get(session)
        try:
            if connection is None:
                connection = self._connections[session] = PgConnection(self._home.ports)
                await connection.connect("a", {})
            reply: Reply = await connection.query(sql)
            self._answers[session] = answer(reply.tag, reply.rows)
        except SqlError as error:
            self._answers[session] = f"error {error.sqlstate}"
        except Disconnected as error:
            self._answers[session] = f"disconnected: {error}"

    def settle(self) -> dict[int, str]:
        self.world.run(self.world.tasks.sleep(SETTLE_NS))
        answers, self._answers = self._answers, {}
        return answers

    def close(self) -> None:
        self.world.close()
