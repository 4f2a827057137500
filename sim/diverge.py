"""Where two runs of the same seed part: the first differing event, with its context and the code that it came from.

Each of two processes that differ in all that must not matter (sim/twin.py) plays the run and streams its events; they are
compared as they come, so that nothing is kept and the first difference ends both. Stream, little-endian:

    byte 'S'  a stack: number (4), size (4), JSON list of "file:line function", innermost first; sent at its first use
    byte 'E'  an event: number of its stack (4), TRACE_HEADER of sim/world/trace.py, content
    byte 'R'  the end: size (4), JSON report of the result, without anything measured

V1. What leaves no trace until the end (a verdict, an RPO) is compared at the end.
V2. A stack that differs is not a difference: only time, node, operation, place and content count, as in the trace hash.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from sim import twin
from sim.incident.play import play
from sim.measure import one_collection, report
from sim.scenario.generate import generated
from sim.world.trace import TRACE_HEADER, Op

CONTEXT = 5
LATER_S = 1.1
"""Between the starts of the two: whole seconds differ, too."""
STACK_DEPTH = 40
SHOWN_FRAMES = 16
_U32 = struct.Struct("<I")
_PAIR = struct.Struct("<II")
_OURS = ("thunderdb/", "sim/")
_PLUMBING = (
    "sim/world/trace.py", "sim/diverge.py", "sim/world/kernel.py", "thunderdb/runtime/sync.py", "sim/world/world.py",
    "sim/incident/play.py", "sim/incident/disaster.py", "sim/runs/runner.py", "sim/world/disk.py",
)  # fmt: skip


@dataclass(slots=True)
class Event:
    """One event of a stream."""

    number: int
    time_ns: int
    node: int
    op: int
    place: int
    data: bytes
    stack: list[str]

    @property
    def key(self) -> tuple[int, int, int, int, bytes]:
        return self.time_ns, self.node, self.op, self.place, self.data


@dataclass(slots=True)
class Outcome:
    """What comparing two runs has shown. `events` is how many were equal."""

    events: int = 0
    text: str = ""
    """Empty if the runs are equal."""
    trace_hash: str = ""
    files: dict[tuple[int, int], str] = field(default_factory=dict)


# -- One side


class Streamer:
    """A sink of sim/world/trace.py that writes each event, and the code that it came from."""

    def __init__(self, out: BinaryIO) -> None:
        self._write = out.write
        self._stacks: dict[tuple[Any, ...], int] = {}

    def __call__(self, time_ns: int, node: int, op: int, data: bytes, place: int) -> None:
        frame: Any = sys._getframe(2)
        where: list[Any] = []
        while frame is not None and len(where) < 2 * STACK_DEPTH:
            where += (frame.f_code, frame.f_lineno)
            frame = frame.f_back
        key = tuple(where)
        number = self._stacks.get(key)
        if number is None:
            number = self._stacks[key] = len(self._stacks)
            text = json.dumps([_place(key[at], key[at + 1]) for at in range(0, len(key), 2)]).encode()
            self._write(b"S" + _PAIR.pack(number, len(text)) + text)
        self._write(b"E" + _U32.pack(number) + TRACE_HEADER.pack(time_ns, node, op, len(data), place) + data)


def _place(code: Any, line: int) -> str:
    path = Path(code.co_filename).as_posix()
    for part in _OURS:
        if f"/{part}" in path:
            path = part + path.rpartition(f"/{part}")[2]
            break
    return f"{path}:{line} {code.co_qualname}"


def stream(out: BinaryIO) -> None:
    """The child: play what standard input asks for, and stream it."""
    request = json.loads(sys.stdin.readline())
    scenario = twin.load(request)[0] or generated(request["seed"])
    with one_collection():
        result = play(scenario, request["seed"], record=Streamer(out))
    found = report(result, 0.0, 0.0)
    text = json.dumps({key: found[key] for key in found if key not in twin.MEASURED}).encode()
    out.write(b"R" + _U32.pack(len(text)) + text)
    out.flush()


# -- Both


def compare(path: str, seed: int, promises: list[str]) -> Outcome:
    """Play a run twice and compare. Raises: EOFError if one of the two processes fails."""
    request = {**twin.request_of([path], promises), "seed": seed}
    sides = [twin.start("sim.diverge", 0, request)]
    try:
        time.sleep(LATER_S)
        sides.append(twin.start("sim.diverge", 1, request))
        streams = [_events(side.stdout) for side in sides if side.stdout is not None]
        return _compared(*streams)
    finally:
        for side in sides:
            side.kill()
            side.communicate()


def _events(source: Any) -> Iterator[Event | dict[str, Any]]:
    """The events of a stream, then its report. Raises: EOFError."""
    stacks: dict[int, list[str]] = {}
    number = 0
    while True:
        kind = source.read(1)
        if kind == b"S":
            stack, size = _PAIR.unpack(_exactly(source, _PAIR.size))
            stacks[stack] = json.loads(_exactly(source, size))
        elif kind == b"E":
            stack = _U32.unpack(_exactly(source, _U32.size))[0]
            time_ns, node, op, size, place = TRACE_HEADER.unpack(_exactly(source, TRACE_HEADER.size))
            yield Event(number, time_ns, node, op, place, _exactly(source, size), stacks[stack])
            number += 1
        elif kind == b"R":
            yield json.loads(_exactly(source, _U32.unpack(_exactly(source, _U32.size))[0]))
            return
        else:
            raise EOFError("a process ended in the middle of its run; its error is above")


def _exactly(source: Any, size: int) -> bytes:
    data: bytes = source.read(size)
    if len(data) < size:
        raise EOFError("a process ended in the middle of its run; its error is above")
    return data


def _compared(left: Iterator[Event | dict[str, Any]], right: Iterator[Event | dict[str, Any]]) -> Outcome:
    outcome = Outcome()
    before: deque[Event] = deque(maxlen=CONTEXT)
    for one, other in zip(left, right, strict=False):
        if isinstance(one, Event) and isinstance(other, Event):
            if one.key != other.key:
                outcome.text = _difference(outcome, before, one, other)
                return outcome
            _learn_name(outcome.files, one)
            before.append(one)
            outcome.events += 1
        elif isinstance(one, dict) and isinstance(other, dict):
            outcome.trace_hash = one["trace_hash"]
            keys = twin.differing(one, other)  # V1
            if keys:
                said = "; ".join(f"{key}: {one[key]!r} and {other[key]!r}" for key in keys)
                outcome.text = f"all {outcome.events} events are equal, but not the result: {said}"
        else:
            longer = one if isinstance(one, Event) else other
            which = 0 if isinstance(one, Event) else 1
            if isinstance(longer, Event):
                shown = _shown(outcome, longer)
                lines = [f"only run {which} has event {longer.number}; the other has ended", f"  {shown}", *_frames(longer)]
                outcome.text = "\n".join([*_context(outcome, before), *lines])
    return outcome


def _learn_name(files: dict[tuple[int, int], str], event: Event) -> None:
    """File names by node and inode, from the events that tell them."""
    if event.op == Op.OPEN:
        files[event.node, event.place >> 40] = event.data.decode()
    elif event.op == Op.RENAME:
        old, _, new = event.data.decode().partition("\0")
        for key, path in files.items():
            if key[0] == event.node and (path == old or path.startswith(old + "/")):
                files[key] = new + path[len(old) :]


def _shown(outcome: Outcome, event: Event) -> str:
    name = Op(event.op).name
    place = ""
    if Op.OPEN <= event.op <= Op.LOCK and event.place >> 40:
        inode, offset = event.place >> 40, event.place & (1 << 40) - 1
        place = f" {outcome.files.get((event.node, inode), f'inode {inode}')} offset {offset}"
    elif event.op == Op.LOG_APPEND:
        place = f" LSN {event.place}"
    elif event.place:
        place = f" place {event.place:x}"
    said = ""
    if event.op in (Op.OPEN, Op.SYNC_DIR, Op.RENAME, Op.UNLINK, Op.MAKE_DIR, Op.LIST, Op.CRASH, Op.FAULT, Op.NOTE):
        said = f" {event.data[:80]!r}"
    elif event.op == Op.LOG_APPEND:
        said = f" checksum {event.data[::-1].hex()}"
    elif event.data:
        said = f" {len(event.data)} bytes"
    return f"event {event.number} at {event.time_ns / 1e9:.9f} s, node {event.node}, {name}{place}{said}"


def _frames(event: Event) -> list[str]:
    """Who emitted it, innermost first, without what every event passes through."""
    useful = [one for one in event.stack if one.startswith(_OURS) and not one.startswith(_PLUMBING)]
    return [f"    from {one}" for one in useful[:SHOWN_FRAMES]]


def _context(outcome: Outcome, before: deque[Event]) -> list[str]:
    return [f"{outcome.events} events are equal, the last of them:", *(f"  {_shown(outcome, event)}" for event in before)]


def _difference(outcome: Outcome, before: deque[Event], one: Event, other: Event) -> str:
    lines = [*_context(outcome, before), f"The first that differs is event {one.number}: {_what(one, other)}"]
    for number, event in enumerate((one, other)):
        lines += [f"  run {number}: {_shown(outcome, event)}", *_bytes(one, other, event), *_frames(event)]
    return "\n".join(lines)


def _what(one: Event, other: Event) -> str:
    said = []
    for name in ("time_ns", "node", "op", "place"):
        mine, theirs = getattr(one, name), getattr(other, name)
        if mine != theirs:
            said.append(f"{name} {mine} and {theirs}" if name != "op" else f"{Op(mine).name} and {Op(theirs).name}")
    if len(one.data) != len(other.data):
        said.append(f"{len(one.data)} and {len(other.data)} bytes")
    if one.data != other.data and one.op == other.op == Op.LOG_APPEND:
        said.append("the record's bytes, by its checksum")
    elif one.data != other.data:
        at = _first_byte(one.data, other.data)
        base = f", at {(one.place & (1 << 40) - 1) + at} of the file" if one.op == other.op == Op.WRITE else ""
        said.append(f"the first byte that differs is {at}{base}")
    return "; ".join(said)


def _first_byte(one: bytes, other: bytes) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _bytes(one: Event, other: Event, event: Event) -> list[str]:
    if one.data == other.data or event.op == Op.LOG_APPEND:
        return []
    start = max(0, _first_byte(one.data, other.data) - 8)
    piece = event.data[start : start + 32]
    return [f"    bytes from {start}: {piece.hex(' ')}  {piece!r}"]


if __name__ == "__main__":
    try:
        stream(sys.stdout.buffer)
    except BrokenPipeError:
        os._exit(0)  # the parent has seen enough
