"""The command's contract: exit codes, errors with a way out, and where the configuration comes from."""

import subprocess
import sys
from pathlib import Path

import pytest

from thunderdb.base.errors import ConfigError
from thunderdb.server import cli


def run(arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["thunderdb", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    return ended.value.code, out, err


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("THUNDERDB_CONFIG", "THUNDERDB_PG_PORT", "THUNDERDB_DATA_DIR", "THUNDERDB_WAL_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("flags", [["--restore-pitr", "--help"], ["--backup", "-h"], ["--config", "--help"]])
def test_help_is_no_value_of_another_flag(flags: list[str], capsys, monkeypatch) -> None:
    code, out, _ = run(flags, capsys, monkeypatch)
    assert code == 0 and out.startswith("Usage: ")


def test_version_help_and_check_config(capsys, monkeypatch, tmp_path: Path) -> None:
    assert run(["--version"], capsys, monkeypatch)[:2] == (0, "thunderdb 0.1.0\n")
    code, out, _ = run(["--help"], capsys, monkeypatch)
    assert code == 0 and "Examples:" in out and "--buffer-pool-size" in out and "--check-config" in out
    empty = tmp_path / "empty.toml"
    empty.touch()
    code, out, _ = run(["--config", str(empty), "--check-config"], capsys, monkeypatch)
    assert (code, out) == (0, f"Configuration is valid ({empty})\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--pg-port", "99999", "--check-config"], "pg_port = '99999'"),
        (["--listen-addr", "0.0.0.0", "--check-config"], "authentication"),
        (["--config", "/no/such/file"], "/no/such/file"),
        (["--config", ""], "--config"),
        (["--no-such-flag"], "--no-such-flag"),
        (["--dry-run"], "--dry-run"),
        (["--report", "/tmp/x"], "without a target"),
        (["--deep"], "--deep"),
        (["extra"], "extra"),
    ],
)
def test_usage_and_configuration_errors_exit_2(arguments: list[str], said: str, capsys, monkeypatch) -> None:
    code, out, err = run(arguments, capsys, monkeypatch)
    assert (code, out) == (2, "") and said in err


def test_a_bad_file_is_named(capsys, monkeypatch, tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text('[storage]\npage_size = "9KB"\n')
    code, _, err = run(["--config", str(bad)], capsys, monkeypatch)
    assert code == 2 and str(bad) in err and "9KB" in err


def test_where_the_configuration_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = tmp_path / "one.toml", tmp_path / "two.toml"
    one.write_text("[network]\npg_port = 1111\n")
    two.write_text("[network]\npg_port = 2222\n")
    monkeypatch.setattr(cli.configuration, "DEFAULT_CONFIG_PATH", str(two))
    assert cli.load_config(str(one), {"THUNDERDB_CONFIG": str(two)}, {})[0].pg_port == 1111
    assert cli.load_config(None, {"THUNDERDB_CONFIG": str(one)}, {})[0].pg_port == 1111
    assert cli.load_config(None, {}, {})[0].pg_port == 2222
    assert cli.load_config(None, {"THUNDERDB_CONFIG": ""}, {})[0].pg_port == 5432
    assert cli.load_config(str(one), {"THUNDERDB_PG_PORT": "3333"}, {"pg_port": "4444"})[0].pg_port == 4444
    with pytest.raises(ConfigError):
        cli.load_config(None, {"THUNDERDB_CONFIG": "/no/such/file"}, {})


def test_version_loads_nothing_heavy() -> None:
    program = (
        "import sys; sys.argv = ['thunderdb', '--check-config']; import thunderdb.server.cli as cli\n"
        "try: cli.main()\nexcept SystemExit: pass\n"
        "print(sorted({'duckdb', 'aiohttp', 'rich', 'sqlglot', 'prometheus_client', 'asyncio'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"THUNDERDB_CONFIG": "", "PYTHONPATH": "."},
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr


@pytest.mark.parametrize("place", ["file", "file/below", "nothing", "empty"])
def test_a_restore_from_what_is_no_backup_is_refused(capsys, monkeypatch, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("no backup")
    (tmp_path / "empty").mkdir()
    places = ["--data-dir", str(tmp_path / "data"), "--wal-dir", str(tmp_path / "wal")]
    asked = ["--restore-pitr", "latest", "--restore-backup", str(tmp_path / place), *places]
    code, _, err = run(asked, capsys, monkeypatch)
    assert code == 3 and f"backup in {tmp_path / place}" in err and "HINT" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file"]
