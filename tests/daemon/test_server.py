"""A real daemon process, met by psql, psycopg and raw bytes: bad input and trouble, each with its promised answer."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tools.harness.server import ServerFailed
from tools.harness.thunder import Thunder

pytestmark = pytest.mark.daemon


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Thunder]:
    node = Thunder(tmp_path_factory.mktemp("node"))
    node.start(60)
    yield node
    assert node.stop(60) == 0
    assert node.log_text().splitlines()[-1] == "[INFO] Shutdown complete"
    assert "[ERROR]" not in node.log_text()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Thunder]:
    node = Thunder(tmp_path / "own")
    node.start(60)
    yield node
    node.kill()


def thunderdb(node: Thunder, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*node.command(), *arguments]
    return subprocess.run(command, env=node.environment(), cwd=node.directory, capture_output=True, text=True, timeout=60)


# ---- clients ----------------------------------------------------------------------------------------------------------------


def test_psql_as_the_manual_has_it(server: Thunder) -> None:
    if shutil.which("psql") is None:
        pytest.skip("psql is not installed")
    base = ["psql", "-h", "127.0.0.1", "-p", str(server.port), "-U", "admin", "-X", "-At"]
    done = subprocess.run([*base, "-c", "SELECT 1 AS one"], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")
    done = subprocess.run([*base, "-d", "other", "-c", "SELECT 1"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 2 and 'database "other" does not exist' in done.stderr
    done = subprocess.run([*base, "-c", "SELEC 1"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1 and "LINE 1: SELEC 1" in done.stderr, "a syntax error has its position"


def test_simple_extended_pipelined_and_copy(server: Thunder) -> None:
    with server.connect(autocommit=True) as connection:
        connection.execute("CREATE TABLE wire (id int PRIMARY KEY, name text)")
        with connection.cursor().copy("COPY wire FROM STDIN") as copy:
            for number in range(1000):
                copy.write_row((number, f"name {number}"))
        assert connection.execute("SELECT count(*) FROM wire").fetchone() == (1000,)
        for _ in range(7):  # psycopg prepares a statement after five executions
            assert connection.execute("SELECT name FROM wire WHERE id = %s", (7,)).fetchone() == ("name 7",)
        with connection.pipeline():
            found = [connection.execute("SELECT name FROM wire WHERE id = %s", (number,)) for number in range(50)]
        assert [cursor.fetchone() for cursor in found] == [(f"name {number}",) for number in range(50)]
        with connection.cursor().copy("COPY wire TO STDOUT") as copy:
            assert len(list(copy.rows())) == 1000
        with connection.cursor(binary=True) as cursor:
            assert cursor.execute("SELECT id FROM wire WHERE id = 12").fetchone() == (12,)


def test_a_large_result_streams_with_bounded_memory(own: Thunder) -> None:
    with own.connect(autocommit=True) as connection:
        before_kb = own.peak_memory_kb()
        with connection.cursor() as cursor:
            count = sum(1 for _ in cursor.stream("SELECT repeat('x', 1000) FROM generate_series(1, 100000)"))
        assert count == 100_000
        assert own.peak_memory_kb() - before_kb < 150_000, "100 MB of rows must not all be in memory"


def test_a_ten_megabyte_statement(server: Thunder) -> None:
    text = "x" * (10 << 20)
    with server.connect(autocommit=True) as connection:
        assert connection.execute(f"SELECT length('{text}')").fetchone() == (10 << 20,)
        assert connection.execute("SELECT length(%s::text)", (text,)).fetchone() == (10 << 20,)


def test_cancel(server: Thunder) -> None:
    with server.connect(autocommit=True) as one, server.connect(autocommit=True) as two:
        one.execute("CREATE TABLE cancelled (id int PRIMARY KEY)")
        one.execute("INSERT INTO cancelled VALUES (1)")
        one.execute("BEGIN")
        one.execute("DELETE FROM cancelled")
        threading.Timer(0.3, two.cancel_safe).start()
        begun = time.monotonic()
        with pytest.raises(psycopg.errors.QueryCanceled):
            two.execute("DELETE FROM cancelled")
        assert 0.2 < time.monotonic() - begun < 10
        one.execute("ROLLBACK")
        assert two.execute("SELECT 1").fetchone() == (1,)


def test_two_hundred_connections(server: Thunder) -> None:
    connections = [server.connect(autocommit=True) for _ in range(200)]
    try:
        assert [connection.execute("SELECT 1").fetchone() for connection in connections] == [(1,)] * 200
        assert server.http("/admin/health")["status"] == "healthy"
    finally:
        for connection in connections:
            connection.close()


def test_one_connection_too_many(tmp_path: Path) -> None:
    node = Thunder(tmp_path / "few", {"max_connections": "3"})
    node.start(60)
    try:
        held = [node.connect() for _ in range(3)]
        with pytest.raises(psycopg.OperationalError, match="too many clients"):
            node.connect()
        for connection in held:
            connection.close()
    finally:
        node.kill()


def test_a_client_that_vanishes_in_a_transaction_leaves_no_lock(server: Thunder) -> None:
    with server.connect(autocommit=True) as other:
        other.execute("CREATE TABLE vanished (id int PRIMARY KEY, n int)")
        other.execute("INSERT INTO vanished VALUES (1, 0)")
        gone = server.connect()
        gone.execute("UPDATE vanished SET n = 1 WHERE id = 1")
        with socket.socket(fileno=gone.fileno()) as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        begun = time.monotonic()
        other.execute("UPDATE vanished SET n = n + 10 WHERE id = 1")
        assert other.execute("SELECT n FROM vanished").fetchone() == (10,)
        assert time.monotonic() - begun < 10


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x00" * 64,
        b"\xff" * 64,
        struct.pack(">II", 8, 2 << 16),
        b"\x16\x03\x01\x02\x00" * 9,
    ],
)
def test_bytes_that_are_not_the_protocol(server: Thunder, garbage: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw:
        raw.sendall(garbage)
        answer = b""
        try:
            while piece := raw.recv(4096):
                answer += piece
        except ConnectionResetError:
            pass
    assert answer == b"" or b"C08P01\0" in answer or b"C0A000\0" in answer
    assert server.one("SELECT 1") == 1


# ---- the admin API ----------------------------------------------------------------------------------------------------------


def test_admin_api(server: Thunder) -> None:
    assert server.http("/admin/live") == {"status": "live"}
    assert server.http("/admin/ready")["status"] == "ready"
    answer = server.http("/admin/checkpoint", body={"hold": "6h"}, method="POST")
    assert sorted(answer) == ["checkpoint_lsn", "hold_until", "redo_lsn"]
    with pytest.raises(urllib.error.HTTPError) as caught:
        server.http("/admin/checkpoint", body={"hold": "later"}, method="POST")
    assert caught.value.code == 400
    assert sorted(json.loads(caught.value.read())) == ["error", "hint", "message"]
    assert "thunderdb_statements_total" in server.http("/metrics")


# ---- starting and stopping --------------------------------------------------------------------------------------------------


def test_kill_nine_and_restart_prints_the_manuals_lines(own: Thunder) -> None:
    with own.connect(autocommit=True) as connection:
        connection.execute("CREATE TABLE kept (id int PRIMARY KEY)")
        connection.execute("INSERT INTO kept SELECT g FROM generate_series(1, 1000) g")
    own.kill()
    begun = own.log_size()
    own.start(60)
    lines = own.recovery_lines(begun)
    starts = ["Crash recovery initiated", "Last checkpoint LSN: 0/", "Phase 1 (Analysis): Scanning WAL... "]
    starts += ["Phase 2 (Redo): Replaying from LSN 0/", "Phase 3 (Undo): Rolling back 0 active", "Recovery complete in "]
    assert [line.startswith(f"[INFO] {start}") for line, start in zip(lines, starts, strict=True)] == [True] * 6, lines
    assert own.one("SELECT count(*) FROM kept") == 1000
    assert own.stop(60) == 0
    begun = own.log_size()
    own.start(60)
    assert own.recovery_lines(begun) == [], "after a clean shutdown there is nothing to recover"
    assert own.stop(60) == 0
    checked = thunderdb(own, "--check")
    assert checked.returncode == 0 and "Database check: PASSED" in checked.stdout, checked


def test_shutdown_ends_an_open_transaction(own: Thunder) -> None:
    connection = own.connect()
    connection.execute("CREATE TABLE never (id int)")
    assert own.stop(60) == 0
    with pytest.raises(psycopg.OperationalError, match="administrator command|closed"):
        connection.execute("SELECT 1")
    own.start(60)
    with pytest.raises(psycopg.errors.UndefinedTable):
        own.one("SELECT * FROM never")


def test_a_second_daemon_on_the_directory_is_refused(own: Thunder) -> None:
    twin = Thunder(own.directory)
    with pytest.raises(ServerFailed, match="ended with status 3"):
        twin.start(30)
    assert own.one("SELECT 1") == 1
    assert thunderdb(own, "--check").returncode == 3


def test_two_databases_on_one_log_directory_are_refused(own: Thunder, tmp_path: Path) -> None:
    """A copy of data_dir, started with a configuration that still names the original's wal_dir: it wrote into that log."""
    shutil.copytree(own.directory / "data", tmp_path / "copy")
    (own.directory / "data" / "lock").unlink()
    for data_dir in (tmp_path / "copy", own.directory / "data"):
        ports = ["--pg-port", "0", "--http-port", "0"]
        done = thunderdb(own, "--data-dir", str(data_dir), *ports)
        assert done.returncode == 3, done.stderr
        assert "is locked by" in done.stderr and "HINT: stop " in done.stderr


