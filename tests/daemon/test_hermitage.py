"""The classical anomalies beside a real PostgreSQL 15: same scripts, same orders of their steps, same answers at each level."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator

import psycopg
import pytest

from sim.runs.hermitage import CASES, LEVELS, SimDriver, answer, drawn, orders, play
from tools.harness import postgres

pytestmark = pytest.mark.daemon
SESSIONS = 4
DEADLOCK_MS = 10


class PgDriver:
    """One thread and connection a session. A statement waits if PostgreSQL says that its backend is blocked by another."""

    def __init__(self, dsn: str) -> None:
        self._monitor = psycopg.connect(dsn, autocommit=True)
        self._answers: queue.Queue[tuple[int, str]] = queue.Queue()
        self._busy: set[int] = set()
        self._sessions = [psycopg.connect(dsn, autocommit=True) for _ in range(SESSIONS)]
        self._pids = [connection.info.backend_pid for connection in self._sessions]
        self._inboxes: list[queue.Queue[str | None]] = [queue.Queue() for _ in range(SESSIONS)]
        self._threads = [threading.Thread(target=self._run, args=(number,), daemon=True) for number in range(SESSIONS)]
        for thread in self._threads:
            thread.start()

    def _run(self, number: int) -> None:
        while (sql := self._inboxes[number].get()) is not None:
            try:
                cursor = self._sessions[number].execute(sql)
                said = answer(cursor.statusmessage or "", cursor.fetchall() if cursor.description else [])
            except psycopg.Error as error:
                said = f"error {error.sqlstate}"
            self._answers.put((number, said))

    def send(self, session: int, sql: str) -> None:
        self._busy.add(session)
        self._inboxes[session].put(sql)

    def settle(self) -> dict[int, str]:
        found: dict[int, str] = {}
        blocked = 0
        while self._busy - set(found) and blocked < 2:
            try:
                number, said = self._answers.get(timeout=0.002)
                found[number] = said
                blocked = 0
            except queue.Empty:
                waiting = {self._pids[number] for number in self._busy - set(found)}
                query = "SELECT pid FROM pg_stat_activity WHERE cardinality(pg_blocking_pids(pid)) > 0"
                if waiting <= {row[0] for row in self._monitor.execute(query)}:
                    blocked += 1
                    time.sleep(2 * DEADLOCK_MS / 1000)  # its check for deadlocks has come and gone
        self._busy -= set(found)
        return found

    def close(self) -> None:
        for inbox in self._inboxes:
            inbox.put(None)
        for thread in self._threads:
            thread.join(10)
        for connection in (*self._sessions, self._monitor):
            connection.close()


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PgDriver]:
    if postgres.bin_dir() is None:
        pytest.skip("PostgreSQL is not installed: its answers cannot be compared (APT=1 make packages installs it)")
    server = postgres.Postgres(
        tmp_path_factory.mktemp("hermitage"), {"deadlock_timeout": f"{DEADLOCK_MS}ms", "fsync": "off", "max_connections": "10"}
    )
    server.start(60)
    driver = PgDriver(server.dsn())
    yield driver
    driver.close()
    server.kill()


@pytest.fixture(scope="module")
def simulated() -> Iterator[SimDriver]:
    driver = SimDriver()
    yield driver
    driver.close()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", CASES)
def test_same_answers_as_postgresql(name: str, level: str, real: PgDriver, simulated: SimDriver) -> None:
    case = CASES[name]
    for order in drawn(case, len(name), 4):
        assert play(case, level, order, simulated) == play(case, level, order, real), (name, level, order)


@pytest.mark.long
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", CASES)
def test_same_answers_in_every_order(name: str, level: str, real: PgDriver, simulated: SimDriver) -> None:
    case = CASES[name]
    chosen = list(orders(case))[:: 1 if case.sessions == 2 else 23]
    for order in chosen:
        assert play(case, level, order, simulated) == play(case, level, order, real), (name, level, order)
