"""The admin API over HTTP, on aiohttp. It answers from before recovery begins until the process ends.

    GET  /admin/live        200 while the process turns
    GET  /admin/ready       200 when SQL is served, else 503 with phase and progress
    GET  /admin/health      what the node is and does; 503 once it must stop
    POST /admin/checkpoint  {"hold": "6h"} → {checkpoint_lsn, redo_lsn, hold_until}
    GET  /metrics           Prometheus text
    …                       backups and archive: admin_backup.py

H1. Every error is JSON {error, message, hint} with its 4xx or 5xx; also an unknown path, a wrong method and a bug.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from aiohttp import web
from prometheus_client import CollectorRegistry

from thunderdb.base.errors import ConfigError, DiskFull, LimitExceeded, NodeStopped, Refused, StorageError, ThunderError
from thunderdb.base.ids import format_lsn
from thunderdb.base.units import parse_duration_ms
from thunderdb.server import metrics
from thunderdb.server.admin_backup import BackupApi, BackupNode, BadRequest, Forbidden, NotFound
from thunderdb.server.auth import guard
from thunderdb.server.state import NodeState

DEFAULT_HOLD_MS = 3_600_000
MAX_HOLD_MS = 30 * 86_400_000
MAX_BODY_BYTES = 1 << 20

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class CheckpointTaken:
    checkpoint_lsn: int
    redo_lsn: int
    hold_until_wall_ns: int


class Node(BackupNode, Protocol):
    """What the API acts on; the daemon is one."""

    state: NodeState

    async def checkpoint(self, hold_ms: int) -> CheckpointTaken: ...

    def health(self) -> dict[str, Any]: ...


class NotReady(ThunderError):
    """The node does not serve yet, or no more."""


# Most special first: the first class that fits gives status and error code.
_STATUSES: tuple[tuple[type[ThunderError], int, str], ...] = (
    (BadRequest, 400, "bad_request"),
    (Forbidden, 403, "forbidden"),
    (NotFound, 404, "not_found"),
    (ConfigError, 400, "bad_request"),
    (NotReady, 503, "not_ready"),
    (NodeStopped, 503, "stopped"),
    (Refused, 409, "refused"),
    (LimitExceeded, 409, "limit_exceeded"),
    (DiskFull, 507, "disk_full"),
    (StorageError, 500, "storage_error"),
    (ThunderError, 500, "failed"),
)


def error_response(status: int, code: str, message: str, hint: str = "") -> web.Response:
    return web.json_response({"error": code, "message": message, "hint": hint}, status=status)


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """H1."""
    try:
        return await handler(request)
    except web.HTTPNotFound:
        return error_response(404, "not_found", f"no such endpoint: {request.path}", "see docs/admin-api.md for the list")
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods - {"HEAD"}))
        return error_response(405, "method_not_allowed", f"{request.method} is not allowed on {request.path}", f"use {allowed}")
    except web.HTTPRequestEntityTooLarge:
        return error_response(413, "too_large", f"the body is larger than {MAX_BODY_BYTES} bytes")
    except web.HTTPException as error:
        return error_response(error.status, "http_error", error.reason)
    except ThunderError as error:
        status, code = next((status, code) for kind, status, code in _STATUSES if isinstance(error, kind))
        return error_response(status, code, error.message, error.hint)
    except Exception as error:
        return error_response(500, "internal_error", f"{type(error).__name__}: {error}", "this is a bug; please report it")


async def read_json(request: web.Request, allowed: tuple[str, ...]) -> dict[str, Any]:
    """The request's JSON object; an absent body is an empty one. Raises: BadRequest."""
    raw = await request.read()
    if not raw.strip():
        return {}
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {error}", 'send an object such as {"hold": "6h"}') from None
    if not isinstance(body, dict):
        raise BadRequest("the body is not a JSON object", 'send an object such as {"hold": "6h"}')
    unknown = sorted(set(body) - set(allowed))
    if unknown:
        raise BadRequest(f"unknown field {unknown[0]!r}", f"allowed: {', '.join(allowed)}")
    return body


@dataclass(slots=True)
class AdminApi:
    """The routes, over a node and its metrics."""

    node: Node
    registry: CollectorRegistry
    token: str = field(default="", repr=False)
    runner: web.AppRunner | None = field(default=None)
    port: int = 0

    def application(self) -> web.Application:
        app = web.Application(middlewares=[errors_as_json, guard(self.token, error_response)], client_max_size=MAX_BODY_BYTES)
        app.router.add_get("/admin/live", self.live)
        app.router.add_get("/admin/ready", self.ready)
        app.router.add_get("/admin/health", self.health)
        app.router.add_post("/admin/checkpoint", self.checkpoint)
        app.router.add_get("/metrics", self.metrics)
        BackupApi(self.node, read_json).add_routes(app)
        return app

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises: OSError when the address is taken or not ours."""
        self.runner = web.AppRunner(self.application(), access_log=None, handle_signals=False, shutdown_timeout=2.0)
        await self.runner.setup()
        site = web.TCPSite(self.runner, host, port, reuse_address=True)
        try:
            await site.start()
        except BaseException:
            await self.close()
            raise
        self.port = self.runner.addresses[0][1]

    async def close(self) -> None:
        if self.runner is not None:
            runner, self.runner = self.runner, None
            await runner.cleanup()

    async def live(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "live"})

    async def ready(self, _: web.Request) -> web.Response:
        state = self.node.state
        answer = {"status": "ready" if state.ready else "not ready", "phase": state.phase, "progress": state.progress}
        return web.json_response(answer, status=200 if state.ready else 503)

    async def health(self, _: web.Request) -> web.Response:
        answer = self.node.health()
        return web.json_response(answer, status=503 if answer["status"] == "failed" else 200)

    async def checkpoint(self, request: web.Request) -> web.Response:
        body = await read_json(request, ("hold",))
        hold_ms = DEFAULT_HOLD_MS
        if "hold" in body:
            hold_ms = _hold_ms(body["hold"])
        taken = await self.node.checkpoint(hold_ms)
        return web.json_response(
            {
                "checkpoint_lsn": format_lsn(taken.checkpoint_lsn),
                "redo_lsn": format_lsn(taken.redo_lsn),
                "hold_until": _utc(taken.hold_until_wall_ns),
            }
        )

    async def metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=metrics.render(self.registry), headers={"Content-Type": metrics.CONTENT_TYPE})


def _hold_ms(value: Any) -> int:
    hint = 'a duration from "1s" to "30d", such as "6h"'
    try:
        hold_ms = parse_duration_ms(value)
    except ValueError as error:
        raise BadRequest(f"hold: {error}", hint) from None
    if not 1000 <= hold_ms <= MAX_HOLD_MS:
        raise BadRequest(f"hold = {value!r} is not allowed", hint)
    return hold_ms


def _utc(wall_ns: int) -> str:
    moment = datetime.datetime.fromtimestamp(wall_ns // 1_000_000_000, datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
