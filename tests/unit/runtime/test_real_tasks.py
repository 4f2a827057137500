"""The bridges between the engine's futures and asyncio's, and the one way to die."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from thunderdb.runtime.real_ports import real_ports, run_real
from thunderdb.runtime.real_tasks import await_in_asyncio, from_asyncio, run_engine
from thunderdb.runtime.sync import Cancelled


def test_asyncio_awaits_an_engine_task_and_its_error() -> None:
    async def body() -> str:
        ports = real_ports()

        async def engine(fail: bool) -> str:
            await ports.tasks.sleep(1000)
            if fail:
                raise KeyError("engine")
            return "answer"

        answer = await run_engine(ports.tasks, engine(False))
        with pytest.raises(KeyError, match="engine"):
            await run_engine(ports.tasks, engine(True))
        assert await await_in_asyncio(ports.tasks.spawn(_at_once())) == "at once"
        ports.close()
        return answer

    assert asyncio.run(body()) == "answer"


async def _at_once() -> str:
    return "at once"


def test_a_cancelled_asyncio_side_leaves_the_engine_running() -> None:
    async def body() -> Any:
        ports = real_ports()
        future = ports.tasks.future()
        waiting = asyncio.ensure_future(await_in_asyncio(future))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not future.done()
        future.set_result("later")
        ports.close()
        return future.result()

    assert asyncio.run(body()) == "later"


def test_the_engine_awaits_an_asyncio_coroutine_its_error_and_its_cancellation() -> None:
    async def main(ports: Any) -> str:
        async def answer() -> str:
            await asyncio.sleep(0)
            return "from asyncio"

        async def fail() -> None:
            raise KeyError("asyncio")

        async def cancelled() -> None:
            raise asyncio.CancelledError

        with pytest.raises(KeyError, match="asyncio"):
            await from_asyncio(ports.scheduler, fail())
        with pytest.raises(Cancelled):
            await from_asyncio(ports.scheduler, cancelled())
        return await from_asyncio(ports.scheduler, answer())

    assert run_real(main) == "from asyncio"


def test_an_error_in_a_bare_callback_stops_the_node() -> None:
    async def main(ports: Any) -> None:
        ports.scheduler.call_soon(lambda: 1 // 0)
        await ports.tasks.sleep(10**12)

    with pytest.raises(ZeroDivisionError):
        run_real(main)


def test_only_the_first_fatal_error_is_told() -> None:
    async def body() -> list[str]:
        told: list[str] = []
        ports = real_ports(on_fatal=lambda error: told.append(str(error)))
        ports.scheduler.crashed(ValueError("first"))
        ports.scheduler.crashed(ValueError("second"))
        ports.close()
        return told

    assert asyncio.run(body()) == ["first"]
