"""Whole incidents from a seed: the installation, its settings, its work, and what happens to it, as a scenario's document.

    document(seed) ─▶ {topology, device, settings, workload, timeline, promises}       what `thunderdb-sim run` reads from YAML

G1. Each part has its own stream, so that one more choice in one of them does not move the others.
G2. Swarm: a coin decides for each class of faults whether a run has it at all, for faults hide each other (Groce et al., 2012).
G3. Nothing is promised but what the judge (sim/incident/judge.py) says is possible; each step says `expect: any`.
G4. Runs are small on purpose: dozens of transactions, tens of seconds, so that thousands fit into an hour of a core.
G5. Seeds below NEWER draw what they always drew, so that the corpus keeps its meaning; faults in the middle of an action and
    damage of the small files come from there on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import yaml

from sim.scenario.generate_steps import Teller
from sim.scenario.scenario import Scenario, build
from sim.scenario.schema import wrap
from sim.world.rand import Stream, derive

Document = dict[str, Any]

NAS, NEAR, FAR = "/mnt/nas", "s3://near", "s3://far"
HOME, AWAY = "here", "there"
BACKGROUND = (
    "disk_full", "slow_disk", "stall", "read_error", "write_error", "lost_write", "misdirected_write", "bit_rot", "fsync_lies",
    "store_outage", "store_errors", "clock_jump", "clock_drift", "pause",
)  # fmt: skip
OUTAGES = ("kill", "power_cut", "machine_lost", "region_lost", "sync_error")
ACCIDENTS = ("drop_table", "truncate_table", "delete_rows")
DAMAGES = (
    "page", "hot_page", "page_file", "control", "segment", "archive", "archive_tail", "history", "backup", "manifest",
    "backup_segment",
)  # fmt: skip
COIN = {
    "lost_write": 0.12, "misdirected_write": 0.12, "bit_rot": 0.12, "fsync_lies": 0.15, "read_error": 0.2, "write_error": 0.2,
}  # fmt: skip
"""A disk that lies or fails excuses much: such runs are fewer."""
DAMAGE_COIN, COIN_OF_THE_REST = 0.12, 0.4
NEWER = 1_000_000
"""G5."""
NEWER_DAMAGES = ("map_page", "written", "archived", "identity", "local_history", "note", "backup_control")


@dataclass(frozen=True, slots=True)
class Site:
    """Where things are, as it was drawn."""

    archive: str
    """none, directory, store or command."""
    places: tuple[str, ...]
    """Where backups may go."""
    stores: tuple[str, ...]
    regions: tuple[str, ...]
    faults: frozenset[str] = field(default_factory=frozenset)
    newer: frozenset[str] = field(default_factory=frozenset)
    """G5."""
    lasting: tuple[str, ...] = BACKGROUND


def generated(seed: int) -> Scenario:
    """The scenario of a seed, checked as any file is."""
    return build(wrap(document(seed), f"generated {seed}"))


def text(seed: int) -> str:
    """The incident of a seed as a file."""
    head = f"# An incident that was generated: thunderdb-sim run --generated --seed {seed} --print\n"
    return head + yaml.safe_dump(json.loads(json.dumps(document(seed))), sort_keys=False, width=128)


def document(seed: int) -> Document:
    """The incident of a seed."""
    stream = Stream(derive(seed, "generated.site"))
    site, topology = _site(stream, seed)
    teller = Teller(Stream(derive(seed, "generated.timeline")), site)
    return {
        "name": "generated",
        "about": f"drawn from seed {seed}: {', '.join(sorted(site.faults)) or 'no faults'}",
        "topology": topology,
        "device": stream.choice(("nvme", "ssd", "ssd", "ssd", "hdd")),
        "settings": _settings(Stream(derive(seed, "generated.settings")), site, topology),
        "workload": _workload(Stream(derive(seed, "generated.workload"))),
        "operator": {"notices": "0ms", "acts": f"{stream.choice((0, 0, 500, 3000))}ms"},
        "timeline": teller.tell(),
        "promises": {"rpo": "any", "rto": "1h", "service": "2min", "outcome": "judge"},
        "seed": seed,
    }


def _site(stream: Stream, seed: int) -> tuple[Site, Document]:
    archive = stream.choice(("none", "directory", "directory", "directory", "store", "store", "store", "store", "command"))
    two = stream.random() < 0.4
    profiles = {NEAR: stream.choice(("s3", "s3", "nas")), FAR: "s3-cross-region"}
    nas = archive == "directory" or stream.random() < 0.3
    stores: dict[str, Any] = {NAS: {"profile": "nas", "region": HOME}} if nas else {}
    if archive in ("store", "command") or not stores:
        stores[NEAR] = {"profile": profiles[NEAR], "region": HOME}
    if two:
        stores[FAR] = {"profile": profiles[FAR], "region": AWAY}
    regions = (HOME, AWAY) if two else (HOME,)
    urls = tuple(place for place in stores if "://" in place)
    topology = {"regions": list(regions), "nodes": [{"name": "a", "region": HOME}], "stores": stores}
    faults = _swarm(Stream(derive(seed, "generated.swarm")), archive, urls, regions)
    return Site(archive, tuple(stores), urls, regions, faults, _newer(seed, archive)), topology


def _swarm(stream: Stream, archive: str, urls: tuple[str, ...], regions: tuple[str, ...]) -> frozenset[str]:
    """G2."""
    found = [name for name in (*BACKGROUND, *OUTAGES, *ACCIDENTS) if stream.random() < COIN.get(name, COIN_OF_THE_REST)]
    found += [f"damage {what}" for what in DAMAGES if stream.random() < DAMAGE_COIN]
    without = {"store_outage", "store_errors"} if not urls else set()
    without |= {"region_lost"} if len(regions) < 2 else set()
    if archive == "none":
        without |= {"damage archive", "damage archive_tail", "damage history"}
    return frozenset(name for name in found if name not in without)


def _newer(seed: int, archive: str) -> frozenset[str]:
    """G5."""
    if seed < NEWER:
        return frozenset()
    stream = Stream(derive(seed, "generated.newer"))
    found = ["amid"] if stream.random() < 0.8 else []
    found += [f"damage {what}" for what in NEWER_DAMAGES if stream.random() < DAMAGE_COIN]
    return frozenset(name for name in found if archive != "none" or name not in ("damage archived", "damage note"))


def _settings(stream: Stream, site: Site, topology: Document) -> Document:
    found: Document = {
        "page_size": stream.choice(("4KB", "4KB", "8KB")),
        "buffer_pool_size": stream.choice(("1MB", "4MB")),
        "wal_buffer_size": stream.choice(("64KB", "256KB")),
        "wal_segment_size": "1MB",
        "max_wal_size": stream.choice(("1MB", "4MB", "16MB")),
        "checkpoint_interval": stream.choice(("1s", "3s", "10s", "1min")),
    }
    if site.archive == "none":
        return found
    found["wal_archive_enabled"] = True
    found["wal_archive_lag"] = stream.choice(("100ms", "200ms", "1s"))
    found["wal_archive_timeout"] = stream.choice(("2s", "5s", "1min"))
    if stream.random() < 0.4:
        found["wal_archive_compress"] = True
    urls = [place for place in topology["stores"] if "://" in place]
    place = f"{NAS if site.archive == 'directory' else stream.choice(urls)}/archive"
    if site.archive == "command":
        found["wal_archive_command"] = f"put {place} %f %n"
        found["wal_restore_command"] = f"get {place} %n %f"
    else:
        found["wal_archive_dir"] = place
    return found


MIX = {
    "transfer": 20, "insert": 14, "update": 20, "delete": 8, "large": 4, "mixed": 8, "read_bank": 2, "read_items": 2,
    "sequence": 3, "ddl": 5, "abandon": 2, "checkpoint": 1,
}  # fmt: skip


def _workload(stream: Stream) -> Document:
    mix = {name: weight for name, weight in MIX.items() if stream.random() < 0.7} or {}
    mix.setdefault("update", 10)  # somebody must write, so that there is something to lose
    return {
        "driver": "engine",
        "clients": stream.between(1, 4),
        "accounts": stream.between(3, 10),
        "items": stream.between(4, 40),
        "mix": mix,
        "transactions": stream.choice((20, 40, 80, 120)),
        "rate": f"{stream.choice((5, 10, 20, 40))}/s",
        "async_commit": stream.choice((0.0, 0.1, 0.4)),
        "repeatable_read": stream.choice((0.0, 0.4)),
        "large": ["1KB", stream.choice(("4KB", "16KB"))],
    }
