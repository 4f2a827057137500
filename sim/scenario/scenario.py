"""Scenarios: what runs, what breaks, and what is promised, read from YAML and checked key by key.

There are two kinds, in one format. One with `faults` draws outages from weights, again and again (sim/runs/runner.py). One
with a `timeline` tells an incident step by step (sim/incident/disaster.py): what the operator does, what breaks, how it is
recovered.

Y1. A scenario names every key that it uses; an unknown key, a wrong type or an impossible value is a ScenarioError that names
    the file, the line, the key, the value and what is allowed.
Y2. `settings` holds the daemon's own keys, checked by the daemon's own code.
Y3. A range is written `[low, high]`; one value stands for both ends.
Y4. A promise has a unit: 0 commits, or `3 transactions`, or a duration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from sim.scenario.schema import (
    MS,
    Chance,
    Count,
    Duration,
    Key,
    ListOf,
    MapOf,
    NamesOf,
    OneOf,
    Range,
    RangeOf,
    Rate,
    ScenarioError,
    Section,
    Size,
    Switch,
    Text,
    Value,
    parse_yaml,
    wrap,
)
from sim.scenario.script import Script, ScriptKind
from sim.scenario.steps import FATE_NAMES, Step, timeline
from sim.world import devices
from sim.world.disk import FAULT_KINDS
from thunderdb.base import config as daemon_config
from thunderdb.base.config import Config
from thunderdb.base.errors import ConfigError

OUTAGES = ("power_cut", "kill", "kill_then_power_cut", "stop", "sync_error")
FATES = FATE_NAMES
NETWORK = ("reset", "partition")
DRIVERS = ("engine", "sql", "either")
WORK = (
    "transfer", "insert", "update", "delete", "large", "mixed", "read_bank", "read_items", "sequence", "ddl", "abandon",
    "checkpoint",
)  # fmt: skip
LIST_WORK = ("append", "rewrite", "read", "scan", "lock", "savepoint", "single")
"""What `kind: list_append` has beside abandon and checkpoint: see sim/runs/list_append.py."""
KINDS = ("mixed", "list_append")
OUTCOMES = ("recoverable", "must_refuse", "judge")
HOME = "home"
SCALED_SEGMENT = 128 << 10
"""The longest log file at a scale. The daemon's shortest would stand for 24 GB at 24,000, and be fetched before it is read."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What the clients do. `mix` holds weights; `think_ns` is the pause between two transactions.

    With a `rate_per_s`, all clients together make about so many transactions a second, and `think_ns` does not count.
    """

    kind: str = "mixed"
    driver: str = ""
    clients: Range = (2, 6)
    accounts: int = 40
    items: int = 120
    mix: Mapping[str, int] = field(default_factory=dict)
    think_ns: Range = (0, 2 * MS)
    async_commit: float = 0.1
    repeatable_read: float = 0.4
    large_bytes: Range = (1_000, 20_000)
    rate_per_s: float = 0.0
    transactions: int = 0
    """So many in all, then the clients only wait; 0: no end."""
    script: Script | None = None
    """A replay file's transactions, one by one."""


@dataclass(frozen=True, slots=True)
class Faults:
    """What breaks. `kinds` and `fates` hold weights; `swarm` is the chance that a seed leaves a kind out altogether."""

    outages: Range = (2, 4)
    kinds: Mapping[str, int] = field(default_factory=lambda: {"power_cut": 1})
    after_ns: Range = (5 * MS, 200 * MS)
    down_ns: Range = (1 * MS, 50 * MS)
    at_boundary: float = 0.4
    during_recovery: float = 0.4
    fates: Mapping[str, int] = field(default_factory=lambda: {"mixed": 1})
    disk_full: float = 0.0
    disk: Mapping[str, float] = field(default_factory=dict)
    stall_ns: int = 20 * MS
    network: Mapping[str, float] = field(default_factory=dict)
    swarm: float = 0.3


@dataclass(frozen=True, slots=True)
class Promises:
    """What is asserted.

    `rpo` bounds the acknowledged transactions that are lost (-1: not by number), `rpo_ns` the fault minus the acknowledgement
    of the oldest of them (-1: not by time). `rto_ns` is fault to first acknowledged write, the operator's delay included.
    `wanted_rto_ns` is what the specification asks for where `rto_ns` does not reach it yet (0: it does); the report says so.
    `outcome` says what must become of the data; `recovered_to` names the one place where the recovery must end. `isolation`:
    what every transaction saw is what its level promises (sim/oracle/isolation.py).
    """

    rpo: int = 0
    rpo_ns: int = -1
    rto_ns: int = 5_000 * MS
    wanted_rto_ns: int = 0
    service_ns: int = 10_000 * MS
    outcome: str = "recoverable"
    recovered_to: str = ""
    isolation: bool = False