def test_a_port_in_use_is_named(own: Thunder, tmp_path: Path) -> None:
    twin = Thunder(tmp_path / "twin")
    done = thunderdb(twin, "--pg-port", str(own.port))
    assert done.returncode == 4 and f"127.0.0.1:{own.port}" in done.stderr and "HINT:" in done.stderr
    assert not (twin.directory / "data").exists(), "nothing was touched"


def test_another_page_size_is_refused(own: Thunder) -> None:
    own.stop(60)
    done = thunderdb(own, "--page-size", "8KB")
    assert done.returncode == 3 and "16KB" in done.stderr


def test_one_empty_directory_is_refused(own: Thunder) -> None:
    own.stop(60)
    (own.directory / "wal").rename(own.directory / "elsewhere")
    done = thunderdb(own)
    assert done.returncode == 3 and "HINT:" in done.stderr
    (own.directory / "wal").rmdir()
    (own.directory / "elsewhere").rename(own.directory / "wal")
    own.start(60)


def test_damaged_control_slots(own: Thunder) -> None:
    own.stop(60)
    control = own.directory / "data" / "control"
    good = control.read_bytes()
    control.write_bytes(b"\0" * 4096 + good[4096:])
    own.start(60)
    assert "[WARN] Control file slot 0 is damaged" in own.log_text()
    own.stop(60)
    control.write_bytes(b"\xff" * len(good))
    done = thunderdb(own)
    assert done.returncode == 4 and "control" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_stop_it_cleanly(own: Thunder, number: signal.Signals) -> None:
    assert own.process is not None
    own.process.send_signal(number)
    assert own.process.wait(30) == 0
    assert f"[INFO] Shutting down ({number.name})" in own.log_text()


