"""`thunderdb --verify-backup PLACE`: prints what verification found, in the manual's lines.

V1. Exit 0 only if nothing at all was found wrong; 1 if something was, 2 to 4 if it could not be looked at.
"""

from __future__ import annotations

import json
import os
from typing import Any

import click

from thunderdb.archive.cipher import load_cipher
from thunderdb.backup.verify import verify_backup
from thunderdb.backup.verify_report import Problem, VerifyReport
from thunderdb.base.config import Config
from thunderdb.base.ids import format_lsn
from thunderdb.runtime.real_ports import RealPorts, run_real

SCHEMA = "thunderdb.verify/1"
SHOWN = 20


def verify_place(config: Config, place: str, *, deep: bool, as_json: bool) -> int:
    """Verify, print, and return the exit code. Raises: ThunderError."""
    place = place if "://" in place else os.path.abspath(place)

    async def main(ports: RealPorts) -> VerifyReport:
        return await verify_backup(ports, place, await load_cipher(ports, config), config.store_requests)

    report = run_real(main)
    checked: str | None = None
    if deep and report.passed:
        from thunderdb.server.deep import check_deeply

        checked = check_deeply(config, place, report)
    if as_json:
        click.echo(json.dumps(document(report, checked), indent=2))
    else:
        click.echo("\n".join(lines(report, checked)))
    return 0 if report.passed else 1


def lines(report: VerifyReport, deep: str | None = None) -> list[str]:
    """The manual's lines; a failure names the first bad file, page and LSN, then the rest."""
    found = [f"Backup verification: {'PASSED' if report.passed else 'FAILED'}"]
    if not report.passed:
        first = report.problems[0]
        found.append(f"First problem: {_first(first)}")
    verdict = "verified" if report.passed else "checked"
    found += [
        f"Backup time: {report.backup_time or 'unknown'}",
        f"LSN: {format_lsn(report.end_lsn)}",
        f"Data pages: {report.data_pages} ({verdict})",
        f"WAL segments: {report.wal_segments} ({verdict})",
        f"Checksum: {_checksum(report)}",
    ]
    if deep is not None:
        found.append(f"Deep check: {deep}")
    if len(report.links) > 1:
        found.append(f"Chain: {len(report.links)} backups, all {verdict}: {', '.join(report.links)}")
    found += [f"Note: {note}" for note in report.notes]
    if not report.passed:
        found.append(f"Problems: {len(report.problems)}")
        found += [f"  {problem}" for problem in report.problems[:SHOWN]]
        if len(report.problems) > SHOWN:
            found.append(f"  and {len(report.problems) - SHOWN} more (--json has them all)")
    return found


def _first(problem: Problem) -> str:
    parts = [problem.file or "the backup"]
    if problem.page is not None:
        parts.append(f"page {problem.page}")
    if problem.lsn is not None:
        parts.append(f"LSN {format_lsn(problem.lsn)}")
    return f"{', '.join(parts)}: {problem.text}"


def _checksum(report: VerifyReport) -> str:
    if not report.passed:
        return "FAILED"
    return "OK" if report.manifest is not None else "OK (no manifest: pages and log were checked)"


def document(report: VerifyReport, deep: str | None = None) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "passed": report.passed,
        "place": report.place,
        "backup_id": report.manifest.backup_id if report.manifest is not None else None,
        "type": report.manifest.type if report.manifest is not None else None,
        "backup_time": report.backup_time or None,
        "end_lsn": format_lsn(report.end_lsn),
        "data_pages": report.data_pages,
        "wal_segments": report.wal_segments,
        "bytes_read": report.bytes_read,
        "chain": report.links,
        "notes": report.notes,
        "deep": deep,
        "problems": [
            {
                "file": problem.file,
                "page": problem.page,
                "lsn": format_lsn(problem.lsn) if problem.lsn is not None else None,
                "text": problem.text,
            }
            for problem in report.problems
        ],
    }
