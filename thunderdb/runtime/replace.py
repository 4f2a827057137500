"""A small file that is replaced as a whole: the instance's identity, the list of backups, a restore's marker.

    .<name>.tmp: write ─▶ sync ─▶ rename to <name> ─▶ sync of the directory

Whoever reads the file sees the old content or the new one. A crash may leave `.<name>.tmp`, which the next one overwrites; one
writer at a time.
"""

from __future__ import annotations

from thunderdb.runtime.ports import Disk


def temporary_name(name: str) -> str:
    return f".{name}.tmp"


async def replace_file(disk: Disk, directory: str, name: str, data: bytes) -> None:
    """Write `name` anew. Raises: DiskFull, StorageError, SyncFailed. Durable when: it returns. Crash: it is as before."""
    temporary = f"{directory}/{temporary_name(name)}"
    file = await disk.open(temporary, create=True)
    try:
        await file.truncate(0)
        await file.write(0, data)
        await file.sync()
    except Exception:
        await file.close()
        raise
    await file.close()
    await disk.rename(temporary, f"{directory}/{name}")
    await disk.sync_dir(directory)
