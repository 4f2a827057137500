"""The error tree. Every expected trouble is a ThunderError; the impossible is InvariantViolated and stops the node.

    ThunderError                      sqlstate XX000, exit 1
    ├─ SqlError(sqlstate, message)    whatever a statement did wrong, with its SQLSTATE and position
    │  ├─ SerializationFailure        40001
    │  ├─ DeadlockDetected            40P01
    │  ├─ UniqueViolation             23505
    │  ├─ DiskFull                    53100   the log or a page file cannot grow; reads go on
    │  ├─ SnapshotTooOld              72000   its old row versions are no longer in the log
    │  ├─ QueryCancelled              57014
    │  └─ LimitExceeded               54000   a named limit of ours
    ├─ ConfigError                    F0000, exit 2   names key, value and what is allowed
    ├─ Refused                        55000, exit 3   nothing was changed
    ├─ StorageError                   58030, exit 4
    │  ├─ Corruption                  XX001   a page, a log record or a file is not what was written
    │  ├─ LogHole                     XX001   log is missing in the middle: never taken for its end
    │  └─ SyncFailed                  58030   a failed fsync: the node stops (W4)
    ├─ NodeStopped                    57P01   the engine is stopping or has stopped
    └─ InvariantViolated              XX000   a bug: the node stops

Exceptions rebuild from their positional arguments (`type(e)(*e.args)`), because simpy and pickle re-create them so.
Exit codes: 0 done and nothing wrong; 1 checked and wrong, or failed; 2 usage or configuration; 3 refused, nothing changed;
4 I/O or store.
"""

from __future__ import annotations


class ThunderError(Exception):
    """Base of all expected trouble. `args` is (message, hint)."""

    sqlstate = "XX000"
    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class SqlError(ThunderError):
    """A statement's error. `args` is (sqlstate, message, detail, hint, position).

    `position` is the 1-based character index into the statement, 0 if unknown.
    """

    def __init__(self, sqlstate: str, message: str, detail: str = "", hint: str = "", position: int = 0) -> None:
        super().__init__(message, hint)
        self.args = (sqlstate, message, detail, hint, position)
        self.sqlstate = sqlstate
        self.detail = detail
        self.position = position


class _CodedSqlError(SqlError):
    code = "XX000"

    def __init__(self, message: str, detail: str = "", hint: str = "") -> None:
        super().__init__(self.code, message, detail, hint)
        self.args = (message, detail, hint)


class SerializationFailure(_CodedSqlError):
    code = "40001"


class DeadlockDetected(_CodedSqlError):
    code = "40P01"


class UniqueViolation(_CodedSqlError):
    code = "23505"


class DiskFull(_CodedSqlError):
    code = "53100"
    exit_code = 4


class SnapshotTooOld(_CodedSqlError):
    code = "72000"


class QueryCancelled(_CodedSqlError):
    code = "57014"


class LimitExceeded(_CodedSqlError):
    code = "54000"


class ConfigError(ThunderError):
    """A configuration key, its value or a command-line argument is wrong."""

    sqlstate = "F0000"
    exit_code = 2


class Refused(ThunderError):
    """The operation would be unsafe; nothing was changed."""

    sqlstate = "55000"
    exit_code = 3


class StorageError(ThunderError):
    sqlstate = "58030"
    exit_code = 4


class Corruption(StorageError):
    sqlstate = "XX001"


class LogHole(Corruption):
    """Log is missing or damaged in the middle: valid, once-durable records lie behind the break."""


class SyncFailed(StorageError):
    """An fsync failed. It is never retried: what the operating system holds is no longer known (W4)."""


class NodeStopped(ThunderError):
    sqlstate = "57P01"


class InvariantViolated(ThunderError):
    """Something that cannot happen has happened; the node stops rather than carry on."""
