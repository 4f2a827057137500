"""What happens in a generated incident: quiet work, faults, and how people recover, as steps of a timeline.

    [ backups, marks, checks … ─▶ a fault, or several, perhaps amid an action ─▶ start, else restore, else give up ]…
    ─▶ everything is healed ─▶ start, else restore, else give up

L1. Each step says when it makes no sense (`if_up`, `if_down`, `optional`), so that any of them can be left out.
L2. Once a restore was tried in a recovery, only restores follow, and then the end: nobody starts on directories that a restore
    has emptied.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sim.scenario.faults_plan import pick
from sim.scenario.generate_amid import amid
from sim.world.rand import Stream

if TYPE_CHECKING:
    from sim.scenario.generate import Site

Step = dict[str, Any]

QUIET = {
    "serve": 6, "backup": 5, "incremental": 3, "switch": 2, "checkpoint": 2, "wait_archived": 1, "mark": 4, "scrub": 1,
    "query": 1, "verify": 1, "drill": 1, "expire": 1, "copy": 1, "restart": 1, "pitr": 1,
}  # fmt: skip
TABLES = ("items", "items", "items", "serials", "t0", "t1")
HOW = {
    "page": ("flip", "zero"), "hot_page": ("flip",), "page_file": ("delete", "cut"), "control": ("flip",),
    "segment": ("flip", "hole", "delete", "cut"), "archive": ("delete", "flip", "zero", "cut", "stale", "duplicate"),
    "archive_tail": ("delete", "flip", "cut"), "history": ("delete", "flip"), "backup": ("flip", "zero", "cut", "delete"),
    "manifest": ("delete", "flip"), "backup_segment": ("delete", "flip", "cut"), "map_page": ("flip", "zero"),
    "written": ("flip", "delete", "cut"), "archived": ("flip", "delete", "cut"), "identity": ("flip", "delete"),
    "local_history": ("flip", "delete"), "note": ("flip", "delete", "cut"), "backup_control": ("flip", "delete"),
}  # fmt: skip
LOCAL = (
    "page", "hot_page", "page_file", "control", "segment", "map_page", "written", "archived", "identity", "local_history",
)  # fmt: skip
HOME = "/var/lib/thunderdb"
PATHS = (f"{HOME}/wal", f"{HOME}/data/pages.", f"{HOME}/data/control", HOME)
"""Of the machine's own disk: one that lies on another machine would be trouble of its own."""


