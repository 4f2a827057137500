"""Where the simulator's time goes: engine events per second of a core, from the bare kernel up to SQL under power cuts.

    python -m tools.sim_speed [--rounds 3] [--json]

Each step of the ladder adds one thing; what it says is CPU time for each event, the best of so many rounds. The last steps are
the scenarios themselves, so that the difference to the step before is what the harness (clients, model, checks) and the outages
cost.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sim.clients import tpcb
from sim.clients.engine_session import SimDatabase
from sim.incident.play import play
from sim.scenario import scenario as scenarios
from sim.scenario.scenario import Scenario
from sim.world.world import World
from thunderdb.base import config as daemon_config
from thunderdb.base.events import Events
from thunderdb.runtime.ports import Connection

EVENTS = 20_000
TRANSACTIONS = 1_000
SEEDS = range(6)
PORT = 5432
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the ladder, measured."""

    name: str
    events: int
    cpu_s: float
    sim_s: float

    @property
    def shown(self) -> dict[str, Any]:
        return {
            "step": self.name, "events": self.events, "us_per_event": round(1e6 * self.cpu_s / self.events, 2),
            "events_per_s": int(self.events / self.cpu_s), "times_real": round(self.sim_s / self.cpu_s, 2),
        }  # fmt: skip


def _callbacks(world: World) -> None:
    """Timers that call a function: the heap, the seeded ties, the trace."""
    scheduler, left, done = world.scheduler, EVENTS, world.tasks.future()

    def fired() -> None:
        nonlocal left
        left -= 1
        if left:
            scheduler.call_later(1000, fired)
        else:
            done.set_result(None)

    async def main() -> None:
        fired()
        await done

    world.run(main())


def _sleeps(world: World) -> None:
    """Timers that resume a coroutine."""

    async def main() -> None:
        for _ in range(EVENTS):
            await world.tasks.sleep(1000)

    world.run(main())


def _disk(world: World) -> None:
    """A log's writes and syncs."""
    node = world.node("a")

    async def main() -> None:
        file = await node.ports.disk.open("/log", create=True)
        for number in range(EVENTS // 2):
            await file.write(number * 200 % (1 << 20), bytes(200))
            await file.sync()

    async def run() -> None:
        await node.call(main())

    world.run(run())


def _network(world: World) -> None:
    """Messages there and back, some of them in pieces."""
    server, client = world.node("a"), world.node("b")
    left, done = EVENTS // 2, world.tasks.future()

    def accept(connection: Connection) -> None:
        connection.set_callbacks(connection.write, lambda _error: None)

    async def run() -> None:
        await server.call(server.ports.network.listen("a", PORT, accept))
        connection = await client.call(client.ports.network.connect("a", PORT))

        def answered(data: bytes) -> None:
            nonlocal left
            left -= 1
            if left > 0:
                connection.write(data)
            else:
                done.set_result(None)

        connection.set_callbacks(answered, lambda _error: None)
        connection.write(bytes(60))
        await done

    world.run(run())


def _engine(world: World) -> Callable[[], None]:
    """TPC-B on the engine's API, one client, nothing broken; the tables are there before."""
    node = world.node("a")
    config = daemon_config.parse("", flags={**tpcb.SETTINGS, "data_dir": "/data", "wal_dir": "/wal"})
    opened: list[SimDatabase] = []

    async def prepare() -> None:
        opened.append(await node.call(SimDatabase.open(node.ports, config, Events())))
        await node.call(tpcb.load(opened[0]))

    async def run() -> None:
        await node.call(tpcb.run(opened[0], TRANSACTIONS))

    world.run(prepare())
    return lambda: world.run(run())


def _timed(name: str, prepare: Callable[[World], Callable[[], None]], rounds: int) -> Step:
    best = Step(name, 1, float("inf"), 0.0)
    for _ in range(rounds):
        world = World(1)
        work = prepare(world)
        events, now_ns, began = world.trace.events, world.now_ns, time.process_time()
        work()
        cpu_s = time.process_time() - began
        if cpu_s < best.cpu_s:
            best = Step(name, world.trace.events - events, cpu_s, (world.now_ns - now_ns) / 1e9)
        world.close()
        gc.collect()
    return best


def _scenario(name: str, scenario: Scenario, seeds: range, rounds: int) -> Step:
    """Whole runs, garbage collection included, as `thunderdb-sim run` counts them."""
    best = Step(name, 1, float("inf"), 0.0)
    play(scenario, 10_000)  # what a process pays once
    for _ in range(rounds):
        events, sim_ns, began = 0, 0, time.process_time()
        for seed in seeds:
            result = play(scenario, seed)
            events, sim_ns = events + result.events, sim_ns + result.sim_ns
            gc.collect()
        cpu_s = time.process_time() - began
        if cpu_s < best.cpu_s:
            best = Step(name, events, cpu_s, sim_ns / 1e9)
    return best


def ladder(rounds: int) -> list[Step]:
    """Every step, measured."""
    gc.disable()
    steps = [
        _timed("kernel: a timer calls a function", lambda world: lambda: _callbacks(world), rounds),
        _timed("+ a coroutine: sleep", lambda world: lambda: _sleeps(world), rounds),
        _timed("+ disk: 200 bytes written, synced", lambda world: lambda: _disk(world), rounds),
        _timed("+ network: a message there and back", lambda world: lambda: _network(world), rounds),
        _timed("+ engine: TPC-B, one client", _engine, rounds),
    ]
    power_cut = scenarios.load(str(ROOT / "scenarios/power_cut.yaml"))
    for driver in ("engine", "sql"):
        one = replace(power_cut, workload=replace(power_cut.workload, driver=driver))
        steps.append(_scenario(f"power_cut, driver {driver}", one, SEEDS, rounds))
    hour = scenarios.load(str(ROOT / "scenarios/archive/outage_of_an_hour.yaml"))
    steps.append(_scenario("outage_of_an_hour", hour, range(1), rounds))
    gc.enable()
    return steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="The best of so many rounds counts (3).")
    parser.add_argument("--json", action="store_true", help="Print one JSON object a step.")
    options = parser.parse_args()
    for step in ladder(max(1, options.rounds)):
        shown = step.shown
        if options.json:
            print(json.dumps(shown))
        else:
            print(
                f"{shown['step']:38} {shown['us_per_event']:7.2f} us an event {shown['events_per_s']:9} events/s"
                f"  {shown['times_real']:8} times real time"
            )


if __name__ == "__main__":
    main()
