"""What an operator does in an incident, by the product's own functions: backup, verify, start, stop, retention.

A1. An action ends ok, refused (a ThunderError, by name), or died (the node did); the step says which it must be.
"""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from sim.clients.engine_session import EngineSession
from sim.clients.workload import ITEMS
from sim.incident.copying import HandCopy, copy_by_hand, files_below
from sim.incident.site import DATA_DIR, MS, SECOND_NS, WAL_DIR, Loss, Site
from sim.oracle.oracle import Violation, differences
from sim.scenario.steps import ANY, Step
from sim.world.world import NodeDied
from thunderdb.archive.codec import Codec
from thunderdb.backup.chain import list_backups
from thunderdb.backup.expire import expire
from thunderdb.backup.manifest import Manifest
from thunderdb.backup.settings import config_text
from thunderdb.backup.take import BackupRequest, Progress, take_backup
from thunderdb.backup.verify import verify_backup
from thunderdb.base.errors import Refused, ThunderError
from thunderdb.recovery.target import Target, parse_target

HOLD_NS = 3600 * SECOND_NS
ARCHIVED_NS = 6 * 3600 * SECOND_NS


class NotedProgress(Progress):
    """A backup's progress whose phases are events."""

    site: Site

    def __setattr__(self, name: str, value: Any) -> None:
        Progress.__setattr__(self, name, value)
        if name == "phase" and hasattr(self, "site"):
            self.site.happened(f"backup.{value}", {})


