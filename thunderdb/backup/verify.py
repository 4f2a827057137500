"""Whether a backup is what it should be: manifest, every file, every page, every log record, and the log without a gap.

V1. PASSED means that nothing at all was found wrong. Every problem is listed, those that name a page or an LSN first in their
    file; whatever cannot be read is a problem, never a reason to stop or to say nothing.
V2. What is in data/ or wal/ and in no manifest is a problem: nobody vouches for it.
V3. An incremental backup is as good as its whole chain: every link is verified, a missing one is named.
V4. A copy made by hand has no manifest to compare with: handmade.py says what is checked then.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from thunderdb.archive.directory import is_url, open_store
from thunderdb.backup import incremental
from thunderdb.backup.frames import FileCipher, FrameReader, parse_stored_name
from thunderdb.backup.handmade import verify_copy
from thunderdb.backup.log import LogCopy
from thunderdb.backup.manifest import MANIFEST_NAME, FileEntry, Manifest, parse_manifest
from thunderdb.backup.pages import bad_pages, is_zero, page_lsn_of, what_is_wrong
from thunderdb.backup.place import PARTIAL
from thunderdb.backup.verify_report import Problem, VerifyReport
from thunderdb.base.errors import Corruption, Refused, StorageError, ThunderError
from thunderdb.runtime.ports import ObjectStore, Ports
from thunderdb.storage.control import FILE_SIZE, SLOT_OFFSETS, SLOT_SIZE, DatabaseState, decode_slot
from thunderdb.storage.files import page_file_name
from thunderdb.wal.segment import parse_segment_name
from thunderdb.wal.timeline import parse_history, parse_history_name

Check = Callable[[FileEntry, FrameReader], Awaitable[Any]]


async def verify_backup(ports: Ports, place: str, cipher: FileCipher | None = None, requests: int = 1) -> VerifyReport:
    """Verify the backup at a path (or a link to it) or URL, with all that it stands on.

    So many `requests` to a store may be under way; a directory is read front to back.

    Raises: Refused for a missing or wrong key and for a newer format; ConfigError for a URL of no known kind. All else that can
    go wrong is in the report.
    """
    if not is_url(place):
        place = await ports.disk.resolve(place)
    requests = requests if is_url(place) else 1
    report = await _verify_one(ports, place, cipher, requests)
    if report.manifest is not None:
        try:
            links = await incremental.links_of(ports, place, report.manifest)
        except (ThunderError, OSError) as error:
            report.problem("", str(error))
            links = []
        for link in links:
            found = await _verify_one(ports, link.place, cipher, requests)
            for problem in found.problems:
                report.problem(f"{link.place}/{problem.file}", problem.text, problem.page, problem.lsn)
            report.links.append(link.place)
            report.bytes_read += found.bytes_read
    report.links.append(place)
    return report


async def _verify_one(ports: Ports, place: str, cipher: FileCipher | None, requests: int) -> VerifyReport:
    store = open_store(ports, place)
    report = VerifyReport(place)
    try:
        listed = {stored.key: stored.size_bytes for stored in await store.list()}
    except (ThunderError, OSError) as error:
        report.problem("", f"{place} cannot be listed: {error}")
        return report
    if place.endswith(PARTIAL):
        report.problem("", f"{place} is an unfinished backup")
        return report
    if not listed:
        report.problem("", f"there is no backup at {place}")
        return report
    if MANIFEST_NAME not in listed:
        await verify_copy(ports, store, listed, report)
        return report
    try:
        report.manifest = parse_manifest(await store.get(MANIFEST_NAME))
    except (Corruption, StorageError, FileNotFoundError) as error:
        report.problem(MANIFEST_NAME, _unprefixed(error, MANIFEST_NAME))
        return report
    await _Verifier(ports, store, report.manifest, cipher, report, listed, requests).run()
    return report


class _Verifier:
    """Verifies a backup with a manifest."""

    def __init__(
        self, ports: Ports, store: ObjectStore, manifest: Manifest, cipher: FileCipher | None, report: VerifyReport,
        listed: dict[str, int], requests: int,
    ) -> None:  # fmt: skip
        self.ports = ports
        self.store = store
        self.requests = requests
        self.manifest = manifest
        self.cipher = cipher
        self.report = report
        self.listed = listed

    async def run(self) -> None:
        manifest, report = self.manifest, self.report
        report.backup_time, report.end_lsn = manifest.started_at, manifest.end_lsn
        if manifest.encryption is not None and self.cipher is None:
            raise Refused(
                f"the backup in {self.store.place} is encrypted", "Name its key with backup_key_file or backup_key_command."
            )
        self._check_names()
        for entry in manifest.in_folder("data"):
            plain = parse_stored_name(entry.path)[0]
            await self._file(entry, self._control if plain == "data/control" else self._pages)
        began_ns = self.ports.clock.monotonic_ns()
        await self._log()
        report.log_ns += self.ports.clock.monotonic_ns() - began_ns
        for entry in manifest.files:
            if not entry.path.startswith(("data/", "wal/")):
                await self._file(entry, self._whole)

    def _check_names(self) -> None:
        """V2, and whether every file is there that has to be."""
        manifest, report = self.manifest, self.report
        named = {entry.path: entry for entry in manifest.files}
        for key in self.listed:
            if key.startswith(("data/", "wal/")) and key not in named:
                report.problem(key, "the manifest does not know this file")
        plain = {parse_stored_name(path)[0] for path in named}
        suffix = incremental.INCREMENTAL_SUFFIX if manifest.base is not None else ""
        needed = ["data/control", "thunderdb.toml"]
        for number in range(-(-manifest.page_count // manifest.pages_per_file)):
            needed.append(f"data/{page_file_name(number)}{suffix}")
        for name in needed:
            if name not in plain:
                report.problem(MANIFEST_NAME, f"it names no {name}")

    async def _file(self, entry: FileEntry, check: Check) -> None:
        """Size, digest and content of one file; problems of its content come first (V1)."""
        report = self.report
        size = self.listed.get(entry.path)
        if size is None:
            report.problem(entry.path, "missing")
            return
        if size != entry.size:
            report.problem(entry.path, f"{size} bytes instead of {entry.size}")

        async def read(offset: int, count: int) -> bytes:
            report.bytes_read += count
            return await self.store.get_range(entry.path, offset, count)

        piece_bytes = self.store.request_bytes if self.requests > 1 else 0
        reader = FrameReader(
            self.ports, read, entry.path, min(size, entry.size), self.cipher, (), self.requests - 1, piece_bytes
        )  # fmt: skip
        try:
            await check(entry, reader)
            if reader.raw_size != entry.raw_size and size == entry.size:
                report.problem(entry.path, f"{reader.raw_size} bytes decoded instead of {entry.raw_size}")
        except (Corruption, StorageError, FileNotFoundError) as error:
            report.problem(entry.path, _unprefixed(error, entry.path))
        try:
            await reader.skim()
        except (StorageError, FileNotFoundError) as error:
            report.problem(entry.path, f"cannot be read: {error}")
        if size == entry.size and reader.digest != entry.xxh3_128:
            report.problem(entry.path, "checksum does not match the manifest's")

    async def _whole(self, entry: FileEntry, reader: FrameReader) -> bytes:
        parts = []
        while data := await reader.next():
            parts.append(data)
            await self.ports.tasks.yield_now()
        return b"".join(parts)

    async def _control(self, entry: FileEntry, reader: FrameReader) -> None:
        image, manifest = await self._whole(entry, reader), self.manifest
        if len(image) != FILE_SIZE:
            raise Corruption(f"{len(image)} bytes instead of {FILE_SIZE}")
        for slot, offset in enumerate(SLOT_OFFSETS):
            try:
                state = decode_slot(image[offset : offset + SLOT_SIZE])
            except (ValueError, Refused) as error:
                self.report.problem(entry.path, f"slot {slot}: {error}")
                continue
            says = (state.state, state.system_id, state.timeline, state.page_size, state.checkpoint_lsn, state.redo_lsn)
            expected = (
                DatabaseState.BACKUP, manifest.system_id, manifest.timeline, manifest.page_size, manifest.checkpoint_lsn,
                manifest.redo_lsn,
            )  # fmt: skip
            if says != expected or state.wal_end_lsn != manifest.end_lsn or state.copy_floors:
                self.report.problem(entry.path, f"slot {slot} is not of this backup", lsn=state.checkpoint_lsn)

    async def _pages(self, entry: FileEntry, reader: FrameReader) -> None:
        """Every page of a page file."""
        manifest = self.manifest
        plain = parse_stored_name(entry.path)[0].removeprefix("data/")
        number = _page_file_number(plain.removesuffix(incremental.INCREMENTAL_SUFFIX))
        if number is None:
            self.report.problem(entry.path, "not a file of a backup")
            return
        first_page = number * manifest.pages_per_file
        count = min(manifest.pages_per_file, manifest.page_count - first_page)
        if plain.endswith(incremental.INCREMENTAL_SUFFIX):
            found = await self._changed_pages(entry, reader, first_page, count)
        else:
            found = await self._all_pages(entry, reader, first_page)
            if found != count:
                self.report.problem(entry.path, f"{found} pages instead of {count}", page=first_page + min(found, count))
        if found != entry.pages:
            self.report.problem(entry.path, f"{found} pages, and the manifest counts {entry.pages}")

    async def _all_pages(self, entry: FileEntry, reader: FrameReader, first_page: int) -> int:
        size, page_no, rest = self.manifest.page_size, first_page, b""
        zeros = bytes(size)
        while data := await reader.next():
            data = rest + data if rest else data
            for bad in bad_pages(data, page_no, size):
                at = (bad - page_no) * size
                if data[at : at + size] != zeros:  # the digest vouches for zeros: they were nobody's (pages.G2)
                    self._bad_page(entry.path, bad, data[at : at + size])
            whole = len(data) // size
            self._check_lsns(entry.path, data, page_no, whole)
            page_no += whole
            self.report.data_pages += whole
            rest = data[whole * size :]
            await self.ports.tasks.work("backup.verify", whole)
        if rest:
            self.report.problem(entry.path, f"{len(rest)} bytes behind the last page", page=page_no)
        return page_no - first_page

    async def _changed_pages(self, entry: FileEntry, reader: FrameReader, first_page: int, count: int) -> int:
        size, header_size = self.manifest.page_size, incremental.INCREMENTAL_HEADER.size
        since_lsn = self.manifest.base.redo_lsn if self.manifest.base else 0
        rest, begun, found, last_page = b"", False, 0, first_page - 1
        while data := await reader.next():
            data = rest + data
            if not begun:
                incremental.check_header(data, self.manifest, first_page, entry.path)
                data, begun = data[header_size:], True
            whole = len(data) // size * size
            for at in range(0, whole, size):
                image = data[at : at + size]
                page_no = incremental.page_no_of(image)
                trouble = what_is_wrong(image, page_no, size)
                if not trouble and not last_page < page_no < first_page + count:
                    trouble = "not in order, or of another file"
                if not trouble and page_lsn_of(image) < since_lsn:
                    trouble = "older than its base"
                if trouble:
                    self.report.problem(entry.path, trouble, page_no, page_lsn_of(image))
                last_page = page_no
            self._check_lsns(entry.path, data, -1, whole // size)
            found += whole // size
            rest = data[whole:]
            await self.ports.tasks.work("backup.verify", whole // size)
        if not begun or rest:
            self.report.problem(entry.path, "it ends in the middle of a page" if begun else "it is empty")
        self.report.data_pages += found
        return found

    def _bad_page(self, path: str, page_no: int, image: bytes) -> None:
        trouble = what_is_wrong(image, page_no, self.manifest.page_size)
        self.report.problem(path, trouble, page_no, None if is_zero(image) else page_lsn_of(image))

    def _check_lsns(self, path: str, data: bytes, page_no: int, count: int) -> None:
        """No page is newer than the log (take.B2)."""
        size, end_lsn = self.manifest.page_size, self.manifest.end_lsn
        for index in range(count):
            lsn = page_lsn_of(data, index * size)
            if lsn >= end_lsn:
                page = page_no + index if page_no >= 0 else incremental.page_no_of(data[index * size : (index + 1) * size])
                self.report.problem(path, "newer than the log of the backup, or damaged", page, lsn)

    async def _log(self) -> None:
        """Every segment, one after the other."""
        manifest, report = self.manifest, self.report
        copy = LogCopy(
            manifest.system_id, manifest.timeline, manifest.start_lsn, manifest.end_lsn, manifest.checkpoint_lsn
        )  # fmt: skip
        whole = True
        for entry in manifest.in_folder("wal"):
            name = parse_stored_name(entry.path)[0].removeprefix("wal/")
            before = len(report.problems)
            if parse_history_name(name) is not None:
                await self._file(entry, self._history)
                continue
            parsed = parse_segment_name(name)
            if parsed is None:
                report.problem(entry.path, "not a file of a backup")
                continue
            data: list[bytes] = []

            async def keep(entry: FileEntry, reader: FrameReader, data: list[bytes] = data) -> None:
                while part := await reader.next():
                    data.append(part)
                    await self.ports.tasks.yield_now()

            await self._file(entry, keep)
            if parsed[0] != manifest.timeline:
                report.problem(entry.path, f"of another timeline than {manifest.timeline}")
            report.wal_segments += 1
            report.log_bytes += sum(map(len, data))
            if whole:
                try:
                    await copy.check(self.ports.tasks, parsed[1], b"".join(data))
                except Corruption as error:
                    whole = False  # what follows cannot be shown to continue it
                    report.problems.insert(before, Problem(entry.path, error.message, lsn=copy.lsn or None))
        if manifest.include_wal and whole:
            self._check_end(copy)

    def _check_end(self, copy: LogCopy) -> None:
        manifest = self.manifest
        try:
            copy.finish()
        except Corruption as error:
            self.report.problem("wal", error.message, lsn=copy.lsn)
            return
        if (copy.end_checksum, copy.end_time_us) != (manifest.end_checksum, manifest.end_time_us):
            self.report.problem("wal", "its end is not the one that the manifest names", lsn=copy.lsn)

    async def _history(self, entry: FileEntry, reader: FrameReader) -> None:
        text = (await self._whole(entry, reader)).decode(errors="replace")
        if parse_history(text, self.manifest.timeline) != self.manifest.history:
            self.report.problem(entry.path, "not the history that the manifest names")


def _page_file_number(name: str) -> int | None:
    digits = name.removeprefix("pages.")
    if not digits.isdigit():
        return None
    return int(digits) if page_file_name(int(digits)) == name else None


def _unprefixed(error: Exception, path: str) -> str:
    """The error without the file's name, which the problem has already."""
    return str(error).removeprefix(f"{path}: ")
