"""An incident, from its timeline: what the operator does, what breaks, how it is recovered, and whether the promises held.

    open ─▶ set up ─▶ clients work ─▶ step ─▶ step ─▶ … ─▶ (still up: check, clean stop, open, compare)

RTO  fault ─▶ noticed ─▶ operator acts ─▶ restore ─▶ replay ─▶ first acknowledged write. People's time is in it, and told apart.
RPO  acknowledged commits that are not there afterwards, and the fault minus the acknowledgement of the oldest of them.

N1. The first Violation ends the run. An error that no step expects is one, and so is waiting for ever.
N2. The clock of an incident starts with what takes service or data away (steps.OUTAGES, steps.ACCIDENTS), with the moment at
    which damage is found, or when an operator stops the daemon; it stops with the first acknowledged write after it.
N3. The operator's delay passes once an incident, before the first step that recovers.
"""

from __future__ import annotations

from typing import Any

from sim.incident.breakage import Breakage
from sim.incident.judge import Judge
from sim.incident.restoring import Restoring
from sim.incident.site import MS, SECOND_NS, Site
from sim.incident.trouble import CALM_NS
from sim.oracle.oracle import Violation
from sim.runs.runner import Result, where
from sim.scenario.faults_plan import fates_of
from sim.scenario.plan import draw_steps, one
from sim.scenario.scenario import Scenario
from sim.scenario.schema import ScenarioError
from sim.scenario.steps import ACCIDENTS, ACTIONS, ANY, OUTAGES, Step
from sim.world.files import file_kind
from sim.world.kernel import Livelock
from sim.world.rand import Stream, derive
from sim.world.trace import Sink
from sim.world.world import NodeDied, Stuck
from thunderdb.base.errors import ThunderError
from thunderdb.runtime.sync import Task

LIMIT_NS = 400 * 24 * 3600 * SECOND_NS
RECOVERING = ("start", "restore", "open_copy")
ALWAYS_WRITE = frozenset(("transfer", "sequence"))
IO_PATIENCE_NS = 600 * SECOND_NS


def run(scenario: Scenario, seed: int, record: bool | Sink = False, log: list[str] | None = None) -> Result:
    """Run an incident with a seed. `log`, if given, collects events and marks."""
    return Incident(scenario, seed, record, log).result()


