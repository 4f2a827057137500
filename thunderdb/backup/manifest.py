"""The manifest of a backup, `backup_manifest.json`: what belongs to it, and how each file must look.

It is the last file that is written: a place without it holds no backup, whatever else is there. It is JSON with sorted keys
and two spaces of indent; format version 1 has exactly the fields of `Manifest`. LSNs are text (0/1A3B4C5D), times RFC 3339 in
UTC, with a `…_us` twin in microseconds.

M1. `checksum` is XXH3-128 over the same JSON without that field. A manifest is believed only if writing what it says gives the
    same bytes again, so a flipped byte is seen even where JSON does not care for it.
M2. A newer format version is refused, not guessed at; an unknown or missing field of a known version is corruption.
M3. Every file of the backup but the manifest is listed, with its size as stored, its size decoded, and XXH3-128 of its stored
    bytes. Paths are relative and never leave the backup.
M4. `start_lsn` is the oldest record that a restore may need, `end_lsn` the first that it does not: below it no restart opens.
    A target time before `end_time_us` is before the backup's end.
M5. No secrets: nothing here comes from the configuration.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

from xxhash import xxh3_128_hexdigest

from thunderdb.base.errors import Corruption, Refused
from thunderdb.base.ids import format_lsn, parse_lsn
from thunderdb.wal.timeline import Fork

MANIFEST_NAME = "backup_manifest.json"
MANIFEST_VERSION = 1
FULL, INCREMENTAL = "full", "incremental"

_ID = re.compile(r"bk-[0-9]{8}-[0-9]{6}(-[0-9]+)?")
_DIGEST = re.compile(r"[0-9a-f]{32}")
_PATH = re.compile(r"(?:[A-Za-z0-9_-][A-Za-z0-9_.-]*/)*[A-Za-z0-9_-][A-Za-z0-9_.-]*")
_LSN_FIELDS = ("checkpoint_lsn", "redo_lsn", "keep_lsn", "start_lsn", "end_lsn")


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file: `size` bytes as stored, `raw_size` decoded; `pages` in it, if it holds pages.

    `zeros`: where longer stretches of zeros lie in a file that is stored plain, as (start, end) in bytes. A reader may leave
    them out; the digest covers them like everything else.
    """

    path: str
    size: int
    raw_size: int
    xxh3_128: str
    pages: int | None = None
    zeros: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Base:
    """The backup that an incremental one stands on: pages with a page_lsn below its `redo_lsn` are there, not here."""

    backup_id: str
    manifest_checksum: str
    redo_lsn: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup says of itself. `keep_lsn` is the checkpoint's; `start_lsn` the oldest log that was kept for it."""

    backup_id: str
    type: str
    label: str
    system_id: int
    instance: str
    timeline: int
    page_size: int
    pages_per_file: int
    wal_segment_size: int
    started_us: int
    finished_us: int
    checkpoint_lsn: int
    redo_lsn: int
    keep_lsn: int
    start_lsn: int
    end_lsn: int
    end_checksum: int
    end_time_us: int
    page_count: int
    include_wal: bool
    compressed: bool
    encryption: dict[str, Any] | None
    base: Base | None
    history: tuple[Fork, ...]
    files: tuple[FileEntry, ...]
    checksum: str = ""

    @property
    def started_at(self) -> str:
        return format_time(self.started_us)

    @property
    def finished_at(self) -> str:
        return format_time(self.finished_us)

    @property
    def size_bytes(self) -> int:
        """Bytes as stored, the manifest itself not counted."""
        return sum(entry.size for entry in self.files)

    def in_folder(self, folder: str) -> list[FileEntry]:
        """The files below `folder` (data, wal), by path."""
        return sorted((entry for entry in self.files if entry.path.startswith(folder + "/")), key=lambda entry: entry.path)


def is_backup_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


