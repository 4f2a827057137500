"""Shell commands on the machine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from thunderdb.runtime.real_ports import run_real


def test_a_command_answers_with_its_status_and_the_end_of_what_it_said() -> None:
    async def main(ports: Any) -> Any:
        return [
            await ports.command.run("echo shown; echo wrong >&2; exit 3", 10),
            await ports.command.run("head -c 100000 /dev/zero | tr '\\0' x >&2; echo end >&2", 10),
            await ports.command.capture("printf 'a\\0b'; echo hidden >&2; exit 4", 10),
            await ports.command.capture("head -c 100000 /dev/zero", 10),
        ]

    (status, said), (_, long), captured, (_, most) = run_real(main)
    assert (status, said) == (3, "wrong\n")
    assert long.endswith("xend\n") and len(long) <= 4096
    assert captured == (4, b"a\0b")
    assert most == bytes(64 << 10)


@pytest.mark.parametrize("how", ["run", "capture"])
def test_a_command_that_hangs_is_ended_with_its_children(how: str) -> None:
    async def main(ports: Any) -> None:
        await getattr(ports.command, how)("sleep 60 & sleep 60 # hunter2", 0.2)

    begun = time.monotonic()
    with pytest.raises(TimeoutError, match="did not end within 0.2 s") as caught:
        run_real(main)
    assert time.monotonic() - begun < 10
    assert how == "run" or "hunter2" not in str(caught.value)


@pytest.mark.parametrize("how", ["run", "capture"])
def test_what_a_command_left_behind_is_ended_too(how: str, tmp_path: Path) -> None:
    """The shell has ended; its child holds on to what it says on, and is no less in the way of the next try."""

    async def main(ports: Any) -> None:
        await getattr(ports.command, how)(f"sleep 60 & echo $! > {tmp_path}/pid", 0.3)

    with pytest.raises(TimeoutError, match="did not end within 0.3 s"):
        run_real(main)
    child = int((tmp_path / "pid").read_text())
    for _ in range(100):
        state = Path(f"/proc/{child}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.02)
    raise AssertionError("the child is still there")
