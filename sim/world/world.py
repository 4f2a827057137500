"""The world: nodes with simulated ports on one kernel, their deaths and their new lives.

    world = World(seed=7)
    node = world.node("a")
    outcome = node.call(engine_coroutine(node.ports))      # a future of the world; NodeDied if the node dies first
    world.run(harness_coroutine())                         # the harness has tasks of its own, which never die

W-1. A crash kills the node's scheduler and ports first, then settles its disk, then its connections; no code of the dead life
     runs again, and what of it is still on the stack gets PortRevoked from each port.
W-2. The coroutines of a dead life lie in a graveyard, so that collecting them runs no `finally` at a random moment; `bury`
     closes them, with dead ports, when their memory is wanted.
W-3. Same seed, same trace hash; every random choice comes from a stream named after its use.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from sim.world.clock import SimClock
from sim.world.disk import Boundary, DeviceProfile, DiskFaults, SimDisk
from sim.world.fates import MixedFates
from sim.world.files import file_kind
from sim.world.image import DiskImage, Fates
from sim.world.kernel import Kernel, PortRevoked, SimScheduler, SimTasks
from sim.world.network import Net, SimNetwork
from sim.world.rand import Stream, Streams
from sim.world.store import SimStores, StoreServer
from sim.world.trace import Op, Sink, Trace
from thunderdb.runtime.sync import Future, Task

T = TypeVar("T")

SECOND_NS = 1_000_000_000
OFFLOAD_WORKERS = 2


class NodeDied(Exception):
    """The node died before the call ended: its outcome is unknown."""


class Stuck(AssertionError):
    """The harness waits, and nothing is left in the world that could wake it (or the time given is over)."""


class SimOffload:
    """Runs the function and charges the time it would have taken in a thread, of which there are as many as in production.

    A function costs what `costs_ns` says for a byte of its arguments ("offload." and its name, and ".zst" where an argument
    names something compressed), else half a nanosecond.
    """

    def __init__(self, scheduler: SimScheduler, latency: Stream) -> None:
        self._scheduler = scheduler
        self._latency = latency
        self._free_ns = [0] * OFFLOAD_WORKERS

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        scheduler = self._scheduler
        if not scheduler.alive:
            raise PortRevoked("offload")
        size = sum(len(argument) for argument in args if isinstance(argument, (bytes, bytearray, memoryview)))
        done: Future[None] = Future(scheduler)
        compressed = any(isinstance(argument, str) and ".zst" in argument for argument in args)
        name = f"offload.{getattr(function, '__name__', '')}{'.zst' if compressed else ''}"
        now_ns, worker = scheduler.kernel.now_ns, self._free_ns.index(min(self._free_ns))
        began_ns = max(now_ns, self._free_ns[worker])
        self._free_ns[worker] = began_ns + int(size * scheduler.costs_ns.get(name, 0.5))
        scheduler.after(self._free_ns[worker] - now_ns + self._latency.between(5_000, 50_000), done.set_result, None)
        await done
        return function(*args)


class SimCommand:
    """Answers shell commands by a function that the scenario gives; without one every command fails as unknown."""

    def __init__(self, scheduler: SimScheduler, node: SimNode) -> None:
        self._scheduler = scheduler
        self._node = node

    async def run(self, command: str, timeout_s: float) -> tuple[int, str]:
        if not self._scheduler.alive:
            raise PortRevoked(command)
        done: Future[None] = Future(self._scheduler)
        self._scheduler.after(self._node.stream("command").between(1_000_000, 5_000_000), done.set_result, None)
        await done
        handler = self._node.on_command
        return handler(command) if handler is not None else (127, f"sh: {command.split(' ')[0]}: not found")

    async def capture(self, command: str, timeout_s: float) -> tuple[int, bytes]:
        """What the handler says is the command's output, not its stderr."""
        status, output = await self.run(command, timeout_s)
        return status, output.encode()


class SimPorts:
    """The ports of one life. Satisfies `ports.Ports`."""

    def __init__(self, node: SimNode) -> None:
        world = node.world
        self.scheduler = SimScheduler(world.kernel, world.trace, node.number, node.stream("order"), node.costs_ns)
        self.scheduler.on_crashed = node.failed
        self.tasks = SimTasks(self.scheduler)
        self.clock = node.clock
        self.disk = SimDisk(self.scheduler, node.image, world.streams, node.name, node.profile, world.fired)
        self.disk.on_fault = world.fault_at
        self.network = SimNetwork(world.net, node.name, self.scheduler)
        self.random = node.stream("random")
        self.offload = SimOffload(self.scheduler, node.stream("offload"))
        self.command = SimCommand(self.scheduler, node)
        self.stores = SimStores(world.store, self.scheduler, node.stream("store"))


