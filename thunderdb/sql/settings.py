"""A session's parameters: what SET, SHOW and RESET know, their checks, and how SET LOCAL and a rollback undo them.

G1. A SET inside a transaction block is undone if the block rolls back; SET LOCAL is undone at its end in any case.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from thunderdb.base.errors import SqlError
from thunderdb.sql.calendar import parse_zone
from thunderdb.sql.text_in import parse_bool

SERVER_VERSION = "15.0"
_REPORTED = (
    "server_version", "server_encoding", "client_encoding", "application_name", "is_superuser", "session_authorization",
    "DateStyle", "IntervalStyle", "TimeZone", "integer_datetimes", "standard_conforming_strings",
    "default_transaction_read_only", "in_hot_standby",
)  # fmt: skip
_DEFAULTS = {
    "server_version": SERVER_VERSION, "server_version_num": "150000", "server_encoding": "UTF8", "client_encoding": "UTF8",
    "application_name": "", "is_superuser": "on", "session_authorization": "admin", "datestyle": "ISO, MDY",
    "intervalstyle": "postgres", "timezone": "UTC", "integer_datetimes": "on", "standard_conforming_strings": "on",
    "default_transaction_read_only": "off", "in_hot_standby": "off", "search_path": '"$user", public',
    "default_transaction_isolation": "read committed", "transaction_isolation": "read committed",
    "transaction_read_only": "off",
    "synchronous_commit": "on", "extra_float_digits": "1", "client_min_messages": "notice", "statement_timeout": "0",
    "lock_timeout": "0", "idle_in_transaction_session_timeout": "0", "idle_session_timeout": "0",
    "bytea_output": "hex", "row_security": "on",
    "escape_string_warning": "on", "lc_messages": "C", "lc_monetary": "C", "lc_numeric": "C", "lc_time": "C", "lc_collate": "C",
    "lc_ctype": "C", "max_connections": "200", "work_mem": "4MB", "maintenance_work_mem": "64MB", "xmloption": "content",
    "default_table_access_method": "heap", "default_tablespace": "", "check_function_bodies": "on",
    "max_identifier_length": "63",
    "jit": "off", "enable_seqscan": "on", "fsync": "on", "wal_level": "replica", "default_transaction_deferrable": "off",
    "transaction_deferrable": "off", "block_size": "8192", "geqo": "on", "enable_indexscan": "on", "enable_bitmapscan": "on",
}  # fmt: skip
_OF_BLOCK = ("transaction_isolation", "transaction_read_only")
"""What a block has of its own; they may be set without `Settings.set`."""
_READ_ONLY = frozenset(
    "server_version server_version_num server_encoding is_superuser integer_datetimes in_hot_standby max_connections "
    "lc_collate lc_ctype max_identifier_length fsync wal_level block_size session_authorization".split()
)
_BOOLEANS = frozenset(
    "default_transaction_read_only transaction_read_only escape_string_warning row_security "
    "check_function_bodies jit enable_seqscan enable_indexscan enable_bitmapscan geqo default_transaction_deferrable "
    "transaction_deferrable".split()
)
LEVELS = ("debug5", "debug4", "debug3", "debug2", "debug1", "debug", "log", "notice", "warning", "error")
"""What client_min_messages may be, and so which notices a client gets."""
_CHOICES = {
    "default_transaction_isolation": ("serializable", "repeatable read", "read committed", "read uncommitted"),
    "synchronous_commit": ("local", "remote_write", "remote_apply", "on", "off"),
    "standard_conforming_strings": ("on",),
    "bytea_output": ("hex",), "intervalstyle": ("postgres",),
}  # fmt: skip
_CHOICES["client_min_messages"] = LEVELS
_CHOICES["transaction_isolation"] = _CHOICES["default_transaction_isolation"]
_TIME = re.compile(r"(\d+)\s*(us|ms|s|min|h|d)?")
_TIME_MS = {"us": 0.001, "ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, "d": 86_400_000, None: 1}
_IDLE = ("idle_in_transaction_session_timeout", "idle_session_timeout")
_TIMEOUTS = ("statement_timeout", "lock_timeout", *_IDLE)


class Settings:
    """Parameter values by lower-case name."""

    def __init__(self, startup: Mapping[str, str], user: str) -> None:
        self.values: dict[str, str] = dict(_DEFAULTS)
        self.values["session_authorization"] = user
        self.changed: dict[str, None] = {}
        self.idle_limited = False  # whether one of _IDLE is set
        self._at_begin: dict[str, str] | None = None  # of what has changed since, in a block
        self._local: dict[str, str] = {}
        for name, value in startup.items():
            if name not in ("user", "database", "options", "replication") and not name.startswith("_pq_."):
                self.set(name, value)
        self.initial = dict(self.values)
        self.changed.clear()

    def reported(self) -> dict[str, str]:
        return {name: self.values[name.lower()] for name in _REPORTED}

    def take_changes(self) -> list[tuple[str, str]]:
        if not self.changed:
            return []
        changed, self.changed = self.changed, {}
        return [(name, self.values[name.lower()]) for name in _REPORTED if name.lower() in changed]

    def show(self, name: str) -> str:
        found = self.values.get(_canonical(name))
        if found is None:
            raise SqlError("42704", f'unrecognized configuration parameter "{name}"')
        return found

    def set(self, name: str, value: str | None, local: bool = False) -> None:
        """None means the default. Raises: SqlError 42704, 22023, 55P02."""
        key = _canonical(name)
        if key not in self.values and "." not in key:
            raise SqlError("42704", f'unrecognized configuration parameter "{name}"')
        if key in _READ_ONLY and value is not None:
            raise SqlError("55P02", f'parameter "{name}" cannot be changed')
        new = self.initial.get(key, "") if value is None else checked(key, name, value)
        if local and self._at_begin is not None:
            self._local.setdefault(key, self.values.get(key, ""))
        else:
            self._local.pop(key, None)
        self._put(key, new)

    def _put(self, key: str, value: str) -> None:
        old = self.values.get(key)
        if old != value:
            if self._at_begin is not None and old is not None:
                self._at_begin.setdefault(key, old)
            self.values[key] = value
            self.changed[key] = None
            if key in _IDLE:
                self.idle_limited = any(self.values[name] != "0" for name in _IDLE)

    def reset_all(self) -> None:
        for key, value in self.initial.items():
            self._put(key, value)

    def begin(self, isolation: str, read_only: bool) -> None:
        """A transaction block begins (G1)."""
        values = self.values
        self._at_begin = {key: values[key] for key in _OF_BLOCK}
        values["transaction_isolation"] = isolation
        values["transaction_read_only"] = "on" if read_only else "off"
        self._local = {}

    def end(self, committed: bool) -> None:
        if self._at_begin is None:
            return
        restore = self._local if committed else self._at_begin
        self._at_begin = None
        if restore:
            for key, value in restore.items():
                self._put(key, value)
            self._local = {}

    def timeout_ms(self, name: str) -> int:
        return int(self.values[name])


def _canonical(name: str) -> str:
    lowered = name.lower()
    return {"time zone": "timezone", "names": "client_encoding"}.get(lowered, lowered)


def _bad(name: str, value: str, hint: str = "") -> SqlError:
    return SqlError("22023", f'invalid value for parameter "{name}": "{value}"', hint=hint)


def checked(key: str, name: str, value: str) -> str:
    """A value in the form in which it is kept. Raises: SqlError 22023."""
    if key in _BOOLEANS:
        try:
            return "on" if parse_bool(value) else "off"
        except SqlError:
            raise SqlError("22023", f'parameter "{name}" requires a Boolean value') from None
    if key in _CHOICES:
        lowered = {"true": "on", "false": "off", "yes": "on", "no": "off", "1": "on", "0": "off"}.get(
            value.lower(), value.lower()
        )
        if lowered not in _CHOICES[key]:
            raise _bad(name, value, f"Available values: {', '.join(_CHOICES[key])}.")
        return lowered
    checker = _CHECKERS.get(key)
    return value if checker is None else checker(name, value)


def _encoding(name: str, value: str) -> str:
    if value.strip("'\"").upper().replace("-", "").replace("_", "") not in ("UTF8", "UNICODE", "SQLASCII"):
        raise _bad(name, value)
    return "UTF8"


def _zone(name: str, value: str) -> str:
    if value.lower() in ("default", "local"):
        return "UTC"
    try:
        is_utc = parse_zone(value) == 0
    except ValueError:
        is_utc = re.fullmatch(r"0(\.0+)?", value) is not None
    if not is_utc:
        raise _bad(name, value, "Sessions are in UTC. Write the offset into the value: '2026-01-15 14:30:00+02'.")
    return "UTC" if value.strip().lower() == "utc" else value


def _date_style(name: str, value: str) -> str:
    words = [word.strip().upper() for word in value.split(",")]
    if not words or any(word not in ("ISO", "MDY", "US", "NONEURO") for word in words):
        raise _bad(name, value, "ThunderDB knows ISO, MDY.")
    return "ISO, MDY"


def _timeout(name: str, value: str) -> str:
    match = _TIME.fullmatch(value.strip())
    if match is None:
        raise _bad(name, value, "Valid units for this parameter are us, ms, s, min, h and d.")
    return str(int(int(match[1]) * _TIME_MS[match[2]]))


_CHECKERS: dict[str, Callable[[str, str], str]] = {
    "client_encoding": _encoding, "timezone": _zone, "datestyle": _date_style, **dict.fromkeys(_TIMEOUTS, _timeout),
}  # fmt: skip
