"""One suite, several worlds: each test gets a `world` fixture that runs a coroutine over real, simulated or in-memory ports."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from sim.world.world import World
from thunderdb.runtime.inline import InlineWorld
from thunderdb.runtime.real_ports import run_real

Main = Callable[[Any], Coroutine[Any, Any, Any]]


class Conformance:
    """`run(main)` drives `main(ports)`; `dir` is an empty directory of its disk; `host` is where its network listens."""

    def __init__(self, kind: str, directory: str, seed: int) -> None:
        self.kind = kind
        self.dir = directory
        self.host = "127.0.0.1"
        self._seed = seed

    def run(self, main: Main) -> Any:
        if self.kind == "real":
            return run_real(main)
        if self.kind.startswith("inline"):
            ports = InlineWorld(suspend=self.kind == "inline-suspend")

            async def inline() -> Any:
                await ports.disk.make_dirs(self.dir)
                return await main(ports)

            return ports.run(inline())
        return self._simulated(main)

    def _simulated(self, main: Main) -> Any:
        world = World(self._seed)
        node = world.node("a")

        async def on_node() -> Any:
            await node.ports.disk.make_dirs(self.dir)
            return await main(node.ports)

        async def harness() -> Any:
            return await node.call(on_node())

        try:
            return world.run(harness(), limit_ns=3600 * 10**9)
        finally:
            world.close()


def _worlds(kinds: tuple[str, ...], request: pytest.FixtureRequest, tmp_path: Path) -> Conformance:
    kind, _, seed = str(request.param).partition(":")
    assert kind in kinds
    directory = os.fspath(tmp_path) if kind == "real" else "/var/data"
    return Conformance(kind, directory, int(seed or 0))


@pytest.fixture(params=["inline", "inline-suspend", "real", "sim:1", "sim:2", "sim:3"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Conformance]:
    """Any world with a disk and tasks."""
    yield _worlds(("inline", "inline-suspend", "real", "sim"), request, tmp_path)


@pytest.fixture(params=["real"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Conformance]:
    """The machine alone, for what only it has."""
    yield _worlds(("real",), request, tmp_path)


@pytest.fixture(params=["real", "sim:1", "sim:2", "sim:3"])
def networked(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Conformance]:
    """A world with a network too."""
    yield _worlds(("real", "sim"), request, tmp_path)
