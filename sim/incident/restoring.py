"""Restoring, as an operator does it: planned, carried out, opened, compared with the truth at its target.

A2. A refused restore has changed nothing: the directories have the same bytes before and after.
A3. A restore that went well is compared with the truth at its target: exactly that, nothing more, nothing less.
"""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass, replace
from typing import Any

from sim.clients.engine_session import read_state
from sim.clients.history_database import HistoryDatabase
from sim.clients.workload import PROBE
from sim.incident.actions import Actions
from sim.incident.breakage import empty_directories
from sim.incident.copying import HandCopy, copied_damage, files_below
from sim.incident.site import DATA_DIR, WAL_DIR, Loss, Site
from sim.oracle.oracle import Violation, differences
from sim.oracle.truth import Commit, before_txn, before_verb, state_of, until_time
from sim.world.image import DiskImage
from sim.world.world import SimNode
from thunderdb.backup.holding import holding
from thunderdb.backup.plan import Plan, plan_restore
from thunderdb.backup.restore import RestoreReport, restore
from thunderdb.backup.scan import KEEP_BYTES
from thunderdb.base.errors import ThunderError
from thunderdb.base.events import Events
from thunderdb.engine.check import check_database
from thunderdb.recovery.target import Target, TargetKind, format_time, parse_target


@dataclass(frozen=True, slots=True)
class Begun:
    """A restore that was planned, and has not been compared yet: the machine may die at any moment of it."""

    parent: int
    stop_lsn: int
    chosen: list[Commit] | None