@dataclass(frozen=True, slots=True)
class Node:
    name: str
    region: str = HOME


@dataclass(frozen=True, slots=True)
class StorePlace:
    """A store outside the machine, or a mounted directory of another one."""

    profile: Mapping[str, Any] = field(default_factory=dict)
    region: str = HOME


@dataclass(frozen=True, slots=True)
class Topology:
    nodes: tuple[Node, ...] = (Node("a"),)
    regions: tuple[str, ...] = (HOME,)
    stores: Mapping[str, StorePlace] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the database stands for; the run's own is this divided by `scale`. 0: as the workload makes it."""

    data_bytes: int = 0
    log_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Operator:
    """How long people take: to notice that something is wrong, and then to act. Reported apart from the machine's time."""

    notices_ns: Range = (0, 0)
    acts_ns: Range = (0, 0)


@dataclass(frozen=True, slots=True)
class Backups:
    """Backups taken by schedule: the first one `first_ns` after the start, then every `every_ns`, named auto0, auto1, …"""

    to: str
    every_ns: int
    first_ns: int = 0
    compress: bool = False


@dataclass(frozen=True, slots=True)
class Scenario:
    """One scenario, ready to run with any seed."""

    name: str
    path: str
    about: str = ""
    topology: Topology = field(default_factory=Topology)
    scale: int = 1
    sizes: Sizes = field(default_factory=Sizes)
    settings: Mapping[str, Any] = field(default_factory=dict)
    device: Mapping[str, Any] = field(default_factory=dict)
    workload: Workload = field(default_factory=Workload)
    faults: Faults = field(default_factory=Faults)
    backups: Backups | None = None
    operator: Operator = field(default_factory=Operator)
    timeline: tuple[Step, ...] = ()
    promises: Promises = field(default_factory=Promises)
    long: bool = False
    cpu: bool = True
    """Charge the CPU time of recovery for the large database too, as sim/world/costs.py has it."""
    seed: int = 0
    """A replay file's own."""
    plan: Any = None
    """A replay file's faults_plan.Plan: what its seed had decided in advance."""

    @property
    def incident(self) -> bool:
        """Whether a timeline tells what happens."""
        return bool(self.timeline)

    def config(self, data_dir: str = "/var/lib/thunderdb/data", wal_dir: str = "/var/lib/thunderdb/wal") -> Config:
        """The daemon's configuration under this scenario."""
        config = daemon_config.parse("", flags={**self.settings, "data_dir": data_dir, "wal_dir": wal_dir})
        return config if self.scale == 1 else replace(config, wal_segment_size=min(config.wal_segment_size, SCALED_SEGMENT))


def load(path: str) -> Scenario:
    """Read a scenario file. Raises: ScenarioError."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ScenarioError(f"{path}: {error.strerror or error}", "`thunderdb-sim list` shows the scenarios.") from None
    except UnicodeDecodeError:
        raise ScenarioError(f"{path}: not YAML: not UTF-8 text") from None
    return parse(text, path)


def parse(text: str, path: str = "scenario") -> Scenario:
    """Check a scenario's text (Y1). Raises: ScenarioError."""
    return build(parse_yaml(text, path))


def build(value: Value) -> Scenario:
    """Check a scenario that has been read. Raises: ScenarioError."""
    if not isinstance(value.data, dict):
        raise ScenarioError(f"{value.file}: expected keys and values at the top, allowed: {', '.join(_TOP)}")
    values = Section(_TOP).read(value)
    values.setdefault("name", Path(value.file).stem)
    if values.get("timeline") and "faults" in value.data:
        raise value.data["faults"].error("a scenario has either `faults`, drawn by weight, or a `timeline`")
    if "topology" in value.data:
        _check_topology(values["topology"], value.data["topology"])
    scenario = Scenario(path=value.file, **values)
    _check_workload(scenario, value)
    _check_places(scenario, value)
    try:
        scenario.config()
    except ConfigError as error:
        at = value.data.get("settings", value)
        raise ScenarioError(f"{at.place}: settings: {error.message}", error.hint) from None
    return scenario