class SimNode:
    """A machine: its disk and clocks outlive its process; `ports` are those of the present life (or of the last one)."""

    def __init__(self, world: World, name: str, number: int, image: DiskImage, profile: DeviceProfile) -> None:
        self.world = world
        self.name = name
        self.number = number
        self.image = image
        self.profile = profile
        self.costs_ns: dict[str, float] = {}
        self.clock = SimClock(world.kernel)
        self.on_command: Callable[[str], tuple[int, str]] | None = None
        self.on_boundary: Boundary | None = None
        self.faults = DiskFaults()
        self.lives = 1
        self.powered = True
        self.crashes = 0
        self.crash_ns = 0
        self.fatal: BaseException | None = None
        self.died: Future[None] = Future(world.scheduler)
        self._calls: dict[Future[Any], None] = {}
        self.ports = self._new_ports()

    @property
    def alive(self) -> bool:
        return self.ports.scheduler.alive

    def stream(self, kind: str) -> Stream:
        return self.world.streams.stream(f"{self.name}.{kind}")

    def _new_ports(self) -> SimPorts:
        ports = SimPorts(self)
        ports.disk.on_boundary = self.on_boundary
        ports.disk.set_faults(self.faults)
        return ports

    # Work.

    def call(self, coro: Coroutine[Any, Any, T], name: str = "call") -> Future[T]:
        """Run a coroutine on the node; return a future of the world, which gets NodeDied if the node dies before it ends."""
        outcome: Future[T] = Future(self.world.scheduler)
        if not self.alive:
            coro.close()
            outcome.set_error(NodeDied(self.name))
            return outcome
        self._calls[outcome] = None
        task: Task[T] = self.ports.tasks.spawn(coro, name)

        def ended(_: Future[T]) -> None:
            if self._calls.pop(outcome, 0) == 0:
                return
            error = task.error()
            if error is None:
                outcome.set_result(task.result())
            else:
                outcome.set_error(error)

        if task.done() and self.alive:
            ended(task)
        else:
            task.add_done_callback(ended)
        return outcome

    def set_faults(self, faults: DiskFaults) -> None:
        """Faults of this disk from now on, in this life and the next."""
        self.faults = faults
        self.ports.disk.set_faults(faults)

    def set_boundary(self, hook: Boundary | None) -> None:
        """Call `hook(action, path, before)` at each boundary of a changing disk operation, in this life and the next."""
        self.on_boundary = hook
        self.ports.disk.on_boundary = hook

    def crash_at(self, boundary: int, power: bool = True, fates: Fates | None = None) -> None:
        """Die exactly at the `boundary`-th boundary from now (1 is the next one)."""
        left = boundary

        def hook(action: str, path: str, before: bool) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                self.set_boundary(None)
                self.crash(power=power, fates=fates)

        self.set_boundary(hook)

    def pause(self) -> None:
        """Freeze the process (SIGSTOP): its clock goes on, its callbacks wait."""
        self.world.fired["pause"] += 1
        self.ports.scheduler.pause()

    def resume(self) -> None:
        self.ports.scheduler.resume()

    # Death and life.

    def crash(self, power: bool = True, fates: Fates | None = None) -> None:
        """End this life: kill -9 (`power=False`: the cache survives) or a power cut (fates decide what was not synced)."""
        if not self.alive:
            if power and self.powered:
                self._lose_power(fates)
            return
        world = self.world
        self.ports.scheduler.kill()  # W-1: before anything else
        self.crashes += 1
        self.crash_ns = world.kernel.now_ns
        world.fired["power_cut" if power else "kill"] += 1
        world.trace.event(self.crash_ns, self.number, Op.CRASH, b"power" if power else b"kill")
        world.graveyard.append(self.ports)
        fates = fates or MixedFates(self.stream(f"fates.{self.crashes}"))
        self.ports.disk.end(power, fates)
        self._count_fates(fates)
        self.powered = not power
        world.net.node_died(self.name, silently=power)
        calls, self._calls = self._calls, {}
        for outcome in calls:
            outcome.set_error(NodeDied(self.name))
        self.died.set_result(None)

    def _lose_power(self, fates: Fates | None) -> None:
        """The process was dead already; now the cache goes too."""
        self.crashes += 1
        self.world.fired["power_cut"] += 1
        self.world.trace.event(self.world.kernel.now_ns, self.number, Op.CRASH, b"power after kill")
        fates = fates or MixedFates(self.stream(f"fates.{self.crashes}"))
        self.image.power_cut(fates)
        self._count_fates(fates)
        self.powered = False
        self.world.net.node_died(self.name, silently=True)

    def _count_fates(self, fates: Fates) -> None:
        if isinstance(fates, MixedFates):
            counts = {"unsynced_lost": fates.lost, "unsynced_torn": fates.torn, "names_lost": fates.entries_lost}
            for kind, count in counts.items():
                if count:
                    self.world.fired[kind] += count

    def failed(self, error: BaseException) -> None:
        """The engine gave up (S2): its process ends, as after kill -9."""
        if self.alive and not isinstance(error, PortRevoked):
            self.fatal = error
            self.crash(power=False)

    def restart(self) -> SimPorts:
        """Start a new life on what the disk has; return its ports."""
        if self.alive:
            raise AssertionError(f"{self.name} is alive")
        if not self.powered:
            self.clock.power_on(self.stream("boot").between(1, 3600) * SECOND_NS)
        self.powered = True
        self.lives += 1
        self.fatal = None
        self.died = Future(self.world.scheduler)
        self.world.trace.event(self.world.kernel.now_ns, self.number, Op.RESTART)
        self.ports = self._new_ports()
        self.world.net.node_up(self.name)
        return self.ports


