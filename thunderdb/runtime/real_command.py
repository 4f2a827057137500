"""Shell commands (archive and restore commands), in a process group of their own so that a time-out ends all of it."""

from __future__ import annotations

import asyncio
import os
import signal

from thunderdb.runtime.real_tasks import AsyncioScheduler, from_asyncio

STDERR_TAIL_BYTES = 4096


class RealCommand:
    def __init__(self, scheduler: AsyncioScheduler) -> None:
        self._scheduler = scheduler

    async def run(self, command: str, timeout_s: float) -> tuple[int, str]:
        return await from_asyncio(self._scheduler, _run(command, timeout_s))


async def _run(command: str, timeout_s: float) -> tuple[int, str]:
    process = await asyncio.create_subprocess_shell(
        command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(timeout_s):
            tail = await _tail(process)
            status = await process.wait()
    except TimeoutError:
        raise TimeoutError(f"command did not end within {timeout_s:g} s: {command}") from None
    finally:
        if process.returncode is None:
            _kill_group(process.pid)
            await process.wait()
    return status, tail.decode(errors="replace")


async def _tail(process: asyncio.subprocess.Process) -> bytes:
    """Read stderr to its end, keeping only the last bytes."""
    stream = process.stderr
    tail = b""
    while stream is not None and (chunk := await stream.read(STDERR_TAIL_BYTES)):
        tail = (tail + chunk)[-STDERR_TAIL_BYTES:]
    return tail


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