class Incident:
    """The run of one seed."""

    def __init__(self, scenario: Scenario, seed: int, record: bool | Sink = False, log: list[str] | None = None) -> None:
        self.scenario = scenario
        self.seed = seed
        self.site = Site(scenario, seed, record, log)
        self.actions = Restoring(self.site)
        self.breakage = Breakage(self.site, self.actions.places)
        self.judge = Judge(self.site, self.actions)
        stream = Stream(derive(seed, "operator"))
        self.notices_ns = one(stream, scenario.operator.notices_ns)[0]
        self.acts_ns = one(stream, scenario.operator.acts_ns)[0]
        self.steps = draw_steps(scenario, seed)
        self.began_ns = 0
        self.fault_ns = -1
        self.people_ns = 0
        self.result_ = Result(scenario.name, seed, driver="engine")
        self.background: list[Task[None]] = []
        self.served = False
        self.schedule: Task[None] | None = None

    def result(self) -> Result:
        site, world, result = self.site, self.site.world, self.result_
        try:
            world.run(self._main(), limit_ns=LIMIT_NS)
        except (Violation, Stuck, Livelock) as error:
            result.violations.append(f"{type(error).__name__}: {error}")
        except Exception as error:  # N1
            result.violations.append(f"{type(error).__name__}: {error} ({where(error)})")
        self._judge()
        result.trace_hash = world.trace.hexdigest()
        result.sim_ns = world.now_ns
        result.events = world.trace.events
        result.events_by_kind = world.trace.by_op()
        result.faults = {kind: world.fired[kind] for kind in sorted(world.fired)}
        result.coverage = dict(sorted(world.coverage.items()))
        result.transactions = site.recorder.acked
        result.errors = dict(sorted(site.recorder.counts.items()))
        result.marks = [(mark.time_ns, mark.kind, mark.what) for mark in site.marks]
        result.damaged = list(self.breakage.damaged)
        result.refusals = list(self.actions.refusals)
        result.verdict = "violation" if result.violations else "ok"
        world.close()
        return result

    # -- The course

    async def _main(self) -> None:
        site = self.site
        await site.open()
        await site.set_up()
        site.phase = "serving"
        self.began_ns = site.world.now_ns
        site.note("service begins", "service")
        site.start_clients()
        if self.scenario.backups is not None:
            self.schedule = site.world.tasks.spawn(self._scheduled())
        since = 0
        for done, step in enumerate(self.steps, 1):
            mark = len(site.events)
            if (step.if_up and not site.up) or (step.if_down and site.up):
                continue
            await self._wait(step, since)
            await self._look()
            since = mark
            if (step.if_up and not site.up) or (step.if_down and site.up):
                continue
            await self._do(step)
            self._check_schedule()
            if self.actions.over or site.diverged:
                self._cut_short(len(self.steps) - done)
                break
        await self._join_all()
        self._check_schedule()
        self.schedule = None
        await self._end()

    def _cut_short(self, left: int) -> None:
        """Nothing can be said from here on: a run whose later steps never came says so, as a mark and among its faults."""
        if left and self.site.diverged:
            self.site.note(f"cut short, {left} steps before its end: the disk took back what was archived", "event")
            self.site.world.fired["cut_short"] += 1

    def _check_schedule(self) -> None:
        """What a backup by schedule has found ends the run as anything else does (N1)."""
        if self.schedule is not None and self.schedule.done():
            self.schedule.result()

    async def _wait(self, step: Step, since: int) -> None:
        """When a step's time has come."""
        site = self.site
        if step.at_ns[0] >= 0:
            await site.sleep(self.began_ns + step.at_ns[0] - site.world.now_ns)
        if step.event:
            await site.event(step.event, step.nth, since, step.within_ns)
        if step.io[0] and step.verb not in ("kill", "power_cut"):
            await self._boundary(step, None)
        await site.sleep(step.after_ns[0])
        site.check_calls()
        site.check_service()

    async def _look(self) -> None:
        """A database that has stopped by itself is dead from here on."""
        site = self.site
        if (site.troubled or not site.node.alive) and await site.found_dead():
            self._incident_begins()
            await self._gather()

    async def _gather(self) -> None:
        """After a death: wait for what was done in the background."""
        await self._join_all()
        await self.site.buried()
        self.site.phase = "down"

    async def _do(self, step: Step) -> None:
        site = self.site
        if step.verb == "finish":
            await self._join_all()
            return
        if step.verb in ACTIONS:
            if step.verb == "stop" or (step.verb == "restore" and not step.args.get("drill")):
                self._incident_begins()
            if step.verb in RECOVERING:
                await self._people(step)
            action = self._act(step)
            if step.wait:
                await action
            else:
                self.background.append(site.world.tasks.spawn(action))
            return
        site.note(step.note or step.verb.replace("_", " "), "fault")
        first = self.fault_ns < 0
        if step.verb in OUTAGES or step.verb in ACCIDENTS:
            self._incident_begins()
        if step.io[0] and step.verb in ("kill", "power_cut"):
            await self._boundary(step, step.args.get("fates", "mixed"))
        else:
            await self._break(step)
        if step.verb in OUTAGES and not site.node.alive:
            self.fault_ns = site.node.crash_ns if first else self.fault_ns
            await self._gather()

    async def _act(self, step: Step) -> None:
        """An action, and what follows for RTO and RPO if it brought service back."""
        site = self.site
        phase = site.phase
        before = len(site.marks)
        opinion = self.judge.before(step)
        try:
            outcome = await self.actions.carry_out(step)
        except Violation as error:
            raise Violation(f"{error}{self.judge.agrees(step, opinion, str(error))}") from None
        self.judge.ended(step, opinion, outcome)
        served = [mark for mark in site.marks[before:] if mark.kind == "service"]
        if step.args.get("expect") in ("refused", "problems", "failed") and self.fault_ns < 0:
            self._incident_begins()  # N2: this is how it was found
            site.note("damage found", "event")
        if served:
            self._recovered(served[-1].time_ns)
            site.phase = "serving"
        elif step.args.get("drill"):
            self.result_.rto_ns = max(self.result_.rto_ns, site.world.now_ns - site.marks[before].time_ns)
        elif site.phase == "serving" and not site.up:
            site.phase = "down"
        elif site.phase != phase and site.up:
            site.phase = phase

    def _incident_begins(self) -> None:
        if self.fault_ns < 0:
            self.fault_ns = self.site.world.now_ns
            self.people_ns = -1
            self.site.note("the incident begins", "incident")

    async def _people(self, step: Step) -> None:
        """N3."""
        if self.fault_ns < 0 or self.people_ns >= 0:
            return
        await self.site.sleep(self.notices_ns)
        if self.notices_ns:
            self.site.note("noticed", "operator")
        await self.site.sleep(self.acts_ns)
        if self.acts_ns:
            self.site.note("operator acts", "operator")
        self.people_ns = self.notices_ns + self.acts_ns

    def _recovered(self, service_ns: int) -> None:
        result, loss = self.result_, self.actions.loss
        self.served = True
        result.rpo_transactions += loss.lost
        result.given_up += loss.given_up
        result.recovered_lsn = self.actions.recovered_lsn
        if self.fault_ns >= 0:
            result.rto_ns = max(result.rto_ns, service_ns - self.fault_ns)
            result.operator_ns = max(result.operator_ns, self.people_ns)
            if loss.lost:
                result.rpo_ns = max(result.rpo_ns, self.fault_ns - loss.oldest_acked_ns)
        self.judge.recovered()
        self.fault_ns, self.people_ns = -1, 0

    async def _boundary(self, step: Step, fates: str | None) -> None:
        """Wait for so many boundaries of I/O; with fates, die exactly there."""
        site, node = self.site, self.site.node
        left = step.io[0]
        come = site.world.tasks.future()

        def hook(action: str, path: str, before: bool) -> None:
            nonlocal left
            if step.io_path not in path:
                return
            left -= 1
            if left == 0:
                node.set_boundary(None)
                site.world.fired["at_boundary"] += 1
                come.set_result(None)
                if fates is not None:
                    power = step.verb == "power_cut"
                    site.fired(f"{step.verb} at I/O", file_kind(path))
                    node.crash(power, fates_of(fates))

        node.set_boundary(hook)
        try:
            await site.world.tasks.wait_for(come, step.within_ns or IO_PATIENCE_NS)
        except TimeoutError:
            node.set_boundary(None)
            if fates is not None:
                await self._break(step)

    async def _break(self, step: Step) -> None:
        """A fault. What a person does to a database that cannot do it (it is damaged, it dies) does not happen."""
        try:
            await self.breakage.carry_out(step)
        except (ThunderError, NodeDied) as error:
            if isinstance(error, ScenarioError) or not step.optional:
                raise
            self.site.note(f"{step.verb} fails: {error}", "event")

    async def _join_all(self) -> None:
        """Wait for what was begun with `wait: false`."""
        background, self.background = self.background, []
        for task in background:
            await task

    async def _scheduled(self) -> None:
        """Backups by schedule, as the daemon takes them; one that death or a fault ends is not tried again."""
        backups, site = self.scenario.backups, self.site
        if backups is None:
            return
        await site.sleep(backups.first_ns or backups.every_ns)
        number = 0
        while self.schedule is not None:
            if site.up:
                name = f"auto{number}"
                args: dict[str, Any] = {"name": name, "to": f"{backups.to}/{name}", "compress": backups.compress, "expect": ANY}
                began_ns = site.world.now_ns
                outcome = await self.actions.carry_out(Step("backup", args))
                if outcome == "refused" and not site.troubled and not site.trouble.since(began_ns):
                    raise Violation(f"the backup {name} by schedule: {self.actions.refusals[-1]}")
                number += 1
            await site.sleep(backups.every_ns)

    async def _end(self) -> None:
        """What still runs must be right, stop cleanly, and be the same after a start."""
        site = self.site
        if not site.up:
            return
        site.clear_faults()
        site.check_calls()
        if site.trouble.disk and not site.spoilt:
            await site.sleep(CALM_NS + 1)  # what only failed is healed: from here on nothing is excused
        if site.troubled or await site.found_dead():
            await self._end_in_trouble()
            return
        if site.budget is not None:
            site.budget[0] += 30
        before = site.recorder.acked
        healed_ns, limit_ns = site.world.now_ns, self.scenario.promises.service_ns + 3 * site.workload.think_ns[1]
        writers = not site.workload.mix or bool(ALWAYS_WRITE & set(site.workload.mix))
        if not writers:  # once items is dropped, or empty, they may have nothing to write
            await site.probe()
        while writers and site.recorder.acked < before + 1 and site.clients:
            if site.world.now_ns > healed_ns + limit_ns:
                if site.waited_ns(healed_ns) <= limit_ns:
                    break  # a script that asks for nothing now
                raise Violation("no service, though everything was healed")
            site.check_calls()
            if site.recited:
                break  # all that the script says is done
            if site.budget is not None and site.budget[0] <= 0:
                await site.probe()  # what was drawn had nothing to write
                break
            await site.sleep(50 * MS)
        await site.stop()
        await site.open()
        loss = await site.settle(site.db.log.end_lsn)
        if loss.lost + loss.unsynced:
            raise Violation(f"{loss.lost + loss.unsynced} acknowledged transactions lost by a clean stop")
        problems = await site.check()
        if problems:
            raise Violation(f"check at the end: {len(problems)} problems: {'; '.join(problems[:4])}")
        await site.stop()

    async def _end_in_trouble(self) -> None:
        """The disk has lied or was damaged: whatever is shown must be right, but a refusal by name is, too."""
        site = self.site
        try:
            if site.up:
                await site.stop()
            await site.open()
            sound = self.judge.sound()
            loss = await site.settle(site.db.log.end_lsn)
            if sound and loss.lost:
                raise Violation(f"{loss.lost} acknowledged transactions lost, though the disk has never lied")
            await site.stop()
        except ThunderError as error:
            site.note(f"refused: {error.message}", "operator")
            await site.give_up()

    # -- The verdict

    def _judge(self) -> None:
        result, promises = self.result_, self.scenario.promises
        if result.violations:
            return
        found = result.violations
        if 0 <= promises.rpo < result.rpo_transactions:
            found.append(f"rpo: {result.rpo_transactions} acknowledged transactions lost, promised {promises.rpo}")
        if 0 <= promises.rpo_ns < result.rpo_ns:
            found.append(f"rpo: {result.rpo_ns / 1e9:.3f} s, promised {promises.rpo_ns / 1e9:g} s")
        if result.rto_ns > promises.rto_ns:
            found.append(f"rto: {result.rto_ns / 1e9:.3f} s, promised {promises.rto_ns / 1e9:g} s")
        refused = bool(self.actions.refusals) and not self.served
        if promises.outcome == "recoverable" and self.fault_ns >= 0:
            found.append("the timeline ends without service, though it is promised")
        elif promises.outcome == "must_refuse" and not refused:
            found.append("it was to be refused, but was not" if not self.actions.refusals else "it was refused, and yet served")
        result.violations += self.judge.verdict()
        result.violations += self.site.repairs.unexplained[:1]