class World:
    """One simulated world from one seed."""

    def __init__(self, seed: int, record: bool | Sink = False) -> None:
        self.seed = seed
        self.streams = Streams(seed)
        self.trace = Trace(record)
        self.kernel = Kernel(self.streams.stream("ties"))
        self.fired: Counter[str] = Counter()
        self.coverage: Counter[str] = Counter()
        self.phase = "serving"
        self.scheduler = SimScheduler(self.kernel, self.trace, 0, self.streams.stream("order"))
        self.tasks = SimTasks(self.scheduler)
        self.net = Net(self.kernel, self.trace, self.streams, self.fired)
        self.store = StoreServer(fired=self.fired, on_fault=self.struck)
        self.nodes: dict[str, SimNode] = {}
        self.graveyard: list[SimPorts] = []

    @property
    def now_ns(self) -> int:
        return self.kernel.now_ns

    def fault_at(self, fault: str, path: str) -> None:
        """A fault strikes a file: for the coverage table."""
        self.struck(fault, file_kind(path))

    def struck(self, fault: str, kind: str) -> None:
        """A fault strikes something of a kind: for the coverage table."""
        self.coverage[f"{fault}|{kind}|{self.phase}"] += 1

    def node(self, name: str, image: DiskImage | None = None, profile: DeviceProfile | None = None) -> SimNode:
        """The node of that name; made, with an empty disk or the given one, at its first mention."""
        found = self.nodes.get(name)
        if found is None:
            number = len(self.nodes) + 1
            found = SimNode(self, name, number, image or DiskImage(), profile or DeviceProfile())
            self.nodes[name] = found
            self.net.add_host(name, number)
        return found

    def run(self, coro: Coroutine[Any, Any, T], limit_ns: int | None = None) -> T:
        """Drive a harness coroutine to its end. Raises: Stuck if it can never end, or not within `limit_ns`."""
        task: Task[T] = self.tasks.spawn(coro, "harness")
        until_ns = None if limit_ns is None else self.kernel.now_ns + limit_ns
        if not self.kernel.run_until(task.done, until_ns):
            raise Stuck(f"seed {self.seed}: the harness still waits at {self.kernel.now_ns / SECOND_NS:.6f} s")
        return task.result()

    def run_for(self, duration_ns: int) -> None:
        """Let the world run for a time."""
        self.kernel.run_until(_never, self.kernel.now_ns + duration_ns)

    def bury(self) -> None:
        """W-2: close the coroutines of dead lives and forget them. Their `finally` blocks meet only dead ports."""
        graves, self.graveyard = self.graveyard, []
        for ports in graves:
            for task in ports.tasks.unfinished():
                try:
                    task._coro.close()
                except (Exception, PortRevoked):
                    pass  # A coroutine that would not die quietly; it can reach nothing.

    def close(self) -> None:
        """End everything, so that nothing of this world outlives it."""
        for node in self.nodes.values():
            if node.alive:
                node.ports.scheduler.kill()
                self.graveyard.append(node.ports)
        self.bury()


def _never() -> bool:
    return False
