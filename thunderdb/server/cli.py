"""The `thunderdb` command. Heavy modules are imported only by what needs them: --version and --check-config answer at once.

Exit codes: 0 done; 1 checked and wrong, or failed; 2 usage or configuration; 3 refused, nothing changed; 4 I/O or store.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import click

from thunderdb import __version__
from thunderdb.base import config as configuration
from thunderdb.base.config import Config
from thunderdb.base.errors import ConfigError, ThunderError
from thunderdb.server.cli_backup import run_backup_command, take_flags, with_backup_flags

EPILOG = """\b
Examples:
  thunderdb                                       run on the built-in defaults
  thunderdb --config thunderdb.toml               run on a configuration file
  thunderdb --data-dir ./var/data --wal-dir ./var/wal --pg-port 15432
  thunderdb --config thunderdb.toml --check-config
  thunderdb --config thunderdb.toml --check       check a stopped database
  thunderdb --restore-pitr latest --restore-backup /backups/thunderdb --dry-run
  thunderdb --backup /backups/thunderdb/full-2026-01-15 --compress
  thunderdb --verify-backup /backups/thunderdb/full-2026-01-15
  thunderdb --retention-report                    what is kept, and why
  psql -h 127.0.0.1 -p 5432 thunderdb             connect

\b
Configuration: --config, else $THUNDERDB_CONFIG, else /etc/thunderdb/thunderdb.toml, else built in.
Every key can be set as THUNDERDB_<KEY> in the environment, and by the flag of its name.

\b
Exit codes: 0 done, 1 failed or found wrong, 2 usage or configuration, 3 refused (nothing changed), 4 I/O.
"""


def _with_key_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add a flag for every configuration key, from the table."""
    for row in reversed(configuration.describe()):
        text = f"{row.doc} [default: {row.default}]"
        command = click.option(row.flag, row.name, metavar=row.kind.split("_")[0].upper(), help=text)(command)
    return command


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, epilog=EPILOG)
@click.version_option(__version__, prog_name="thunderdb", message="%(prog)s %(version)s")
@click.option("--config", "config_path", metavar="FILE", help="Configuration file (TOML).")
@click.option("--check-config", is_flag=True, help="Check the configuration and exit.")
@click.option("--check", is_flag=True, help="Check the whole database, which must be stopped, and exit.")
@click.option(
    "--restore-pitr", metavar="TARGET",
    help="Restore a backup to a point in time and exit: a time with its zone (2026-01-15T14:30:00Z), latest, lsn:0/1A3B4C5D, "
    "before:drop:TABLE, before:truncate:TABLE or before:txn:ID.",
)  # fmt: skip
@click.option("--restore-backup", metavar="PLACE", help="The backup, or a folder of backups, to restore from.")
@click.option("--timeline", metavar="N", help="Timeline to restore along: a number, `current` (the backup's), or latest.")
@click.option("--no-archive", is_flag=True, help="Restore for a drill: the archive is only read, now and later.")
@click.option("--report", "report_file", metavar="FILE", help="Check the restored database and write a report (JSON).")
@with_backup_flags
@click.option("--dry-run", is_flag=True, help="Only show what would be done.")
@click.option("--json", "as_json", is_flag=True, help="Show results as JSON.")
@_with_key_flags
def command(config_path: str | None, check_config: bool, check: bool, **flags: Any) -> int:
    """ThunderDB: a PostgreSQL-compatible database that comes back.

    Runs one node in the foreground; logs go to stderr. SIGTERM or Ctrl-C stops it cleanly.
    """
    if any(value in ("-h", "--help") for value in (config_path, *flags.values())):  # what click took for another flag's value
        click.echo(click.get_current_context().get_help())
        return 0
    restore = {name: flags.pop(name) for name in _RESTORE_FLAGS}
    archive = flags.pop("wal_archive_dir") if restore["restore_pitr"] is not None else None
    own = take_flags(flags)
    config, source = load_config(config_path, os.environ, flags)
    if restore["restore_pitr"] is not None:
        return _restore(config, archive, restore)
    if any(restore[name] for name in ("restore_backup", "timeline", "no_archive", "report_file")):
        raise ConfigError("the flags of a restore mean nothing without a target", "Name it with --restore-pitr TARGET.")
    if check_config:
        click.echo(f"Configuration is valid ({source})")
        return 0
    if check:
        from thunderdb.server.offline import check_database

        return check_database(config)
    done = run_backup_command(config, own, dry_run=restore["dry_run"], as_json=restore["as_json"])
    if done is not None:
        return done
    if restore["dry_run"] or restore["as_json"]:
        raise ConfigError("--dry-run and --json mean nothing for the daemon itself", "Say what is to be shown.")
    with _collector_off():
        from thunderdb.server.daemon import run_daemon
        from thunderdb.server.engine import open_engine

    return run_daemon(config, open_engine).exit_code


@contextlib.contextmanager
def _collector_off() -> Iterator[None]:
    """While modules are imported: they make a hundred thousand objects that stay, and the collector would look 190 times."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


_RESTORE_FLAGS = ("restore_pitr", "restore_backup", "timeline", "no_archive", "report_file", "dry_run", "as_json")


def _restore(config: Config, archive: str | None, flags: Mapping[str, Any]) -> int:
    with _collector_off():
        from thunderdb.server.restore import RestoreOptions, run_restore

    return run_restore(
        config,
        RestoreOptions(
            flags["restore_pitr"], flags["restore_backup"] or "", archive or "", flags["timeline"] or "", flags["dry_run"],
            flags["no_archive"], flags["report_file"] or "", flags["as_json"],
        ),
    )  # fmt: skip


def load_config(path: str | None, env: Mapping[str, str], flags: Mapping[str, Any]) -> tuple[Config, str]:
    """Find, read and check the configuration; also say where it came from.

    A THUNDERDB_CONFIG that is set but empty means: no file at all. Raises: ConfigError.
    """
    named = path if path is not None else env.get(configuration.CONFIG_PATH_ENV)
    if named is None and os.path.exists(configuration.DEFAULT_CONFIG_PATH):
        named = configuration.DEFAULT_CONFIG_PATH
    if not named:
        if path is not None:
            raise ConfigError("--config names no file", "give the path of a configuration file")
        return configuration.parse("", env, flags), "built-in defaults"
    return configuration.parse(_read_text(named), env, flags, named), named


def _read_text(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError as error:
        raise ConfigError(
            f"cannot read configuration file {path}: {error.strerror}", "name another file with --config"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"configuration file {path} is not UTF-8: {error.reason} at byte {error.start}") from None


def report(error: ThunderError) -> None:
    """Print an error the way every command does: one line, then the way out."""
    click.echo(f"ERROR: {error.message}", err=True)
    if error.hint:
        click.echo(f"HINT: {error.hint}", err=True)


def main() -> NoReturn:
    """Entry point; always exits with one of the codes above."""
    try:
        code = command.main(prog_name="thunderdb", standalone_mode=False)
    except ThunderError as error:
        report(error)
        code = error.exit_code
    except click.exceptions.Abort:
        code = 1
    except click.ClickException as error:
        error.show()
        code = 2
    sys.exit(code)


if __name__ == "__main__":
    main()
