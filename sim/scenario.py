"""Scenarios: what runs, what breaks, and what is promised, read from YAML and checked key by key.

Y1. A scenario names every key that it uses; an unknown key, a wrong type or an impossible value is a ScenarioError that names
    the file, the key, the value and what is allowed.
Y2. `settings` holds the daemon's own keys, checked by the daemon's own code.
Y3. A range is written `[low, high]`; one value stands for both ends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from sim.disk import FAULT_KINDS
from thunderdb.base import config as daemon_config
from thunderdb.base.config import Config
from thunderdb.base.errors import ConfigError, ThunderError
from thunderdb.base.units import parse_duration_ms, parse_size

MS = 1_000_000

OUTAGES = ("power_cut", "kill", "kill_then_power_cut", "stop", "sync_error")
FATES = ("all", "none", "mixed")
NETWORK = ("reset", "partition")
DRIVERS = ("engine", "sql", "either")
WORK = (
    "transfer", "insert", "update", "delete", "large", "mixed", "read_bank", "read_items", "sequence", "ddl", "abandon",
    "checkpoint",
)  # fmt: skip

Range = tuple[int, int]


class ScenarioError(ThunderError):
    """A scenario file or one of its keys is wrong."""

    sqlstate = "F0000"
    exit_code = 2


@dataclass(frozen=True, slots=True)
class Workload:
    """What the clients do. `mix` holds weights; `think_ns` is the pause between two transactions."""

    driver: str = "engine"
    clients: Range = (2, 6)
    accounts: int = 40
    items: int = 120
    mix: Mapping[str, int] = field(default_factory=dict)
    think_ns: Range = (0, 2 * MS)
    async_commit: float = 0.1
    repeatable_read: float = 0.4
    large_bytes: Range = (1_000, 20_000)


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
    """What is asserted. `rpo` counts acknowledged transactions; `rto_ns` is fault to first acknowledged write."""

    rpo: int = 0
    rto_ns: int = 5_000 * MS
    service_ns: int = 10_000 * MS


@dataclass(frozen=True, slots=True)
class Scenario:
    """One scenario, ready to run with any seed."""

    name: str
    path: str
    about: str = ""
    nodes: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)
    device: Mapping[str, Any] = field(default_factory=dict)
    workload: Workload = field(default_factory=Workload)
    faults: Faults = field(default_factory=Faults)
    promises: Promises = field(default_factory=Promises)

    def config(self, data_dir: str = "/var/lib/thunderdb/data", wal_dir: str = "/var/lib/thunderdb/wal") -> Config:
        """The daemon's configuration under this scenario."""
        return daemon_config.parse("", flags={**self.settings, "data_dir": data_dir, "wal_dir": wal_dir})


def load(path: str) -> Scenario:
    """Read a scenario file. Raises: ScenarioError."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ScenarioError(f"{path}: {error.strerror or error}", "`thunderdb-sim list` shows the scenarios.") from None
    return parse(text, path)


def parse(text: str, path: str = "scenario") -> Scenario:
    """Check a scenario's text (Y1). Raises: ScenarioError."""
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ScenarioError(f"{path}: not YAML: {error}") from None
    if not isinstance(raw, dict):
        raise ScenarioError(f"{path}: expected keys and values at the top, allowed: {', '.join(_TOP)}")
    values = _section(path, "", raw, _TOP)
    if "name" not in values:
        values["name"] = Path(path).stem
    for key, kind in (("workload", Workload), ("faults", Faults), ("promises", Promises)):
        if key in values:
            values[key] = kind(**values[key])
    scenario = Scenario(path=path, **values)
    try:
        scenario.config()
    except ConfigError as error:
        raise ScenarioError(f"{path}: settings: {error.message}", error.hint) from None
    return scenario


def with_promises(scenario: Scenario, overrides: list[str]) -> Scenario:
    """Replace promises by `name=value` texts. Raises: ScenarioError."""
    promises = scenario.promises
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals or name not in _PROMISES:
            raise ScenarioError(f"--promise {text}: expected name=value, with a name of: {', '.join(_PROMISES)}")
        key, check = _PROMISES[name]
        promises = replace(promises, **{key: check("--promise", name, value)})
    return replace(scenario, promises=promises)


# -- Checks of single values: (path, key, value) -> value


def _fail(path: str, key: str, value: Any, allowed: str) -> ScenarioError:
    return ScenarioError(f"{path}: {key}: {value!r} is not allowed; allowed: {allowed}")


