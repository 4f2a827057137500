"""The part of the admin API that is about backups and the archive.

    POST /admin/backup                  {"destination", "include_wal", "compress", "type", "base", "label", "rate_limit"}
    GET  /admin/backup/status/<id>      how it goes; an unknown id is 404 with status "failed", so that a script's loop ends
    GET  /admin/backups                 all that are remembered, newest first
    POST /admin/backup/<id>/cancel
    GET  /admin/wal/archive/status
    POST /admin/wal/switch              close the current segment, so that it is archived
    GET  /admin/backup/retention        what may go and what must stay, and why

B1. A destination is checked before anything else happens: absolute, free of `..`, below one of [backup] roots. Without roots
    any absolute path will do, as long as no token is asked for: then whoever calls is on this machine already.
B2. An answer has the fields of the manual, under its names; more may follow them.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

from aiohttp import web

from thunderdb.base.config import Config
from thunderdb.base.errors import ThunderError
from thunderdb.base.units import parse_size

FIELDS = ("destination", "include_wal", "compress", "type", "base", "label", "rate_limit")
TYPES = ("full", "incremental")
LABELS = ("manual", "daily", "weekly", "monthly")
EXAMPLE = 'send {"destination": "/backups/thunderdb/full-2026-01-15"}'
_URL = re.compile(r"(s3|gs|az)://[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9._=+@/-]*)?", re.ASCII)


class BadRequest(ThunderError):
    """The request itself is wrong; nothing was done."""


class Forbidden(ThunderError):
    """What is asked for is not allowed on this node; nothing was done."""


class NotFound(ThunderError):
    """There is no such thing."""


class Operator(Protocol):
    """What the daemon can do about backups and archive. Answers are plain JSON values."""

    async def backup(self, request: dict[str, Any]) -> dict[str, Any]: ...

    async def backup_status(self, backup_id: str) -> dict[str, Any] | None: ...

    async def backups(self) -> list[dict[str, Any]]: ...

    async def cancel(self, backup_id: str) -> dict[str, Any] | None: ...

    async def archive_status(self) -> dict[str, Any]: ...

    async def switch_wal(self) -> dict[str, Any]: ...

    async def retention(self) -> dict[str, Any]: ...

    async def real_path(self, path: str) -> str: ...


class BackupNode(Protocol):
    """The daemon, as these routes see it."""

    config: Config

    async def operate(self, action: Callable[[Operator], Coroutine[Any, Any, Any]]) -> Any:
        """Run an action on the open database. Raises: NotReady."""
        ...


ReadJson = Callable[[web.Request, tuple[str, ...]], Awaitable[dict[str, Any]]]


class BackupApi:
    """The routes, over a node."""

    def __init__(self, node: BackupNode, read_json: ReadJson) -> None:
        self.node = node
        self.read_json = read_json

    def add_routes(self, app: web.Application) -> None:
        app.router.add_post("/admin/backup", self.start)
        app.router.add_get("/admin/backup/status/{id}", self.status)
        app.router.add_get("/admin/backup/retention", self.retention)
        app.router.add_post("/admin/backup/{id}/cancel", self.cancel)
        app.router.add_get("/admin/backups", self.list)
        app.router.add_get("/admin/wal/archive/status", self.archive)
        app.router.add_post("/admin/wal/switch", self.switch)

    async def start(self, request: web.Request) -> web.Response:
        wanted = checked_request(await self.read_json(request, FIELDS))
        config = self.node.config

        async def action(operator: Operator) -> dict[str, Any]:
            for name in ("destination", "base"):
                if wanted[name] is not None:
                    await _check_place(config, operator, name, wanted[name])
            return await operator.backup(wanted)

        return web.json_response(await self.node.operate(action), status=202)

    async def status(self, request: web.Request) -> web.Response:
        backup_id = request.match_info["id"]
        found = await self.node.operate(lambda operator: operator.backup_status(backup_id))
        return web.json_response(found) if found is not None else _unknown(backup_id)

    async def list(self, _: web.Request) -> web.Response:
        found = await self.node.operate(lambda operator: operator.backups())
        return web.json_response({"version": 1, "backups": found})

    async def cancel(self, request: web.Request) -> web.Response:
        backup_id = request.match_info["id"]
        found = await self.node.operate(lambda operator: operator.cancel(backup_id))
        return web.json_response(found) if found is not None else _unknown(backup_id)

    async def archive(self, _: web.Request) -> web.Response:
        return web.json_response(await self.node.operate(lambda operator: operator.archive_status()))

    async def switch(self, request: web.Request) -> web.Response:
        await self.read_json(request, ())
        return web.json_response(await self.node.operate(lambda operator: operator.switch_wal()))

    async def retention(self, _: web.Request) -> web.Response:
        return web.json_response(await self.node.operate(lambda operator: operator.retention()))


def checked_request(body: dict[str, Any]) -> dict[str, Any]:
    """The request with its defaults. Raises: BadRequest, naming the field (B1)."""
    wanted = {
        "destination": body.get("destination"),
        "include_wal": _switch(body, "include_wal", True),
        "compress": _switch(body, "compress", False),
        "type": _choice(body, "type", TYPES),
        "base": body.get("base"),
        "label": _choice(body, "label", LABELS),
        "rate_limit": _rate(body.get("rate_limit")),
    }
    if wanted["destination"] is None:
        raise BadRequest("destination is missing", EXAMPLE)
    wanted["destination"] = checked_place("destination", wanted["destination"])
    if wanted["base"] is not None:
        wanted["base"] = checked_place("base", wanted["base"])
    return wanted


def checked_place(field: str, value: Any) -> str:
    """An absolute path or a store's URL, without tricks. Raises: BadRequest."""
    if not isinstance(value, str) or not value:
        raise BadRequest(f"{field} = {value!r} is not a path", EXAMPLE)
    if "://" in value:
        if not _URL.fullmatch(value) or ".." in value.split("/"):
            raise BadRequest(f"{field} = {value!r} is not the URL of a store", "s3://, gs:// or az://, bucket, and prefix")
        return value.rstrip("/")
    if not value.startswith("/"):
        raise BadRequest(
            f"{field} = {value!r} is not an absolute path", "the daemon has a working directory of its own: begin with /"
        )
    if not value.isprintable() or any(part == ".." for part in value.split("/")):
        raise BadRequest(f"{field} = {value!r} is not a plain path", "without .. and control characters")
    return "/" + "/".join(part for part in value.split("/") if part not in ("", "."))


