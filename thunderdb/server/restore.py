"""`thunderdb --restore-pitr TARGET --restore-backup PATH`: point-in-time recovery from the command line.

R1. Logs go to stderr, as the manual shows them; the plan of a dry run, and nothing else, goes to stdout.
R2. What is refused has changed nothing (exit 3); a restore that was interrupted is gone on with by the same command.
R3. Run as root, every file that was made gets the owner of data_dir, or of its nearest parent that was there before.
R4. A report (`--report FILE`) is written only of a restore that was carried out, checked with the whole-database check.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import click

from thunderdb.archive.directory import is_url
from thunderdb.backup.holding import holding
from thunderdb.backup.plan import Plan, plan_restore
from thunderdb.backup.restore import RestoreReport, restore
from thunderdb.base.config import Config
from thunderdb.base.errors import ConfigError, StorageError, ThunderError
from thunderdb.base.events import Events
from thunderdb.base.ids import format_lsn
from thunderdb.recovery.target import format_time, parse_target
from thunderdb.runtime.real_ports import RealPorts, run_real
from thunderdb.server.interpreter import tune_interpreter
from thunderdb.server.logs import log_writer

REPORT_VERSION = 1


@dataclass(frozen=True, slots=True)
class RestoreOptions:
    """The command line's words, beside the configuration."""

    target: str
    backup: str
    archive: str = ""
    timeline: str = ""
    dry_run: bool = False
    no_archive: bool = False
    report: str = ""
    as_json: bool = False


def run_restore(config: Config, options: RestoreOptions) -> int:
    """Plan, and unless it is a dry run restore; return the exit code. Raises: ThunderError."""
    target = parse_target(options.target)
    if not options.backup:
        raise ConfigError("--restore-pitr needs the backup to start from", "Name it with --restore-backup PATH.")
    if options.timeline and options.timeline not in ("latest", "current") and not options.timeline.isdigit():
        raise ConfigError(f"--timeline {options.timeline!r} is no timeline", "Give a number, `current` or `latest`.")
    if options.report:
        _check_report(options.report)
    os.umask(0o077)
    tune_interpreter()
    owner = _owner_to_be(config.data_dir)
    began_s = time.monotonic()

    async def main(ports: RealPorts) -> tuple[Plan, RestoreReport | None]:
        events = Events()
        # The bar first: it takes stderr over, and prints what the log writes above itself.
        bar = _progress_bar(events) if sys.stderr.isatty() and config.format != "json" and not options.dry_run else None
        events.subscribe(log_writer(config.level, config.format))
        try:
            plan = await plan_restore(
                ports, config, target, _place(options.backup), _place(options.archive), timeline=options.timeline,
                no_archive=options.no_archive, dry_run=options.dry_run,
            )  # fmt: skip
            if options.dry_run:
                return plan, None
            for note in plan.notes:
                events.emit("restore.note", text=note)
            check = bool(options.report)
            return plan, await holding(ports, plan, events, lambda: restore(ports, config, plan, events, check=check))
        finally:
            if bar is not None:
                bar.stop()
            _remove_scratch(config)

    try:
        plan, report = run_real(main)
    except KeyboardInterrupt:
        raise ThunderError("the restore was interrupted", "Run the same command again; it goes on.") from None
    except OSError as error:
        raise StorageError(f"the restore failed: {error}", "Check owner and permissions of all directories.") from None
    finally:
        if not options.dry_run:
            _give_to(owner, config, _place(options.archive) or config.wal_archive_dir)
    if report is None:
        document = plan_document(plan, options.no_archive)
        click.echo(json.dumps(document, indent=2) if options.as_json else plan_text(document))
        return 0
    problems = report.problems or ()
    document = report_document(plan, report, time.monotonic() - began_s)
    if options.report:
        try:
            with open(options.report, "w", encoding="utf-8") as file:
                file.write(json.dumps(document, indent=2) + "\n")
        except OSError as error:
            hint = "The same command again writes it, as long as nobody has used the database."
            raise StorageError(f"the restore is done, but its report {options.report} was not written: {error}", hint) from None
    if options.as_json:
        click.echo(json.dumps(document, indent=2))
    for problem in problems:
        click.echo(f"ERROR: {problem}", err=True)
    return 1 if problems else 0