def test_a_reload_signal_does_not_end_it(own: Thunder) -> None:
    """SIGHUP, as `systemctl reload` or logrotate may send it, was the end of the process, without a word in the log."""
    assert own.process is not None
    own.process.send_signal(signal.SIGHUP)
    assert own.one("SELECT 1") == 1 and own.alive()
    assert "[WARN] SIGHUP: nothing is read again" in own.log_text()


def test_rows_of_a_binary_copy_as_drivers_read_them(server: Thunder) -> None:
    """psycopg takes the first message for head and first row, as PostgreSQL sends them; and says 54001 of what is too deep."""
    with server.connect() as connection:
        with connection.cursor().copy("COPY (SELECT g, g::text FROM generate_series(1,3) g) TO STDOUT (FORMAT binary)") as copy:
            copy.set_types(["int4", "text"])
            assert list(copy.rows()) == [(1, "1"), (2, "2"), (3, "3")]
        with connection.cursor().copy("COPY (SELECT 1 WHERE false) TO STDOUT (FORMAT binary)") as copy:
            assert list(copy.rows()) == []
        with pytest.raises(psycopg.Error) as caught:
            connection.execute("SELECT 1" + "+1" * 50_000)
        assert caught.value.sqlstate == "54001"


def test_a_stop_after_data_dir_was_taken_away_is_an_error_with_a_way_out(own: Thunder) -> None:
    """It ended with a traceback, and exit status 1."""
    with own.connect(autocommit=True) as connection:
        connection.execute("CREATE TABLE t (i int)")
    shutil.rmtree(own.directory / "data")
    assert own.process is not None
    own.process.send_signal(signal.SIGTERM)
    assert own.process.wait(30) == 4
    log = own.log_text()
    assert "[ERROR] the shutdown could not be completed: " in log and "[ERROR] HINT: Look at the disks" in log
    assert "Traceback" not in log


def test_too_few_open_files_are_told_at_the_start(tmp_path: Path) -> None:
    node = Thunder(tmp_path / "few")
    command = ["bash", "-c", 'ulimit -Sn 64; ulimit -Hn 200; exec "$@"', "bash", *node.command()]
    node.command = lambda: command  # type: ignore[method-assign]
    node.start(60)
    connections = [node.connect() for _ in range(100)]  # the soft limit is raised to the hard one
    assert "[WARN] Only 200 open files are allowed, max_connections asks for 600" in node.log_text()
    for connection in connections:
        connection.close()
    assert node.stop(60) == 0


def test_json_log_lines(tmp_path: Path) -> None:
    node = Thunder(tmp_path / "json", {"format": "json"})
    node.start(60)
    node.stop(60)
    events = [json.loads(line)["event"] for line in node.log_text().splitlines()]
    assert events[0] == "server.starting" and events[-1] == "server.stopped" and "server.ready" in events


def test_python_dash_m_works() -> None:
    done = subprocess.run([sys.executable, "-m", "thunderdb", "--version"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0 and done.stdout.startswith("thunderdb ")
