"""Every configuration key, once: `Config`'s fields are the table from which parsing, --help and the docs are made.

Precedence, lowest first: built-in default, file, environment (THUNDERDB_<KEY>), command-line flag. Key names are unique over
all sections, so that the last two need no section. This module is pure: the caller reads the file and the environment.

K1. An empty file is valid: every key has a default.
K2. An unknown section or key, a bad unit or an impossible value is a ConfigError that names key, value and what is allowed.
K3. Listening beyond loopback without authentication is refused here, before any socket exists.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from thunderdb.base.config_values import Spec, convert, format_value, is_loopback
from thunderdb.base.errors import ConfigError
from thunderdb.base.units import OFF, format_size

ENV_PREFIX = "THUNDERDB_"
CONFIG_PATH_ENV = "THUNDERDB_CONFIG"
DEFAULT_CONFIG_PATH = "/etc/thunderdb/thunderdb.toml"
SECTIONS = ("node", "network", "storage", "backup", "cluster", "security", "logging")
_SEQUENCE = re.compile(r"%(.?)", re.DOTALL)
_SAFE_PATH = re.compile(r"[A-Za-z0-9_./+@:=,-]+", re.ASCII)
_KB, _MB, _GB = 1 << 10, 1 << 20, 1 << 30


def _key(
    section: str, kind: str, default: Any, doc: str, *, least: int = 0, most: int = 0, choices: tuple[Any, ...] = ()
) -> Any:
    return field(default=default, metadata={"spec": Spec(section, kind, doc, least, most, choices)})


@dataclass(frozen=True, slots=True)
class Config:
    """A complete, checked configuration. Sizes are in bytes, durations in milliseconds."""

    node_id: str = _key("node", "name", "node-1", "This node's name; it appears in logs and metrics.")

    listen_addr: str = _key(
        "network", "address", "127.0.0.1",
        "Address for SQL clients. Anything but loopback is refused until clients can be authenticated.",
    )  # fmt: skip
    pg_port: int = _key("network", "port", 5432, "Port for SQL clients (PostgreSQL protocol); 0 takes any free port.")
    http_listen_addr: str = _key(
        "network", "address", "127.0.0.1", "Address of the admin API and /metrics; beyond loopback only with admin_token_file."
    )
    http_port: int = _key("network", "port", 8088, "Port of the HTTP admin API and of /metrics; 0 takes any free port.")
    max_connections: int = _key(
        "network", "count", 500, "SQL connections served at a time; one more is answered 53300.", least=1, most=100_000
    )

    data_dir: str = _key(
        "storage", "path", "/var/lib/thunderdb/data", "Directory of pages and control file; made on the first start."
    )
    wal_dir: str = _key(
        "storage", "path", "/var/lib/thunderdb/wal", "Directory of the write-ahead log; best on a device of its own."
    )
    buffer_pool_size: int = _key(
        "storage", "size", 128 * _MB, "Memory for pages; decoded bytes count.", least=_MB, most=1 << 42
    )
    wal_buffer_size: int = _key(
        "storage", "size", 16 * _MB, "Log held in memory before a flush is forced.", least=64 * _KB, most=_GB
    )
    page_size: int = _key(
        "storage", "size", 16 * _KB, "Size of a page; fixed when the database is made.",
        choices=(4 * _KB, 8 * _KB, 16 * _KB, 32 * _KB),
    )  # fmt: skip
    checkpoint_interval: int = _key("storage", "duration", 60_000, "Time between checkpoints.", least=1000, most=86_400_000)
    max_wal_size: int = _key(
        "storage", "size", _GB, "Log since the last checkpoint that starts the next one early.", least=_MB, most=1 << 44
    )
    wal_segment_size: int = _key("storage", "size", 16 * _MB, "Largest log file; at most max_wal_size.", least=_MB, most=_GB)
    recovery_target: int | None = _key(
        "storage", "duration_or_off", 30_000,
        "Wished time of a restart after a crash; the page cleaner works towards it.",
        least=1000, most=86_400_000,
    )  # fmt: skip
    sync_commit: bool = _key(
        "storage", "switch", True, "Answer a commit only when it is durable; off risks the last moments, never consistency."
    )

    wal_archive_enabled: bool = _key("storage", "switch", False, "Ship the log to an archive as it is written.")
    wal_archive_dir: str = _key(
        "storage", "place", "", "Where the log is archived: a directory, or s3://, gs:// or az:// with bucket and prefix."
    )
    wal_archive_command: str = _key(
        "storage", "text", "",
        "Instead of wal_archive_dir: a shell command that archives one file; %f is its path, %n its name, %% a percent sign.",
    )  # fmt: skip
    wal_restore_command: str = _key(
        "storage", "text", "", "The shell command that fetches archived file %n to the path %f; it fails where there is none."
    )
    wal_archive_retention: int = _key(
        "storage", "duration", 7 * 86_400_000, "How long archived log is kept at least; longer where a kept backup needs it.",
        least=60_000, most=36_500 * 86_400_000,
    )  # fmt: skip
    wal_archive_timeout: int = _key(
        "storage", "duration", 300_000,
        "After this long with new log in it, a segment is closed and shipped before it is full.",
        least=1000, most=86_400_000,
    )  # fmt: skip
    wal_archive_lag: int = _key(
        "storage", "duration", 1000, "How far the archive's copy of the open segment may be behind the last flush.",
        least=10, most=3_600_000,
    )  # fmt: skip
    wal_archive_compress: bool = _key("storage", "switch", False, "Compress archived segments (zstd).")
    wal_command_timeout: int = _key(
        "storage", "duration", 600_000, "When an archive or restore command is stopped and counts as failed.",
        least=1000, most=86_400_000,
    )  # fmt: skip

    destination: str = _key(
        "backup", "place", "", "Where scheduled backups go: a directory, or s3://, gs:// or az:// with bucket and prefix."
    )
    roots: tuple[str, ...] = _key(
        "backup", "paths", (),
        "Places below which backups may be written; none named: any absolute path, as long as the API needs no token.",
    )  # fmt: skip
    backup_rate_limit: int | None = _key(
        "backup", "size_or_off", None, "Most bytes a second that a backup reads.", least=64 * _KB, most=1 << 40
    )
    store_requests: int = _key(
        "backup", "count", 16,
        "Requests to an object store that backup, verification and restore may each have under way; 4 MB of memory each.",
        least=1, most=128,
    )  # fmt: skip
    schedule_daily: str = _key("backup", "cron", "off", "When to take the daily full backup (cron expression, UTC).")
    schedule_weekly: str = _key("backup", "cron", "off", "When to take the weekly full backup.")
    schedule_monthly: str = _key("backup", "cron", "off", "When to take the monthly full backup.")
    schedule_incremental: str = _key("backup", "cron", "off", "When to take an incremental backup.")
    schedule_compress: bool = _key("backup", "switch", True, "Compress scheduled backups (zstd).")
    keep_daily: int = _key(
        "backup", "duration", 7 * 86_400_000, "How long daily backups are kept.", least=3_600_000, most=36_500 * 86_400_000
    )
    keep_weekly: int = _key(
        "backup", "duration", 30 * 86_400_000, "How long weekly backups are kept.", least=3_600_000, most=36_500 * 86_400_000
    )
    keep_monthly: int = _key(
        "backup", "duration", 366 * 86_400_000, "How long monthly backups are kept.", least=3_600_000, most=36_500 * 86_400_000
    )
    minimum_redundancy: int = _key(
        "backup", "count", 1, "Full backups that are kept in any case, however old.", least=1, most=1000
    )
    backup_key_file: str = _key(
        "backup", "text", "", "File with the key that encrypts backups and archive (32 bytes, or 64 hex digits); empty: none."
    )
    backup_key_command: str = _key("backup", "text", "", "Command that prints that key, instead of a file.")

    admin_token_file: str = _key(
        "security", "text", "", "File with the token that the admin API asks for (Authorization: Bearer …); empty: none."
    )

    level: str = _key(
        "logging", "choice", "info", "Least severe message that is logged.", choices=("debug", "info", "warning", "error")
    )
    format: str = _key("logging", "choice", "text", "Shape of log lines.", choices=("text", "json"))


@dataclass(frozen=True, slots=True)
class KeyDoc:
    """One row of the configuration reference."""

    section: str
    name: str
    kind: str
    default: str
    allowed: str
    doc: str
    env: str
    flag: str


def describe() -> list[KeyDoc]:
    """Every key in the order of the table, for docs, --help and the sample file."""
    return [
        KeyDoc(
            spec.section,
            name,
            spec.kind,
            format_value(spec.kind, default),
            spec.allowed(),
            spec.doc,
            env_name(name),
            flag_name(name),
        )
        for name, (spec, default) in _TABLE.items()
    ]


def sample() -> str:
    """A thunderdb.toml that names every key with its default, commented out."""
    lines = ["# ThunderDB configuration. Every key is optional; the values shown are the defaults."]
    for section in SECTIONS:
        lines += ["", f"[{section}]"]
        for row in describe():
            if row.section == section:
                lines += [f"# {row.doc} Allowed: {row.allowed}.", f"# {row.name} = {row.default}"]
    return "\n".join(lines) + "\n"


def env_name(name: str) -> str:
    return ENV_PREFIX + name.upper()


def flag_name(name: str) -> str:
    return "--" + name.replace("_", "-")


def parse(
    text: str = "", env: Mapping[str, str] | None = None, flags: Mapping[str, Any] | None = None, source: str = ""
) -> Config:
    """Build a checked configuration from a file's text, the environment and flags (None values are absent).

    Raises: ConfigError, naming key, value and what is allowed (K2).
    """
    given = _from_toml(text, source)
    given.update(_from_env(env or {}))
    for name, value in (flags or {}).items():
        if value is not None:
            given[name] = (value, flag_name(name))
    config = Config(**{name: _convert(name, value, origin) for name, (value, origin) in given.items()})
    _check_together(config)
    return config


def _from_toml(text: str, source: str) -> dict[str, tuple[Any, str]]:
    where = f" in {source}" if source else ""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f"configuration is not valid TOML{where}: {error}", "see docs/configuration.md for a sample"
        ) from None
    given: dict[str, tuple[Any, str]] = {}
    for section, table in document.items():
        if section not in SECTIONS:
            raise _unknown_section(section, table, where)
        if not isinstance(table, dict):
            raise ConfigError(
                f"{section} must be a section{where}, not the value {table!r}", f"write [{section}] on a line of its own"
            )
        for name, value in table.items():
            given[_known_key(section, name, where)] = (value, f"{section}.{name}{where}")
    return given


def _from_env(env: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    names = {env_name(name): name for name in _TABLE}
    given: dict[str, tuple[Any, str]] = {}
    for variable, value in sorted(env.items()):
        if variable in names:
            given[names[variable]] = (value, variable)
        elif variable.startswith(ENV_PREFIX) and variable != CONFIG_PATH_ENV:
            # Others may own variables with our prefix (a Kubernetes service does); only what looks like a slip is an error.
            close = difflib.get_close_matches(variable, names, n=1, cutoff=0.94)
            if close:
                raise ConfigError(f"unknown key {variable} in the environment", f"did you mean {close[0]}?")
    return given


def _known_key(section: str, name: str, where: str) -> str:
    known = _TABLE.get(name)
    if known is not None and known[0].section == section:
        return name
    if known is not None:
        raise ConfigError(
            f"key {name} belongs in section [{known[0].section}], not in [{section}]{where}", f"move it to [{known[0].section}]"
        )
    raise ConfigError(f"unknown key {section}.{name}{where}", _did_you_mean(name, list(_TABLE), "key", _keys_of(section)))


def _unknown_section(section: str, value: Any, where: str) -> ConfigError:
    if not isinstance(value, dict):
        known = _TABLE.get(section)
        if known is not None:
            return ConfigError(f"key {section} stands outside of any section{where}", f"it belongs in [{known[0].section}]")
        return ConfigError(f"unknown key {section}{where}", _did_you_mean(section, list(_TABLE), "key", list(_TABLE)))
    return ConfigError(f"unknown section [{section}]{where}", _did_you_mean(section, list(SECTIONS), "section", list(SECTIONS)))


def _keys_of(section: str) -> list[str]:
    return [name for name, (spec, _) in _TABLE.items() if spec.section == section]


def _did_you_mean(name: str, candidates: list[str], noun: str, allowed: list[str]) -> str:
    close = difflib.get_close_matches(name, candidates, n=1)
    listing = f"allowed {noun}s: {', '.join(allowed)}" if allowed else f"there is no {noun} here yet"
    return f"did you mean {close[0]}? {listing}" if close else listing


def _convert(name: str, value: Any, origin: str) -> Any:
    if name not in _TABLE:
        raise ConfigError(f"unknown key {name}", _did_you_mean(name, list(_TABLE), "key", list(_TABLE)))
    spec = _TABLE[name][0]
    try:
        return convert(spec, value)
    except (ValueError, TypeError):
        raise ConfigError(f"{name} = {value!r} is not allowed (from {origin}): expected {spec.allowed()}") from None


def _check_together(config: Config) -> None:
    if config.wal_segment_size > config.max_wal_size:
        raise ConfigError(
            f'wal_segment_size = "{format_size(config.wal_segment_size)}" is not allowed: '
            f'expected at most max_wal_size, which is "{format_size(config.max_wal_size)}"'
        )
    if config.buffer_pool_size < 64 * config.page_size:
        raise ConfigError(
            f'buffer_pool_size = "{format_size(config.buffer_pool_size)}" is not allowed: '
            f'expected at least 64 pages, "{format_size(64 * config.page_size)}" with this page_size'
        )
    if config.pg_port == config.http_port != 0 and config.listen_addr == config.http_listen_addr:
        raise ConfigError(
            f"http_port = {config.http_port} is not allowed: pg_port has the same value", "give each its own port"
        )
    _check_archive(config)
    if config.data_dir == config.wal_dir:
        raise ConfigError(
            f'wal_dir = "{config.wal_dir}" is not allowed: data_dir has the same value', "give each its own directory"
        )
    _check_exposure(config)
    for name in ("schedule_daily", "schedule_weekly", "schedule_monthly", "schedule_incremental"):
        if getattr(config, name) != OFF and not config.destination:
            raise ConfigError(
                f'{name} = "{getattr(config, name)}" is not allowed: there is nowhere to put the backups',
                "set destination in [backup]",
            )


def _check_exposure(config: Config) -> None:
    """K3."""
    hints = {"listen_addr": "use 127.0.0.1, ::1 or localhost"}
    if not config.admin_token_file:
        hints["http_listen_addr"] = "use 127.0.0.1, ::1 or localhost, or set admin_token_file in [security]"
    for name, hint in hints.items():
        address = getattr(config, name)
        if not is_loopback(address):
            raise ConfigError(
                f'{name} = "{address}" is not allowed: listening beyond loopback needs authentication, and none is configured',
                hint,
            )


def _check_archive(config: Config) -> None:
    if config.wal_archive_dir and config.wal_archive_command:
        raise ConfigError(
            f'wal_archive_command = "{config.wal_archive_command}" is not allowed: wal_archive_dir is set, too',
            "keep one of them",
        )
    if config.wal_archive_enabled and not (config.wal_archive_dir or config.wal_archive_command):
        raise ConfigError(
            "wal_archive_enabled = true is not allowed: there is nowhere to archive to",
            "set wal_archive_dir or wal_archive_command in [storage]",
        )
    for name in ("wal_archive_command", "wal_restore_command"):
        if getattr(config, name):
            _check_command(config, name)
    for name in ("data_dir", "wal_dir"):
        directory = getattr(config, name).rstrip("/")
        if config.wal_archive_dir == directory or config.wal_archive_dir.startswith(directory + "/"):
            raise ConfigError(
                f'wal_archive_dir = "{config.wal_archive_dir}" is not allowed: it lies in {name}',
                "archive to another directory, best on another machine",
            )
    if config.backup_key_file and config.backup_key_command:
        raise ConfigError("backup_key_command is not allowed: backup_key_file is set, too", "keep one of them")


def _check_command(config: Config, name: str) -> None:
    """What is put into a command must mean nothing to a shell, and it must be put somewhere."""
    found = set(_SEQUENCE.findall(getattr(config, name)))
    unknown = sorted(found - {"f", "n", "%"})
    if unknown:
        raise ConfigError(
            f"{name} is not allowed: %{unknown[0]} means nothing in it", "use %f (path), %n (name), and %% for a percent sign"
        )
    if not found & {"f", "n"} or (name == "wal_restore_command" and "f" not in found):
        raise ConfigError(f"{name} is not allowed: it does not say which file", "use %f for its path and %n for its name")
    for directory in ("data_dir", "wal_dir"):
        if not _SAFE_PATH.fullmatch(getattr(config, directory)):
            raise ConfigError(
                f'{directory} = "{getattr(config, directory)}" is not allowed with {name}: it is put into a shell command',
                "use letters, digits and _ . / + @ : = , - only",
            )


_TABLE: dict[str, tuple[Spec, Any]] = {item.name: (item.metadata["spec"], item.default) for item in fields(Config)}
