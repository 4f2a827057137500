"""What only the machine's own sockets have: options."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from thunderdb.runtime.real_network import KEEPALIVE_IDLE_S
from thunderdb.runtime.real_ports import RealPorts, run_real


def test_a_silently_dead_peer_is_noticed() -> None:
    """Without keepalive a client that dies behind a partition keeps its locks for ever (simulated: power_cut, seed 3167)."""

    async def main(ports: RealPorts) -> list[int]:
        accepted: list[Any] = []
        listener = await ports.network.listen("127.0.0.1", 0, accepted.append)
        client = await ports.network.connect("127.0.0.1", listener.port)
        while not accepted:
            await ports.tasks.sleep(1_000_000)
        sock = accepted[0]._transport.get_extra_info("socket")
        idle_s = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
        found = [sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE), idle_s]
        client.close()
        await listener.close()
        return found

    run: Callable[..., list[int]] = run_real
    assert run(main) == [1, KEEPALIVE_IDLE_S]
