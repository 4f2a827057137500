"""What breaks in one run: drawn from the seed once, before the run, so that what the engine does cannot move it.

Swarm: each seed leaves some kinds of faults and of work out altogether, since faults hide each other (Groce et al., 2012).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sim.scenario.scenario import Scenario
from sim.world.devices import disk as disk_profile
from sim.world.fates import AllLanded, NoneLanded
from sim.world.image import Fates
from sim.world.rand import Stream, derive

BOUNDARIES_LOG2 = 7.0
DIRTY_SHARE = 0.7
DEEPEST = 3


@dataclass(frozen=True, slots=True)
class Strike:
    """One death: by power or kill -9, `boundary` I/O boundaries from now (0: at once), with these fates.

    With `dirty`, only boundaries count at which something is not synced, so that a power cut has something to decide.
    """

    power: bool
    boundary: int
    fates: str
    dirty: bool = False


@dataclass(frozen=True, slots=True)
class Outage:
    """One way for the node to go down, and how its restart is struck."""

    kind: str
    after_ns: int
    strike: Strike
    down_ns: int
    in_recovery: tuple[Strike, ...]
    full_at_ns: int
    full_for_ns: int
    full_room: int
    skip_syncs: int
    exit_ns: int
    cut_at_ns: int
    cut_for_ns: int
    cut_one_way: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a seed decides in advance."""

    driver: str
    clients: int
    mix: dict[str, int]
    disk: dict[str, float]
    sync_ns: int
    reset: float
    outages: tuple[Outage, ...]
    at_creation: tuple[Strike, ...]
    last_life_ns: int


def draw(scenario: Scenario, seed: int) -> Plan:
    """The plan of a seed."""
    stream = Stream(derive(seed, "plan"))
    work, faults = scenario.workload, scenario.faults
    driver = stream.choice(("engine", "sql", "sql")) if work.driver == "either" else work.driver
    driver = driver or ("sql" if work.kind == "list_append" else "engine")
    clients = stream.between(*work.clients)
    mix = _leave_out(Stream(derive(seed, "plan.mix")), work.mix or {"transfer": 1}, faults.swarm / 2)
    swarm = Stream(derive(seed, "plan.swarm"))
    kinds = _leave_out(swarm, faults.kinds, faults.swarm)
    fates = _leave_out(swarm, faults.fates, faults.swarm)
    disk = {kind: chance for kind, chance in faults.disk.items() if swarm.random() >= faults.swarm}
    boundary = 0.0 if swarm.random() < faults.swarm else faults.at_boundary
    full = 0.0 if swarm.random() < faults.swarm else faults.disk_full
    reset, cut = (0.0 if swarm.random() < faults.swarm else faults.network.get(kind, 0.0) for kind in ("reset", "partition"))
    count = stream.between(*faults.outages)
    outages = [
        _outage(Stream(derive(seed, f"plan.{i}")), scenario, kinds, fates, boundary, full, cut) for i in range(count)
    ]
    creation = Stream(derive(seed, "plan.creation"))
    at_creation = _deaths(creation, 0.15 if faults.kinds else 0.0, fates)
    sync_ns = int(disk_profile(scenario.device).sync_ns * 10 ** (stream.random() * 1.5 - 0.5))
    return Plan(
        driver, clients, mix, disk, sync_ns, reset, tuple(outages), at_creation, stream.between(5, 40) * 1_000_000
    )  # fmt: skip


def _leave_out(stream: Stream, weights: Mapping[str, int], chance: float) -> dict[str, int]:
    """Drop each entry with a chance, but never all of them."""
    kept = {name: weight for name, weight in weights.items() if weight and stream.random() >= chance}
    return kept or {name: weight for name, weight in weights.items() if weight}


def pick(stream: Stream, weights: Mapping[str, int]) -> str:
    """One name by weight."""
    at = stream.between(1, sum(weights.values()))
    for name, weight in weights.items():
        at -= weight
        if at <= 0:
            return name
    raise AssertionError("no weights")


def _outage(
    stream: Stream,
    scenario: Scenario,
    kinds: dict[str, int],
    fates: dict[str, int],
    boundary: float,
    full: float,
    cut: float,
) -> Outage:
    faults = scenario.faults
    kind = pick(stream, kinds)
    power = {"power_cut": True, "kill": False, "kill_then_power_cut": False}.get(kind, stream.random() < 0.5)
    at = stream.random() < boundary
    in_recovery = _deaths(stream, faults.during_recovery, fates)
    if kind == "kill_then_power_cut":
        # The cache of the dead process is still there when the restart relies on it, and then it is not (W4).
        in_recovery = (_strike(stream, True, stream.random() < 0.9, fates), *in_recovery)
    return Outage(
        kind=kind,
        after_ns=stream.between(*faults.after_ns),
        strike=_strike(stream, power, at, fates),
        down_ns=stream.between(*faults.down_ns),
        in_recovery=in_recovery,
        full_at_ns=stream.between(0, faults.after_ns[1] // 2) if stream.random() < full else -1,
        full_for_ns=stream.between(1_000_000, 300_000_000),
        full_room=stream.between(0, 600_000),
        skip_syncs=stream.between(0, 40),
        exit_ns=stream.between(0, 5_000_000),
        cut_at_ns=stream.between(0, faults.after_ns[1] // 2) if stream.random() < cut else -1,
        cut_for_ns=stream.between(1_000_000, 40_000_000),
        cut_one_way=stream.random() < 0.5,
    )


def _deaths(stream: Stream, chance: float, fates: dict[str, int]) -> tuple[Strike, ...]:
    deaths: list[Strike] = []
    while len(deaths) < DEEPEST and stream.random() < chance:
        deaths.append(_strike(stream, stream.random() < 0.7, True, fates))
    return tuple(deaths)


def _strike(stream: Stream, power: bool, at_boundary: bool, fates: dict[str, int]) -> Strike:
    """Early boundaries are as likely as the many late ones together."""
    dirty = stream.random() < DIRTY_SHARE
    boundary = int(2 ** (stream.random() * (BOUNDARIES_LOG2 - 2 * dirty))) if at_boundary else 0
    return Strike(power, boundary, pick(stream, fates), dirty)


def fates_of(name: str) -> Fates | None:
    """The fates by name; None lets the node draw a mix of its own."""
    if name == "all":
        return AllLanded()
    if name == "none":
        return NoneLanded()
    return None


def describe(outage: Outage) -> dict[str, Any]:
    """An outage for people."""
    return {
        "kind": outage.kind, "after_ms": outage.after_ns / 1e6, "boundary": outage.strike.boundary,
        "fates": outage.strike.fates, "in_recovery": len(outage.in_recovery), "disk_full": outage.full_at_ns >= 0,
    }  # fmt: skip
