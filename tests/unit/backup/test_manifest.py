"""The manifest: what is written is read back, everything else is named. And the configuration in a backup has no secrets."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest

from tests.unit.backup.helpers import BackupWorld
from thunderdb.backup.manifest import Manifest, checksum_of, encode_manifest, parse_manifest, sealed
from thunderdb.backup.settings import config_text
from thunderdb.base.config import Config, parse
from thunderdb.base.errors import Corruption


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return BackupWorld(rows=20).backup("/b/one")


def rewritten(manifest: Manifest, **changes: Any) -> bytes:
    """With other fields, and a checksum that fits."""
    document = {**json.loads(encode_manifest(manifest)), **changes}
    document = {name: value for name, value in document.items() if value is not ...}
    document["checksum"] = checksum_of(document)
    return (json.dumps(document, sort_keys=True, indent=2) + "\n").encode()


def test_what_is_written_is_read_back(manifest: Manifest) -> None:
    assert parse_manifest(encode_manifest(manifest)) == manifest == sealed(manifest) and manifest.checksum
    assert rewritten(manifest) == encode_manifest(manifest)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"end_lsn": "0/1"}, "LSNs are not in order"),
        ({"end_lsn": 5}, "field end_lsn"),
        ({"end_lsn": ...}, "field end_lsn is missing"),
        ({"surprise": 1}, "field surprise is not known"),
        ({"version": 0}, "field version"),
        ({"version": "1"}, "field version"),
        ({"system_id": "xyz"}, "field system_id"),
        ({"type": "half"}, "field type"),
        ({"type": "incremental"}, "field base"),
        ({"page_count": -1}, "field page_count"),
        ({"page_count": True}, "field page_count"),
        ({"pages_per_file": 0}, "pages_per_file"),
        ({"backup_id": "../x"}, "field backup_id"),
        ({"files": [{"path": "../etc/passwd", "size": 1, "raw_size": 1, "xxh3_128": "0" * 32}]}, "field path"),
        ({"files": [{"path": "/etc/passwd", "size": 1, "raw_size": 1, "xxh3_128": "0" * 32}]}, "field path"),
        ({"files": [{"path": "a"}]}, "a: field size is missing"),
        ({"files": [{"path": "a", "size": 1, "raw_size": 1, "xxh3_128": "0" * 32}] * 2}, "a file twice"),
        ({"files": {}}, "field files"),
        ({"include_wal": 1}, "field include_wal"),
        ({"started_at": "yesterday"}, "not as it was written"),
    ],
)
def test_what_is_wrong_is_named(manifest: Manifest, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(Corruption, match=said):
        parse_manifest(rewritten(manifest, **changes))


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"{}", b'{"version": 1}', b"[" * 100_000])
def test_what_is_no_manifest_is_said_to_be_none(data: bytes) -> None:
    with pytest.raises(Corruption, match="the/place"):
        parse_manifest(data, "the/place")


def test_the_configuration_of_a_backup_has_no_secrets_and_can_be_read() -> None:
    config = parse(
        "",
        flags={
            "wal_archive_enabled": "true", "wal_archive_command": "AWS_SECRET=hunter2 aws %f %n", "page_size": "8KB",
            "wal_restore_command": "hunter2 %n %f", "backup_key_command": "echo hunter2", "node_id": "n-1",
        },
    )  # fmt: skip
    text = config_text(config)
    assert "hunter2" not in text
    found = tomllib.loads(text)
    assert found["storage"]["page_size"] == "8KB" and found["node"]["node_id"] == "n-1"
    assert "wal_archive_command was set" in text and "backup_key_command was set" in text
    assert tomllib.loads(config_text(Config())) == {}
    strange = config_text(Config(data_dir='/d/"quoted"\\and\ndir'))
    assert tomllib.loads(strange)["storage"]["data_dir"] == '/d/"quoted"\\and\ndir'
