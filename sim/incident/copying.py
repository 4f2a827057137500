"""A copy made by hand, as rsync makes one: the data directory first, then the log, while the database is at work.

Files are listed at the start of their directory, then read in any order, in pieces, at any speed; a file that is gone by then
is passed over, one that grows is read to the size that it had when it was opened, one that shrinks as far as it goes.

C1. The copy is another machine's: `files` holds its bytes, and no crash of the node takes them away.
C2. What was acknowledged before the first file of the log directory was opened must be in what the copy restores to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from sim.oracle.truth import Commit, Line
from sim.world.image import DiskImage, clean, parent
from sim.world.rand import Stream
from sim.world.world import SimNode

MS = 1_000_000


@dataclass(slots=True)
class HandCopy:
    """What was copied, by path below the copy (`data/…`, `wal/…`). `must` are the commits acknowledged before
    wal/ (C2), `known` all that were in the log when it ended."""

    line: Line
    files: dict[str, bytes] = field(default_factory=dict)
    must: list[Commit] = field(default_factory=list)
    known: list[Commit] = field(default_factory=list)
    complete: bool = False
    vanished: int = 0
    damaged: bool = False
    """What was copied was damaged, or its disk lied."""

    def lay(self, image: DiskImage, targets: dict[str, str]) -> None:
        """Put the files onto a disk, durably: what lies below `data` to `targets["data"]`, and so on."""
        for directory in targets.values():
            make_dirs(image, directory)
        for path, content in self.files.items():
            part, _, rest = path.partition("/")
            put_file(image, f"{targets[part]}/{rest}", content)


def copied_damage(image: DiskImage, data_dir: str) -> None:
    """What a damaged copy was laid down to may be damaged in every page."""
    for path in sorted(image.names):
        if path.startswith(f"{data_dir}/pages."):
            inode = image.owned(image.names[path])
            inode.injure(0, inode.cache_size, "damage_copied")


async def copy_by_hand(
    node: SimNode, data_dir: str, wal_dir: str, copy: HandCopy, stream: Stream, before_wal: Callable[[], None]
) -> None:
    """Copy; to be run on the node, so that it ends with it. `before_wal` is called when the log's turn comes."""
    pace_ns = stream.choice((0, 0, 1 * MS, 4 * MS))
    await _copy_dir(node, data_dir, "data", copy, stream, pace_ns)
    before_wal()
    await _copy_dir(node, wal_dir, "wal", copy, stream, pace_ns)
    copy.complete = True


async def _copy_dir(node: SimNode, directory: str, part: str, copy: HandCopy, stream: Stream, pace_ns: int) -> None:
    disk, tasks = node.ports.disk, node.ports.tasks
    names = await disk.list(directory)
    if stream.random() < 0.5:
        stream.shuffle(names)  # rsync goes by name; a parallel copy does not
    for name in names:
        if await disk.is_dir(f"{directory}/{name}"):
            await _copy_dir(node, f"{directory}/{name}", f"{part}/{name}", copy, stream, pace_ns)
            continue
        try:
            file = await disk.open(f"{directory}/{name}", writable=False)
        except FileNotFoundError:
            copy.vanished += 1
            continue
        size = await file.size()
        pieces: list[bytes] = []
        offset = 0
        step = stream.choice((1536, 4096, 40_000, 262_144))  # the first may catch a page between two writes
        while offset < size:
            piece = await file.read(offset, min(step, size - offset))
            if not piece:
                break
            pieces.append(piece)
            offset += len(piece)
            if pace_ns and stream.random() < 0.1:
                await tasks.sleep(stream.between(0, pace_ns))
        await file.close()
        copy.files[f"{part}/{name}"] = b"".join(pieces)


# -- Disks without time


def make_dirs(image: DiskImage, path: str) -> None:
    path = clean(path)
    if path not in image.dirs:
        make_dirs(image, parent(path))
        image.make_dir(path)


def put_file(image: DiskImage, path: str, content: bytes) -> None:
    """A file, durable at once."""
    path = clean(path)
    make_dirs(image, parent(path))
    number = image.names[path] if path in image.names else image.create(path)
    image.truncate(number, 0)
    image.write(number, 0, content)
    image.inodes[number].sync(image.mark())
    image.sync_dir(parent(path), image.entry_mark())


def files_below(image: DiskImage, directory: str) -> dict[str, bytes]:
    """Every file below a directory, as the cache has it, by its path from there."""
    start = clean(directory) + "/"
    return {
        path[len(start) :]: image.inodes[number].read(0, 1 << 62)
        for path, number in sorted(image.names.items())
        if path.startswith(start)
    }


def copy_tree(source: DiskImage, target: DiskImage, directory: str) -> None:
    """The directory of one disk on another, durably."""
    make_dirs(target, directory)
    for path in source.dirs:
        if path.startswith(clean(directory) + "/"):
            make_dirs(target, path)
    for name, content in files_below(source, directory).items():
        put_file(target, f"{directory}/{name}", content)