def with_promises(scenario: Scenario, overrides: list[str]) -> Scenario:
    """Replace promises by `name=value` texts. Raises: ScenarioError."""
    promises = scenario.promises
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals or name not in _PROMISES:
            raise ScenarioError(f"--promise {text}: expected name=value, with a name of: {', '.join(_PROMISES)}")
        key = _PROMISES[name]
        read = key.kind.read(wrap(value, "--promise", name))
        promises = replace(promises, **(read if key.field == "rpo" else {key.field: read}))
    return replace(scenario, promises=promises)


def json_schema() -> dict[str, Any]:
    """The format for editors: JSON Schema, draft 2020-12."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "ThunderDB simulator scenario",
        **Section(_TOP).json(),
    }


# -- What is more than one value


class _Rpo:
    """0, `N transactions`, or a duration (Y4)."""

    def read(self, value: Value) -> dict[str, int]:
        data = value.data
        if data in (0, "0") and not isinstance(data, bool):
            return {"rpo": 0, "rpo_ns": -1}
        if isinstance(data, str):
            count, _, unit = data.strip().partition(" ")
            if unit in ("transactions", "transaction") and count.isdigit():
                return {"rpo": int(count), "rpo_ns": -1}
            if data.strip() == "any":
                return {"rpo": -1, "rpo_ns": -1}
            try:
                return {"rpo": -1, "rpo_ns": Duration().read(value)}
            except ScenarioError:
                pass
        missing = " (a promise needs its unit)" if str(data).strip().replace(".", "").isdigit() else ""
        raise value.fails(f"0, a number with `transactions`, a duration such as 1s, or any{missing}")

    def json(self) -> dict[str, Any]:
        words = {"type": "string", "pattern": "^([0-9]+ transactions?|any)$"}
        return {"anyOf": [{"const": 0}, words, *Duration().json()["anyOf"]]}


class _Nodes:
    """A number of nodes, or a list of them."""

    def read(self, value: Value) -> tuple[Node, ...]:
        if isinstance(value.data, list):
            nodes: tuple[Node, ...] = ListOf(_NODE).read(value)
        else:
            nodes = tuple(Node(chr(97 + number)) for number in range(Count(1, 26).read(value)))
        if len(nodes) != 1:
            raise value.fails(f"one node; {len(nodes)} need the cluster, which comes with replication")
        return nodes

    def json(self) -> dict[str, Any]:
        return {"anyOf": [{"type": "integer", "minimum": 1}, ListOf(_NODE).json()]}


class _Device:
    """A profile's name, or a map that may name one."""

    def read(self, value: Value) -> dict[str, Any]:
        if isinstance(value.data, str):
            return {"profile": OneOf(tuple(devices.DISKS)).read(value)}
        found: dict[str, Any] = Section(_DEVICE).read(value)
        return found

    def json(self) -> dict[str, Any]:
        return {"anyOf": [{"enum": list(devices.DISKS)}, Section(_DEVICE).json()]}


class _Store:
    """A profile's name, or a map."""

    def read(self, value: Value) -> StorePlace:
        if isinstance(value.data, str):
            return StorePlace({"profile": OneOf(tuple(devices.STORES)).read(value)})
        found = Section(_STORE).read(value)
        return StorePlace({k: v for k, v in found.items() if k != "region"}, found.get("region", HOME))

    def json(self) -> dict[str, Any]:
        return {"anyOf": [{"enum": list(devices.STORES)}, Section(_STORE).json()]}


class _Settings:
    """The daemon's own keys (Y2)."""

    def read(self, value: Value) -> dict[str, Any]:
        known = tuple(entry.name for entry in fields(Config) if entry.name not in ("data_dir", "wal_dir"))
        found: dict[str, Any] = MapOf(known, _Any()).read(value)
        return found

    def json(self) -> dict[str, Any]:
        rows = [row for row in daemon_config.describe() if row.name not in ("data_dir", "wal_dir")]
        keys = {row.name: {"description": row.doc} for row in rows}
        return {"type": "object", "additionalProperties": False, "properties": keys}


class _LatePlan:
    """sim/scenario/replay.py stands on this module."""

    def read(self, value: Value) -> Any:
        from sim.scenario.replay import PlanKind

        return PlanKind().read(value)

    def json(self) -> dict[str, Any]:
        from sim.scenario.replay import PlanKind

        return PlanKind().json()


class _Any:
    def read(self, value: Value) -> Any:
        return value.plain()

    def json(self) -> dict[str, Any]:
        return {}


def _promises(**values: Any) -> Promises:
    rpo = values.pop("rpo", {})
    return Promises(**values, **rpo)


