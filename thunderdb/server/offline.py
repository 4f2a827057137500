"""Commands on a stopped database: `thunderdb --check`.

F1. The data directory is locked all the while: next to a running daemon the command is refused (exit 3), never wrong.
F2. A database that was not shut down is recovered first, as a start would do it; nothing is ever created.
"""

from __future__ import annotations

import time

import click

from thunderdb.base.config import Config
from thunderdb.base.errors import Refused, StorageError
from thunderdb.base.events import Events
from thunderdb.engine import check
from thunderdb.engine.database import Database
from thunderdb.runtime.real_ports import RealPorts, run_real
from thunderdb.server.logs import log_writer
from thunderdb.storage.layout import CONTROL_FILE


def check_database(config: Config) -> int:
    """Check everything; problems go to stdout, one a line. Exit code 0 only if there are none. Raises: ThunderError."""
    began_s = time.monotonic()

    async def main(ports: RealPorts) -> tuple[list[str], int]:
        if not await ports.disk.exists(f"{config.data_dir}/{CONTROL_FILE}"):
            raise Refused(
                f"there is no database in {config.data_dir}", "name its configuration with --config, or use --data-dir"
            )
        events = Events()
        events.subscribe(log_writer(config.level, config.format))
        database = await Database.open(ports, config, events)
        problems = await check.check_database(database)
        pages = database.files.page_count
        await database.close()
        return problems, pages

    try:
        problems, pages = run_real(main)
    except OSError as error:
        raise StorageError(
            f"cannot open the database: {error}", "check owner and permissions, or name others with --data-dir and --wal-dir"
        ) from None
    for problem in problems:
        click.echo(problem)
    verdict = f"FAILED ({len(problems)} problems)" if problems else "PASSED"
    click.echo(f"Database check: {verdict}\nPages: {pages}\nDuration: {time.monotonic() - began_s:.2f}s")
    return 1 if problems else 0