class Restoring(Actions):
    """The operator who can restore, too."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.report: RestoreReport | None = None
        self.begun: Begun | None = None

    async def _restore(self, args: dict[str, Any]) -> None:
        site = self.site
        drill = args.get("drill", False)
        if site.up and not drill:
            await site.stop()
        where = args.get("machine", "new")
        if where != "again" and not drill:
            self.begun = None
        node = site.new_machine() if drill or where == "new" else site.node
        if not drill:
            site.node = node
        if where == "same":
            empty_directories(node.image)
        if not node.alive:
            node.restart()
        place, target = self._place(args.get("backup", "")), self.target_of(args.get("target", "latest"))
        if args.get("backup") in self.copies:
            place = self._lay_copy(node, self.copies[args["backup"]])
        config = site.config
        archive = args.get("archive", config.wal_archive_dir)
        archive = None if archive in ("none", "") else self._place(archive)
        if not drill:
            site.end_line()
        before, site.phase = site.phase, "drill" if drill else "restore"
        site.scale_bulk(True)
        site.note("restore begins", "restore")
        events, damages = site.new_events(), site.damages
        contents = _contents(node.image)
        timeline = args.get("timeline", "")
        timeline = str(site.recorder.line.number) if timeline == "own" else timeline
        try:
            await site.call(node.ports.tasks.work("process.command", 1), node)
            plan: Plan = await self._planned(site, node, plan_restore(
                node.ports, config, target, place, archive, no_archive=drill, timeline=timeline,
                keep_bytes=KEEP_BYTES // site.scenario.scale), contents)
            site.note("restore planned", "restore")
            if timeline.isdigit() and plan.line.timeline != int(timeline):
                raise Violation(f"the restore follows timeline {plan.line.timeline}, though {timeline} was asked for")
            if not drill:
                self.begun = Begun(plan.line.timeline, plan.stop.lsn, self._chosen(target, plan, plan.line.timeline))
            report = await site.call(
                holding(node.ports, plan, events, lambda: restore(
                    node.ports, config, plan, events, drill, database=HistoryDatabase)), node
            )
        finally:
            site.scale_bulk(False)
            site.phase = before
        if not drill:
            site.damaged = site.damages != damages
            if args.get("backup") in self.copies and self.copies[args["backup"]].damaged:
                site.damaged = True
                copied_damage(node.image, DATA_DIR)
            site.trouble.replaced()
            claimed = plan.archive is not None and not plan.no_archive and plan.archive_place == config.wal_archive_dir
            if claimed and where != "again" and report.timeline in site.lines:
                raise Violation(f"timeline {report.timeline} is used a second time")
        self.report, self.recovered_lsn = report, report.stop_lsn
        site.note("restored", "restore")
        chosen = self._chosen(target, plan, report.parent_timeline)
        if drill:
            await self._drilled(node, report, chosen)
            return
        await self._opened()
        await self._compared(site.settle_restore(report.parent_timeline, report.timeline, report.stop_lsn, chosen))
        self.begun = None

    async def _settled(self) -> Loss:
        """After a start: what a restore had laid down before the machine died is compared as that restore's."""
        begun, site = self.begun, self.site
        if begun is None:
            return await super()._settled()
        self.recovered_lsn = begun.stop_lsn
        loss = await site.settle_restore(begun.parent, site.db.log.timeline, begun.stop_lsn, begun.chosen)
        self.begun = None
        return loss

    async def _planned(self, site: Site, node: SimNode, coro: Coroutine[Any, Any, Plan], before: dict[str, bytes]) -> Plan:
        """A2."""
        try:
            return await site.call(coro, node)
        except (ThunderError, OSError):
            if _contents(node.image) != before:
                raise Violation("a restore was refused, but has changed the directories") from None
            raise

    def _lay_copy(self, node: SimNode, copy: HandCopy) -> str:
        copy.lay(node.image, {"data": "/mnt/copy/data", "wal": "/mnt/copy/wal"})
        return "/mnt/copy"

    async def _drilled(self, node: SimNode, report: RestoreReport, chosen: list[Commit] | None) -> None:
        """A drill's database is opened beside the real one, compared, and shut down; the real one goes on."""
        site = self.site
        config = replace(site.config, wal_archive_enabled=False)
        db = await site.call(HistoryDatabase.open(node.ports, config, Events()), node)
        observed = await site.call(read_state(db, PROBE), node)
        path = site.path_of(report.parent_timeline)
        kept = [commit for commit in path if commit.lsn < report.stop_lsn] if chosen is None else chosen
        wrong = differences(state_of(kept), observed)
        if wrong:
            raise Violation(f"the drill restored to {report.stop_lsn:#x}: {'; '.join(wrong[:6])}")
        problems = await site.call(check_database(db), node)
        if problems:
            raise Violation(f"check of the drill: {'; '.join(problems[:4])}")
        await site.call(db.close(), node)
        node.crash(power=False)
        site.note("drill passed", "operator")

    def target_of(self, text: str) -> Target:
        """A target as a user writes it, or `time:NAME`, `lsn:NAME` of a moment that was marked."""
        kind, _, name = text.partition(":")
        if name in self.moments:
            time_us, lsn = self.moments[name]
            text = format_time(time_us, 6) if kind == "time" else f"lsn:{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"
        return parse_target(text)

    def _chosen(self, target: Target, plan: Plan, timeline: int) -> list[Commit] | None:
        """A3: the commits that a target asks for; None for latest, where the log's end decides."""
        path = self.site.path_of(timeline)
        if target.kind is TargetKind.LATEST:
            return None
        if target.kind is TargetKind.TIME:
            return until_time(path, target.time_us)
        if target.kind is TargetKind.LSN:
            return [commit for commit in path if commit.lsn <= target.lsn]
        if target.kind is TargetKind.BEFORE_TXN:
            return before_txn(path, target.txn)
        if self.site.trouble.ever_lied:  # log that has rotted was never shipped: of what is in there, nobody can know
            path = [commit for commit in path if commit.order_us <= plan.newest_time_us]
        return before_verb(path, target.verb.name.lower() if target.verb else "", target.table)


def _contents(image: DiskImage) -> dict[str, bytes]:
    return {**files_below(image, DATA_DIR), **{f"wal/{k}": v for k, v in files_below(image, WAL_DIR).items()}}
