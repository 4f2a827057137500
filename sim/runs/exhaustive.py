"""Crash at *every* I/O boundary of a workload, and at every I/O boundary of the recoveries that follow, to a depth of two.

    workload ──▶ branch per boundary ──▶ deaths: kill -9 · nothing unsynced landed · all landed · seeded mixes
                                              └─▶ recover, check, compare ──▶ branch per boundary of that recovery ──▶ deaths …

A recovery is the restart, and the redo and the checkpoints that go on while it serves.

V1. A branch is a copy-on-write image of the disk; nothing is run twice to get there.
V2. A branch knows which prefixes of the commits are allowed there: at least what was acknowledged, at most what was appended.
V3. Two deaths with the same bytes, names and unsynced writes are one state: it is recovered once, and counted twice.
V4. What a worker finds depends on the branches it is given only, so the sum is the same for any number of processes.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TextIO

import xxhash

from sim.clients.engine_session import EngineSession, SimDatabase, read_state
from sim.clients.workload import PROBE, Client, set_up
from sim.oracle.oracle import Oracle, State, Violation, Work, apply
from sim.runs.runner import where
from sim.scenario.scenario import Scenario, Workload
from sim.world.branch import Branch, deaths, record_branches
from sim.world.image import DiskImage
from sim.world.rand import Stream, derive
from sim.world.world import SimNode, World
from thunderdb.base.config import Config
from thunderdb.base.errors import Refused
from thunderdb.base.events import Events
from thunderdb.engine.check import check_database

SECOND_NS = 1_000_000_000
LIMIT_NS = 60 * SECOND_NS
SMALL = Workload(accounts=8, items=16, think_ns=(0, 200_000), async_commit=0.1, large_bytes=(1_000, 12_000))
MIX = {
    "transfer": 8, "insert": 4, "update": 6, "delete": 4, "large": 3, "mixed": 5, "sequence": 2, "ddl": 3, "checkpoint": 3,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Allowed:
    """The prefixes of the commits that may come back at a branch (V2)."""

    least: int
    most: int


@dataclass(slots=True)
class Recording:
    """A workload's branches, what is allowed at each, and the fingerprint of each prefix."""

    seed: int
    config: Config
    branches: list[Branch]
    allowed: list[Allowed]
    prefixes: list[int]
    operations: int
    events: int


@dataclass(slots=True)
class Found:
    """What was covered. `states` counts (branch, death) pairs; `recovered` counts those that were not seen before."""

    branches: int = 0
    states: int = 0
    recovered: int = 0
    by_depth: list[int] = field(default_factory=lambda: [0, 0])
    events: int = 0
    violations: list[str] = field(default_factory=list)

    def add(self, other: Found) -> None:
        self.branches += other.branches
        self.states += other.states
        self.recovered += other.recovered
        self.events += other.events
        self.by_depth = [one + two for one, two in zip(self.by_depth, other.by_depth, strict=True)]
        self.violations += other.violations


def small_config(scenario: Scenario) -> Config:
    """The scenario's configuration, with segments so small that a short workload fills several."""
    return replace(scenario.config(), wal_segment_size=128 << 10, max_wal_size=512 << 10)


def record(config: Config, seed: int, operations: int, clients: int = 2) -> Recording:
    """Run the workload once, without a fault, and keep a branch at each boundary, the making of the database included."""
    world = World(seed)
    node = world.node("a")
    oracle = Oracle(lambda: world.now_ns)
    branches = _Branches(node, oracle)
    statements = 0

    async def harness() -> None:
        nonlocal statements
        database = await node.call(SimDatabase.open(node.ports, config, Events()))
        database.log.on_commit = oracle.commit_appended
        await node.call(set_up(EngineSession(database, oracle), SMALL, world.streams.stream("set_up")))
        running = []
        for number in range(clients):
            session = EngineSession(database, oracle)
            client = Client(session, number, 1, world.streams.stream(f"client.{number}"), SMALL, MIX)
            session.limit = operations // clients
            session.on_limit = lambda client=client: setattr(client, "stopping", True)
            running.append((node.call(client.run()), session))
        for call, session in running:
            await call
            statements += session.statements
        await node.call(database.close())

    world.run(harness(), LIMIT_NS * 10)
    events = world.trace.events
    world.close()
    prefixes = _prefixes(oracle)
    return Recording(seed, config, branches.branches, branches.allowed, prefixes, statements, events)


