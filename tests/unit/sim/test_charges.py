"""CPU time in the simulator: one engine thread, as many other threads as in production, and the scale of what is stood for."""

from __future__ import annotations

from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from sim.incident.site import ONCE, Site
from sim.report.calibration import RECORD_BYTES
from sim.scenario.scenario import load
from sim.world.costs import COSTS_NS
from sim.world.disk import DeviceProfile
from sim.world.world import World
from thunderdb.backup import rates
from tools.machine import sync_tree, unsynced_bytes

MB = 1_000_000
SCENARIO = "scenarios/backup/full_and_archive.yaml"


def test_two_tasks_of_one_engine_thread_take_the_sum() -> None:
    world = World(1)
    node = world.node("a")
    node.costs_ns["page"] = 1000.0

    async def course() -> int:
        calls = [node.call(node.ports.tasks.work("page", 5)) for _ in range(2)]
        for call in calls:
            await call
        return world.now_ns

    assert world.run(course()) == 10_000
    world.close()


def test_threads_work_side_by_side_up_to_their_number() -> None:
    world = World(1)
    node = world.node("a")
    node.costs_ns["offload.hashed"] = 1000.0

    def hashed(data: bytes) -> int:
        return len(data)

    async def course() -> int:
        calls = [node.call(node.ports.offload.run(hashed, bytes(1000))) for _ in range(3)]
        assert [await call for call in calls] == [1000] * 3
        return world.now_ns

    assert 2_000_000 <= world.run(course()) < 2_300_000
    world.close()


def test_a_measured_disk_tells_the_cache_from_the_device() -> None:
    """D6: writes share the one, syncs the other, and long reads of what is cached take time."""
    profile = DeviceProfile(
        write_ns=0, sync_ns=0, entry_ns=0, bytes_per_s=1000 * MB, sync_bytes_per_s=100 * MB, cached_reads=1.0,
        inline_writes=0.0, cached_bytes_per_s=2000 * MB, fresh_bytes_per_s=500 * MB,
    )  # fmt: skip
    world = World(1)
    node = world.node("a", profile=profile)
    disk = node.ports.disk

    async def took_ms(*coros: Coroutine[Any, Any, Any]) -> float:
        began_ns = world.now_ns
        for call in [node.call(coro) for coro in coros]:
            await call
        return (world.now_ns - began_ns) / 1e6

    async def course() -> None:
        file = await node.call(disk.open("/f", create=True))
        written = await took_ms(*(file.write(place * 10 * MB, bytes([place]) * (10 * MB)) for place in range(3)))
        assert 15 < written < 45  # one after the other, each varied by up to half; side by side it would be 15 at most
        synced = await took_ms(file.sync(), file.write(0, b"x" * (10 * MB)))
        assert 150 < synced < 450  # nor do they wait for each other: the device's 300 ms
        assert await took_ms(file.read(0, 512 << 10)) == 0
        assert await took_ms(file.read(0, 4 * MB)) == 2 and await took_ms(file.read(29 * MB, 4 * MB)) == 0.5
        assert await took_ms(file.read(0, 20 * MB)) == 40

    world.run(course())
    world.close()


def test_what_the_cache_alone_has_is_known_and_is_synced(tmp_path: Path) -> None:
    (tmp_path / "pages").write_bytes(bytes(100_000))
    found = unsynced_bytes(tmp_path)
    assert set(found) <= {"pages"} and all(0 <= size <= 26 * 4096 for size in found.values())
    sync_tree(tmp_path)
    assert sum(unsynced_bytes(tmp_path).values()) == 0


def test_what_is_compressed_has_a_cost_of_its_own() -> None:
    world = World(1)
    node = world.node("a")
    node.costs_ns.update({"offload.decode": 0.0, "offload.decode.zst": 1000.0})

    def decode(data: bytes, key: str) -> bytes:
        return data

    async def course() -> tuple[int, int]:
        await node.call(node.ports.offload.run(decode, bytes(1000), "000000010000000000000001"))
        plain_ns = world.now_ns
        await node.call(node.ports.offload.run(decode, bytes(1000), "000000010000000000000001.zst"))
        return plain_ns, world.now_ns - plain_ns

    plain_ns, packed_ns = world.run(course())
    assert plain_ns < 100_000 < 1_000_000 <= packed_ns
    world.close()


def test_the_estimate_of_a_restore_is_near_what_was_measured() -> None:
    """Within a factor of three: a change of the engine that makes the rates wrong is to be noticed here."""
    record_bytes = RECORD_BYTES
    analysed_ns = COSTS_NS["recovery.scan"] / record_bytes + COSTS_NS["restore.log_byte"]
    measured_s = (1 << 30) * analysed_ns / 1e9
    estimated_s = rates.service_s(0, 1 << 30) - rates.START_S
    assert 1 / 3 < estimated_s / measured_s < 3
    assert rates.service_s(0, 100 << 20) < 4 < rates.longest_s(0, 100 << 20)
    assert rates.START_S / 3 < (COSTS_NS["process.start"] + COSTS_NS["process.command"]) / 1e9 < rates.START_S * 3


def test_recovery_is_charged_for_the_database_that_is_stood_for() -> None:
    site = Site(load(SCENARIO), 1)
    scale = site.scenario.scale
    site.scale_bulk(True)
    assert {kind: cost for kind, cost in site.node.costs_ns.items() if kind not in ONCE} == {
        kind: cost * scale for kind, cost in COSTS_NS.items() if kind not in ONCE
    }
    assert site.node.costs_ns["recovery.settle"] == COSTS_NS["recovery.settle"]
    site.scale_bulk(False)
    assert site.node.costs_ns["recovery.scan"] == COSTS_NS["recovery.scan"]
    site.world.close()
