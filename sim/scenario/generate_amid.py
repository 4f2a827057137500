"""A fault in the middle of an action: a backup, a restore, a drill, a start, a verify, a retention run, a copy, a checkpoint.

    the action begins, and goes on by itself ─▶ at an event, so many I/Os on: the fault ─▶ the action ends, however ─▶ recovery

M1. Every fault that lasts, every damage, every failing disk and every crash meets every action: what strikes only what happens
    to be under way when a time has come rarely strikes what is short.
M2. A restore is struck on the machine that it restores to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sim.scenario.generate_steps import Teller

STARTED = {
    "backup": ("backup.started", "backup.copying", "backup.completed"), "verify": ("verify.started",),
    "drill": ("restore.started",), "expire": ("retention.started",), "copy": ("copy.started",),
    "checkpoint": ("checkpoint.asked",), "restore": ("restore.started", "restore.pages_started", "restore.log_started"),
}  # fmt: skip
MOUNTED = ("read_error", "write_error", "sync_error", "disk_full", "stall")
"""How another machine's disk may fail: one that lies, there, nobody here could know of."""
STUCK = ("read_error", "sticky_read_error", "write_error", "sync_error", "disk_full", "stall")


def amid(teller: Teller, faults: list[str]) -> None:
    """Tell of an action, and of one of these faults in the middle of it."""
    stream = teller.stream
    known = ["backup", "checkpoint", "copy", "start"]
    known += ["verify", "drill", "restore", "restore"] if teller.backups else []
    known += ["expire"] if teller.site.archive != "none" else []
    action = stream.choice(known)
    if action == "start":
        _start(teller, faults)
        return
    lost = action == "restore" and stream.random() < 0.8
    if action == "restore":
        teller._add("machine_lost" if lost else "kill", None, if_up=True, after=teller._ms(10, 800))
    _begin(teller, action)
    _fault(teller, stream.choice(faults), STARTED[action])
    teller._add("finish")
    if stream.random() < 0.5:
        teller._add("heal")
    if action == "restore":
        teller._restore({**teller._same_source(), "machine": "again"}, if_down=True, after=teller._ms(0, 1000))
        teller._ladder()
    else:
        teller._recover()


def _begin(teller: Teller, action: str) -> None:
    """The action, in the background."""
    stream, up = teller.stream, {"if_up": True, "wait": False, "after": teller._ms(10, 500)}
    if action == "backup":
        teller._add("backup", teller._backup_args(stream.random() < 0.6), **up)
    elif action == "verify":
        teller._add("verify", {"backup": stream.choice(teller.backups), "expect": "any"}, **up)
    elif action == "drill":
        teller._restore({"drill": True, **teller._source()}, **up)
    elif action == "expire":
        place = stream.choice(teller.site.places) + "/b"
        teller._add("expire", {"of": place, "keep": "1s", "keep_backups": "1ms", "expect": "any"}, **up)
    elif action == "copy":
        teller.copies.append(f"c{len(teller.copies)}")
        teller._add("copy", {"name": teller.copies[-1], "expect": "any"}, **up)
    elif action == "checkpoint":
        teller._add("checkpoint", {"expect": "any"}, **up)
    else:
        teller._restore(teller._source(), if_down=True, wait=False)


def _fault(teller: Teller, name: str, events: tuple[str, ...]) -> None:
    stream = teller.stream
    when: dict[str, Any] = {"event": stream.choice(events), "within": "2s"}
    if stream.random() < 0.6:
        when["io"] = int(2 ** (stream.random() * 7))
    else:
        when["after"] = teller._ms(0, 100)
    verb, args = _args(teller, name)
    teller._add(verb, args, optional=True, **when)


def _start(teller: Teller, faults: list[str]) -> None:
    """The machine is down, and the fault is there when it comes back."""
    stream = teller.stream
    teller._add("power_cut" if stream.random() < 0.5 else "kill", None, if_up=True, after=teller._ms(10, 800))
    lasting = [name for name in faults if name not in ("pause", "kill", "power_cut")]
    verb, args = _args(teller, stream.choice(lasting or ["disk_full"]))
    teller._add(verb, args, optional=True)
    teller._recover()


def _args(teller: Teller, name: str) -> tuple[str, dict[str, Any] | None]:
    """The fault as a step: a failing disk may be one that is mounted here, and fail in more ways than when nothing is amid."""
    stream, site = teller.stream, teller.site
    if name.startswith("damage "):
        return "damage", teller._damage_args(name.removeprefix("damage "))
    if name in ("kill", "power_cut"):
        return name, None if name == "kill" else {"fates": stream.choice(("all", "none", "mixed", "mixed"))}
    mounts = [place for place in site.places if "://" not in place]
    draw = stream.random()
    if mounts and draw < 0.2:
        return "disk_errors", _often(teller, stream.choice(MOUNTED), mounts[0])
    if draw < 0.4:
        return "disk_errors", _often(teller, stream.choice(STUCK), "")
    verb, args = teller._background_args(name)
    if verb == "store_errors" and args is not None and stream.random() < 0.3:
        args["timeout"] = stream.choice((0.05, 0.3))
    return verb, args


def _often(teller: Teller, kind: str, mount: str) -> dict[str, Any]:
    chance = teller.stream.choice((0.02, 0.1, 0.5))
    path = mount or teller.stream.choice(teller.paths)
    return {"kind": kind, "chance": chance, "path": path, "for": teller._ms(50, 3000)}
