"""A small aiohttp application in a thread of its own, on a free port of the loopback: stubs and proxies for tests."""

from __future__ import annotations

import asyncio
import threading

from aiohttp import web


class WebThread:
    """Subclasses answer every request in `handle`, on the thread's loop."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._runner: web.ServerRunner | None = None

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        raise NotImplementedError

    async def closing(self) -> None:
        """Release what the subclass holds."""

    def start(self) -> str:
        """Return http://host:port."""
        self._thread.start()
        port = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(30)
        return f"http://127.0.0.1:{port}"

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    async def _listen(self) -> int:
        self._runner = web.ServerRunner(web.Server(self.handle, access_log=None), shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        return int(port)

    async def _close(self) -> None:
        await self.closing()
        if self._runner is not None:
            await self._runner.cleanup()
        left = asyncio.all_tasks() - {asyncio.current_task()}  # requests that were left without an answer
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
