"""Prometheus metrics, made at the scrape from plain counters: the hot path only ever adds to an int.

M1. Names are `thunderdb_*` in base units; log file names, page numbers and users are never labels.
M2. `METRICS` is the one list of names; docs are made from it, and a sample without a row there is an error in a test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from thunderdb.server.backup_metrics import BACKUP_METRICS
from thunderdb.server.sessions import Sessions
from thunderdb.server.state import NodeState, duration_s

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# name → (type, help, labels)
METRICS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "thunderdb_build_info": ("gauge", "1, with the running version and the node's name as labels.", ("version", "node_id")),
    "thunderdb_ready": ("gauge", "1 when SQL is served, else 0.", ()),
    "thunderdb_uptime_seconds": ("gauge", "Time since the process started to serve HTTP.", ()),
    "thunderdb_connections": ("gauge", "SQL sessions now.", ()),
    "thunderdb_connections_limit": ("gauge", "max_connections.", ()),
    "thunderdb_connections_refused_total": ("counter", "Connections refused: too many, starting up, shutting down.", ()),
    "thunderdb_statements_total": ("counter", "Statements run (query messages and executed portals).", ()),
    "thunderdb_statement_errors_total": ("counter", "Statements that ended with an error.", ()),
    "thunderdb_recovery_duration_seconds": ("gauge", "Duration of the last crash recovery; absent if there was none.", ()),
    "thunderdb_recovery_records_replayed": ("gauge", "Log records redone by it.", ()),
    "thunderdb_events_total": ("counter", "Events of each name, as they are logged.", ("event",)),
}


class NodeCollector(Collector):
    """Reads the node's counters when Prometheus asks. `engine` gives further numbers by name, once there is an engine."""

    def __init__(self, version: str, node_id: str, state: NodeState, sessions: Sessions, uptime_s: Callable[[], float]) -> None:
        self.version = version
        self.node_id = node_id
        self.state = state
        self.sessions = sessions
        self.uptime_s = uptime_s
        self.engine: Callable[[], dict[str, float]] = dict
        self.operator: Callable[[], dict[str, float]] = dict

    def collect(self) -> Iterator[Metric]:
        state, sessions = self.state, self.sessions
        yield _family("thunderdb_build_info", [((self.version, self.node_id), 1)])
        yield _family("thunderdb_ready", [((), int(state.ready))])
        yield _family("thunderdb_uptime_seconds", [((), self.uptime_s())])
        yield _family("thunderdb_connections", [((), len(sessions.by_pid))])
        yield _family("thunderdb_connections_limit", [((), sessions.max_connections)])
        yield _family("thunderdb_connections_refused_total", [((), sessions.refused)])
        yield _family("thunderdb_statements_total", [((), sessions.statements)])
        yield _family("thunderdb_statement_errors_total", [((), sessions.errors)])
        recovered, redone = state.last_values.get("recovery.complete"), state.last_values.get("recovery.redo")
        if recovered is not None:
            yield _family("thunderdb_recovery_duration_seconds", [((), duration_s(recovered))])
        if redone is not None:
            yield _family("thunderdb_recovery_records_replayed", [((), redone.get("records", 0))])
        yield _family("thunderdb_events_total", [((name,), count) for name, count in sorted(state.event_counts.items())])
        for name, value in sorted(self.operator().items()):
            kind, text = BACKUP_METRICS[name]
            yield (CounterMetricFamily if kind == "counter" else GaugeMetricFamily)(name, text, value=value)
        for name, value in sorted(self.engine().items()):
            family = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            yield family(f"thunderdb_{name}", f"The engine's {name.replace('_', ' ')}.", value=value)


def _family(name: str, samples: Iterable[tuple[tuple[str, ...], float]]) -> Metric:
    kind, text, labels = METRICS[name]
    family = (CounterMetricFamily if kind == "counter" else GaugeMetricFamily)(name, text, labels=labels)
    for values, number in samples:
        family.add_metric(values, number)
    return family


def registry_of(collector: NodeCollector) -> CollectorRegistry:
    """A registry of our own: importing a library must not add metrics to ours."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    ProcessCollector(namespace="thunderdb", registry=registry)
    return registry


def render(registry: CollectorRegistry) -> bytes:
    return generate_latest(registry)
