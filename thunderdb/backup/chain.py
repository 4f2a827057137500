"""Chains of incremental backups, and folders of backups.

C1. A link is found by its id, in the same folder, and believed by its manifest's checksum; a missing one is named.
C2. In a folder a backup counts once, by whichever name it is reached (`full-latest` is a link to one of the others).
C3. A broken or unfinished backup in a folder is passed over, and said to be.
"""

from __future__ import annotations

from dataclasses import dataclass

from thunderdb.archive.cipher import Cipher
from thunderdb.archive.directory import is_url, open_store
from thunderdb.backup.manifest import MANIFEST_NAME, Manifest, parse_manifest
from thunderdb.backup.sources import CONTROL, BackupSource, Unusable, open_backup
from thunderdb.base.errors import Corruption, Refused
from thunderdb.runtime.ports import Ports


@dataclass(frozen=True, slots=True)
class Listed:
    """A backup in a folder; `manifest` is None for a copy made by hand, and with a `problem` for one that cannot be used."""

    place: str
    manifest: Manifest | None
    problem: str = ""


async def is_backup(ports: Ports, place: str) -> bool:
    """Whether a place is one backup, rather than a folder of them."""
    store = open_store(ports, place)
    for key in (MANIFEST_NAME, CONTROL):
        try:
            if await store.size(key) is not None:
                return True
        except FileNotFoundError:
            continue
    return False


async def list_backups(ports: Ports, place: str) -> list[Listed]:
    """All backups right below a place, by their end, oldest first; those that cannot be used come first, by name (C2, C3)."""
    places = await (_store_places(ports, place) if is_url(place) else _directory_places(ports, place))
    found = [await _look(ports, where) for where in places]
    return sorted(found, key=lambda backup: (backup.manifest.end_lsn if backup.manifest else 0, backup.place))


async def _directory_places(ports: Ports, place: str) -> list[str]:
    disk = ports.disk
    try:
        names = await disk.list(place)
    except (FileNotFoundError, NotADirectoryError):
        raise Refused(f"there is no backup in {place}: no such directory", "Name a backup with --restore-backup.") from None
    places: dict[str, None] = {}
    for name in names:
        path = f"{place}/{name}"
        if name.startswith(".") or name.endswith(".partial") or not await disk.is_dir(path):
            continue
        path = await disk.resolve(path)
        if await disk.exists(f"{path}/{MANIFEST_NAME}") or await disk.exists(f"{path}/{CONTROL}"):
            places[path] = None
    return sorted(places)


async def _store_places(ports: Ports, place: str) -> list[str]:
    suffix = f"/{MANIFEST_NAME}"
    place = place.rstrip("/")
    keys = [stored.key for stored in await open_store(ports, place).list() if stored.key.endswith(suffix)]
    return sorted(f"{place}/{key.removesuffix(suffix)}" for key in keys if key.count("/") == 1)


async def _look(ports: Ports, place: str) -> Listed:
    try:
        return Listed(place, parse_manifest(await open_store(ports, place).get(MANIFEST_NAME), f"{place}/{MANIFEST_NAME}"))
    except FileNotFoundError:
        return Listed(place, None)
    except (Corruption, Refused) as error:
        return Listed(place, None, error.message)


async def open_chain(ports: Ports, place: str, cipher: Cipher | None, requests: int = 1) -> list[BackupSource]:
    """A backup and, if it is incremental, all that it stands on, base first.

    Raises: Refused naming a missing link (C1), and as `open_backup` does.
    """
    chain = [await open_backup(ports, place, cipher, requests)]
    listed: list[Listed] | None = None
    while (manifest := chain[0].manifest) is not None and manifest.base is not None:
        base = manifest.base
        folder = chain[0].place.rpartition("/")[0] or "/"
        if listed is None:
            listed = await list_backups(ports, folder)
        known = [other for other in listed if other.manifest is not None and other.manifest.backup_id == base.backup_id]
        fitting = [other for other in known if other.manifest and other.manifest.checksum == base.manifest_checksum]
        if not fitting:
            why = "is another one than it was made from" if known else "is missing"
            raise Unusable(
                f"backup {manifest.backup_id} in {chain[0].place} needs backup {base.backup_id}, which {why} in {folder}",
                f"Put {base.backup_id} back beside it, or restore from another backup.",
            )
        if any(link.place == fitting[0].place for link in chain):
            raise Corruption(f"backup {base.backup_id} stands on itself", "Use another backup.")
        link = await open_backup(ports, fitting[0].place, cipher, requests)
        if link.system_id != chain[0].system_id or link.page_size != chain[0].page_size:
            raise Corruption(f"{link.place} is of another database than {chain[0].place}", "Use another backup.")
        chain.insert(0, link)
    return chain