def _text(path: str, key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _fail(path, key, value, "text")
    return value


def _count(path: str, key: str, value: Any) -> int:
    if isinstance(value, str) and value.isdigit():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 1_000_000:
        raise _fail(path, key, value, "a whole number from 0 to 1000000")
    return value


def _chance(path: str, key: str, value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= 1:
        raise _fail(path, key, value, "a probability from 0 to 1")
    return float(value)


def _duration(path: str, key: str, value: Any) -> int:
    try:
        if isinstance(value, str) and value.strip().endswith("us"):
            return int(float(value.strip()[:-2]) * 1000)
        return parse_duration_ms(value) * MS
    except (ValueError, TypeError, AttributeError):
        raise _fail(path, key, value, "a duration such as 500us, 20ms, 5s, 1min") from None


def _size(path: str, key: str, value: Any) -> int:
    try:
        return parse_size(value)
    except (ValueError, TypeError, AttributeError):
        raise _fail(path, key, value, "a size such as 512B, 20KB, 1MB") from None


def _range(check: Callable[[str, str, Any], int]) -> Callable[[str, str, Any], Range]:
    def ranged(path: str, key: str, value: Any) -> Range:
        ends = value if isinstance(value, list) else [value, value]
        if len(ends) != 2:
            raise _fail(path, key, value, "one value, or [low, high]")
        low, high = check(path, key, ends[0]), check(path, key, ends[1])
        if low > high:
            raise _fail(path, key, value, "[low, high] with low <= high")
        return low, high

    return ranged


def _one_of(names: tuple[str, ...]) -> Callable[[str, str, Any], str]:
    def checked(path: str, key: str, value: Any) -> str:
        if value not in names:
            raise _fail(path, key, value, ", ".join(names))
        return str(value)

    return checked


def _map_of(names: tuple[str, ...], check: Callable[[str, str, Any], Any]) -> Callable[[str, str, Any], dict[str, Any]]:
    def checked(path: str, key: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _fail(path, key, value, f"a map from any of {', '.join(names)}")
        for name in value:
            if name not in names:
                raise _fail(path, f"{key}.{name}", value[name], f"keys {', '.join(names)}")
        return {name: check(path, f"{key}.{name}", value[name]) for name in names if name in value}

    return checked


def _settings(path: str, key: str, value: Any) -> dict[str, Any]:
    known = tuple(entry.name for entry in fields(Config) if entry.name not in ("data_dir", "wal_dir"))
    return _map_of(known, lambda _path, _key, setting: setting)(path, key, value)


_Check = Callable[[str, str, Any], Any]


def _section(path: str, key: str, raw: Any, spec: Mapping[str, tuple[str, _Check]]) -> dict[str, Any]:
    """Check a map by a table of (field, check) per key."""
    if not isinstance(raw, dict):
        raise _fail(path, key, raw, f"a map from any of {', '.join(spec)}")
    values: dict[str, Any] = {}
    for name, value in raw.items():
        where = f"{key}.{name}" if key else str(name)
        if name not in spec:
            raise ScenarioError(f"{path}: {where}: unknown key; allowed: {', '.join(spec)}")
        target, check = spec[name]
        values[target] = check(path, where, value)
    return values


def _nested(spec: Mapping[str, tuple[str, _Check]]) -> _Check:
    return lambda path, key, value: _section(path, key, value, spec)


def _nodes(path: str, key: str, value: Any) -> int:
    count = _section(path, key, value, {"nodes": ("nodes", _count)}).get("nodes", 1)
    if count != 1:
        raise _fail(path, f"{key}.nodes", count, "1 (clusters come with replication)")
    return int(count)


_WORKLOAD: dict[str, tuple[str, _Check]] = {
    "driver": ("driver", _one_of(DRIVERS)),
    "clients": ("clients", _range(_count)),
    "accounts": ("accounts", _count),
    "items": ("items", _count),
    "mix": ("mix", _map_of(WORK, _count)),
    "think": ("think_ns", _range(_duration)),
    "async_commit": ("async_commit", _chance),
    "repeatable_read": ("repeatable_read", _chance),
    "large": ("large_bytes", _range(_size)),
}
_FAULTS: dict[str, tuple[str, _Check]] = {
    "outages": ("outages", _range(_count)),
    "kinds": ("kinds", _map_of(OUTAGES, _count)),
    "after": ("after_ns", _range(_duration)),
    "down": ("down_ns", _range(_duration)),
    "at_boundary": ("at_boundary", _chance),
    "during_recovery": ("during_recovery", _chance),
    "fates": ("fates", _map_of(FATES, _count)),
    "disk_full": ("disk_full", _chance),
    "disk": ("disk", _map_of(FAULT_KINDS, _chance)),
    "stall": ("stall_ns", _duration),
    "network": ("network", _map_of(NETWORK, _chance)),
    "swarm": ("swarm", _chance),
}
_PROMISES: dict[str, tuple[str, _Check]] = {
    "rpo": ("rpo", _count),
    "rto": ("rto_ns", _duration),
    "service": ("service_ns", _duration),
}
_DEVICE: dict[str, tuple[str, _Check]] = {
    "read": ("read_ns", _duration),
    "write": ("write_ns", _duration),
    "sync": ("sync_ns", _duration),
    "cached_reads": ("cached_reads", _chance),
    "inline_writes": ("inline_writes", _chance),
    "bandwidth": ("bytes_per_s", _size),
}
_TOP: dict[str, tuple[str, _Check]] = {
    "name": ("name", _text),
    "about": ("about", _text),
    "topology": ("nodes", _nodes),
    "settings": ("settings", _settings),
    "device": ("device", _nested(_DEVICE)),
    "workload": ("workload", _nested(_WORKLOAD)),
    "faults": ("faults", _nested(_FAULTS)),
    "promises": ("promises", _nested(_PROMISES)),
}