def _check_topology(topology: Topology, value: Value) -> None:
    """An impossible topology is refused here: a region that nobody declared."""
    for name, node in zip(topology.nodes, topology.nodes, strict=True):
        if name.region not in topology.regions:
            raise value.error(f"node {node.name} is in region {node.region}, but regions are: {', '.join(topology.regions)}")
    for place, store in topology.stores.items():
        if store.region not in topology.regions:
            raise value.error(f"store {place} is in region {store.region}, but regions are: {', '.join(topology.regions)}")


def _check_workload(scenario: Scenario, value: Value) -> None:
    """Lists are worked on over SQL, through outages drawn by weight, and it is their isolation that is promised."""
    work, lists = scenario.workload, scenario.workload.kind == "list_append"
    at = value.data.get("workload", value)
    if lists != scenario.promises.isolation:
        raise at.error("`kind: list_append` and the promise `isolation: true` go together")
    if lists and (scenario.incident or work.driver in ("engine", "either")):
        raise at.error("`kind: list_append` goes with `faults`, not with a `timeline`, and its driver is sql")
    allowed = (*LIST_WORK, "abandon", "checkpoint") if lists else WORK
    wrong = [name for name in work.mix if name not in allowed]
    if wrong:
        raise at.error(f"mix.{wrong[0]}: not a part of `kind: {work.kind}`; allowed: {', '.join(allowed)}")


def _check_places(scenario: Scenario, value: Value) -> None:
    """Whatever is written outside the machine goes to a store of the topology."""
    places = [("settings.wal_archive_dir", scenario.settings.get("wal_archive_dir", ""))]
    places += [("backups.to", scenario.backups.to)] if scenario.backups else []
    for step in flat(scenario.timeline):
        where = f"timeline, line {step.line}: {step.verb}"
        places += [(where, step.args[key]) for key in ("to", "store") if key in step.args]
        if step.verb == "region_lost" and step.args.get("region", "") not in scenario.topology.regions:
            raise value.error(
                f"{where}: there is no region {step.args.get('region', '')!r}; regions: {', '.join(scenario.topology.regions)}"
            )
    for where, place in places:
        if place and not any(place == store or place.startswith(store + "/") for store in scenario.topology.stores):
            known = ", ".join(scenario.topology.stores) or "none"
            raise value.error(f"{where}: {place} is in no store of the topology; topology.stores: {known}")


def flat(steps: tuple[Step, ...]) -> list[Step]:
    """All steps, those of a `repeat` once."""
    return [one for step in steps for one in (step, *flat(step.steps))]


# -- The keys

