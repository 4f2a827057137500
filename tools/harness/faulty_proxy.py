"""An HTTP proxy in front of a store that misbehaves on request, as networks and stores do.

    proxy.fault("503", method="PUT", times=3)

Kinds: a status such as `503` (answered without asking the store); `hang` (no answer); `drop` (the connection is lost before the
store is asked); `drop_after` (… after the store has done it); `truncate` (half of the body, then the connection is lost).
`seen` is every request as (method, path and query); `fired` counts the faults.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from dataclasses import dataclass

import aiohttp
from aiohttp import web
from yarl import URL

from tools.harness.web_thread import WebThread

FOREVER = 1 << 30
_OURS = {"connection", "transfer-encoding", "content-length", "keep-alive", "content-encoding"}
_CODES = {403: "AccessDenied", 429: "TooManyRequests", 500: "InternalError", 503: "SlowDown"}


@dataclass(slots=True)
class Fault:
    kind: str
    method: str
    path: re.Pattern[str]
    times: int


class FaultyProxy(WebThread):
    def __init__(self, target: str) -> None:
        super().__init__()
        self.target = target
        self.faults: list[Fault] = []
        self.fired: Counter[str] = Counter()
        self.seen: list[tuple[str, str]] = []
        self._client: aiohttp.ClientSession | None = None

    def fault(self, kind: str, *, method: str = "", path: str = "", times: int = FOREVER) -> None:
        """Apply to requests of the method whose path and query match the pattern, the first `times` of them."""
        self.faults.append(Fault(kind, method, re.compile(path), times))

    def clear(self) -> None:
        self.faults.clear()
        self.fired.clear()
        self.seen.clear()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.seen.append((request.method, request.raw_path))
        body = b"".join([chunk async for chunk in request.content.iter_any()])
        kind = self._next(request)
        if kind.isdigit():
            text = f"<Error><Code>{_CODES.get(int(kind), kind)}</Code><Message>Injected.</Message></Error>"
            return web.Response(status=int(kind), text=text, content_type="application/xml")
        if kind == "hang":
            await asyncio.sleep(3600)
        if kind == "drop":
            return self._lose(request)
        status, headers, answer = await self._forward(request, body)
        if kind == "drop_after":
            return self._lose(request)
        if kind == "truncate" and len(answer) > 1:
            response = web.StreamResponse(status=status, headers=headers | {"Content-Length": str(len(answer))})
            await response.prepare(request)
            await response.write(answer[: len(answer) // 2])
            return self._lose(request)
        if request.method == "HEAD":
            return web.Response(status=status, headers=headers)
        return web.Response(status=status, headers=headers, body=answer)

    def _next(self, request: web.BaseRequest) -> str:
        for fault in self.faults:
            if fault.times > 0 and fault.method in ("", request.method) and fault.path.search(request.raw_path):
                fault.times -= 1
                self.fired[fault.kind] += 1
                return fault.kind
        return ""

    def _lose(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.transport is not None:
            request.transport.abort()
        return web.Response()

    async def _forward(self, request: web.BaseRequest, body: bytes) -> tuple[int, dict[str, str], bytes]:
        if self._client is None:
            self._client = aiohttp.ClientSession(
                auto_decompress=False, skip_auto_headers=("Content-Type", "Accept", "User-Agent")
            )
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _OURS}
        url = URL(self.target + request.raw_path, encoded=True)
        async with self._client.request(request.method, url, headers=headers, data=body, allow_redirects=False) as answer:
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in _OURS}
            if request.method == "HEAD" and "Content-Length" in answer.headers:
                kept["Content-Length"] = answer.headers["Content-Length"]
            return answer.status, kept, await answer.read()

    async def closing(self) -> None:
        if self._client is not None:
            await self._client.close()