def _check_report(path: str) -> None:
    """Before hours are spent. Raises: ConfigError for a report that could not be written."""
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path) or not os.path.isdir(folder) or not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"--report {path} cannot be written", f"{folder} must be a folder that you may write to.")


def _place(text: str) -> str:
    return text if not text or is_url(text) else os.path.abspath(text)


# ---- What is said -----------------------------------------------------------------------------------------------------------


def plan_document(plan: Plan, no_archive: bool) -> dict[str, Any]:
    """The plan as JSON, version 1."""
    stop, backup = plan.stop, plan.backup
    return {
        "version": REPORT_VERSION,
        "target": plan.target.text,
        "base_backup": {
            "place": backup.place,
            "backup_id": backup.manifest.backup_id if backup.manifest is not None else None,
            "finished_at": backup.manifest.finished_at if backup.manifest is not None else None,
            "lsn": format_lsn(backup.checkpoint_lsn),
            "end_lsn": format_lsn(backup.end_lsn),
            "timeline": backup.timeline,
            "chain": [link.place for link in plan.chain],
            "pages": backup.page_count,
            "page_bytes": plan.page_bytes,
        },
        "archive": plan.archive_place or None,
        "timeline": plan.line.timeline,
        "new_timeline": plan.next_timeline,
        "claims_timeline": plan.archive is not None and not no_archive,
        "segments": [{"name": part.piece.name, "from": part.piece.source.place} for part in plan.segments],
        "log_bytes": plan.log_bytes,
        "stop_lsn": format_lsn(stop.lsn),
        "commits_kept": {"count": stop.kept.count, "first": _time(stop.kept.first_us), "last": _time(stop.kept.last_us)},
        "given_up": {
            "commits": stop.given_up.count, "first": _time(stop.given_up.first_us), "last": _time(stop.given_up.last_us),
        },
        "candidates": [
            {"txn": found.txn, "time": _time(found.time_us), "lsn": format_lsn(found.lsn)} for found in stop.candidates
        ],
        "destination": plan.destination.kind.value,
        "estimated_seconds": round(plan.estimated_s, 1),
        "notes": plan.notes,
    }  # fmt: skip


def plan_text(document: dict[str, Any]) -> str:
    """The plan for people."""
    base, kept, lost = document["base_backup"], document["commits_kept"], document["given_up"]
    lines = [
        f"Target: {document['target']}",
        f"Base backup: {base['place']} ({base['backup_id'] or 'copied by hand, no manifest'}, LSN {base['lsn']}, "
        f"{base['pages']:,} pages)",
    ]
    lines += [f"  stands on: {place}" for place in base["chain"][:-1]]
    lines.append(f"Log archive: {document['archive'] or 'none (the log in the backup only)'}")
    lines.append(f"Timeline: {document['timeline']}; the restored database goes on as {document['new_timeline']}")
    lines.append(f"Segments needed: {len(document['segments']):,} ({document['log_bytes']:,} bytes of log)")
    lines += [f"  {segment['name']}  {segment['from']}" for segment in document["segments"]]
    lines.append(f"Stops at LSN: {document['stop_lsn']}")
    lines.append(f"Commits replayed and kept: {_range(kept['count'], kept)}")
    lines.append(f"Commits given up: {_range(lost['commits'], lost)}")
    if document["candidates"]:
        lines.append("Transactions that the target may mean (the last one is taken):")
        lines += [
            f"  before:txn:{found['txn']}  committed {found['time']}  at {found['lsn']}" for found in document["candidates"]
        ]  # fmt: skip
    lines += [f"Note: {note}" for note in document["notes"]]
    took = f"{document['estimated_seconds']:.0f} s"
    lines.append(f"Estimated duration: {took} until the first query (on two cores and a local disk)")
    lines.append("Dry run: nothing was changed.")
    return "\n".join(lines)