class _Branches:
    """Branches of a node, each with what is allowed there."""

    def __init__(self, node: SimNode, oracle: Oracle) -> None:
        self.allowed: list[Allowed] = []
        self.branches = record_branches(node)
        self._oracle = oracle
        self._must = 0
        self._seen = 0
        inner = node.on_boundary
        if inner is None:
            raise AssertionError("record_branches set no hook")

        def hook(action: str, path: str, before: bool) -> None:
            inner(action, path, before)
            if len(self.branches) > len(self.allowed):
                self.allowed.append(self._now())

        node.set_boundary(hook)

    def _now(self) -> Allowed:
        appended = self._oracle.appended
        for position in range(len(appended), self._must, -1):
            work = appended[position - 1]
            if (work.outcome == "acked" or work.ended) and work.sync:
                self._must = position
                break
        return Allowed(self._must, len(appended))


def _prefixes(oracle: Oracle) -> list[int]:
    state: State = {}
    found = [fingerprint(state)]
    for work in oracle.appended:
        for op in work.ops:
            apply(state, op)
        found.append(fingerprint(state))
    return found


def fingerprint(state: State) -> int:
    """Equal for equal states."""
    digest = xxhash.xxh3_64()
    for name in sorted(state):
        table = state[name]
        digest.update(f"{name}{table.columns}{table.keyed}{sorted(table.indexes.items())}".encode())
        digest.update(repr([table.rows[key] for key in sorted(table.rows)]).encode())
    return digest.intdigest()


def digest_of(image: DiskImage) -> int:
    """Equal for disks of which a recovery, and every crash in it, would see the same (V3)."""
    digest = xxhash.xxh3_128()
    for names in (image.names, image.device_names):
        digest.update(repr(sorted((name, _inode_digest(image, number)) for name, number in names.items())).encode())
    digest.update(repr([(entry.names, entry.moved) for entry in image.entries]).encode())
    return digest.intdigest()


def _inode_digest(image: DiskImage, number: int) -> int:
    inode = image.inodes[number]
    digest = xxhash.xxh3_64()
    for blocks, size in ((inode.cache, inode.cache_size), (inode.device, inode.device_size)):
        digest.update(size.to_bytes(8, "little"))
        for block in sorted(blocks):
            data = blocks[block]
            if data.count(0) != len(data):
                digest.update(block.to_bytes(8, "little"))
                digest.update(data)
    for pending in inode.pending:
        digest.update(f"{pending.start} {pending.end} {pending.size} {pending.truncate}".encode())
        for block in sorted(pending.blocks):
            digest.update(pending.blocks[block])
    return digest.intdigest()


class Explorer:
    """Recovers states and branches from their recoveries."""

    def __init__(self, recording: Recording, depth: int, mixes: int, sample: float = 1.0) -> None:
        self.recording = recording
        self.depth = depth
        self.mixes = mixes
        self.sample = sample
        self.found = Found()
        self._seen: dict[tuple[int, int], tuple[int, list[Branch]]] = {}

    def branch(self, position: int) -> None:
        """Try every death at a branch of the workload."""
        branch, allowed = self.recording.branches[position], self.recording.allowed[position]
        self.found.branches += 1
        for name, image in deaths(branch, self.recording.seed, self.mixes):
            self._state(image, allowed, f"{branch.index} ({branch.where}) {name}", 1)

    def _state(self, image: DiskImage, allowed: Allowed, path: str, depth: int) -> None:
        found = self.found
        found.states += 1
        found.by_depth[depth - 1] += 1
        key = (digest_of(image), allowed.most)
        seen = self._seen.get((key[0], 0))
        if seen is not None:
            self._compare(seen[0], allowed, path)
            return
        found.recovered += 1
        branches: list[Branch] = []
        try:
            came_back, branches = self._recover(image, depth < self.depth)
        except Exception as error:
            found.violations.append(f"at {path}: {type(error).__name__}: {error} ({where(error)})")
            return
        self._seen[(key[0], 0)] = (came_back, [])
        self._compare(came_back, allowed, path)
        stream = Stream(derive(self.recording.seed, f"sample.{path}"))
        for branch in branches:
            if self.sample >= 1.0 or stream.random() < self.sample:
                found.branches += 1
                for name, after in deaths(branch, self.recording.seed, 1):
                    self._state(after, allowed, f"{path} → {branch.index} ({branch.where}) {name}", depth + 1)

    def _compare(self, came_back: int, allowed: Allowed, path: str) -> None:
        if came_back not in self.recording.prefixes[allowed.least : allowed.most + 1]:
            elsewhere = [at for at, prefix in enumerate(self.recording.prefixes) if prefix == came_back]
            self.found.violations.append(
                f"at {path}: what came back is "
                f"{f'the state after {elsewhere[-1]} commits' if elsewhere else 'no state that ever was'}, "
                f"allowed are {allowed.least} to {allowed.most}"
            )

    def _recover(self, image: DiskImage, keep: bool) -> tuple[int, list[Branch]]:
        """Recover a copy of the image; return what came back, and the branches of the recovery."""
        world = World(self.recording.seed)
        node = world.node("a", image.fork())
        branches = record_branches(node) if keep else []

        async def harness() -> int:
            database = await node.call(SimDatabase.open(node.ports, self.recording.config, Events()))
            if keep:
                await node.call(_bring_up(database))
            node.set_boundary(None)
            state = await node.call(read_state(database, PROBE))
            problems = await node.call(check_database(database))
            if problems:
                raise Violation(f"check: {'; '.join(problems[:3])}")
            await node.call(_write(database))
            return fingerprint(state)

        try:
            return world.run(harness(), LIMIT_NS), branches
        finally:
            self.found.events += world.trace.events
            world.close()


