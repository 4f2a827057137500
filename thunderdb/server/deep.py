"""`--verify-backup --deep`: restores the backup into a scratch folder, opens the database there and checks all of it.

The scratch folder is below TMPDIR, needs the room of the whole database, and is removed. No archive is written to; one is read
only where the backup has no log of its own.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from typing import Any

from thunderdb.archive.cipher import load_cipher
from thunderdb.backup.chain import open_chain
from thunderdb.backup.plan import plan_restore
from thunderdb.backup.restore import RestoreReport, restore
from thunderdb.backup.verify_report import VerifyReport
from thunderdb.base.config import Config
from thunderdb.base.errors import ThunderError
from thunderdb.base.events import Events
from thunderdb.base.ids import format_lsn
from thunderdb.recovery.target import parse_target
from thunderdb.runtime.real_ports import RealPorts, run_real


def check_deeply(config: Config, place: str, report: VerifyReport) -> str:
    """Return in words what was found; problems go into the report as well."""
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="thunderdb-deep-") as scratch:
        try:
            done = run_real(lambda ports: _restored(ports, config, place, scratch, report))
        except ThunderError as error:
            report.problem("", f"it does not restore: {error.message}")
            return f"FAILED, it does not restore: {error.message}"
    for problem in done.problems or ():
        report.problem("", f"in the restored database: {problem}")
    if done.problems:
        return f"FAILED, {len(done.problems)} problems in the restored database"
    took_s = time.monotonic() - began_s
    return f"restored to {format_lsn(done.stop_lsn)} and checked, {done.pages} pages, no problems ({took_s:.1f}s)"


async def _restored(ports: RealPorts, config: Config, place: str, scratch: str, report: VerifyReport) -> RestoreReport:
    cipher = await load_cipher(ports, config)
    chain = await open_chain(ports, place, cipher)
    manifest = report.manifest
    own_log = manifest is None or manifest.include_wal
    archive: dict[str, Any] = {} if not own_log else {"wal_archive_dir": "", "wal_restore_command": ""}
    here = replace(
        config, data_dir=f"{scratch}/data", wal_dir=f"{scratch}/wal", page_size=chain[-1].page_size,
        wal_archive_enabled=False, wal_archive_command="", **archive,
    )  # fmt: skip
    target = parse_target("latest" if own_log or manifest is None else f"lsn:{format_lsn(manifest.end_lsn)}")
    plan = await plan_restore(ports, here, target, place, no_archive=True, cipher=cipher)
    return await restore(ports, here, plan, Events(), no_archive=True, check=True)