def _range(count: int, times: dict[str, Any]) -> str:
    return f"{count:,}" + (f" ({times['first']} to {times['last']})" if count else "")


def _time(time_us: int) -> str | None:
    return format_time(time_us, 3) if time_us else None


def report_document(plan: Plan, report: RestoreReport, duration_s: float) -> dict[str, Any]:
    """What a drill is filed with, version 1."""
    problems = report.problems
    return {
        "version": REPORT_VERSION,
        "target": report.target,
        "backup": {"place": plan.backup.place, "name": report.backup, "lsn": format_lsn(report.base_lsn)},
        "archive": plan.archive_place or None,
        "recovered_to": _time(report.recovered_to_us),
        "lsn": format_lsn(report.stop_lsn),
        "timeline": report.timeline,
        "actual_rto_seconds": round(duration_s, 3),
        "copy_seconds": round(report.copy_ns / 1e9, 3),
        "recovery_seconds": round(report.recovery_ns / 1e9, 3),
        "estimated_seconds": round(plan.estimated_s, 1),
        "pages": report.pages,
        "pages_reused": report.pages_reused,
        "segments": report.segments,
        "log_bytes": report.log_bytes,
        "transactions_recovered": report.transactions,
        "transactions_rolled_back": report.rolled_back,
        "transactions_given_up": plan.stop.given_up.count,
        "drill": plan.no_archive,
        "checks": {
            "page_checksums": "passed",
            "log_continuity": "passed",
            "database": None if problems is None else "passed" if not problems else "failed",
            "problems": list(problems or ()),
        },
        "notes": plan.notes,
    }


def _progress_bar(events: Events) -> Any:
    """A bar over pages and log, on a terminal only."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
        console=Console(stderr=True), transient=True,
    )  # fmt: skip
    tasks: dict[str, Any] = {}

    def on_event(name: str, fields: dict[str, Any]) -> None:
        if name == "restore.pages_started":
            tasks["pages"] = bar.add_task("Base backup", total=fields["size_bytes"])
        elif name == "restore.log_started":
            tasks["log"] = bar.add_task("Log", total=fields["size_bytes"])
        elif name == "restore.page_bytes":
            bar.advance(tasks["pages"], fields["size_bytes"])
        elif name == "restore.segment":
            bar.advance(tasks["log"], fields["size_bytes"])

    events.subscribe(on_event)
    bar.start()
    return bar


# ---- Files ------------------------------------------------------------------------------------------------------------------


def _owner_to_be(path: str) -> tuple[int, int] | None:
    """R3: whom the files are for; None unless root asks."""
    if os.geteuid() != 0:
        return None
    while not os.path.exists(path):
        path = os.path.dirname(path) or "/"
    found = os.stat(path)
    return found.st_uid, found.st_gid


def _give_to(owner: tuple[int, int] | None, config: Config, archive: str) -> None:
    if owner is None:
        return
    for path in [*_below(config.data_dir), *_below(config.wal_dir)]:
        os.chown(path, *owner, follow_symlinks=False)
    if archive and not is_url(archive) and os.path.isdir(archive):
        whose = os.stat(archive)
        for name in os.listdir(archive):
            if name.endswith(".history"):
                os.chown(os.path.join(archive, name), whose.st_uid, whose.st_gid, follow_symlinks=False)


def _below(directory: str) -> Iterator[str]:
    if os.path.isdir(directory):
        yield directory
        for folder, folders, files in os.walk(directory):
            yield from (os.path.join(folder, name) for name in [*folders, *files])


def _remove_scratch(config: Config) -> None:
    """What a restore command was given to put files into."""
    scratch = os.path.join(os.path.dirname(config.wal_dir.rstrip("/")), ".restore.tmp")
    try:
        os.rmdir(scratch)
    except OSError:
        pass
