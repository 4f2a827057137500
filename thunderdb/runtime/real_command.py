"""Shell commands (archive and restore commands), in a process group of their own so that a time-out ends all of it."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress

from thunderdb.runtime.real_tasks import AsyncioScheduler, from_asyncio

STDERR_TAIL_BYTES = 4096
CAPTURED_BYTES = 64 << 10
CLOSING_S = 1


class RealCommand:
    def __init__(self, scheduler: AsyncioScheduler) -> None:
        self._scheduler = scheduler

    async def run(self, command: str, timeout_s: float) -> tuple[int, str]:
        return await from_asyncio(self._scheduler, _run(command, timeout_s))

    async def capture(self, command: str, timeout_s: float) -> tuple[int, bytes]:
        return await from_asyncio(self._scheduler, _capture(command, timeout_s))


async def _run(command: str, timeout_s: float) -> tuple[int, str]:
    pipe, nowhere = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_shell(command, stdin=nowhere, stdout=nowhere, stderr=pipe, start_new_session=True)
    try:
        status, tail = await _ended(process, process.stderr, STDERR_TAIL_BYTES, timeout_s)
    except TimeoutError:
        raise TimeoutError(f"command did not end within {timeout_s:g} s: {command}") from None
    return status, tail.decode(errors="replace")


async def _capture(command: str, timeout_s: float) -> tuple[int, bytes]:
    pipe, nowhere = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_shell(command, stdin=nowhere, stdout=pipe, stderr=nowhere, start_new_session=True)
    try:
        return await _ended(process, process.stdout, CAPTURED_BYTES, timeout_s)
    except TimeoutError:
        raise TimeoutError(f"command did not end within {timeout_s:g} s") from None


async def _ended(
    process: asyncio.subprocess.Process, stream: asyncio.StreamReader | None, most: int, timeout_s: float
) -> tuple[int, bytes]:
    """Wait for the end of the process and of whoever holds its stream; return its status and the last bytes of the stream.

    Raises: TimeoutError; then none of its process group is left, also where the shell itself has ended before.
    """
    try:
        async with asyncio.timeout(timeout_s):
            tail = await _tail(stream, most)
            status = await process.wait()
    except BaseException:
        _kill_group(process.pid)
        await process.wait()
        with suppress(TimeoutError):  # who has left the group may hold the stream for ever
            async with asyncio.timeout(CLOSING_S):
                await _tail(stream, most)
        raise
    return status, tail


async def _tail(stream: asyncio.StreamReader | None, most: int) -> bytes:
    """Read to the end, keeping only the last bytes."""
    tail = b""
    while stream is not None and (chunk := await stream.read(most)):
        tail = (tail + chunk)[-most:]
    return tail


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
