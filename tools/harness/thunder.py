"""ThunderDB under test: a daemon of this checkout on its own directory, free ports and an empty configuration."""

from __future__ import annotations

import json
import os
import re
import sys
import urllib.request
from pathlib import Path
from typing import Any

from tools.harness.server import Server, free_port

ROOT = Path(__file__).resolve().parents[2]
# The lines that a restart after a crash prints, in the order of spec/backup-recovery.md.
RECOVERY = re.compile(r"Crash recovery|checkpoint LSN|Phase \d|Recovery complete")
REPLAYED = re.compile(r"([\d,]+) records replayed")


class Thunder(Server):
    """`settings` are configuration keys, e.g. {"checkpoint_interval": "1d"}; they travel as THUNDERDB_<KEY>."""

    name = "ThunderDB"
    user = "thunder"
    database = "thunderdb"

    def __init__(self, directory: Path, settings: dict[str, str] | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        super().__init__(directory)
        self.http_port = free_port()
        self.settings = dict(settings or {})

    def command(self) -> list[str]:
        return [sys.executable, "-m", "thunderdb.server.cli"]

    def environment(self) -> dict[str, str]:
        own = {
            "data_dir": str(self.directory / "data"),
            "wal_dir": str(self.directory / "wal"),
            "pg_port": str(self.port),
            "http_port": str(self.http_port),
            **self.settings,
        }
        # Bytecode is kept, as for any user: compiling the engine anew would be a third of a start.
        dropped = ("THUNDERDB_", "PYTHONDONTWRITEBYTECODE")
        clean = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
        config = self.directory / "thunderdb.toml"
        config.touch()
        paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        overrides = {f"THUNDERDB_{key.upper()}": value for key, value in own.items()}
        return clean | overrides | {"THUNDERDB_CONFIG": str(config), "PYTHONPATH": paths}

    def http(self, path: str, body: dict[str, Any] | None = None, method: str | None = None) -> Any:
        """Call the admin API; decode JSON where the answer is JSON."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.http_port}{path}", data=data, method=method)
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=600) as answer:
            text = answer.read().decode()
        return json.loads(text) if text.startswith(("{", "[")) else text

    def data_bytes(self) -> int:
        return sum(path.stat().st_size for path in (self.directory / "data").rglob("*") if path.is_file())

    def recovery_lines(self, since: int = 0) -> list[str]:
        return [line for line in self.log_since(since).splitlines() if RECOVERY.search(line)]

    def records_replayed(self, since: int = 0) -> int:
        found = REPLAYED.findall(self.log_since(since))
        return int(found[-1].replace(",", "")) if found else 0
