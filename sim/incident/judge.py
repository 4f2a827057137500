"""Was this recoverable? An independent look at what backup and archive hold, compared with what the engine did.

    before a step ─▶ Opinion: it must succeed | it cannot, and why | no opinion      ─▶ the step ─▶ compared with how it ended

J1. What the judge finds impossible must be refused; what it finds possible must not be.
J2. It has an opinion only where it can know. While a fault is on, whoever meets it may be refused, and nothing is said.
J3. What was acknowledged and is gone after a restart, with a disk that told the truth, is lost; so is what the archive was
    said to hold and a restore did not bring back.
J4. An operator's action that meets no fault succeeds.
J5. What the archiver said it had shipped is in the archive as it was first put, unless it was damaged, or retention removed it.
J6. A drill leaves no timeline in the archive.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sim.incident.evidence import Closed, Evidence
from sim.incident.site import Site
from sim.oracle.truth import Line, before_verb
from sim.scenario.steps import ACTIONS, Step
from thunderdb.base.errors import ThunderError
from thunderdb.recovery.target import Target, TargetKind

if TYPE_CHECKING:
    from sim.incident.actions import Actions
    from thunderdb.backup.manifest import Manifest


SIMPLE = ("checkpoint", "scrub", "query", "stop", "serve")
ASKED = ("backup", "checkpoint", "scrub", "query", "serve", "switch", "wait_archived")
"""Of a daemon that runs."""
CAME_MEANWHILE = "and did not a moment ago"
"""A segment was shipped while a restore looked for it."""


@dataclass(frozen=True, slots=True)
class Opinion:
    """`must`: True, it has to succeed; False, it cannot, because of `why`; None: that is not for the judge to say."""

    must: bool | None = None
    why: str = ""
    floor_lsn: int = 0
    """A restore that succeeds must bring back the log up to here."""
    began_ns: int = 0
    damages: int = 0
    """How much had been damaged by then."""
    clean: bool = False
    """The database was shut down before."""


class Judge:
    """Looks on during one run."""

    def __init__(self, site: Site, actions: Actions) -> None:
        self.site = site
        self.actions = actions
        self.evidence = Evidence(site)
        self.problems: list[str] = []
        self._timelines: set[str] = set()
        self.strict = site.scenario.promises.outcome == "judge"
        site.observer = self.evidence.happened

    # -- Before

    def before(self, step: Step) -> Opinion:
        """J2."""
        if step.verb not in ACTIONS:
            return Opinion()
        if step.verb == "restore":
            self._timelines = self._histories()
            opinion = self._restore(step)
        elif step.verb == "start":
            opinion = Opinion(True if self.sound() and not self._half() else None)
        elif step.verb == "backup":
            opinion = Opinion(self._backup(step))
        elif step.verb == "verify":
            opinion = self._verify(step)
        elif step.verb in ("wait_archived", "switch", "expire"):
            opinion = Opinion(True if self.sound() and self._archive_is_fine() else None)
        else:
            opinion = Opinion(True if self.sound() and step.verb in SIMPLE else None)
        return replace(
            opinion, began_ns=self.site.world.now_ns, damages=self.site.damages, clean=self.site.stopped_clean
        )  # fmt: skip

    def _histories(self) -> set[str]:
        archive = self.evidence.archive
        return {name for name in self.evidence.names(archive) if name.endswith(".history")} if archive else set()

    def sound(self) -> bool:
        return not self.site.damaged and not self.site.trouble.lied and not self.site.diverged

    def _half(self) -> bool:
        return getattr(self.actions, "begun", None) is not None

    def _archive_is_fine(self) -> bool:
        archive = self.evidence.archive
        return bool(archive) and not self.evidence.spoiled_in(archive) and not self.evidence.refused

    def _backup(self, step: Step) -> bool | None:
        args = step.args
        if not self.sound() or args["to"] in self.actions.tried:
            return None
        if not args.get("include_wal", True) and not self._archive_is_fine():
            return None
        if "base" in args:
            manifest = self.actions.manifests.get(args["base"])
            if manifest is None or self._chain_trouble(args["base"]) != "":
                return None
            if manifest.timeline != self.site.recorder.line.number:
                return None
        return True

    def _verify(self, step: Step) -> Opinion:
        name = step.args["backup"]
        if name not in self.actions.manifests:
            return Opinion()
        trouble = self._chain_trouble(name, False)
        return Opinion() if trouble is None else Opinion(not trouble, trouble)

    # -- Restores

    def _restore(self, step: Step) -> Opinion:
        """Whether a restore can succeed (J1)."""
        args, site, archive = step.args, self.site, self.evidence.archive
        name = args.get("backup", "")
        if args.get("machine") == "again" or ("archive" in args and args["archive"] != "none"):
            return Opinion()
        if args.get("timeline", "own") != "own" or name not in self.actions.manifests:
            return Opinion()
        if args.get("archive") == "none" or args.get("drill") and not archive:
            archive = ""
        if site.diverged or (site.config.wal_archive_command and not site.config.wal_restore_command):
            return Opinion()
        trouble = self._chain_trouble(name)
        if trouble is None:
            return Opinion()
        if trouble:
            return Opinion(False, trouble)
        manifest, line = self.actions.manifests[name], site.recorder.line
        if not archive and line.number != manifest.timeline:
            return Opinion()  # the backup knows nothing of the timelines that came after it
        alone = len(site.lines) == 1 or args.get("timeline") == "own"
        if not alone or not _fits(manifest, line):
            return Opinion()
        try:
            target = self.actions.target_of(args.get("target", "latest"))
        except ThunderError:
            return Opinion()
        return self._reach(manifest, line, target, archive)

    def _reach(self, manifest: Manifest, line: Line, target: Target, archive: str) -> Opinion:
        """Whether the log from the backup's end to the target is there."""
        site, end_lsn = self.site, manifest.end_lsn
        site.note_archived()
        floor_lsn = site.archived.get(line.number, 0) if archive else end_lsn
        cut_lsn, vouched = self._cut(manifest, line, target, floor_lsn)
        if cut_lsn < 0:
            return Opinion(False, f"the target {target.text} lies before the end of the backup")
        if not archive:
            return Opinion(True if manifest.include_wal and target.kind is TargetKind.LATEST else None)
        needed = [one for one in self.evidence.closed(line) if one.end_lsn > manifest.keep_lsn]
        for one in needed:
            if one.name not in self.evidence.pushed and (one.timeline != line.number or self.evidence.stored(one)):
                # Lost with its machine, and the line went on from a backup that has that log itself; or damaged on its way.
                return Opinion()
        needed = [one for one in needed if one.name in self.evidence.pushed]
        lost = [one for one in needed if not self._intact(one)]
        if any(self.evidence.gone_by_right(one) for one in lost):
            return Opinion()
        for one in lost:
            later = [other for other in needed if other.end_lsn > one.end_lsn and other not in lost]
            inside = one.end_lsn > end_lsn and 0 <= one.start_lsn and one.start_lsn >= end_lsn and one.end_lsn < cut_lsn
            if inside and later and not self.evidence.has_partial(one) and not self.evidence.elsewhere(one, line):
                return Opinion(False, f"{one.name} is not in the archive as it was")
        if lost or self._other_damage(archive) or not vouched or not floor_lsn or not self._begun(line, floor_lsn):
            return Opinion()
        if not manifest.include_wal and floor_lsn < end_lsn:
            return Opinion()
        return Opinion(True, floor_lsn=floor_lsn if target.kind is TargetKind.LATEST else 0)

    def _begun(self, line: Line, floor_lsn: int) -> bool:
        """Whether the log up to where a line left its parent is in the archive, shipped by either of them."""
        parent = line.parent
        return parent is None or max(floor_lsn, self.site.archived.get(parent.number, 0)) >= line.switch_lsn

    def _intact(self, closed: Closed) -> bool:
        name = self.evidence.stored(closed)
        return bool(name) and self.evidence.intact(name)

    def _other_damage(self, archive: str) -> bool:
        """How much of a damaged tail, or of a history, is still of use, the engine may decide."""
        return any(part in name for name in self.evidence.spoiled_in(archive) for part in (".partial", ".history", "complete."))

    def _cut(self, manifest: Manifest, line: Line, target: Target, floor_lsn: int) -> tuple[int, bool]:
        """Up to where the log is needed (-1: less than the backup itself has), and whether the archive surely has it."""
        path, end_lsn = self.site.path_of(line.number), manifest.end_lsn
        if target.kind is TargetKind.LATEST:
            return 1 << 62, True
        if target.kind is TargetKind.LSN:
            if any(target.lsn < commit.lsn < end_lsn for commit in path):
                return -1, False
            return target.lsn, end_lsn <= target.lsn < floor_lsn
        if target.kind is TargetKind.TIME:
            if self.site.trouble.clock:
                return 0, False
            if any(commit.order_us > target.time_us and commit.lsn < end_lsn for commit in path):
                return -1, False
            after = [commit.lsn for commit in path if commit.order_us > target.time_us]
            return (after[0], target.time_us > manifest.end_time_us and after[0] < floor_lsn) if after else (0, False)
        verb = target.verb.name.lower() if target.verb else ""
        kept = before_verb(path, verb, target.table)
        if kept is None:
            return 0, False
        at = path[len(kept)].lsn
        return at, end_lsn < at < floor_lsn

    # -- Backups

    def _chain_trouble(self, name: str, restoring: bool = True) -> str | None:
        """What is wrong with a backup or one that it stands on; empty if nothing; None where the archive may make up for it."""
        ids = {manifest.backup_id: other for other, manifest in self.actions.manifests.items()}
        while True:
            trouble = self._own_trouble(name)
            base = self.actions.manifests[name].base
            if trouble != "" or base is None:
                break
            name = ids[base.backup_id]
        if trouble and restoring and "/wal/" in trouble:
            return None
        return trouble

    def _own_trouble(self, name: str) -> str | None:
        place = self.actions.places[name]
        complete = [one for one in sorted(self.actions.archived_at[name]) if one.startswith(place + "/")]
        trouble = [one for one in complete if not self.evidence.intact(one)]
        if any(place.startswith(gone) or gone.startswith(place) for gone in self.site.retired):
            return None
        for one in trouble:
            if "/wal/" not in one:
                return f"{one} is not as it was"
        return f"{trouble[0]} is not as it was" if trouble else ""

    # -- After

    def ended(self, step: Step, opinion: Opinion, outcome: str) -> None:
        """J1, J4, J6."""
        # The daemon may have claimed its own meanwhile.
        ours = {f"{self.evidence.archive}/{number:08X}.history" for number in self.site.lines}
        left = sorted(self._histories() - self._timelines - ours) if step.args.get("drill") else []
        if left:
            self.problems.append(f"line {step.line}: the drill has left {left[0]} in the archive")
        line = f"line {step.line}: {step.verb}"
        if opinion.must is False and outcome in ("ok", "passed"):
            self.problems.append(f"{line}: succeeded, although {opinion.why}")
        elif outcome in ("refused", "failed", "problems") and self._possible(step, opinion):
            self.problems.append(f"{line}: refused, although nothing is wrong: {self._said()}")
        if self.strict and opinion.must and outcome == "ok" and self.actions.recovered_lsn < opinion.floor_lsn:
            self.problems.append(
                f"{line}: restored to {self.actions.recovered_lsn:#x}, but the archive was said to be at {opinion.floor_lsn:#x}"
            )
        loss = self.actions.loss
        lost = loss.lost + (loss.unsynced if opinion.clean else 0)
        if self.strict and step.verb == "start" and opinion.must and outcome == "ok" and lost:
            self.problems.append(f"{line}: {lost} acknowledged transactions lost by a restart")

    def agrees(self, step: Step, opinion: Opinion, error: str) -> str:
        """Where an expectation failed: whether that is more than its author's word."""
        if ", expected words " in error:
            return ""  # no judge knows which words a refusal should have
        if opinion.must is False:
            return f"; impossible: {opinion.why}"
        return "; possible" if " ended refused, expected ok:" in error and self._possible(step, opinion) else ""

    def _said(self) -> str:
        return self.actions.refusals[-1] if self.actions.refusals else ""

    def _possible(self, step: Step, opinion: Opinion) -> bool:
        """Whether what was refused had to succeed, also by what has come meanwhile."""
        if not opinion.must or step.verb in ASKED and self.site.shut_down_ns >= opinion.began_ns:
            return False  # somebody shut the database down in the middle of it
        if step.verb == "backup" and "base" in step.args and self._chain_trouble(step.args["base"]) != "":
            return False  # what it builds on was damaged meanwhile
        if step.verb == "restore" and self.site.archiver is not None and CAME_MEANWHILE in self._said():
            return False  # beside a database at work, behind a command that cannot list: it is told to run again
        return self._calm(opinion)

    def _calm(self, before: Opinion) -> bool:
        """J2: no fault since then."""
        quiet = not self.site.trouble.since(before.began_ns) and self.site.damages == before.damages
        return self.sound() and quiet and self.site.fatal is None

    def recovered(self) -> None:
        """A recovery has ended with service: compare where it ended with what is promised."""
        wanted = self.site.scenario.promises.recovered_to
        if wanted == "backup_end":
            ends = {manifest.end_lsn for manifest in self.actions.manifests.values()}
            if self.actions.recovered_lsn not in ends:
                shown = ", ".join(f"{end:#x}" for end in sorted(ends))
                self.problems.append(f"recovered to {self.actions.recovered_lsn:#x}, but backups end at {shown}")

    def verdict(self) -> list[str]:
        """What was found; at the end of a run."""
        honest = not self.site.diverged and not self.site.trouble.ever_lied  # the machine's disk: a directory lies on it
        if honest or "://" in self.evidence.archive:
            self.problems += self.evidence.missing(absent=not self.actions.half_expired)  # J5
        return list(self.problems)


def _fits(manifest: Manifest, line: Line) -> bool:
    """Whether a backup lies on the path of a line."""
    at: Line | None = line
    left_lsn = 1 << 62  # a line may leave its parent before the place where that left its own
    while at is not None:
        if at.number == manifest.timeline:
            return manifest.end_lsn <= left_lsn
        left_lsn = min(left_lsn, at.switch_lsn)
        at = at.parent
    return False