class Actions:
    """Carries out the operator's steps on a site."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.places: dict[str, str] = {}
        self.manifests: dict[str, Manifest] = {}
        self.archived_at: dict[str, frozenset[str]] = {}
        """Name → all objects that there were when that backup was complete."""
        self.copies: dict[str, HandCopy] = {}
        self.moments: dict[str, tuple[int, int]] = {}
        """Name → wall time in µs and LSN."""
        self.refusals: list[str] = []
        self.loss = Loss()
        self.recovered_lsn = 0
        self._backups = 0
        self.over = False
        self.tried: set[str] = set()
        """Where backups were begun: a place is used once."""
        self.half_expired = False
        """A retention run has not ended: what it has removed is not known."""

    async def carry_out(self, step: Step) -> str:
        """Do it, and compare how it ended with what the step expects; return how it ended. Raises: Violation."""
        expected = step.args.get("expect", _USUAL.get(step.verb, "ok"))
        outcome, said = await self._outcome(getattr(self, f"_{step.verb}")(step.args))
        if outcome == "ok" and _USUAL.get(step.verb, "ok") != "ok":
            outcome = said or _USUAL[step.verb]
            said = "; ".join(self.refusals[-1:])
        if expected != ANY and outcome not in expected.split(" or "):
            raise Violation(f"line {step.line}: {step.verb} ended {outcome}, expected {expected}: {said}")
        words = step.args.get("says", "")
        if words.lower() not in said.lower():
            raise Violation(f"line {step.line}: {step.verb} says {said!r}, expected words {words!r}")
        return outcome

    async def _outcome(self, coro: Coroutine[Any, Any, str | None]) -> tuple[str, str]:
        """A1."""
        try:
            return "ok", await coro or ""
        except NodeDied:
            return "died", ""
        except ThunderError as error:
            said = f"{error.message} {error.hint}".strip()
            self.refusals.append(said)
            self.site.note(f"refused: {error.message}", "operator")
            return "refused", said
        except OSError as error:  # as the command line does
            self.refusals.append(str(error))
            self.site.note(f"refused: {error}", "operator")
            return "refused", str(error)

    # -- Backups

    async def _backup(self, args: dict[str, Any]) -> None:
        site = self.site
        self._backups += 1
        name = args.get("name", f"backup{self._backups}")
        if "base" in args and args["base"] not in self.places:
            raise Refused(f"there is no backup {args['base']} to build on")
        self.tried.add(args["to"])
        base = self.places[args["base"]] if "base" in args else None
        request = BackupRequest(
            args["to"], include_wal=args.get("include_wal", True), compress=args.get("compress", False),
            type=args.get("type", "full"), label=args.get("label", "manual"), base=base,
        )  # fmt: skip
        progress = NotedProgress()
        progress.site = site
        before, site.phase = site.phase, "backup"
        site.note(f"backup {name} begins", "backup")
        site.happened("backup.started", {"name": name})
        known = frozenset(manifest.checksum for manifest in self.manifests.values())
        seconds = site.world.now_ns // SECOND_NS
        site.scale_store(args["to"], True)
        try:
            manifest = await site.call(
                take_backup(
                    site.db, site.node.ports, request, backup_id=f"bk-20260101-{seconds % 1_000_000:06d}-{self._backups}",
                    archiver=site.archiver, progress=progress, config_text=config_text(site.config), known=known,
                )  # fmt: skip
            )
        finally:
            site.scale_store(args["to"], False)
            site.phase = before
        self.places[name], self.manifests[name] = args["to"], manifest
        self.archived_at[name] = frozenset([*site.world.store.objects, *site.node.image.names])
        site.happened("sim.backup_complete", {"place": args["to"]})
        site.note(f"backup {name} completed", "backup")
        if site.damaged and base is None:
            began_ns = site.world.now_ns
            report = await site.call(verify_backup(site.node.ports, args["to"], requests=site.config.store_requests))
            if not report.passed and not site.trouble.since(began_ns):
                raise Violation(f"backup {name} says that it is whole, and has copied damage: {report.problems[0]}")
        site.happened("backup.completed", {"name": name})

    def target_of(self, text: str) -> Target:
        """A target as a user writes it. Raises: what the parser raises."""
        return parse_target(text)

    async def _verify(self, args: dict[str, Any]) -> str:
        site = self.site
        name = args["backup"]
        before, site.phase = site.phase, "verify"
        site.happened("verify.started", {})
        site.scale_store(self._place(name), True)
        try:
            report = await site.call(verify_backup(site.node.ports, self._place(name), requests=site.config.store_requests))
        finally:
            site.scale_store(self._place(name), False)
            site.phase = before
        if report.passed:
            site.note(f"verify {name}: passed", "operator")
            return "passed"
        text = "; ".join(str(problem) for problem in report.problems[:3])
        self.refusals.append(text)
        site.note(f"verify {name}: FAILED", "operator")
        return "failed"

    def _place(self, name: str) -> str:
        return self.places.get(name, name)

    async def _copy(self, args: dict[str, Any]) -> None:
        """Checkpoint with a hold, then copy data, then wal."""
        site = self.site
        await site.call(site.db.checkpoint(HOLD_NS))
        site.happened("copy.started", {})
        copy = HandCopy(site.recorder.line)
        recorder = site.recorder

        def before_wal() -> None:
            copy.must = [c for c in recorder.known() if c.work.sync and c.work.outcome == "acked"]

        stream = site.world.streams.stream(f"copy.{len(self.copies)}")
        await site.call(copy_by_hand(site.node, DATA_DIR, WAL_DIR, copy, stream, before_wal))
        copy.known, copy.damaged = recorder.known(), site.troubled
        self.copies[args.get("name", "copy")] = copy
        site.note("copied by hand", "backup")

    async def _open_copy(self, args: dict[str, Any]) -> None:
        """Lay the copy down on a new machine and start there."""
        site, name = self.site, args.get("copy", "copy")
        if name in self.manifests:
            self.copies[name] = self._files_of(name)
        if name not in self.copies:
            raise Refused("there is no such copy")
        copy = self.copies[name]
        node = site.new_machine()
        copy.lay(node.image, {"data": DATA_DIR, "wal": WAL_DIR})
        if site.up:
            await site.stop()
        site.node = node
        recorder = site.recorder
        recorder.records, recorder.line.commits = recorder.known(), []  # how much of it comes back, the copy decides
        await self._started()
        missing = [commit for commit in copy.must if commit.lsn >= self.recovered_lsn]
        if missing:
            raise Violation(f"transaction {missing[0].txn}, acknowledged before wal/ was copied, is not in the copy")

    def _files_of(self, name: str) -> HandCopy:
        """A backup's own files, copied back by hand."""
        site, place, end_lsn = self.site, self.places[name], self.manifests[name].end_lsn
        objects = {url.removeprefix(place + "/"): found[0] for url, found in sorted(site.world.store.objects.items())
                   if url.startswith(place + "/")}  # fmt: skip
        found = objects if "://" in place else files_below(site.node.image, place)
        known = site.recorder.known()
        return HandCopy(
            site.recorder.line, {path: content for path, content in found.items() if path.startswith(("data/", "wal/"))},
            [commit for commit in known if commit.lsn < end_lsn and commit.work.sync and commit.work.outcome == "acked"], known,
        )  # fmt: skip

    # -- Small things

    async def _checkpoint(self, args: dict[str, Any]) -> None:
        site = self.site
        before, site.phase = site.phase, "checkpoint"
        site.happened("checkpoint.asked", {})
        try:
            await site.call(site.db.checkpoint(args.get("hold_ns", 0)))
        finally:
            site.phase = before

    async def _switch(self, args: dict[str, Any]) -> None:
        db = self.site.db
        await self.site.call(db.log.flush_all())
        db.log.switch_segment()

    async def _wait_archived(self, args: dict[str, Any]) -> None:
        site = self.site
        if site.archiver is None:
            raise Refused("nothing is archived here")
        await site.call(site.db.log.flush_all())
        lsn = site.db.log.flushed_lsn
        if not site.archiver.target.has_tail:
            site.db.log.switch_segment()
        call = site.node.call(site.archiver.wait_archived(lsn))
        patience_ns = min(ARCHIVED_NS, site.patience_ns // 3)
        for _ in range(patience_ns // SECOND_NS):
            try:
                await site.world.tasks.wait_for(call, SECOND_NS)
                return
            except TimeoutError:
                if site.fatal is not None:
                    raise Refused("the database has stopped before the archive got there") from None
        if not site.troubled and not any(name.startswith(site.archive + "/") for name in site.spoiled):
            raise Violation("what was committed is not archived, though nothing is wrong")
        raise Refused("the archive does not get there")

    async def _mark(self, args: dict[str, Any]) -> None:
        """Between two commits: whoever looks at a clock has a moment at which nothing happened; or a commit's own."""
        site = self.site
        if args.get("commit"):
            newest = site.path_of(site.recorder.line.number)[-1]
            self.moments[args["name"]] = (newest.order_us, newest.lsn)
            site.note(f"commit {args['name']}", "event")
            return
        await site.sleep(2 * MS)
        self.moments[args["name"]] = (site.node.clock.wall_ns() // 1000, site.db.log.next_lsn)
        await site.sleep(2 * MS)
        site.note(f"moment {args['name']}", "event")

    async def _serve(self, args: dict[str, Any]) -> None:
        await self.site.sleep(args.get("for_ns", SECOND_NS))
        self.site.check_calls()
        self.site.check_service()

    async def _load(self, args: dict[str, Any]) -> None:
        """Write until the log has grown by so much."""
        site = self.site
        wanted = args.get("log_bytes") or site.scenario.sizes.log_bytes
        goal = site.db.log.next_lsn + max(1, wanted // site.scenario.scale)
        session, stream = EngineSession(site.db, site.recorder), site.world.streams.stream("load")
        version = 900_000_000

        async def writing() -> None:
            nonlocal version
            while site.db.log.next_lsn < goal:
                version += 1
                await session.begin(False, True)
                key = stream.between(0, site.workload.items - 1)
                await session.modify(ITEMS, key, {"ver": version, "body": "l" * stream.between(100, 2000)})
                await session.commit()

        await site.call(writing())

    async def _expire(self, args: dict[str, Any]) -> None:
        """Retention, as the daemon runs it after a scheduled backup."""
        site = self.site
        config = site.config
        policy = replace(
            config, destination=args.get("of", ""), wal_archive_retention=args.get("keep_ns", 60_000 * MS) // MS,
            keep_daily=args.get("keep_backups_ns", 3_600_000 * MS) // MS,
        )  # fmt: skip
        codec = Codec(config.wal_archive_compress, None)
        before, site.phase = site.phase, "retention"
        site.happened("retention.started", {})
        died_before, self.half_expired = self.half_expired, True
        try:
            done = await site.call(expire(site.node.ports, policy, codec, site.new_events()))
        finally:
            site.phase = before
        self.half_expired = died_before  # what that one removed nobody knows
        site.note(f"retention removed {len(done.removed)} objects", "backup")
        site.world.fired["expired_objects"] += len(done.removed)
        site.retired.update(done.removed)
        if not +site.trouble.active and not site.spoiled:
            await self._whole_or_gone(args.get("of", ""))

    async def _whole_or_gone(self, folder: str) -> None:
        """What retention leaves is a backup, or is not taken for one. Raises: Violation."""
        ports = self.site.node.ports
        try:
            left = await self.site.call(list_backups(ports, folder)) if folder else []
        except Refused:
            return  # not a single one: nobody has taken any there
        for listed in left:
            report = await self.site.call(verify_backup(ports, listed.place))
            if not report.passed:
                raise Violation(f"retention has left {listed.place}, and not all of it: {report.problems[0]}")

    async def _scrub(self, args: dict[str, Any]) -> str:
        """The check wants no transaction to be active."""
        site = self.site
        await site.stop_clients()
        problems = await site.check()
        site.start_clients()
        if problems:
            self.refusals.append("; ".join(problems[:3]))
            return "problems"
        return "clean"

    async def _query(self, args: dict[str, Any]) -> None:
        """Read everything; it must be the truth."""
        site = self.site
        await site.stop_clients()
        observed = await site.observe()
        wrong = differences(site.recorder.state, observed)
        if wrong:
            raise Violation(f"a query returns what was never written: {'; '.join(wrong[:6])}")
        site.start_clients()

    async def _stop(self, args: dict[str, Any]) -> None:
        self.site.note("daemon stopped", "operator")
        await self.site.stop()

    async def _end(self, args: dict[str, Any]) -> None:
        self.site.note("nothing is left that could be restored", "operator")
        self.over = True

    # -- Starting and restoring

    async def _start(self, args: dict[str, Any]) -> None:
        self.site.note("daemon started", "restore")
        before = self.site.count("pool.page_repaired")
        await self._started()
        if args.get("repairs") and self.site.count("pool.page_repaired") == before:
            raise Violation("no query has met a damaged page, and rebuilt it")

    async def _started(self) -> None:
        """Open, compare with the truth below the log's end, serve again."""
        site = self.site
        before, site.phase = site.phase, "restart"
        try:
            await self._opened()
        finally:
            site.phase = before
        self.recovered_lsn = site.db.log.end_lsn
        await self._compared(self._settled())

    async def _opened(self) -> None:
        """Open, and serve the first write. Raises: ThunderError, and then it is not running."""
        site = self.site
        site.scale_bulk(True)
        try:
            await site.open()
            site.note("recovered", "restore")
            await site.first_service()
        except ThunderError:
            await site.give_up()
            raise
        finally:
            site.scale_bulk(False)

    async def _compared(self, settling: Coroutine[Any, Any, Loss]) -> None:
        """What serves must be right. Raises: Violation; ThunderError, and then it does not serve any more."""
        try:
            self.loss = await settling
            await self._serving()
        except ThunderError:
            await self.site.give_up()
            raise

    async def _settled(self) -> Loss:
        return await self.site.settle(self.recovered_lsn)

    async def _serving(self) -> None:
        problems = [] if self.site.spoilt or self.site.trouble.failing else await self.site.check()
        if problems:
            raise Violation(f"check: {len(problems)} problems: {'; '.join(problems[:4])}")
        self.site.start_clients()

_USUAL = {"verify": "passed", "scrub": "clean"}
