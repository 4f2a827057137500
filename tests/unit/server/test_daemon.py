"""A daemon in this process on real sockets, over an engine that is a fake: start, readiness, admin API, stop, refusals."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from thunderdb.base.config import Config, parse
from thunderdb.base.errors import Corruption, SyncFailed
from thunderdb.runtime.sync import Future
from thunderdb.server.admin import CheckpointTaken
from thunderdb.server.daemon import Daemon, Outcome

from .fakes import FakeOperator, FakeSql, kinds_of, query, startup


class FakeEngine:
    """Opens when `gate` is set, and can be told to fail."""

    def __init__(self) -> None:
        self.gate: Future[None] | None = None
        self.held_ns: list[int] = []
        self.closed = False
        self.error: Exception | None = None
        self.waits = False
        self.ports: Any = None
        self.operator = FakeOperator()

    async def open(self, ports: Any, config: Config, events: Any) -> FakeEngine:
        self.ports = ports
        if self.error is not None:
            raise self.error
        if self.waits:
            events.emit("recovery.started", checkpoint_lsn=4096)
            events.emit("recovery.progress", phase="analysis", records=17)
            self.gate = ports.tasks.future()
            await self.gate
        return self

    async def checkpoint(self, hold_ns: int = 0) -> CheckpointTaken:
        self.held_ns.append(hold_ns)
        return CheckpointTaken(0x1A3B4C5D, 0x1A000000, 1_768_473_045_000_000_000)

    def gauges(self) -> dict[str, float]:
        return {"wal_flushed_lsn": 4096.0, "checkpoints_total": 3}

    def backup_gauges(self) -> dict[str, float]:
        return {"thunderdb_last_backup_status": math.nan, "thunderdb_wal_archive_archived_bytes_total": 7}

    def session_factory(self) -> Any:
        return lambda user, parameters, pid: FakeSql(user, parameters, pid, self.ports)

    async def close(self) -> None:
        self.closed = True


class Running:
    def __init__(self, daemon: Daemon, http: aiohttp.ClientSession, base: str, task: asyncio.Task[Outcome]) -> None:
        self.daemon, self.http, self.base, self.task = daemon, http, base, task

    async def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        async with self.http.request(method, self.base + path, data=data) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if answer.content_type == "application/json" else text


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def config_in(tmp_path: Path, **flags: Any) -> Config:
    own = {"data_dir": str(tmp_path / "data"), "wal_dir": str(tmp_path / "wal"), "pg_port": 0, "http_port": free_port()}
    return parse("", {}, {**own, **flags})


def with_daemon(tmp_path: Path, engine: FakeEngine, body: Callable[[Running], Awaitable[None]], **flags: Any) -> Outcome:
    """Run `body` against a daemon, then stop it with SIGTERM unless it has ended."""
    config = config_in(tmp_path, **flags)

    async def main() -> Outcome:
        daemon = Daemon(config, engine.open)
        task = asyncio.ensure_future(daemon.run())
        async with aiohttp.ClientSession() as http:
            running = Running(daemon, http, f"http://127.0.0.1:{config.http_port}", task)
            for _ in range(500):
                await asyncio.sleep(0.005)
                if daemon.state.ready or task.done() or engine.gate is not None:
                    break
            await body(running)
        if not task.done():
            os.kill(os.getpid(), signal.SIGTERM)
        return await asyncio.wait_for(task, 10)

    return asyncio.run(main())


async def nothing(_: Running) -> None:
    return


def test_start_answer_stop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine()

    async def body(node: Running) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", node.daemon.pg_port)
        writer.write(startup(b"user\0ada\0") + query("echo hello") + query("begin"))
        answer = b""
        while kinds_of(answer) != "RSSKZTDCZCZ":
            piece = await asyncio.wait_for(reader.read(4096), 5)
            assert piece, f"the session ended after {kinds_of(answer)!r}"
            answer += piece
        assert await node.call("GET", "/admin/live") == (200, {"status": "live"})
        assert await node.call("GET", "/admin/ready") == (
            200,
            {"status": "ready", "phase": "ready", "progress": node.daemon.state.progress},
        )
        status, health = await node.call("GET", "/admin/health")
        assert (status, health["status"], health["version"]) == (200, "healthy", "0.1.0")

    assert with_daemon(tmp_path, engine, body) == Outcome(0, clean=True)
    assert engine.closed
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "[INFO] ThunderDB 0.1.0 starting, node node-1"
    assert lines[-2:] == ["[INFO] Shutting down (SIGTERM)", "[INFO] Shutdown complete"]


def test_while_recovering_http_says_so_and_sql_is_57p03(tmp_path: Path) -> None:
    engine = FakeEngine()
    engine.waits = True

    async def body(node: Running) -> None:
        assert await node.call("GET", "/admin/ready") == (
            503,
            {"status": "not ready", "phase": "analysis", "progress": {"phase": "analysis", "records": 17}},
        )
        status, error = await node.call("POST", "/admin/checkpoint")
        assert (status, error["error"]) == (503, "not_ready") and error["hint"]
        reader, writer = await asyncio.open_connection("127.0.0.1", node.daemon.pg_port)
        writer.write(startup(b"user\0ada\0"))
        assert b"C57P03\0" in await asyncio.wait_for(reader.read(), 5)

    assert with_daemon(tmp_path, engine, body) == Outcome(0, clean=False)
    assert not engine.closed, "a start that is interrupted is a crash, not a clean stop"


def test_checkpoint_and_its_mistakes(tmp_path: Path) -> None:
    engine = FakeEngine()

    async def body(node: Running) -> None:
        answer = {"checkpoint_lsn": "0/1A3B4C5D", "redo_lsn": "0/1A000000", "hold_until": "2026-01-15T10:30:45Z"}
        assert await node.call("POST", "/admin/checkpoint") == (200, answer)
        assert await node.call("POST", "/admin/checkpoint", {"hold": "6h"}) == (200, answer)
        bad: list[Any] = [b"{", [], {"hold": "soon"}, {"hold": "0s"}, {"hold": "90d"}, {"hold": None}, {"hodl": "6h"}]
        for wrong in bad:
            status, error = await node.call("POST", "/admin/checkpoint", wrong)
            assert (status, error["error"], sorted(error)) == (400, "bad_request", ["error", "hint", "message"]), wrong
        assert (await node.call("GET", "/admin/checkpoint"))[0] == 405
        assert (await node.call("GET", "/nowhere"))[1]["error"] == "not_found"
        assert (await node.call("POST", "/admin/checkpoint", b" " * (2 << 20)))[0] == 413

    assert with_daemon(tmp_path, engine, body).exit_code == 0
    assert engine.held_ns == [3_600_000_000_000, 21_600_000_000_000]


def test_metrics_are_ours_and_documented(tmp_path: Path) -> None:
    from thunderdb.server.metrics import METRICS

    async def body(node: Running) -> None:
        status, text = await node.call("GET", "/metrics")
        assert status == 200
        found = {line.split("{")[0].split(" ")[0] for line in text.splitlines() if not line.startswith("#")}
        assert all(name.startswith("thunderdb_") for name in found)
        documented = set(METRICS) - {"thunderdb_recovery_duration_seconds", "thunderdb_recovery_records_replayed"}
        assert documented <= found
        assert "thunderdb_wal_flushed_lsn 4096.0" in text and "# TYPE thunderdb_checkpoints_total counter" in text
        assert "thunderdb_ready 1.0" in text
        assert "thunderdb_last_backup_status NaN" in text
        assert "# TYPE thunderdb_wal_archive_archived_bytes_total counter" in text

    assert with_daemon(tmp_path, FakeEngine(), body).exit_code == 0


@pytest.mark.parametrize("key", ["pg_port", "http_port"])
def test_a_taken_port_is_named_and_nothing_is_touched(tmp_path: Path, key: str, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        engine = FakeEngine()
        outcome = with_daemon(tmp_path, engine, nothing, **{key: port})
    assert outcome.exit_code == 4 and engine.ports is None
    said = capsys.readouterr().err
    assert f"[ERROR] cannot listen on 127.0.0.1:{port}" in said and "[ERROR] HINT:" in said


def test_a_database_that_refuses_ends_with_its_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine()
    engine.error = Corruption("both control slots are damaged", "restore a backup")
    assert with_daemon(tmp_path, engine, nothing).exit_code == 4
    assert capsys.readouterr().err.splitlines()[-2:] == [
        "[ERROR] both control slots are damaged",
        "[ERROR] HINT: restore a backup",
    ]
    engine.error = PermissionError(13, "Permission denied")
    assert with_daemon(tmp_path, engine, nothing).exit_code == 4


def test_a_failed_sync_stops_the_node_without_another_write(tmp_path: Path) -> None:
    engine = FakeEngine()

    async def body(node: Running) -> None:
        engine.ports.scheduler.crashed(SyncFailed("cannot sync wal"))
        await asyncio.wait_for(asyncio.wait([node.task]), 5)

    outcome = with_daemon(tmp_path, engine, body)
    assert (outcome.exit_code, str(outcome.error)) == (4, "cannot sync wal")
    assert not engine.closed
