"""The shell commands that a scenario's configuration may name: an archive behind `wal_archive_command`.

    put URL %f %n      store the file under its name in a store of the topology
    get URL %n %f      fetch it

K1. They see the store's outages and errors, as any client does; what a command says of them is an exit status.
"""

from __future__ import annotations

from collections.abc import Callable

from sim.incident.copying import put_file
from sim.world.image import clean
from sim.world.rand import Stream
from sim.world.trace import Op
from sim.world.world import SimNode

UNREACHABLE = 7


def handler(node: SimNode, stream: Stream) -> Callable[[str], tuple[int, str]]:
    """Answers a node's commands."""
    server = node.world.store

    def fails(url: str, kind: str) -> bool:
        chance = getattr(server.bucket(url).faults, kind)
        if chance and stream.random() < chance:
            server.struck(kind)
            return True
        return False

    def run(command: str) -> tuple[int, str]:
        verb, url, first, second = (command.split(" ") + ["", "", ""])[:4]
        if verb not in ("put", "get"):
            return 127, f"sh: {verb}: not found"
        if server.bucket(url).faults.down:
            server.struck("down")
            return UNREACHABLE, "connection refused"
        if fails(url, "error_before"):
            return UNREACHABLE, "503 Slow Down"
        if fails(url, "timeout"):
            return UNREACHABLE, "timed out"
        if verb == "get":
            found = server.objects.get(f"{url}/{first}")
            if found is None:
                return 1, "no such object"
            if fails(url, "truncated"):
                put_file(node.image, second, found[0][: len(found[0]) // 2])
                return UNREACHABLE, "the body ended early"
            put_file(node.image, second, found[0])
            return 0, ""
        path = clean(first)
        if path not in node.image.names:
            return 1, f"{path}: no such file"
        data = node.image.inodes[node.image.names[path]].read(0, 1 << 62)
        server.keep(f"{url}/{second}", data, node.world.now_ns)
        node.world.trace.event(node.world.now_ns, node.number, Op.STORE, f"{url}/{second}".encode() + b"\0" + data)
        return (UNREACHABLE, "the connection was lost") if fails(url, "error_after") else (0, "")

    return run
