"""The plainest restore there is: data/ and wal/ of a backup, or of a chain, as they have to be on disk."""

from __future__ import annotations

from thunderdb.archive.directory import open_store
from thunderdb.backup.frames import FrameReader, parse_stored_name
from thunderdb.backup.incremental import INCREMENTAL_HEADER, INCREMENTAL_SUFFIX, page_no_of
from thunderdb.backup.manifest import MANIFEST_NAME, Manifest, parse_manifest
from thunderdb.runtime.ports import Ports
from thunderdb.storage.files import page_file_name


async def restored_files(ports: Ports, links: list[str]) -> dict[str, bytes]:
    """data/ and wal/ of a backup as they have to be on disk: the plainest restore there is, of a chain given base first."""
    manifests = [parse_manifest(await open_store(ports, link).get(MANIFEST_NAME)) for link in links]
    last = manifests[-1]
    pages = bytearray(last.page_count * last.page_size)
    found: dict[str, bytes] = {}
    for link, manifest in zip(links, manifests, strict=True):
        for entry in manifest.files:
            plain = parse_stored_name(entry.path)[0]
            content = await _decoded(ports, link, entry.path)
            if plain.startswith("data/pages."):
                _lay_pages(pages, plain, content, manifest)
            elif manifest is last and plain.startswith(("data/", "wal/")):
                found[plain] = content
    size = last.pages_per_file * last.page_size
    for number in range(-(-len(pages) // size)):
        found[f"data/{page_file_name(number)}"] = bytes(pages[number * size : (number + 1) * size])
    return found


def _lay_pages(pages: bytearray, name: str, content: bytes, manifest: Manifest) -> None:
    size = manifest.page_size
    first = int(name.removeprefix("data/pages.").removesuffix(INCREMENTAL_SUFFIX)) * manifest.pages_per_file
    if not name.endswith(INCREMENTAL_SUFFIX):
        pages[first * size : first * size + len(content)] = content
        return
    for at in range(INCREMENTAL_HEADER.size, len(content), size):
        page_no = page_no_of(content[at : at + size])
        pages[page_no * size : (page_no + 1) * size] = content[at : at + size]


async def _decoded(ports: Ports, link: str, name: str) -> bytes:
    data = await open_store(ports, link).get(name)

    async def read(offset: int, size: int) -> bytes:
        return data[offset : offset + size]

    reader = FrameReader(ports, read, name, len(data), None)
    parts = []
    while part := await reader.next():
        parts.append(part)
    return b"".join(parts)
