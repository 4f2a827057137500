"""The command's flags for backups: taking one, verifying one, and what retention decides.

Data goes to stdout, progress and logs to stderr; with --json exactly one object, whose `schema` names its version.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click

from thunderdb.base.config import Config
from thunderdb.base.errors import ConfigError

OWN = (
    "backup", "incremental", "base", "compress", "no_wal", "verify_backup", "deep", "retention_report", "expire", "hold",
    "hold_for", "release",
)  # fmt: skip
SHARED = ("dry_run", "as_json")
ACTIONS = ("backup", "verify_backup", "retention_report", "expire", "hold", "release")
_OPTIONS: tuple[Callable[[Callable[..., Any]], Callable[..., Any]], ...] = (
    click.option(
        "--backup", metavar="PLACE", help="Let the running daemon take a backup to a directory or URL; wait for its end."
    ),
    click.option("--incremental", is_flag=True, help="(--backup) Only what changed since the backup that it stands on."),
    click.option("--base", metavar="PLACE", help="(--incremental) The backup to stand on [default: the newest one]."),
    click.option("--compress", is_flag=True, help="(--backup) Compress it (zstd)."),
    click.option("--no-wal", is_flag=True, help="(--backup) Without log: restoring it needs the archive."),
    click.option("--verify-backup", metavar="PLACE", help="Check a backup completely: every file, page and log record."),
    click.option(
        "--deep", is_flag=True, help="(--verify-backup) Also restore it into a scratch folder and check the database."
    ),
    click.option("--retention-report", is_flag=True, help="Say of each backup and log segment why it is kept, or may go."),
    click.option("--expire", is_flag=True, help="Remove what --retention-report says may go; with --dry-run only show it."),
    click.option("--hold", metavar="NAME", help="Let nothing go from now on, backups and archived log, under this name."),
    click.option("--hold-for", metavar="DURATION", help="(--hold) How long [default: 30d]."),
    click.option("--release", metavar="NAME", help="End a hold."),
)


def with_backup_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def take_flags(flags: dict[str, Any]) -> dict[str, Any]:
    """Take our flags out of all flags."""
    return {name: flags.pop(name) for name in OWN}


def run_backup_command(config: Config, own: Mapping[str, Any], *, dry_run: bool, as_json: bool) -> int | None:
    """Do what the flags ask for; None if they ask for nothing. Raises: ConfigError for flags that do not go together."""
    asked = [name for name in ACTIONS if own[name] not in (None, False)]
    if len(asked) > 1:
        raise ConfigError(f"{_flag(asked[0])} and {_flag(asked[1])} do not go together", "Run one after the other.")
    _check_belonging(own, asked, ("incremental", "base", "compress", "no_wal"), "backup")
    _check_belonging(own, asked, ("deep",), "verify_backup")
    _check_belonging(own, asked, ("hold_for",), "hold")
    if own["base"] is not None and not own["incremental"]:
        raise ConfigError("--base means nothing without --incremental", "A full backup stands on none.")
    if not asked:
        return None
    if asked == ["backup"]:
        from thunderdb.server.remote import backup_and_wait

        return backup_and_wait(config, own, as_json)
    if asked == ["verify_backup"]:
        from thunderdb.server.verifying import verify_place

        return verify_place(config, own["verify_backup"], deep=own["deep"], as_json=as_json)
    if asked in (["hold"], ["release"]):
        from thunderdb.server.retaining import change_hold

        return change_hold(config, own["hold"] or own["release"], own["hold_for"] or "30d", release=asked == ["release"])
    from thunderdb.server.retaining import run_retention

    return run_retention(config, remove=own["expire"] and not dry_run, as_json=as_json)


def _check_belonging(own: Mapping[str, Any], asked: list[str], names: tuple[str, ...], action: str) -> None:
    for name in names:
        if own[name] not in (None, False) and asked != [action]:
            raise ConfigError(
                f"{_flag(name)} means nothing without {_flag(action)}", "thunderdb --help says what goes together."
            )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