class Teller:
    """Tells the incident of one seed."""

    def __init__(self, stream: Stream, site: Site) -> None:
        self.stream = stream
        self.site = site
        self.steps: list[Step] = []
        self.backups: list[str] = []
        self.places: dict[str, str] = {}
        self.copies: list[str] = []
        self.marks: list[str] = []
        self.number = 0
        self.faults = sorted(site.faults)
        self.newer = sorted(site.newer)
        self.paths = PATHS
        self.quiet = {name: weight for name, weight in QUIET.items() if stream.random() < 0.75}
        self.quiet["serve"] = 6
        if site.archive == "none":
            for name in ("wait_archived", "expire"):
                self.quiet.pop(name, None)

    def tell(self) -> list[Step]:
        stream = self.stream
        if stream.random() < 0.9:
            self._backup(full=True)
        for _ in range(stream.between(1, 4)):
            for _ in range(stream.between(0, 4)):
                self._quiet()
            self._fault()
            if stream.random() < 0.3:
                self._fault()
        self._quiet()
        self._recover(healed=True)
        return self.steps

    # -- Quiet work

    def _add(self, verb: str, args: dict[str, Any] | None = None, **when: Any) -> None:
        self.steps.append({**when, verb: args})

    def _ms(self, low: int, high: int) -> str:
        return f"{self.stream.between(low, high)}ms"

    def _quiet(self) -> None:
        name = pick(self.stream, self.quiet)
        if name in ("backup", "incremental"):
            self._backup(full=name == "backup")
        elif name == "serve":
            self._add("serve", {"for": self._ms(50, 1500), "expect": "any"}, if_up=True)
        elif name == "expire":
            args = {"of": self.stream.choice(self.site.places) + "/b", "keep": self._ms(100, 6000), "keep_backups": "1ms"}
            self._add("expire", {**args, "expect": "any"}, if_up=True, after=self._ms(0, 500))
        elif name == "verify" and self.backups:
            self._add("verify", {"backup": self.stream.choice(self.backups), "expect": "any"}, if_up=True)
        elif name == "drill" and self.backups:
            self._restore({"drill": True, **self._source()}, if_up=True)
        elif name == "mark":
            self.marks.append(f"m{len(self.marks)}")
            self._add("mark", {"name": self.marks[-1], "expect": "any"}, if_up=True, after=self._ms(20, 800))
        elif name == "copy":
            self.copies.append(f"c{len(self.copies)}")
            self._add("copy", {"name": self.copies[-1], "expect": "any"}, if_up=True)
        elif name == "restart":
            self._add("stop", {"expect": "any"}, if_up=True, after=self._ms(0, 400))
            self._recover()
        elif name == "pitr":
            self._pitr()
        elif name in ("switch", "checkpoint", "wait_archived", "scrub", "query"):
            self._add(name, {"expect": "any"}, if_up=True, after=self._ms(0, 400))

    def _backup(self, full: bool) -> None:
        """In the foreground, or beside what follows."""
        stream = self.stream
        when: dict[str, Any] = {"if_up": True, "after": self._ms(10, 700)}
        if stream.random() < 0.15:
            when["wait"] = False
        self._add("backup", self._backup_args(full), **when)

    def _backup_args(self, full: bool) -> dict[str, Any]:
        stream = self.stream
        base = stream.choice(self.backups[-2:]) if self.backups and not full else ""
        self.number += 1
        name = f"b{self.number}"
        place = self.places.get(base) or stream.choice(self.site.places)  # a chain lies in one folder
        self.places[name] = place
        args: dict[str, Any] = {"name": name, "to": f"{place}/b/{name}"}
        if base:
            args.update(type="incremental", base=base)
        if stream.random() < 0.4:
            args["compress"] = True
        if stream.random() < 0.2 and self.site.archive != "none":
            args["include_wal"] = False
        self.backups.append(name)
        return {**args, "expect": "any"}

    # -- Faults

    def _fault(self) -> None:
        if self.newer and self.stream.random() < 0.5:
            self._newer()
            return
        if not self.faults:
            return
        name = self.stream.choice(self.faults)
        if name in ("kill", "power_cut", "machine_lost", "region_lost"):
            self._outage(name)
        elif name == "sync_error":
            self._add("sync_error", {"path": self.stream.choice(("", "wal", "pages."))}, if_up=True, optional=True)
            self._recover()
        elif name.startswith("damage "):
            self._damage(name.removeprefix("damage "))
        elif name in ("drop_table", "truncate_table", "delete_rows"):
            self._accident(name)
        else:
            self._background(name)

    def _newer(self) -> None:
        """What seeds below generate.NEWER do not have."""
        amids = ("kill", "power_cut", *self.site.lasting)
        lasting = [name for name in (*self.faults, *self.newer) if name in amids or name.startswith("damage ")]
        damages = [name for name in self.newer if name.startswith("damage ")]
        if "amid" in self.newer and lasting and (not damages or self.stream.random() < 0.6):
            amid(self, lasting)
        elif damages:
            self._damage(self.stream.choice(damages).removeprefix("damage "))

    def _outage(self, name: str) -> None:
        """At a random time, or in the middle of something."""
        stream = self.stream
        args: dict[str, Any] | None = None
        if name == "power_cut":
            args = {"fates": stream.choice(("all", "none", "mixed", "mixed"))}
        elif name == "region_lost":
            args = {"region": stream.choice(self.site.regions)}
        draw = stream.random()
        if draw < 0.35:
            self._add(name, args, if_up=True, after=self._ms(10, 1500))
        elif draw < 0.55 and name in ("kill", "power_cut"):
            self._strike(name, args, "")
        elif draw < 0.75:
            self._add("backup", self._backup_args(stream.random() < 0.6), if_up=True, wait=False)
            self._strike(name, args, stream.choice(("backup.started", "backup.started", "backup.copying", "backup.completed")))
        elif draw < 0.85:
            self._add("checkpoint", {"expect": "any"}, if_up=True, wait=False)
            self._strike(name, args, "")
        elif self.site.archive != "none" and draw < 0.93:
            place = stream.choice(self.site.places) + "/b"
            self._add("expire", {"of": place, "keep": "1s", "keep_backups": "1ms", "expect": "any"}, if_up=True, wait=False)
            self._strike(name, args, "retention.started")
        else:
            self._add("switch", {"expect": "any"}, if_up=True, wait=False)
            self._strike(name, args, "")
        self._recover(lost=name in ("machine_lost", "region_lost"))

    def _strike(self, name: str, args: dict[str, Any] | None, event: str, up: bool = True) -> None:
        """An outage at an I/O, or a moment after an event."""
        stream = self.stream
        when: dict[str, Any] = {"if_up": True} if up else {}
        if event:
            when["event"] = event
        if name in ("kill", "power_cut") and stream.random() < 0.8:
            when["io"] = int(2 ** (stream.random() * 8))
            if stream.random() < 0.2:
                when["path"] = stream.choice(("wal", "data", "pages."))
        else:
            when["after"] = self._ms(0, 300)
        self._add(name, args, within="2s", **when)

    def _background(self, name: str) -> None:
        """A fault that lasts for a while; people look after the machine then."""
        stream = self.stream
        verb, args = self._background_args(name)
        self._add(verb, args, if_up=True, after=self._ms(0, 800))
        for _ in range(stream.between(0, 3)):
            self._quiet()
        if name in ("fsync_lies", "lost_write", "misdirected_write", "bit_rot", "write_error") and stream.random() < 0.6:
            self._add("power_cut", {"fates": stream.choice(("none", "mixed"))}, if_up=True, after=self._ms(10, 800))
        self._recover()

    def _background_args(self, name: str) -> tuple[str, dict[str, Any] | None]:
        stream = self.stream
        lasts = {"for": self._ms(50, 4000)}
        args: dict[str, Any] | None
        verb = name
        if name in ("stall", "read_error", "write_error", "lost_write", "misdirected_write", "bit_rot"):
            chance = stream.choice((0.3, 0.05)) if name == "stall" else stream.choice((0.01, 0.05, 0.3))
            verb, args = "disk_errors", {"kind": name, "chance": chance, "path": stream.choice(PATHS), **lasts}
        elif name == "fsync_lies":
            args = {"path": stream.choice(PATHS), "chance": stream.choice((1.0, 0.3)), **lasts}
        elif name == "disk_full":
            args = {"room": f"{stream.choice((0, 20, 200, 1200))}KB", **lasts}
        elif name == "slow_disk":
            args = {"factor": stream.choice((10, 100)), **lasts}
        elif name == "store_outage":
            args = {"store": stream.choice(self.site.stores), "for": self._ms(100, 12_000)}
        elif name == "store_errors":
            kinds = [kind for kind in ("before", "after", "truncated") if stream.random() < 0.5] or ["after"]
            args = {"store": stream.choice(self.site.stores), **{kind: stream.choice((0.02, 0.2, 0.5)) for kind in kinds}}
            if stream.random() < 0.3:
                args["lag"] = self._ms(100, 3000)
            args["for"] = self._ms(100, 8000)
        elif name == "clock_jump":
            args = {"by": f"{stream.choice((-3600_000, -5_000, -300, 300, 5_000, 3600_000))}ms"}
        elif name == "clock_drift":
            args = {"ppm": stream.choice((0, 200, 50_000, 300_000))}
        else:
            args = self._pause()
        return verb, args

    def _pause(self) -> dict[str, Any]:
        return {"for": self._ms(20, 3000)}

    def _damage(self, what: str) -> None:
        """Of the machine's own files while it runs or is stopped, of backups and archive at any time."""
        stream = self.stream
        args = self._damage_args(what)
        if what in LOCAL and stream.random() < 0.7:
            self._add("stop" if stream.random() < 0.5 else "kill", None, if_up=True)
            if "stop" in self.steps[-1]:
                self.steps[-1]["stop"] = {"expect": "any"}
        self._add("damage", args, optional=True, after=self._ms(0, 300))
        if stream.random() < 0.5:
            self._quiet()
        self._recover()
        if what not in LOCAL and stream.random() < 0.7:
            self._outage(stream.choice(("machine_lost", "kill")))

    def _damage_args(self, what: str) -> dict[str, Any]:
        stream = self.stream
        args: dict[str, Any] = {"what": what, "how": stream.choice(HOW[what])}
        args["which"] = stream.choice(("first", "second", "middle", "newest", "random"))
        if what in ("backup", "manifest", "backup_segment", "backup_control") and self.backups:
            args["backup"] = stream.choice(self.backups)
        return args

    def _accident(self, name: str) -> None:
        """A mistake; then the database goes back to before it."""
        stream = self.stream
        table = stream.choice(TABLES) if name != "drop_table" else "items"
        args: dict[str, Any] = {"table": "items" if name == "delete_rows" else table}
        self.marks.append(f"m{len(self.marks)}")
        self._add("mark", {"name": self.marks[-1], "expect": "any"}, if_up=True, after=self._ms(20, 500))
        self._add(name, args, if_up=True, optional=True, after=self._ms(10, 500))
        if stream.random() < 0.6 and self.site.archive != "none":
            self._add("wait_archived", {"expect": "any"}, if_up=True)
        verb = {"drop_table": "drop", "truncate_table": "truncate"}.get(name)
        target = f"before:{verb}:{args['table']}" if verb and stream.random() < 0.5 else f"time:{self.marks[-1]}"
        if not self.backups or stream.random() < 0.2:
            if name == "drop_table":
                self._pitr(target)
            return
        self._pitr(target)

    # -- Recovery

    def _source(self) -> dict[str, Any]:
        """A backup, the newest one as a rule, and how its timeline is named."""
        stream = self.stream
        found: dict[str, Any] = {"from": self.backups[-1] if stream.random() < 0.6 else stream.choice(self.backups)}
        if stream.random() < 0.6:
            found["timeline"] = "own"
        return found

    def _restore(self, args: dict[str, Any], **when: Any) -> None:
        self._add("restore", {"target": "latest", **args, "expect": "any"}, **when)

    def _pitr(self, target: str = "") -> None:
        """Back to a moment, while the database runs or not; then to the latest point if that was refused."""
        if not self.backups:
            return
        stream = self.stream
        if not target and self.marks:
            target = f"{stream.choice(('time', 'lsn'))}:{stream.choice(self.marks)}"
        args = self._source()
        if self.copies and stream.random() < 0.2:
            args["from"] = stream.choice(self.copies)
        if stream.random() < 0.3:
            args["machine"] = "same"
        self._restore({**args, "target": target or "latest"}, after=self._ms(0, 500))
        self._ladder()

    def _recover(self, healed: bool = False, lost: bool = False) -> None:
        """Start, if there is a machine to start on; else restore; else give up (L2)."""
        stream = self.stream
        if healed:
            self._add("heal")
            self._add("serve", {"for": "200ms", "expect": "any"}, if_up=True)
        if not lost:
            if stream.random() < 0.2 and not healed:
                self._add("start", {"expect": "any"}, if_down=True, wait=False, after=self._ms(0, 1000))
                self._strike(stream.choice(("kill", "power_cut")), None, "", up=False)
            self._add("start", {"expect": "any"}, if_down=True, after=self._ms(0, 1000))
            self._add("heal", None, if_down=True)
            self._add("start", {"expect": "any"}, if_down=True, after="1s")
        elif self.backups and stream.random() < 0.25:
            self._restore(self._source(), if_down=True, wait=False)
            self._strike(stream.choice(("kill", "power_cut")), None, stream.choice(("", "restore.started")), up=False)
            self._restore({**self._same_source(), "machine": "again"}, if_down=True, after=self._ms(0, 1000))
        self._ladder()

    def _same_source(self) -> dict[str, Any]:
        """What the last restore was made from."""
        for step in reversed(self.steps):
            if "restore" in step:
                return {key: step["restore"][key] for key in ("from", "timeline") if key in step["restore"]}
        return self._source()

    def _ladder(self) -> None:
        chosen: list[str] = []
        for name in [*reversed(self.backups[-3:]), *self.backups[:1], *self.copies[-1:]]:
            if name not in chosen:
                chosen.append(name)
        for name in chosen:
            args: dict[str, Any] = {"from": name, "timeline": "own"}
            if self.stream.random() < 0.3:
                args["machine"] = "same"
            self._restore(args, if_down=True, after=self._ms(0, 800))
        self._add("heal", None, if_down=True)
        for name in chosen[:2]:
            self._restore({"from": name, "timeline": "own"}, if_down=True, after="1s")
        self._add("end", None, if_down=True)
