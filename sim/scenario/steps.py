"""The steps of a timeline: when each happens, and what it is. One table of verbs, operator actions first, then faults.

    timeline:
      - {at: 10min, backup: {name: nightly, to: s3://backups/nightly}}
      - {at: 1h, machine_lost: }
      - {after: 5min, restore: {from: nightly, target: latest}}

A step waits for `at` (since service began), then for `event` (one that the engine emits from here on), then for `io` (so many
I/O boundaries), then `after`. A step that is done in the background (`wait: false`) lets the next one begin.

T1. A step says one thing: exactly one verb.
T2. What a step must lead to is part of it: `expect` (ok, refused, …) and `says`, words that a refusal must have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sim.scenario.schema import (
    Chance,
    Count,
    Duration,
    Key,
    Kind,
    ListOf,
    OneOf,
    Range,
    RangeOf,
    Section,
    Size,
    Switch,
    Text,
    Value,
)

FATE_NAMES = ("all", "none", "mixed")
WHAT = (
    "page", "hot_page", "page_file", "control", "segment", "archive", "archive_tail", "history", "backup", "manifest",
    "backup_segment", "map_page", "written", "archived", "identity", "local_history", "note", "backup_control",
)  # fmt: skip
DISK_ERRORS = (
    "read_error", "sticky_read_error", "write_error", "sync_error", "disk_full", "lost_write", "misdirected_write", "bit_rot",
    "stall",
)  # fmt: skip
EITHER = "ok or refused"
ANY = "any"
"""However it ends: whether that was right, the judge says."""
WHICH = ("first", "second", "middle", "newest", "random")
HOW = ("flip", "zero", "hole", "cut", "delete", "stale", "duplicate", "hide")


@dataclass(frozen=True, slots=True)
class Step:
    """One step. Times in ns as ranges, -1 for none; a seed draws from them."""

    verb: str
    args: Mapping[str, Any] = field(default_factory=dict)
    at_ns: Range = (-1, -1)
    after_ns: Range = (0, 0)
    event: str = ""
    nth: int = 1
    io: Range = (0, 0)
    io_path: str = ""
    wait: bool = True
    if_up: bool = False
    if_down: bool = False
    within_ns: int = 0
    optional: bool = False
    note: str = ""
    line: int = 0
    steps: tuple[Step, ...] = ()
    """What `repeat` repeats."""


def _expect(*names: str) -> dict[str, Key]:
    return {
        "expect": Key("expect", OneOf((*names, ANY)), f"What it must lead to ({names[0]} if nothing is said)."),
        "says": Key("says", Text(), "Words that the refusal, or the report, must have."),
    }


_FOR = {"for": Key("for_ns", Duration(), "How long it lasts; for good, if nothing is said.")}
_PLACE = Key("to", Text(), "Where to: a directory on another machine, or a URL; one of `topology.stores`, or below it.")

ACTIONS: dict[str, tuple[str, dict[str, Key]]] = {
    "backup": ("Take an online backup.", {
        "name": Key("name", Text(), "What later steps call it."),
        "to": _PLACE,
        "type": Key("type", OneOf(("full", "incremental"))),
        "base": Key("base", Text(), "The backup that an incremental one builds on."),
        "compress": Key("compress", Switch()),
        "include_wal": Key("include_wal", Switch()),
        "label": Key("label", OneOf(("manual", "daily", "weekly", "monthly")), "What retention goes by."),
        **_expect("ok", "refused", "died", EITHER),
    }),
    "verify": ("Verify a backup.", {"backup": Key("backup", Text()), **_expect("passed", "failed")}),
    "checkpoint": ("Ask for a checkpoint, with a hold on its log.", {
        "hold": Key("hold_ns", Duration()), **_expect("ok", "died"),
    }),
    "copy": ("Copy data_dir and wal_dir by hand, as rsync does, under load.", {"name": Key("name", Text()), **_expect("ok")}),
    "switch": ("Close the log segment, so that it is archived.", _expect("ok")),
    "wait_archived": ("Wait until the archive has all that was committed by now.", _expect("ok")),
    "expire": ("Remove what retention no longer keeps.", {
        "keep": Key("keep_ns", Duration(), "How long archived log is kept."),
        "keep_backups": Key("keep_backups_ns", Duration(), "How long full backups are kept."),
        "of": Key("of", Text(), "The place below which backups lie."),
        **_expect("ok", "died", "ok or died"),
    }),
    "finish": ("Wait until everything that was begun with `wait: false` has ended.", {}),
    "end": ("Nothing is left that could be restored: the incident ends here.", {}),
    "scrub": ("Check the whole database.", _expect("clean", "problems", "refused", "clean or problems")),
    "query": ("Read every table.", _expect("ok", "refused", EITHER)),
    "stop": ("Stop the daemon cleanly.", _expect("ok")),
    "start": ("Start the daemon on what its directories hold.", {
        "repairs": Key("repairs", Switch(), "Whoever then reads all tables must meet a damaged page, rebuilt from the log."),
        **_expect("ok", "refused", "died", EITHER),
    }),
    "restore": ("Restore from a backup, and from the archive where one is configured.", {
        "from": Key("backup", Text(), "Name of a backup, of a copy, or a folder of backups."),
        "target": Key("target", Text(), "latest; a mark's name; before:drop:TABLE; lsn:…; or a time."),
        "archive": Key("archive", Text(), "Another archive than the configured one; `none` for none."),
        "machine": Key("machine", OneOf(("same", "new", "again")), "The same one, emptied; a new one; or where one broke off."),
        "drill": Key("drill", Switch(), "Restore beside the running database, and archive nothing."),
        "timeline": Key("timeline", Text(), "Follow this timeline; `own`: the one that the database was on."),
        **_expect("ok", "refused", "died", EITHER),
    }),
    "open_copy": ("Start the daemon on a copy made by hand, or on a backup's own files.", {
        "copy": Key("copy", Text()), **_expect("ok", "refused"),
    }),
    "mark": ("Remember this moment under a name, as somebody who looks at the clock.", {
        "name": Key("name", Text()), "commit": Key("commit", Switch(), "The time of the newest commit, to the microsecond."),
        **_expect("ok"),
    }),
    "serve": ("Let the clients work.", {"for": Key("for_ns", Duration()), **_expect("ok")}),
    "load": ("Write until the log has grown by this much (after scaling).", {"log": Key("log_bytes", Size())}),
}  # fmt: skip

FAULTS: dict[str, tuple[str, dict[str, Key]]] = {
    "kill": ("kill -9.", {}),
    "power_cut": ("The machine loses power; what was not synced lands, is lost or is torn.", {
        "fates": Key("fates", OneOf(FATE_NAMES)),
    }),
    "machine_lost": ("The machine is gone, with its disks.", {}),
    "region_lost": ("A region is gone: its machines with their disks, its stores with their objects.", {
        "region": Key("region", Text()),
    }),
    "sync_error": ("The next fsync fails.", {"path": Key("path", Text())}),
    "disk_full": ("The disk has only this much room left.", {"room": Key("room_bytes", Size()), **_FOR}),
    "slow_disk": ("Every operation takes so many times as long.", {"factor": Key("factor", Count(1, 100_000)), **_FOR}),
    "fsync_lies": ("Syncs say that they are done, and do nothing.", {
        "path": Key("path", Text()), "chance": Key("chance", Chance()), **_FOR,
    }),
    "disk_errors": ("Chance per operation of a kind of disk fault.", {
        "kind": Key("kind", OneOf(DISK_ERRORS)),
        "chance": Key("chance", Chance()), "path": Key("path", Text()), **_FOR,
    }),
    "damage": ("Damage a file or object; which one exactly, the seed decides where `which` leaves a choice.", {
        "what": Key("what", OneOf(WHAT)), "which": Key("which", OneOf(WHICH)), "how": Key("how", OneOf(HOW)),
        "backup": Key("backup", Text(), "Of which backup."), "count": Key("count", Count(1, 1000)),
        "from": Key("source", Text(), "For `stale` and `duplicate`: whose content comes in its place."),
    }),
    "store_outage": ("A store answers nothing.", {"store": Key("store", Text()), **_FOR}),
    "store_errors": ("A store fails now and then: before a change, after it, or with a body cut short.", {
        "store": Key("store", Text()), "before": Key("error_before", Chance()), "after": Key("error_after", Chance()),
        "truncated": Key("truncated", Chance()), "timeout": Key("timeout", Chance(), "No answer for ten seconds."),
        "lag": Key("lag_ns", Duration()), **_FOR,
    }),
    "clock_jump": ("The wall clock jumps.", {"by": Key("by_ns", Duration(signed=True))}),
    "clock_drift": ("The clocks run fast or slow from now on, in parts per million.", {"ppm": Key("ppm", Count(0, 500_000))}),
    "pause": ("The process is frozen, its clock goes on.", {"for": Key("for_ns", Duration())}),
    "drop_table": ("Somebody drops a table.", {"table": Key("table", Text())}),
    "truncate_table": ("Somebody truncates a table.", {"table": Key("table", Text())}),
    "delete_rows": ("Somebody forgets the WHERE.", {
        "table": Key("table", Text()), "rows": Key("rows", Count(1), "Only so many of them."),
    }),
    "heal": ("All faults that are on end.", {}),
}  # fmt: skip

VERBS = {**ACTIONS, **FAULTS}
OUTAGES = ("kill", "power_cut", "machine_lost", "region_lost", "sync_error")
"""Faults after which nothing is served until somebody acts."""
ACCIDENTS = ("drop_table", "truncate_table", "delete_rows")

_WHEN: dict[str, Key] = {
    "at": Key("at_ns", RangeOf(Duration()), "When, since service began."),
    "after": Key("after_ns", RangeOf(Duration()), "How long after the step before, the event or the I/O."),
    "event": Key("event", Text(), "Wait for an event of the engine, such as backup.started."),
    "nth": Key("nth", Count(1), "The how manyeth of these events."),
    "io": Key("io", RangeOf(Count()), "Wait for so many boundaries of I/O: each operation has one before and one after it."),
    "path": Key("io_path", Text(), "Count only I/O on paths that contain this."),
    "if_up": Key("if_up", Switch(), "Only if the database is running; else the step is left out."),
    "if_down": Key("if_down", Switch(), "Only if the database is not running; else the step is left out."),
    "within": Key("within_ns", Duration(), "Wait no longer for the event or the I/O; then the step is done all the same."),
    "optional": Key("optional", Switch(), "Nothing happens where there is nothing that it could strike."),
    "wait": Key("wait", Switch(), "Whether the next step waits until this one is done."),
    "note": Key("note", Text(), "For people."),
}


class StepKind:
    """Reads one step (T1)."""

    def __init__(self, nested: bool = False) -> None:
        self._nested = nested

    def read(self, value: Value) -> Step:
        if not isinstance(value.data, dict):
            raise value.fails("a map with one verb and its time")
        verbs = [name for name in value.data if name in VERBS or (name == "repeat" and not self._nested)]
        unknown = [name for name in value.data if name not in VERBS and name not in _WHEN and name not in verbs]
        if unknown:
            one = value.data[unknown[0]]
            raise one.error(f"unknown step or key; steps: {', '.join([*VERBS, 'repeat'])}; keys: {', '.join(_WHEN)}")
        if len(verbs) != 1:
            said = " and ".join(verbs) or "nothing"
            raise value.error(f"a step says one thing, this one says {said}; one of: {', '.join(VERBS)}")
        verb = verbs[0]
        rest = {name: one for name, one in value.data.items() if name != verb}
        when = Section(_WHEN).read(Value(rest, value.file, value.line, value.key))
        if verb == "repeat":
            args = Section(_REPEAT).read(value.data[verb])
            return Step(verb, {"times": args.get("times", (1, 1))}, line=value.line, steps=args.get("steps", ()), **when)
        return Step(verb, Section(VERBS[verb][1]).read(value.data[verb]), line=value.line, **when)

    def json(self) -> dict[str, Any]:
        properties: dict[str, Any] = {name: {**key.kind.json(), "description": key.doc} for name, key in _WHEN.items()}
        for verb, (doc, keys) in VERBS.items():
            properties[verb] = {**Section(keys).json(), "description": doc}
        if not self._nested:
            properties["repeat"] = Section(_REPEAT).json()
        return {"type": "object", "additionalProperties": False, "properties": properties}


_REPEAT: dict[str, Key] = {
    "times": Key("times", RangeOf(Count(1, 1000)), "How often."),
    "steps": Key("steps", ListOf(StepKind(nested=True)), "What."),
}


def when_keys() -> Mapping[str, Key]:
    """The keys of a step beside its verb."""
    return _WHEN


def timeline() -> Kind:
    return ListOf(StepKind())
