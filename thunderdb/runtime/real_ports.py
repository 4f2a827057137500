"""All of production's ports, made inside a running asyncio loop.

async def main() -> None:
    ports = real_ports(on_fatal=stop)
    await run_engine(ports.tasks, engine_main(ports))

result = run_real(engine_main)      for tools and tests: a loop of its own, closed at the end
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from thunderdb.runtime.real_clock import RealClock, RealRandom
from thunderdb.runtime.real_command import RealCommand
from thunderdb.runtime.real_disk import RealDisk
from thunderdb.runtime.real_network import RealNetwork
from thunderdb.runtime.real_offload import RealOffload
from thunderdb.runtime.real_store import RealStores
from thunderdb.runtime.real_tasks import AsyncioScheduler, OnFatal, run_engine
from thunderdb.runtime.sync import Tasks

T = TypeVar("T")


@dataclass(slots=True)
class RealPorts:
    """Satisfies `ports.Ports`."""

    scheduler: AsyncioScheduler
    tasks: Tasks
    clock: RealClock
    disk: RealDisk
    network: RealNetwork
    random: RealRandom
    offload: RealOffload
    command: RealCommand
    stores: RealStores

    def close(self) -> None:
        """End the threads; waits for those that are at work."""
        self.disk.close()
        self.offload.close()


def real_ports(on_fatal: OnFatal | None = None) -> RealPorts:
    """Open the ports on the running loop. `on_fatal` is called once, with the error that must stop the node."""
    scheduler = AsyncioScheduler(asyncio.get_running_loop(), on_fatal)
    scheduler.catch_loop_errors()
    return RealPorts(
        scheduler=scheduler,
        tasks=Tasks(scheduler),
        clock=RealClock(),
        disk=RealDisk(scheduler),
        network=RealNetwork(scheduler),
        random=RealRandom(),
        offload=RealOffload(scheduler),
        command=RealCommand(scheduler),
        stores=RealStores(scheduler),
    )


def run_real(main: Callable[[RealPorts], Coroutine[Any, Any, T]]) -> T:
    """Run an engine coroutine on a loop of its own to its end; a fatal error in the background ends it too."""

    async def body() -> T:
        fatal: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def on_fatal(error: BaseException) -> None:
            if not fatal.done():
                fatal.set_exception(error)

        ports = real_ports(on_fatal)
        ended = asyncio.ensure_future(run_engine(ports.tasks, main(ports)))
        try:
            done, _ = await asyncio.wait([fatal, ended], return_when=asyncio.FIRST_COMPLETED)
            return fatal.result() if fatal in done else ended.result()
        finally:
            fatal.cancel()
            ended.cancel()
            ports.close()

    return asyncio.run(body())