_NODE = Section({"name": Key("name", Text()), "region": Key("region", Text())}, Node)
_STORE: dict[str, Key] = {
    "profile": Key("profile", OneOf(tuple(devices.STORES))),
    "region": Key("region", Text()),
    "latency": Key("latency_ns", Duration(), "Time of a request."),
    "bandwidth": Key("bytes_a_second", Size(), "Bytes a second of one stream."),
}
_TOPOLOGY: dict[str, Key] = {
    "nodes": Key("nodes", _Nodes(), "How many, or a list of {name, region}."),
    "regions": Key("regions", ListOf(Text())),
    "stores": Key("stores", NamesOf(_Store()), "Stores by URL, or by the directory where another machine's disk is mounted."),
}
_WORKLOAD: dict[str, Key] = {
    "kind": Key("kind", OneOf(KINDS), "list_append: lists to which transactions append, whose isolation is checked."),
    "driver": Key("driver", OneOf(DRIVERS), "engine: the API; sql: the wire protocol; either: the seed draws."),
    "clients": Key("clients", RangeOf(Count())),
    "accounts": Key("accounts", Count()),
    "items": Key("items", Count()),
    "mix": Key("mix", MapOf((*WORK, *LIST_WORK), Count()), "Weights."),
    "transactions": Key("transactions", Count(), "So many in all, then the clients only wait; 0: no end."),
    "think": Key("think_ns", RangeOf(Duration()), "Pause between two transactions."),
    "rate": Key("rate_per_s", Rate(), "Transactions of all clients together."),
    "async_commit": Key("async_commit", Chance(), "Share of transactions with sync_commit off."),
    "repeatable_read": Key("repeatable_read", Chance()),
    "large": Key("large_bytes", RangeOf(Size())),
    "script": Key("script", ScriptKind(), "A replay file's transactions, life by life."),
}
_FAULTS: dict[str, Key] = {
    "outages": Key("outages", RangeOf(Count())),
    "kinds": Key("kinds", MapOf(OUTAGES, Count()), "Weights."),
    "after": Key("after_ns", RangeOf(Duration()), "How long the node serves before the next outage."),
    "down": Key("down_ns", RangeOf(Duration()), "Until it is started again."),
    "at_boundary": Key("at_boundary", Chance(), "Share of the outages that strike exactly before or after an I/O."),
    "during_recovery": Key("during_recovery", Chance(), "Chance, again and again, that the restart is struck too."),
    "fates": Key("fates", MapOf(FATES, Count()), "What of the unsynced has landed at a power cut; weights."),
    "disk_full": Key("disk_full", Chance(), "Chance per life that the disk fills up, and is given room again."),
    "disk": Key("disk", MapOf(FAULT_KINDS, Chance()), "Chance per operation."),
    "stall": Key("stall_ns", Duration()),
    "network": Key("network", MapOf(NETWORK, Chance())),
    "swarm": Key("swarm", Chance(), "Chance that a seed leaves a kind of fault out."),
}
_PROMISES: dict[str, Key] = {
    "rpo": Key("rpo", _Rpo(), "Acknowledged transactions lost: 0, `N transactions`, or the age of the oldest."),
    "rto": Key("rto_ns", Duration(), "Fault to the first acknowledged write, the operator's delay included."),
    "wanted_rto": Key("wanted_rto_ns", Duration(), "What is wanted of rto and not reached yet: reported, not asserted."),
    "service": Key("service_ns", Duration(), "Longest time without service while nothing is broken."),
    "outcome": Key("outcome", OneOf(OUTCOMES), "judge: what an independent look at backup and archive says is possible."),
    "isolation": Key("isolation", Switch(), "What each transaction saw is what its isolation level promises."),
    "recovered_to": Key("recovered_to", OneOf(("backup_end", "target", "log_end")), "The one place where recovery must end."),
}
_DEVICE: dict[str, Key] = {
    "profile": Key("profile", OneOf(tuple(devices.DISKS))),
    "read": Key("read_ns", Duration()),
    "write": Key("write_ns", Duration()),
    "sync": Key("sync_ns", Duration()),
    "cached_reads": Key("cached_reads", Chance(), "Share of reads that complete at once."),
    "inline_writes": Key("inline_writes", Chance(), "Share of writes that complete at once."),
    "bandwidth": Key("bytes_per_s", Size()),
}
_TOP: dict[str, Key] = {
    "name": Key("name", Text()),
    "about": Key("about", Text(), "One sentence, shown by `thunderdb-sim list`."),
    "topology": Key("topology", Section(_TOPOLOGY, Topology)),
    "scale": Key("scale", Count(1, 10_000_000), "Divides sizes and the bandwidths of bulk work: small stands for large."),
    "sizes": Key("sizes", Section({
        "data": Key("data_bytes", Size(), "Size of the database that this run stands for."),
        "log": Key("log_bytes", Size(), "Log that a recovery has to read, of that same database."),
    }, Sizes)),
    "settings": Key("settings", _Settings(), "The daemon's own keys."),
    "device": Key("device", _Device(), f"A profile ({', '.join(devices.DISKS)}), or single values."),
    "workload": Key("workload", Section(_WORKLOAD, Workload)),
    "faults": Key("faults", Section(_FAULTS, Faults), "Outages drawn by weight; not together with a timeline."),
    "backups": Key("backups", Section({
        "to": Key("to", Text()), "every": Key("every_ns", Duration()), "first": Key("first_ns", Duration()),
        "compress": Key("compress", Switch()),
    }, Backups), "Backups by schedule."),
    "operator": Key("operator", Section({
        "notices": Key("notices_ns", RangeOf(Duration())), "acts": Key("acts_ns", RangeOf(Duration())),
    }, Operator), "How long people take."),
    "timeline": Key("timeline", timeline(), "What happens, step by step."),
    "promises": Key("promises", Section(_PROMISES, _promises)),
    "seed": Key("seed", Count(0, 1 << 62), "A replay file's own seed."),
    "plan": Key("plan", _LatePlan(), "A replay file's outages, as they were drawn."),
    "cpu": Key("cpu", Switch(), "Charge recovery's CPU time (tools.calibrate) at scale, not only I/O and people."),
    "long": Key("long", Switch(), "More than an hour of simulated time: run once, not over many seeds."),
}  # fmt: skip

__all__ = ["MS", "Range", "Scenario", "ScenarioError", "load", "parse", "with_promises"]