async def _check_place(config: Config, operator: Operator, field: str, place: str) -> None:
    """B1. Links are followed first: a link below a root may lead anywhere. Raises: Forbidden, BadRequest."""
    real = place if "://" in place else await operator.real_path(place)
    for name in ("data_dir", "wal_dir"):
        if is_below(real, await operator.real_path(getattr(config, name))):
            raise BadRequest(f"{field} = {place!r} lies in {name}", "a backup there would be lost with the database")
    roots = [*config.roots, *([config.destination] if config.destination else [])]
    if not config.roots and not config.admin_token_file:
        return
    if not config.roots and not config.destination:
        raise Forbidden(f"{field} = {place!r} is not allowed: [backup] roots names no place", "set roots in [backup]")
    allowed = [root if "://" in root else await operator.real_path(root) for root in roots]
    if not any(is_below(real, root) for root in allowed):
        raise Forbidden(f"{field} = {place!r} is not below any of [backup] roots", f"allowed: {', '.join(roots)}")


def is_below(place: str, root: str) -> bool:
    return place == root or place.startswith(root.rstrip("/") + "/")


def _switch(body: dict[str, Any], field: str, default: bool) -> bool:
    value = body.get(field, default)
    if not isinstance(value, bool):
        raise BadRequest(f"{field} = {value!r} is not allowed", "true or false")
    return value


def _choice(body: dict[str, Any], field: str, allowed: tuple[str, ...]) -> str:
    value = body.get(field, allowed[0])
    if value not in allowed:
        raise BadRequest(f"{field} = {value!r} is not allowed", f"one of {', '.join(allowed)}")
    return str(value)


def _rate(value: Any) -> int | None:
    if value is None:
        return None
    try:
        rate = parse_size(value)
    except (ValueError, TypeError):
        rate = 0
    if rate < 64 << 10:
        raise BadRequest(f"rate_limit = {value!r} is not allowed", 'bytes a second, at least "64KB"')
    return rate


def _unknown(backup_id: str) -> web.Response:
    """404, with what a loop that waits for completed or failed needs to end."""
    answer = {
        "status": "failed",
        "backup_id": backup_id,
        "error": "not_found",
        "message": f"there is no backup {backup_id!r} here",
        "hint": "GET /admin/backups lists them",
    }
    return web.json_response(answer, status=404)
