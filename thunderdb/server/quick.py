"""Answers to messages that need no waiting, in one synchronous step: no coroutine, no task, one write for all of them.

`quick_reply` does all that the message asks for, or nothing. What it leaves alone (None) is for the general path in
session.py, which also reports what is wrong with it. A `Later` waits for a future; then `finished_reply` takes its next step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from thunderdb.base.errors import DeadlockDetected, InvariantViolated, NodeStopped, ThunderError
from thunderdb.server import pgwire
from thunderdb.sql.quick import Later
from thunderdb.sql.result import Result


def quick_query(sql: Any, body: bytes) -> bytes | Later | None:
    """`quick_reply` to a Query message."""
    try:
        result = sql.quick(pgwire.parse_query(body))
    except (InvariantViolated, NodeStopped, DeadlockDetected):
        raise
    except ThunderError:
        return None
    return _answered(sql, pgwire.QUERY, result) if result.__class__ is Result else result


def quick_reply(sql: Any, kind: int, body: bytes) -> bytes | Later | None:
    """Answer one message of a session in good order (no error since its last Sync).

    Raises: InvariantViolated, NodeStopped, DeadlockDetected; and whatever a bug of ours raises, after which nothing is known
    of the message.
    """
    if kind == pgwire.QUERY:
        return quick_query(sql, body)
    try:
        answer = _ANSWERS.get(kind)
        return None if answer is None else answer(sql, body)
    except (InvariantViolated, NodeStopped, DeadlockDetected):
        raise
    except ThunderError:
        return None


def finished_reply(sql: Any, kind: int, later: Later) -> bytes | Later | None:
    """The reply to a message that had to wait. Raises: whatever ended the wait, or the step after it."""
    result = later.finish()
    return _answered(sql, kind, result) if isinstance(result, Result) else result


def _answered(sql: Any, kind: int, result: Result) -> bytes:
    if kind == pgwire.QUERY:
        changes = sql.take_parameter_changes()
        end = pgwire.complete_and_ready(result.tag, sql.status) if not changes else _end(sql, result, changes)
        return result.description + result.data + end if result.description else end
    return result.data + pgwire.command_complete(result.tag) if kind == pgwire.EXECUTE else ready(sql)


def _end(sql: Any, result: Result, changes: Sequence[tuple[str, str]]) -> bytes:
    return pgwire.command_complete(result.tag) + _parameters(changes) + pgwire.READY[sql.status]


def _parameters(changes: Sequence[tuple[str, str]]) -> bytes:
    return b"".join([pgwire.parameter_status(name, value) for name, value in changes])


def ready(sql: Any) -> bytes:
    """ReadyForQuery, and before it the reportable parameters that have changed."""
    changes = sql.take_parameter_changes()
    return _parameters(changes) + pgwire.READY[sql.status] if changes else pgwire.READY[sql.status]


def _parse(sql: Any, body: bytes) -> bytes | None:
    return pgwire.PARSE_COMPLETE if sql.extended.parse_quickly(*pgwire.parse_parse(body)) else None


def _bind(sql: Any, body: bytes) -> bytes:
    sql.bind(*pgwire.parse_bind(body))
    return pgwire.BIND_COMPLETE


def _describe(sql: Any, body: bytes) -> bytes:
    target, name = pgwire.parse_target(body)
    if target == "P":
        described: bytes = sql.describe_portal(name)
        return described
    return b"".join(sql.describe_statement(name))


def _execute(sql: Any, body: bytes) -> bytes | Later | None:
    result = sql.extended.execute_quickly(*pgwire.parse_execute(body))
    return _answered(sql, pgwire.EXECUTE, result) if result.__class__ is Result else result


def _close(sql: Any, body: bytes) -> bytes:
    target, name = pgwire.parse_target(body)
    (sql.close_portal if target == "P" else sql.close_statement)(name)
    return pgwire.CLOSE_COMPLETE


def _sync(sql: Any, body: bytes) -> bytes | Later | None:
    result = sql.extended.sync_quickly()
    return ready(sql) if result.__class__ is Result else result


_ANSWERS = {
    pgwire.PARSE: _parse, pgwire.BIND: _bind, pgwire.DESCRIBE: _describe, pgwire.EXECUTE: _execute, pgwire.CLOSE: _close,
    pgwire.SYNC: _sync,
}  # fmt: skip