async def _bring_up(database: SimDatabase) -> None:
    """What follows a restart: the pages left for later, with checkpoints in between and behind, which may remove log."""
    deferred = database.deferred
    for share in (2, 2, 1):
        if deferred is not None:
            turns = iter(range(len(deferred) // share))
            await deferred.drain(lambda turns=turns: next(turns, None) is None)  # type: ignore[misc]
        await database.checkpointer.run(flush_all=True)


async def _write(database: SimDatabase) -> None:
    """The database must take a write again."""
    definition = database.catalog.table(PROBE)
    if definition is None:
        return  # It died before this table was made.
    txn = database.begin()
    access = database.rows.table(definition)
    key = access.key_of([1])
    payload = None if key is None else await database.rows.lock_row(txn, definition, key)
    if key is not None and payload is not None:
        await database.rows.update(txn, definition, key, payload, [1, 1])
    await txn.commit()


# -- Over several processes

_explorer: Explorer | None = None


def _start(recording: Recording, depth: int, mixes: int, sample: float) -> None:
    global _explorer
    _explorer = Explorer(recording, depth, mixes, sample)


def _explore(positions: range) -> Found:
    explorer = _explorer
    if explorer is None:
        raise AssertionError("no explorer")
    explorer.found = Found()
    for position in positions:
        explorer.branch(position)
        if len(explorer.found.violations) > 20:
            break
    return explorer.found


def explore(
    scenario: Scenario, seed: int, operations: int, depth: int, mixes: int, sample: int, jobs: int, err: TextIO
) -> tuple[Recording, Found]:
    """Run the workload and explore it; with `sample`, about that many branches only, and few of those of recoveries."""
    recording = record(small_config(scenario), seed, operations)
    total = len(recording.branches)
    step = max(1, total // sample) if sample else 1
    share = 1.0 if not sample else 0.1
    size = 1 if sample else 4
    chunks = [range(at, min(at + size * step, total), step) for at in range(0, total, size * step)]
    found = Found()
    began = time.monotonic()
    for number, part in enumerate(_parts(recording, chunks, depth, mixes, share, jobs), 1):
        found.add(part)
        for violation in part.violations:
            print(f"VIOLATION {violation}", file=err, flush=True)
        if number % 10 == 0 or number == len(chunks):
            print(
                f"{found.states} states, {found.recovered} recoveries, {len(found.violations)} violations; "
                f"{number}/{len(chunks)} parts in {time.monotonic() - began:.0f} s",
                file=err, flush=True,
            )  # fmt: skip
    return recording, found


def _parts(
    recording: Recording, chunks: list[range], depth: int, mixes: int, share: float, jobs: int
) -> Iterator[Found]:
    if jobs == 1:
        _start(recording, depth, mixes, share)
        yield from map(_explore, chunks)
        return
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with context.Pool(jobs, _start, (recording, depth, mixes, share)) as pool:
        yield from pool.imap_unordered(_explore, chunks)


def summary(recording: Recording, found: Found, wall_s: float) -> dict[str, Any]:
    """The outcome as one JSON object."""
    return {
        "mode": "exhaustive", "seed": recording.seed, "operations": recording.operations,
        "boundaries": len(recording.branches), "commits": len(recording.prefixes) - 1, "branches": found.branches,
        "states": found.states, "states_by_depth": found.by_depth, "recoveries": found.recovered, "events": found.events,
        "wall_s": round(wall_s, 1), "violations": found.violations, "verdict": "violation" if found.violations else "ok",
    }  # fmt: skip


__all__ = ["Explorer", "Found", "Recording", "Refused", "Work", "explore", "record", "summary"]