def format_time(time_us: int) -> str:
    """RFC 3339 in UTC, to the second, as the backup's own times are shown."""
    moment = datetime.datetime.fromtimestamp(time_us // 1_000_000, datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def encode_manifest(manifest: Manifest) -> bytes:
    """The file's bytes, `checksum` computed whatever `manifest.checksum` is."""
    document = _document(manifest)
    document["checksum"] = checksum_of(document)
    return _text(document)


def sealed(manifest: Manifest) -> Manifest:
    """The manifest with its own checksum filled in."""
    return parse_manifest(encode_manifest(manifest))


def checksum_of(document: Mapping[str, Any]) -> str:
    """XXH3-128 of the canonical JSON of everything but the checksum (M1)."""
    content = {name: value for name, value in document.items() if name != "checksum"}
    return xxh3_128_hexdigest(json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode())


def parse_manifest(data: bytes, place: str = MANIFEST_NAME) -> Manifest:
    """Read and check a manifest. Raises: Corruption naming `place` and the field; Refused for a newer version."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Corruption(f"{place}: not JSON: {error}", _HINT) from None
    if not isinstance(document, dict):
        raise Corruption(f"{place}: not a JSON object", _HINT)
    version = document.get("version")
    if type(version) is int and version > MANIFEST_VERSION and document.get("checksum") == checksum_of(document):
        raise Refused(
            f"{place} has format version {version}, this program knows {MANIFEST_VERSION}",
            "Use the version of ThunderDB that made the backup, or a newer one.",
        )
    if version != MANIFEST_VERSION:
        raise Corruption(f"{place}: field version: {version!r} instead of {MANIFEST_VERSION}", _HINT)
    expected = checksum_of(document)
    if document.get("checksum") != expected:
        raise Corruption(f"{place}: field checksum: it does not match the content", _HINT)
    manifest = _manifest(document, place)
    if encode_manifest(manifest) != data:
        raise Corruption(f"{place}: not as it was written (M1): bytes were changed that JSON does not care for", _HINT)
    return manifest


_HINT = "Use another backup: a manifest that was changed can vouch for nothing."


def _text(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, sort_keys=True, indent=2, ensure_ascii=True) + "\n").encode()


def _document(manifest: Manifest) -> dict[str, Any]:
    document: dict[str, Any] = {field.name: getattr(manifest, field.name) for field in fields(Manifest)}
    for name in _LSN_FIELDS:
        document[name] = format_lsn(document[name])
    document["version"] = MANIFEST_VERSION
    document["system_id"] = f"{manifest.system_id:016x}"
    document["end_checksum"] = f"{manifest.end_checksum:016x}"
    document["started_at"], document["finished_at"] = manifest.started_at, manifest.finished_at
    base = manifest.base
    document["base"] = None if base is None else {
        "backup_id": base.backup_id, "manifest_checksum": base.manifest_checksum, "redo_lsn": format_lsn(base.redo_lsn),
    }  # fmt: skip
    document["history"] = [
        {"timeline": fork.timeline, "switch_lsn": format_lsn(fork.switch_lsn), "reason": fork.reason}
        for fork in manifest.history
    ]
    document["files"] = [_file_document(entry) for entry in manifest.files]
    return document


def _file_document(entry: FileEntry) -> dict[str, Any]:
    document: dict[str, Any] = {"path": entry.path, "size": entry.size, "raw_size": entry.raw_size, "xxh3_128": entry.xxh3_128}
    if entry.pages is not None:
        document["pages"] = entry.pages
    if entry.zeros:
        document["zeros"] = [list(stretch) for stretch in entry.zeros]
    return document


class _Fields:
    """Takes typed fields out of a JSON object, and complains by name (M2)."""

    def __init__(self, document: Any, where: str) -> None:
        if not isinstance(document, dict):
            raise Corruption(f"{where}: not a JSON object", _HINT)
        self._left = dict(document)
        self._where = where

    def take(self, name: str, convert: Callable[[Any], Any]) -> Any:
        if name not in self._left:
            raise Corruption(f"{self._where}: field {name} is missing", _HINT)
        value = self._left.pop(name)
        try:
            return convert(value)
        except (ValueError, TypeError) as error:
            raise Corruption(f"{self._where}: field {name}: {error}", _HINT) from None

    def has(self, name: str) -> bool:
        return name in self._left

    def end(self) -> None:
        if self._left:
            raise Corruption(f"{self._where}: field {min(self._left)} is not known in version {MANIFEST_VERSION}", _HINT)


def _manifest(document: dict[str, Any], place: str) -> Manifest:
    source = _Fields(document, place)
    source.take("version", _count)
    values: dict[str, Any] = {name: source.take(name, _lsn) for name in _LSN_FIELDS}
    for name in (
        "timeline", "page_size", "pages_per_file", "wal_segment_size", "started_us", "finished_us", "end_time_us", "page_count",
    ):  # fmt: skip
        values[name] = source.take(name, _count)
    for name in ("include_wal", "compressed"):
        values[name] = source.take(name, _switch)
    for name in ("label", "instance", "started_at", "finished_at"):
        values[name] = source.take(name, _string)
    values["backup_id"] = source.take("backup_id", _matching(_ID))
    values["type"] = source.take("type", _type)
    values["checksum"] = source.take("checksum", _matching(_DIGEST))
    values["system_id"] = source.take("system_id", _hex)
    values["end_checksum"] = source.take("end_checksum", _hex)
    values["encryption"] = source.take("encryption", _optional_object)
    values["base"] = _base(source.take("base", _optional_object), f"{place}: base")
    values["history"] = tuple(_fork(item, f"{place}: history") for item in source.take("history", _list))
    values["files"] = tuple(_file(item, f"{place}: files") for item in source.take("files", _list))
    source.end()
    del values["started_at"], values["finished_at"]
    manifest = Manifest(**values)
    _check(manifest, place)
    return manifest


def _check(manifest: Manifest, place: str) -> None:
    """What must hold between fields. Raises: Corruption."""
    ordered = manifest.start_lsn <= manifest.redo_lsn <= manifest.checkpoint_lsn < manifest.end_lsn
    if not ordered:
        raise Corruption(f"{place}: its LSNs are not in order", _HINT)
    if not (manifest.page_size and manifest.pages_per_file and manifest.timeline):
        raise Corruption(f"{place}: field page_size, pages_per_file or timeline is 0", _HINT)
    if (manifest.base is not None) != (manifest.type == INCREMENTAL):
        raise Corruption(f"{place}: field base does not fit a backup of type {manifest.type}", _HINT)
    paths = [entry.path for entry in manifest.files]
    if len(set(paths)) != len(paths) or MANIFEST_NAME in paths:
        raise Corruption(f"{place}: field files names a file twice, or the manifest", _HINT)


def _base(document: dict[str, Any] | None, where: str) -> Base | None:
    if document is None:
        return None
    source = _Fields(document, where)
    base = Base(
        source.take("backup_id", _matching(_ID)), source.take("manifest_checksum", _matching(_DIGEST)),
        source.take("redo_lsn", _lsn),
    )  # fmt: skip
    source.end()
    return base


def _fork(document: Any, where: str) -> Fork:
    source = _Fields(document, where)
    fork = Fork(source.take("timeline", _count), source.take("switch_lsn", _lsn), source.take("reason", _string))
    source.end()
    return fork


def _file(document: Any, where: str) -> FileEntry:
    source = _Fields(document, where)
    path = source.take("path", _matching(_PATH))
    source._where = f"{where}: {path}"
    entry = FileEntry(
        path, source.take("size", _count), source.take("raw_size", _count), source.take("xxh3_128", _matching(_DIGEST)),
        source.take("pages", _count) if source.has("pages") else None,
        source.take("zeros", _stretches) if source.has("zeros") else (),
    )  # fmt: skip
    source.end()
    return entry


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is not a number from 0 up")
    return value


def _stretches(value: Any) -> tuple[tuple[int, int], ...]:
    found = tuple((_count(start), _count(end)) for start, end in value)
    if not found or any(start >= end for start, end in found) or any(a[1] >= b[0] for a, b in pairwise(found)):
        raise ValueError(f"{value!r} are not stretches of a file, in order and apart")
    return found


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is not true or false")
    return value


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a text")
    return value


def _lsn(value: Any) -> int:
    lsn = parse_lsn(_string(value))
    if format_lsn(lsn) != value:
        raise ValueError(f"{value!r} is not how an LSN is written")
    return lsn


def _hex(value: Any) -> int:
    if re.fullmatch(r"[0-9a-f]{16}", _string(value)) is None:
        raise ValueError(f"{value!r} is not 16 hex digits")
    return int(value, 16)


def _type(value: Any) -> str:
    if value not in (FULL, INCREMENTAL):
        raise ValueError(f"{value!r} is neither {FULL} nor {INCREMENTAL}")
    return str(value)


def _matching(pattern: re.Pattern[str]) -> Callable[[Any], str]:
    def convert(value: Any) -> str:
        if pattern.fullmatch(_string(value)) is None:
            raise ValueError(f"{value!r} is not allowed here")
        return str(value)

    return convert


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("not a list")
    return value


def _optional_object(value: Any) -> dict[str, Any] | None:
    if value is not None and not isinstance(value, dict):
        raise ValueError("neither an object nor null")
    return value
