"""A plain, non-editable install, used from another folder: both packages, both commands, the scenarios, the planted bugs."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def build(target: Path) -> Path:
    """Raises: Skipped, where the build backend cannot be fetched."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(target), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0 and ("No matching distribution" in done.stderr or "Connection" in done.stderr):
        pytest.skip("the build backend (hatchling) cannot be fetched here")
    assert done.returncode == 0, done.stderr
    (wheel,) = target.glob("thunderdb-*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("dist"))


def use(elsewhere: Path, run: Callable[..., str]) -> None:
    """What a user does first, in a folder of his own."""
    assert run("thunderdb", "--version").startswith("thunderdb")
    assert "--check-config" in run("thunderdb", "--help")
    (elsewhere / "empty.toml").touch()
    run("thunderdb", "--check-config", "--config", "empty.toml")
    assert '"verdict": "ok"' in run("thunderdb-sim", "run", "scenarios/power_cut.yaml", "--seed", "1", "--json")
    assert "power_cut" in run("thunderdb-sim", "list")


def test_the_wheel_holds_both_packages_and_their_data(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"thunderdb/server/cli.py", "thunderdb/py.typed", "sim/cli.py", "sim/data/scenarios/power_cut.yaml"} <= names
    bugs = {f"sim/data/mutants/{path.name}" for path in (ROOT / "tests" / "mutants").glob("*.patch")}
    assert bugs <= names
    assert not [name for name in names if name.startswith(("tests/", "tools/"))]


def test_unpacked_it_works_in_any_folder(wheel: Path, tmp_path: Path) -> None:
    """With this environment's dependencies, but none of this checkout's code."""
    packages, elsewhere = tmp_path / "packages", tmp_path / "elsewhere"
    zipfile.ZipFile(wheel).extractall(packages)
    elsewhere.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(packages)}
    modules = {"thunderdb": "thunderdb", "thunderdb-sim": "sim.cli"}

    def run(program: str, *arguments: str) -> str:
        command = [sys.executable, "-m", modules[program], *arguments]
        done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = [sys.executable, "-c", "import sim, thunderdb; print(sim.__file__, thunderdb.__file__)"]
    found = subprocess.run(where, cwd=elsewhere, env=environment, capture_output=True, text=True, check=True).stdout.split()
    assert all(path.startswith(str(packages)) for path in found)
    use(elsewhere, run)


@pytest.mark.long
def test_a_plain_install_works_in_any_folder(wheel: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    programs = tmp_path / "venv" / "bin"
    subprocess.run([str(programs / "pip"), "install", "--quiet", str(wheel)], check=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def run(program: str, *arguments: str) -> str:
        done = subprocess.run([str(programs / program), *arguments], cwd=elsewhere, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    use(elsewhere, run)
