"""`--report FILE`: whether it can be written is known before anything is restored."""

from __future__ import annotations

from pathlib import Path

import pytest

from thunderdb.base.config import parse
from thunderdb.base.errors import ConfigError
from thunderdb.server.restore import RestoreOptions, run_restore


@pytest.mark.parametrize("name", ["missing/report.json", "."])
def test_a_report_that_could_not_be_written_is_refused_first(tmp_path: Path, name: str) -> None:
    """It was found out at the end of the restore, by a traceback."""
    config = parse("", {"THUNDERDB_DATA_DIR": str(tmp_path / "data"), "THUNDERDB_WAL_DIR": str(tmp_path / "wal")})
    with pytest.raises(ConfigError, match="cannot be written") as caught:
        run_restore(config, RestoreOptions("latest", str(tmp_path / "backup"), report=str(tmp_path / name)))
    assert caught.value.exit_code == 2 and list(tmp_path.iterdir()) == []
