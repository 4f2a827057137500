"""Locks of tables, rows and unique keys, held to the end of the transaction, with deadlock detection.

K1. A lock's name is any hashable value; rows and unique keys use (root, key), tables ("table", id), names ("name", name).
K2. Waiters are served first come, first served; a holder that asks for a stronger mode goes first.
K3. A wait that would close a cycle fails at once with 40P01: the requester is the victim.

Modes: SHARED with SHARED, INTENT (a table's writers) with INTENT; nothing else goes together.

Nearly every lock is one row's, held EXCLUSIVE, and nobody else asks for it: in the table it is just its owner. It becomes an
`_Entry`, with holders and a queue, when it is held in another mode or somebody has to wait.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Protocol

from thunderdb.base.errors import DeadlockDetected
from thunderdb.runtime.sync import Cancelled, Future, Tasks

Name = Any


class Mode(IntEnum):
    SHARED = 1
    INTENT = 2
    EXCLUSIVE = 3


_EXCLUSIVE = Mode.EXCLUSIVE


class Owner(Protocol):
    """Whoever holds locks: a transaction."""

    id: int
    locks: dict[Name, Mode]
    waiting: _Wait | None


class _Wait:
    """A request in a queue."""

    __slots__ = ("owner", "mode", "future", "entry", "name")

    def __init__(self, owner: Owner, mode: Mode, future: Future[None], entry: _Entry, name: Name) -> None:
        self.owner = owner
        self.mode = mode
        self.future = future
        self.entry = entry
        self.name = name


class _Entry:
    """A lock somebody holds: holders with their modes, in order of arrival, and the queue."""

    __slots__ = ("holders", "queue", "common")

    def __init__(self, owner: Owner, mode: Mode) -> None:
        self.holders: dict[int, tuple[Owner, Mode]] = {id(owner): (owner, mode)}
        self.queue: list[_Wait] = []
        self.common: Mode | None = mode  # the mode that all holders have; None where they may differ

    def hold(self, owner: Owner, mode: Mode) -> None:
        self.holders[id(owner)] = (owner, mode)
        if mode is not self.common:
            self.common = None

    def admits(self, owner: Owner, mode: Mode) -> bool:
        for holder, held in self.holders.values():
            if holder is not owner and (mode == Mode.EXCLUSIVE or held != mode):
                return False
        return True


class LockTable:
    """All locks of a database."""

    __slots__ = ("_tasks", "_entries", "waits", "deadlocks")

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._entries: dict[Name, Any] = {}  # _Entry, or the owner of an EXCLUSIVE lock that nobody waits for
        self.waits = 0
        self.deadlocks = 0

    def __len__(self) -> int:
        return len(self._entries)

    def acquire(self, owner: Owner, name: Name, mode: Mode) -> Future[None] | None:
        """Take a lock now (None), or return the future to await.

        Raises: DeadlockDetected. The future fails with whatever `cancel_wait` is given.
        """
        held = owner.locks.get(name)
        if held is not None and (held == mode or held == Mode.EXCLUSIVE):
            return None
        found = self._entries.get(name)
        if found is None:
            self._entries[name] = owner if mode is _EXCLUSIVE else _Entry(owner, mode)
            owner.locks[name] = mode
            return None
        entry = self._entry(name, found)
        wanted = mode if held is None else Mode.EXCLUSIVE  # SHARED + INTENT, or an upgrade
        if entry.admits(owner, wanted) and (held is not None or not entry.queue):
            entry.hold(owner, wanted)
            owner.locks[name] = wanted
            return None
        return self._enqueue(owner, name, entry, wanted, first=held is not None)

    def try_acquire(self, owner: Owner, name: Name, mode: Mode) -> bool:
        """Take a lock if that needs no waiting; otherwise leave everything as it was."""
        locks = owner.locks
        if name in locks:
            held = locks[name]
            return held is mode or held is _EXCLUSIVE
        entry = self._entries.get(name)
        if entry is None:
            self._entries[name] = owner if mode is _EXCLUSIVE else _Entry(owner, mode)
        elif entry.__class__ is not _Entry or entry.queue:
            return False
        elif mode is entry.common and mode is not _EXCLUSIVE:
            entry.holders[id(owner)] = (owner, mode)
        elif entry.admits(owner, mode):
            entry.hold(owner, mode)
        else:
            return False
        locks[name] = mode
        return True

    def _entry(self, name: Name, found: Any) -> _Entry:
        """A lock's entry; made for one that was just its owner's."""
        if isinstance(found, _Entry):
            return found
        entry = self._entries[name] = _Entry(found, _EXCLUSIVE)
        return entry

    def _enqueue(self, owner: Owner, name: Name, entry: _Entry, mode: Mode, first: bool) -> Future[None]:
        wait = _Wait(owner, mode, self._tasks.future(), entry, name)
        entry.queue.insert(0 if first else len(entry.queue), wait)
        owner.waiting = wait
        if self._closes_cycle(owner):
            entry.queue.remove(wait)
            owner.waiting = None
            self.deadlocks += 1
            raise DeadlockDetected("deadlock detected", hint="Run the transaction again.")
        self.waits += 1
        return wait.future

    def _closes_cycle(self, start: Owner) -> bool:
        """Whether `start` waits, directly or not, for itself (K3)."""
        seen: dict[int, Owner] = {}
        stack = self._blockers(start)
        while stack:
            owner = stack.pop()
            if owner is start:
                return True
            if id(owner) not in seen:
                seen[id(owner)] = owner
                stack.extend(self._blockers(owner))
        return False

    def _blockers(self, owner: Owner) -> list[Owner]:
        wait = owner.waiting
        if wait is None:
            return []
        entry = wait.entry
        blockers = [
            holder
            for holder, held in entry.holders.values()
            if holder is not owner and (wait.mode == Mode.EXCLUSIVE or held != wait.mode)
        ]
        for ahead in entry.queue:
            if ahead is wait:
                break
            if wait.mode == Mode.EXCLUSIVE or ahead.mode != wait.mode:
                blockers.append(ahead.owner)
        return blockers

    def cancel_wait(self, owner: Owner, error: BaseException) -> bool:
        """Take a waiting owner out of its queue; its future fails with `error`. Return whether it was waiting."""
        wait = owner.waiting
        if wait is None:
            return False
        owner.waiting = None
        wait.entry.queue.remove(wait)
        wait.future.set_error(error)
        self._grant(wait.name, wait.entry)
        return True

    def release_all(self, owner: Owner) -> None:
        if owner.waiting is not None:
            self.cancel_wait(owner, Cancelled())  # its statement was abandoned while it waited
        entries = self._entries
        for name in owner.locks:
            entry = entries[name]
            if entry is owner:
                del entries[name]
                continue
            del entry.holders[id(owner)]
            if entry.queue:
                self._grant(name, entry)
            elif not entry.holders:
                del entries[name]
        owner.locks.clear()

    def _grant(self, name: Name, entry: _Entry) -> None:
        while entry.queue and entry.admits(entry.queue[0].owner, entry.queue[0].mode):
            wait = entry.queue.pop(0)
            wait.owner.waiting = None
            wait.owner.locks[name] = wait.mode
            entry.hold(wait.owner, wait.mode)
            wait.future.set_result(None)
        if not entry.holders and not entry.queue:
            self._entries.pop(name, None)
