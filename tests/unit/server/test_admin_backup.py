"""Backups over HTTP: the manual's answers, what is refused with which status, and who may come in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from thunderdb.base.config import parse
from thunderdb.base.errors import ConfigError, DiskFull, Refused, StorageError, ThunderError
from thunderdb.server.admin_backup import BadRequest, checked_place, checked_request, is_below
from thunderdb.server.auth import read_token

from .test_daemon import FakeEngine, Running, with_daemon

TOKEN = "0123456789abcdef0123456789abcdef"


def test_the_manuals_call_and_its_answer(tmp_path: Path) -> None:
    engine = FakeEngine()

    async def body(node: Running) -> None:
        asked = {"destination": "/backups/thunderdb/full-2026-01-15", "include_wal": True, "compress": True}
        status, answer = await node.call("POST", "/admin/backup", asked)
        assert status == 202
        assert list(answer) == ["status", "backup_id", "destination", "estimated_size_bytes"]
        assert answer["status"] == "started" and answer["destination"] == asked["destination"]
        assert (await node.call("GET", f"/admin/backup/status/{answer['backup_id']}"))[1] == answer
        assert (await node.call("GET", "/admin/backups"))[1] == {"version": 1, "backups": [answer]}
        status, cancelled = await node.call("POST", f"/admin/backup/{answer['backup_id']}/cancel")
        assert (status, cancelled["status"], cancelled["error"]) == (200, "failed", "cancelled")
        assert (await node.call("POST", "/admin/wal/switch"))[1] == {"segment": "000000010000000000000042"}
        assert (await node.call("GET", "/admin/wal/archive/status"))[1] == {"archiving_enabled": False}

    assert with_daemon(tmp_path, engine, body).exit_code == 0
    defaults = {"type": "full", "base": None, "label": "manual", "rate_limit": None}
    assert engine.operator.asked[0] == {
        "destination": "/backups/thunderdb/full-2026-01-15",
        "include_wal": True,
        "compress": True,
        **defaults,
    }


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (DiskFull("the backup needs 7 bytes"), 507, "disk_full"),
        (Refused("exists"), 409, "refused"),
        (StorageError("broken"), 500, "storage_error"),
    ],
)
def test_what_keeps_a_backup_from_beginning_has_its_own_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: ThunderError, status: int, code: str
) -> None:
    async def fail(wanted: dict[str, Any]) -> dict[str, Any]:
        raise error

    engine = FakeEngine()
    monkeypatch.setattr(engine.operator, "backup", fail)

    async def body(node: Running) -> None:
        found, answer = await node.call("POST", "/admin/backup", {"destination": "/b"})
        assert (found, answer["error"], answer["message"]) == (status, code, error.message)

    assert with_daemon(tmp_path, engine, body).exit_code == 0


def test_an_unknown_id_is_404_and_failed_so_that_a_loop_ends(tmp_path: Path) -> None:
    async def body(node: Running) -> None:
        for method, path in (("GET", "/admin/backup/status/bk-1"), ("POST", "/admin/backup/bk-1/cancel")):
            status, answer = await node.call(method, path)
            assert (status, answer["status"], answer["error"]) == (404, "failed", "not_found") and answer["hint"]

    assert with_daemon(tmp_path, FakeEngine(), body).exit_code == 0


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "destination"),
        ({"destination": ""}, "destination"),
        ({"destination": 7}, "destination"),
        ({"destination": "backups/full"}, "absolute"),
        ({"destination": "/backups/../etc"}, "plain"),
        ({"destination": "/backups/a\nb"}, "plain"),
        ({"destination": "ftp://x/y"}, "store"),
        ({"destination": "s3://bucket/../other"}, "store"),
        ({"destination": "/b", "include_wal": "yes"}, "include_wal"),
        ({"destination": "/b", "compress": 1}, "compress"),
        ({"destination": "/b", "type": "differential"}, "type"),
        ({"destination": "/b", "label": "yearly"}, "label"),
        ({"destination": "/b", "rate_limit": "1"}, "rate_limit"),
        ({"destination": "/b", "base": "x"}, "base"),
        ({"destination": "/b", "compres": True}, "compres"),
    ],
)
def test_a_wrong_request_is_400_and_names_the_field(tmp_path: Path, body: dict[str, Any], said: str) -> None:
    if set(body) <= {"destination", "include_wal", "compress", "type", "label", "rate_limit", "base"}:
        with pytest.raises(BadRequest, match=said) as caught:
            checked_request(body)
        assert caught.value.hint
        return

    async def ask(node: Running) -> None:
        status, answer = await node.call("POST", "/admin/backup", body)
        assert (status, answer["error"]) == (400, "bad_request") and said in answer["message"]

    with_daemon(tmp_path, FakeEngine(), ask)


def test_paths_are_cleaned() -> None:
    assert checked_place("destination", "//backups/./full/") == "/backups/full"
    assert checked_place("destination", "s3://bucket/full/") == "s3://bucket/full"
    assert is_below("/a/b", "/a") and is_below("/a", "/a") and not is_below("/ab", "/a") and is_below("/a", "/")


def statuses(tmp_path: Path, engine: FakeEngine, places: list[str], **flags: Any) -> list[int]:
    found: list[int] = []

    async def body(node: Running) -> None:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        for place in places:
            async with node.http.post(node.base + "/admin/backup", json={"destination": place}, headers=headers) as answer:
                found.append(answer.status)
                if answer.status == 403:
                    assert (await answer.json())["hint"]

    assert with_daemon(tmp_path, engine, body, **flags).exit_code == 0
    return found


def test_destinations_lie_below_the_roots_and_links_are_followed(tmp_path: Path) -> None:
    engine = FakeEngine()
    engine.operator.real = {"/backups/link": "/etc"}
    places = ["/backups/full", "/elsewhere", "/backups-not", "/backups/link", "s3://mine/full", "s3://theirs/full"]
    assert statuses(tmp_path, engine, places, roots="/backups,s3://mine") == [202, 403, 403, 403, 202, 403]


def test_without_roots_any_path_will_do_unless_a_token_is_asked_for(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN + "\n")
    token.chmod(0o600)
    assert statuses(tmp_path, FakeEngine(), ["/anywhere"]) == [202]
    assert statuses(tmp_path, FakeEngine(), ["/anywhere"], admin_token_file=str(token)) == [403]
    below = {"admin_token_file": str(token), "destination": "/backups"}
    assert statuses(tmp_path, FakeEngine(), ["/backups/a", "/anywhere"], **below) == [202, 403]


def test_a_backup_into_the_database_itself_is_refused(tmp_path: Path) -> None:
    assert statuses(tmp_path, FakeEngine(), [f"{tmp_path}/data/backup", f"{tmp_path}/wal"]) == [400, 400]


def test_what_exists_is_409(tmp_path: Path) -> None:
    engine = FakeEngine()
    engine.operator.error = Refused("/backups/full exists", "name another destination")
    assert statuses(tmp_path, engine, ["/backups/full"]) == [409]


# ---- who may come in --------------------------------------------------------------------------------------------------------


def test_the_token_is_asked_for_everywhere_but_at_the_open_doors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(0o600)

    async def body(node: Running) -> None:
        for closed in ("/admin/health", "/admin/backups", "/admin/wal/archive/status", "/nowhere"):
            status, answer = await node.call("GET", closed)
            assert (status, answer["error"], sorted(answer)) == (401, "unauthorized", ["error", "hint", "message"]), closed
        for opened in ("/admin/live", "/admin/ready", "/metrics"):
            assert (await node.call("GET", opened))[0] == 200
        right = {"Authorization": f"Bearer {TOKEN}"}
        wrong = [
            TOKEN,
            f"Basic {TOKEN}",
            f"Bearer {TOKEN}x",
            f"Bearer {TOKEN[:-1]}",
            "Bearer ",
            f"Bearer {TOKEN.upper()}",
            "Bearer é",
        ]
        async with node.http.get(node.base + "/admin/health", headers=right) as answer:
            assert answer.status == 200
        for header in wrong:
            async with node.http.get(node.base + "/admin/health", headers={"Authorization": header}) as answer:
                assert answer.status == 401, header
                assert answer.headers["WWW-Authenticate"].startswith("Bearer")

    assert with_daemon(tmp_path, FakeEngine(), body, admin_token_file=str(path)).exit_code == 0
    assert TOKEN not in capsys.readouterr().err


def test_without_a_token_web_pages_are_kept_out(tmp_path: Path) -> None:
    async def body(node: Running) -> None:
        for header in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}, {"Host": "evil.example:8088"}):
            async with node.http.post(node.base + "/admin/backup", json={"destination": "/b"}, headers=header) as answer:
                assert answer.status == 403, header
        for host in ("localhost", "localhost:8088", "127.0.0.1", "[::1]:8088", "[::1]"):
            async with node.http.get(node.base + "/admin/backups", headers={"Host": host}) as answer:
                assert answer.status == 200, host

    with_daemon(tmp_path, FakeEngine(), body)


@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [(TOKEN, 0o644, "read by others"), (TOKEN, 0o640, "read by others"), ("short", 0o600, "usable"), ("", 0o600, "usable")],
)
def test_a_token_that_is_no_secret_is_refused(tmp_path: Path, text: str, mode: int, said: str) -> None:
    path = tmp_path / "token"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(Refused, match=said) as caught:
        read_token(str(path))
    assert "chmod 600" in caught.value.hint and (not text or text not in str(caught.value))
    engine = FakeEngine()
    assert with_daemon(tmp_path, engine, _nothing, admin_token_file=str(path)).exit_code == 3
    assert not os.path.exists(tmp_path / "data"), "nothing was touched"


def test_a_token_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="No such file"):
        read_token(str(tmp_path / "none"))
    assert read_token("") == ""


def test_http_may_listen_beyond_loopback_only_with_a_token() -> None:
    assert parse("", {}, {"http_listen_addr": "0.0.0.0", "admin_token_file": "/t"}).http_listen_addr == "0.0.0.0"
    with pytest.raises(ConfigError, match="http_listen_addr"):
        parse("", {}, {"http_listen_addr": "0.0.0.0"})
    with pytest.raises(ConfigError, match="listen_addr"):
        parse("", {}, {"listen_addr": "0.0.0.0", "admin_token_file": "/t"})


async def _nothing(_: Running) -> None:
    return
