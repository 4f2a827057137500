"""Who may use the admin API: whoever has the token, if one is configured; else whoever is on this machine.

A1. With a token, everything but OPEN asks for `Authorization: Bearer <token>`; any guess is compared in the same time.
A2. The token's file is the owner's alone (0600 or less): one that others can read is refused, for then it is no secret.
A3. Without a token, a request that a web page made in somebody's browser (it has an Origin, or the Host of another machine) is
    refused: it comes from this machine too, but nobody asked for it.
A4. The token is never logged, shown or part of an error.
"""

from __future__ import annotations

import hmac
import os
import stat
from collections.abc import Awaitable, Callable

from aiohttp import web

from thunderdb.base.config_values import is_loopback
from thunderdb.base.errors import Refused

OPEN = frozenset({"/admin/live", "/admin/ready", "/metrics"})
"""For probes and for Prometheus: no data, no names, nothing that changes anything."""
LEAST_LENGTH = 16

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def read_token(path: str) -> str:
    """The token in a file, without the line break at its end; "" for no file. Raises: Refused (A2)."""
    if not path:
        return ""
    try:
        with open(path, encoding="ascii") as file:
            mode = os.fstat(file.fileno()).st_mode
            token = file.read(4096).strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not ASCII text"
        raise Refused(
            f"cannot read admin_token_file {path}: {reason}", "make one: openssl rand -hex 32 > FILE; chmod 600 FILE"
        ) from None
    if stat.S_IMODE(mode) & 0o077:
        raise Refused(
            f"admin_token_file {path} can be read by others (mode {stat.S_IMODE(mode):04o})", f"run: chmod 600 {path}"
        )
    if len(token) < LEAST_LENGTH or not token.isprintable() or " " in token:
        raise Refused(
            f"admin_token_file {path} holds no usable token: at least {LEAST_LENGTH} printable characters are needed",
            "make one: openssl rand -hex 32 > FILE; chmod 600 FILE",
        )
    return token


def guard(
    token: str, refuse: Callable[[int, str, str, str], web.StreamResponse]
) -> Callable[..., Awaitable[web.StreamResponse]]:
    """A middleware that lets in whoever may come in (A1, A3)."""
    expected = token.encode()

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in OPEN:
            return await handler(request)
        if expected:
            scheme, _, given = request.headers.get("Authorization", "").partition(" ")
            right = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), expected)
            if scheme.lower() != "bearer" or not right:
                hint = "send the header Authorization: Bearer <token>, with the token of admin_token_file"
                answer = refuse(401, "unauthorized", "the admin API of this node asks for a token", hint)
                answer.headers["WWW-Authenticate"] = 'Bearer realm="thunderdb"'
                return answer
        elif "Origin" in request.headers or not _is_local(request.host):
            hint = "call it from this machine by 127.0.0.1 or localhost, or configure admin_token_file"
            return refuse(403, "forbidden", "the admin API takes no requests of web pages", hint)
        return await handler(request)

    return check


def _is_local(host: str) -> bool:
    """Whether a Host header names this machine's loopback, with or without a port."""
    if host.startswith("["):
        return is_loopback(host[1:].partition("]")[0])
    name, _, port = host.rpartition(":")
    return is_loopback(name if name and port.isdigit() else host)
