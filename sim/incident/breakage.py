"""What breaks in an incident: faults of machines, disks, stores, clocks and people.

B1. A fault with `for` is over after that time, whatever the timeline does meanwhile.
B2. A damaged file or object is named in the run's report; which one it is comes from the plan's own stream.
B3. Damage to the database's own files strikes cache and device alike: it is what the device gives back.
B4. A fault is counted where it strikes: by disk and store when an operation meets it; here only what takes effect at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sim.clients.workload import BANK, ITEMS
from sim.incident.copying import put_file
from sim.incident.site import DATA_DIR, DISK_TIMES, MS, WAL_DIR, Site
from sim.oracle.oracle import Violation
from sim.scenario.faults_plan import fates_of
from sim.scenario.schema import ScenarioError
from sim.scenario.steps import Step
from sim.world.disk import DiskFaults
from sim.world.image import DiskImage
from sim.world.rand import Stream
from thunderdb.archive.names import parse_object_name
from thunderdb.base.errors import ThunderError
from thunderdb.storage.control import SLOT_OFFSETS

SECTOR = 512
PAGE_HEADER_BYTES = 64
OPTIONAL_SYNCS = 500


@dataclass(slots=True)
class Target:
    """One file or object that can be damaged."""

    name: str
    kind: str
    read: Callable[[], bytes]
    write: Callable[[bytes], None]
    delete: Callable[[], None]


class Breakage:
    """Carries out the faults of a timeline on a site."""

    def __init__(self, site: Site, backups: dict[str, str]) -> None:
        self.site = site
        self.backups = backups
        self.stream: Stream = site.world.streams.stream("breakage")
        self.damaged: list[str] = []
        self.optional = False

    async def carry_out(self, step: Step) -> None:
        self.optional = step.optional
        await getattr(self, f"_{step.verb}")(step.args)

    # -- Machines

    async def _kill(self, args: dict[str, Any]) -> None:
        self._strike("kill", False, "mixed")

    async def _power_cut(self, args: dict[str, Any]) -> None:
        self._strike("power_cut", True, args.get("fates", "mixed"))

    def _strike(self, fault: str, power: bool, fates: str) -> None:
        self.site.fired(fault, "machine")
        self.site.node.crash(power, fates_of(fates))

    async def _machine_lost(self, args: dict[str, Any]) -> None:
        self._lose_machine("machine_lost")

    def _lose_machine(self, fault: str) -> None:
        site = self.site
        site.fired(fault, "machine")
        site.world.fired[fault] += 1
        site.node.crash(True, fates_of("none"))
        _wipe(site.node.image, tuple(place for place in site.scenario.topology.stores if "://" not in place))

    async def _region_lost(self, args: dict[str, Any]) -> None:
        site, region = self.site, args["region"]
        if site.region == region:
            self._lose_machine("region_lost")
        for place, store in site.scenario.topology.stores.items():
            if store.region == region and "://" in place:
                site.fired("region_lost", "store")
                bucket = site.world.store.buckets[place]
                bucket.faults.down = True
                site.trouble.begin("region_lost")
                for url in [url for url in site.world.store.objects if url.startswith(place + "/")]:
                    del site.world.store.objects[url]
                    site.spoiled.append(url)

    async def _pause(self, args: dict[str, Any]) -> None:
        node = self.site.node
        self.site.fired("pause", "process")
        node.pause()
        self._later("pause", args, node.resume)

    # -- Disks

    async def _sync_error(self, args: dict[str, Any]) -> None:
        """The next fsync fails; the node must stop by itself."""
        site = self.site
        site.node.ports.disk.arm("sync_error", args.get("path", ""))
        site.trouble.begin("sync_error")
        try:
            for _ in range(OPTIONAL_SYNCS if self.optional else 100_000):
                if site.fatal is not None or not site.node.alive:
                    break
                await site.sleep(2 * MS)
            else:
                if not self.optional:
                    if site.node.ports.disk.armed:
                        raise Violation("an fsync was to fail, but nothing was synced")
                    raise Violation("an fsync failed, and the node went on")
                site.node.ports.disk.armed.clear()
                return
        finally:
            site.trouble.end("sync_error")
        if site.node.alive:
            site.node.crash(False)

    async def _disk_full(self, args: dict[str, Any]) -> None:
        site = self.site
        image = site.node.image
        image.capacity_bytes = image.used_bytes + args.get("room_bytes", 0)

        def over() -> None:
            image.capacity_bytes = 1 << 50

        self._later("disk_full", args, over)

    async def _slow_disk(self, args: dict[str, Any]) -> None:
        profile, factor = self.site.node.profile, args.get("factor", 10)
        self.site.world.fired["slow_disk"] += 1
        self.site.fired("slow_disk", "disk")
        node = self.site.node
        self.site.usual_speed(node)
        for name in DISK_TIMES:
            setattr(profile, name, getattr(profile, name) * factor)
        self._later("slow_disk", args, lambda: self.site.usual_speed(node))

    async def _fsync_lies(self, args: dict[str, Any]) -> None:
        self._disk_fault("lost_sync", args.get("chance", 1.0), args, "fsync_lies")

    async def _disk_errors(self, args: dict[str, Any]) -> None:
        self._disk_fault(args["kind"], args.get("chance", 0.01), args, args["kind"])

    def _disk_fault(self, kind: str, chance: float, args: dict[str, Any], name: str) -> None:
        """Of the machine's own disk, or of another's that is mounted here: that one is no excuse for a database that stops."""
        node, path = self.site.node, args.get("path", "")
        node.set_faults(DiskFaults({kind: chance}, path))
        mounted = any(path.startswith(place) for place in self.site.scenario.topology.stores)

        def over() -> None:
            node.set_faults(DiskFaults())
            node.image.readable()

        self._later(f"store_{name}" if mounted else name, args, over)

    # -- Stores

    async def _store_outage(self, args: dict[str, Any]) -> None:
        place, away = args.get("store", ""), self.site.node.image.away
        if place.startswith("/"):  # another machine's disk, whose mount fails here
            self._check_mount(place)
            away[place] = None
            self._later("store_outage", args, lambda: away.pop(place, None))
            return
        bucket = self._bucket(args)
        bucket.faults.down = True

        def over() -> None:
            bucket.faults.down = False

        self._later("store_outage", args, over)

    async def _store_errors(self, args: dict[str, Any]) -> None:
        faults = self._bucket(args).faults
        names = ("error_before", "error_after", "truncated", "timeout", "lag_ns")
        for name in names:
            if name in args:
                setattr(faults, name, args[name])

        def over() -> None:
            faults.error_before = faults.error_after = faults.truncated = faults.timeout = 0.0
            faults.lag_ns = 0

        self._later("store_errors", args, over)

    def _check_mount(self, place: str) -> None:
        if place not in self.site.scenario.topology.stores:
            raise ScenarioError(f"{self.site.scenario.path}: {place!r} is no store of topology.stores")

    def _bucket(self, args: dict[str, Any]) -> Any:
        buckets = self.site.world.store.buckets
        place = args.get("store") or next(iter(buckets), "")
        if place not in buckets:
            raise ScenarioError(f"{self.site.scenario.path}: {place!r} is no store with a URL of topology.stores")
        return buckets[place]

    # -- Clocks

    async def _clock_jump(self, args: dict[str, Any]) -> None:
        self.site.node.clock.jump(args["by_ns"])
        self.site.trouble.strike("clock_jump")
        self.site.world.fired["clock_jump"] += 1
        self.site.fired("clock_jump", "clock")

    async def _clock_drift(self, args: dict[str, Any]) -> None:
        clock = self.site.node.clock
        if args["ppm"] * 1000 == clock.drift_ppb:
            return
        clock.set_drift(args["ppm"] * 1000)
        self.site.trouble.strike("clock_drift")
        self.site.world.fired["clock_drift"] += 1
        self.site.fired("clock_drift", "clock")

    # -- People

    async def _drop_table(self, args: dict[str, Any]) -> None:
        await self._accident("drop_table", args)

    async def _truncate_table(self, args: dict[str, Any]) -> None:
        await self._accident("truncate_table", args)

    async def _delete_rows(self, args: dict[str, Any]) -> None:
        await self._accident("delete_rows", args)

    async def _accident(self, verb: str, args: dict[str, Any]) -> None:
        """Clients have left the table alone for a moment: the mistake is made by somebody else."""
        from sim.clients.engine_session import EngineSession

        site, name = self.site, args.get("table", ITEMS)
        if name == BANK and verb == "delete_rows":
            raise ScenarioError(f"{site.scenario.path}: clients need the table {BANK} to have its rows")
        if self.optional and name not in site.recorder.state:
            return
        await site.stop_clients()
        session = EngineSession(site.db, site.recorder)

        async def mistake() -> None:
            try:
                await make_it()
            except ThunderError:
                await session.rollback()  # nobody else would let its locks go
                raise

        async def make_it() -> None:
            await session.begin(False, True)
            if verb == "drop_table":
                await session.drop_table(name)
            elif verb == "truncate_table":
                await session.truncate(name)
            else:
                for key in sorted(site.recorder.state[name].rows)[: args.get("rows", 1 << 40)]:
                    await session.delete(name, key)
            await session.commit()

        await site.call(mistake())
        site.world.fired[verb] += 1
        site.fired(verb, "table")
        if verb != "drop_table":
            site.start_clients()

    async def _heal(self, args: dict[str, Any]) -> None:
        self.site.clear_faults()

    # -- Damage

    async def _damage(self, args: dict[str, Any]) -> None:
        """B2."""
        what, how = args.get("what", "page"), args.get("how", "flip")
        for _ in range(args.get("count", 1)):
            targets = self._targets(what, args)
            if (not targets or (how == "stale" and len(targets) < 2)) and self.optional:
                return
            if not targets:
                raise Violation(f"the timeline damages {what}, but there is none")
            target = self._which(targets, args.get("which", "random"))
            before = target.read()
            hurt = self._hurt(target)
            self._spoil(target, what, how, targets)
            self._injured(target, before, how, hurt)
            if how in ("delete", "hide") or target.read() != before:
                self.site.spoiled.append(target.name)
                self.site.damaged |= target.name.startswith((DATA_DIR, WAL_DIR))
            elif how != "duplicate":
                continue  # zeros over zeros, or one object in the place of its equal
            self.site.damages += 1
            self.site.world.fired[f"damage_{how}"] += 1
            self.site.fired(f"damage_{how}", target.kind)
            self.damaged.append(f"{how} {target.name}")

    def _hurt(self, target: Target) -> dict[int, str]:
        image = self.site.node.image
        number = image.names.get(target.name)
        return {} if number is None else dict(image.inodes[number].hurt)

    def _injured(self, target: Target, before: bytes, how: str, hurt: dict[int, str]) -> None:
        """What of the file is not what it was: only there a repair is explained (sim/oracle/repairs.py)."""
        image = self.site.node.image
        if target.name not in image.names:
            return
        inode, after = image.owned(image.names[target.name]), target.read()
        inode.hurt.update(hurt)  # it was laid down anew as a whole
        for at in range(0, max(len(before), len(after)), SECTOR):
            if before[at : at + SECTOR] != after[at : at + SECTOR]:
                inode.injure(at, at + SECTOR, f"damage_{how}")

    def _which(self, targets: list[Target], which: str) -> Target:
        at = {"first": 0, "second": 1, "middle": len(targets) // 2, "newest": -1}.get(which)
        if at is None:
            return targets[self.stream.between(0, len(targets) - 1)]
        return targets[min(at, len(targets) - 1)]

    def _spoil(self, target: Target, what: str, how: str, targets: list[Target]) -> None:
        data = bytearray(target.read())
        if how in ("delete", "hide"):
            target.delete()
        elif how == "cut":
            target.write(bytes(data[: len(data) // 2]))
        elif how == "stale":
            others = [other for other in targets if other.name != target.name]
            if not others:
                raise Violation(f"nothing can be put in the place of {target.name}: there is only one")
            target.write(others[0].read())
        elif how == "duplicate":
            target.write(bytes(data))
        else:
            if how == "hole":
                at = _hole(data)
            elif what == "control":
                at = SLOT_OFFSETS[self.stream.between(0, 1)] + self.stream.between(0, 63)
            elif what in ("page", "hot_page"):
                at = self._in_a_page(data, what == "hot_page")
            elif what == "map_page":
                at = self.stream.between(0, PAGE_HEADER_BYTES + 100)
            else:
                at = self.stream.between(0, max(0, len(data) - 1))
            if how in ("zero", "hole"):
                start = at // SECTOR * SECTOR
                data[start : start + SECTOR] = bytes(len(data[start : start + SECTOR]))
            else:
                data[at] ^= 1 << self.stream.between(0, 7)
            target.write(bytes(data))

    def _in_a_page(self, data: bytearray, hot: bool) -> int:
        """A place in the used part of a page that is one; `hot`: of the page that was changed last."""
        size = self.site.config.page_size
        pages = [number for number in range(1, len(data) // size) if any(data[number * size : number * size + 8])]
        if not pages:
            return len(data) // 2
        number = pages[self.stream.between(0, len(pages) - 1)]
        if hot:
            number = max(pages, key=lambda page: int.from_bytes(data[page * size + 8 : page * size + 16], "little"))
        return number * size + self.stream.between(PAGE_HEADER_BYTES, PAGE_HEADER_BYTES + 200)

    def _targets(self, what: str, args: dict[str, Any]) -> list[Target]:
        site = self.site
        if what in ("page", "hot_page", "page_file", "map_page"):
            return [one for one in self._files(DATA_DIR, "page") if "/pages." in one.name]
        if what in ("control", "archived", "identity"):
            return [one for one in self._files(DATA_DIR, what) if one.name.endswith(f"/{what}")]
        if what == "written":
            return [one for one in self._files(DATA_DIR, what) if "/written." in one.name]
        if what == "local_history":
            return [one for one in self._files(WAL_DIR, what) if one.name.endswith(".history")]
        if what == "segment":
            return [one for one in self._files(WAL_DIR, "segment") if len(one.name.rpartition("/")[2]) == 24]
        if what in ("archive", "archive_tail", "history", "note"):
            place = site.config.wal_archive_dir
            found = []
            for one in self._at(place, what):
                key = one.name[len(place) + 1 :]
                parsed = parse_object_name(key)
                if key.startswith("complete.") if what == "note" else what == "history" and key.endswith(".history"):
                    found.append(one)
                elif parsed is not None and what in ("archive", "archive_tail") and parsed.partial == (what == "archive_tail"):
                    found.append(one)
            return found
        place = self.backups.get(args["backup"], "") if "backup" in args else next(reversed(self.backups.values()), "")
        if not place:
            return []
        inside = {
            "backup": "/data/pages.", "manifest": "/backup_manifest.json", "backup_segment": "/wal/",
            "backup_control": "/data/control",
        }[what]  # fmt: skip
        return [one for one in self._at(place, what) if one.name.startswith(place + inside)]

    def _at(self, place: str, kind: str) -> list[Target]:
        if "://" not in place:
            return self._files(place, kind)
        objects, now_ns = self.site.world.store.objects, self.site.world.now_ns

        def of(url: str) -> Target:
            def write(data: bytes) -> None:
                objects[url] = (data, now_ns)

            def delete() -> None:
                del objects[url]

            return Target(url, kind, lambda: objects[url][0], write, delete)

        return [of(url) for url in sorted(objects) if url.startswith(place + "/")]

    def _files(self, directory: str, kind: str) -> list[Target]:
        image = self.site.node.image

        def of(path: str) -> Target:
            def read() -> bytes:
                return image.inodes[image.names[path]].read(0, 1 << 62)

            def write(data: bytes) -> None:
                put_file(image, path, data)

            def delete() -> None:
                image.unlink(path)
                image.sync_dir(path.rpartition("/")[0], image.entry_mark())

            return Target(path, kind, read, write, delete)

        return [of(path) for path in sorted(image.names) if path.startswith(directory + "/")]

    def _later(self, name: str, args: dict[str, Any], over: Callable[[], None]) -> None:
        """B1."""
        trouble = self.site.trouble
        trouble.begin(name)

        def ended() -> None:
            over()
            trouble.end(name)

        if "for_ns" in args:
            self.site.world.kernel.at(args["for_ns"], ended)


def _hole(data: bytearray) -> int:
    """The middle of what is written in a log segment: records lie on both sides."""
    end = len(bytes(data).rstrip(b"\0"))
    return max(SECTOR, end // 2)


def _wipe(image: DiskImage, keep: tuple[str, ...] = (), below: str = "") -> None:
    """Remove every file below a directory, but those below `keep`."""
    for path in sorted(image.names):
        if path.startswith(below + "/") and not any(path.startswith(place + "/") for place in keep):
            image.unlink(path)
            image.sync_dir(path.rpartition("/")[0], image.entry_mark())
    image.links.clear()


def empty_directories(image: DiskImage) -> None:
    """What the runbook says: rm -rf data_dir/* wal_dir/*."""
    for directory in (DATA_DIR, WAL_DIR):
        _wipe(image, (), directory)
        for path in sorted(image.dirs, reverse=True):
            if path.startswith(directory + "/"):
                image.remove_dir(path)
