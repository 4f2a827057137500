"""The Network port: the same streams over loopback sockets and in the simulator."""

from __future__ import annotations

from typing import Any

import pytest

from thunderdb.base.errors import StorageError


class Talk:
    """One side, remembering what it was given."""

    def __init__(self, ports: Any, connection: Any) -> None:
        self.connection = connection
        self.data = bytearray()
        self.pieces = 0
        self.closes: list[BaseException | None] = []
        self.ended = ports.tasks.future()
        self._ports = ports
        self._wanted = 0
        self._enough = ports.tasks.future()
        connection.set_callbacks(self.on_data, self.on_close)

    def on_data(self, data: bytes) -> None:
        assert not self.closes, "data after close"
        self.data += data
        self.pieces += 1
        if len(self.data) >= self._wanted:
            self._enough.set_result(None)

    def on_close(self, error: BaseException | None) -> None:
        self.closes.append(error)
        self.ended.set_result(None)
        self._enough.set_result(None)

    async def until(self, size: int) -> bytes:
        self._wanted, self._enough = size, self._ports.tasks.future()
        if len(self.data) < size and not self.closes:
            await self._enough
        return bytes(self.data)


async def pair(ports: Any, host: str) -> tuple[Talk, Talk, Any]:
    """A connected pair: client, server, listener."""
    accepted = ports.tasks.future()
    listener = await ports.network.listen(host, 0, lambda connection: accepted.set_result(Talk(ports, connection)))
    client = Talk(ports, await ports.network.connect(host, listener.port))
    return client, await accepted, listener


def test_bytes_go_both_ways_in_order(networked: Any) -> None:
    async def main(ports: Any) -> Any:
        client, server, _ = await pair(ports, networked.host)
        sent = b""
        for number in range(200):
            sent += b"%d," % number
            client.connection.write(b"%d," % number)
        got = await server.until(len(sent))
        server.connection.write(b"answer")
        return sent, got, await client.until(6)

    sent, got, answer = networked.run(main)
    assert got == sent
    assert answer == b"answer"


def test_a_large_transfer_with_drain_bounds_what_is_queued(networked: Any) -> None:
    total = 3_000_000

    async def main(ports: Any) -> Any:
        client, server, _ = await pair(ports, networked.host)
        most = 0
        for start in range(0, total, 50_000):
            client.connection.write(bytes([start // 50_000]) * 50_000)
            most = max(most, client.connection.write_buffer_bytes)
            await client.connection.drain()
        return most, await server.until(total)

    most, got = networked.run(main)
    assert got == b"".join(bytes([number]) * 50_000 for number in range(total // 50_000))
    assert most < 500_000


def test_pause_holds_data_back_until_resume(networked: Any) -> None:
    async def main(ports: Any) -> Any:
        client, server, _ = await pair(ports, networked.host)
        server.connection.pause()
        client.connection.write(b"held back")
        await ports.tasks.sleep(20_000_000)
        while_paused = bytes(server.data)
        server.connection.resume()
        return while_paused, await server.until(9)

    assert networked.run(main) == (b"", b"held back")


def test_close_sends_what_was_written_and_is_told_once_to_both(networked: Any) -> None:
    words = b"last words" * 2_000_000  # more than the buffers of the machine take at once

    async def main(ports: Any) -> Any:
        client, server, _ = await pair(ports, networked.host)
        server.connection.pause()
        client.connection.write(words)
        client.connection.close()
        client.connection.close()
        client.connection.write(b"too late")
        server.connection.resume()
        await server.ended
        await client.ended
        await ports.tasks.sleep(5_000_000)
        return client.closes, server.closes, bytes(server.data) == words

    assert networked.run(main) == ([None], [None], True)


def test_abort_reaches_the_peer(networked: Any) -> None:
    async def main(ports: Any) -> Any:
        client, server, _ = await pair(ports, networked.host)
        client.connection.abort()
        await server.ended
        await client.ended
        await ports.tasks.sleep(5_000_000)
        return len(client.closes), len(server.closes)

    assert networked.run(main) == (1, 1)


def test_data_sent_before_callbacks_are_set_is_kept(networked: Any) -> None:
    async def main(ports: Any) -> Any:
        listener = await ports.network.listen(
            networked.host, 0, lambda connection: (Talk(ports, connection), connection.write(b"greeting"))
        )
        connection = await ports.network.connect(networked.host, listener.port)
        await ports.tasks.sleep(20_000_000)
        return await Talk(ports, connection).until(8)

    assert networked.run(main) == b"greeting"


def test_a_close_before_callbacks_are_set_is_told_later(networked: Any) -> None:
    async def main(ports: Any) -> Any:
        def greet(connection: Any) -> None:
            Talk(ports, connection)
            connection.write(b"bye")
            connection.close()

        listener = await ports.network.listen(networked.host, 0, greet)
        connection = await ports.network.connect(networked.host, listener.port)
        await ports.tasks.sleep(20_000_000)
        talk = Talk(ports, connection)
        await talk.ended
        return bytes(talk.data), len(talk.closes)

    assert networked.run(main) == (b"bye", 1)


def test_nobody_listening_is_a_connection_error(networked: Any) -> None:
    async def main(ports: Any) -> None:
        listener = await ports.network.listen(networked.host, 0, lambda connection: None)
        await listener.close()
        with pytest.raises(ConnectionError, match=str(listener.port)):
            await ports.network.connect(networked.host, listener.port)

    networked.run(main)


def test_a_port_in_use_is_named_with_a_way_out(networked: Any) -> None:
    async def main(ports: Any) -> Any:
        listener = await ports.network.listen(networked.host, 0, lambda connection: None)
        with pytest.raises(StorageError) as caught:
            await ports.network.listen(networked.host, listener.port, lambda connection: None)
        return listener.port, caught.value

    port, error = networked.run(main)
    assert f"{networked.host}:{port}" in str(error) or str(port) in str(error)
    assert "port" in error.hint


def test_an_address_of_another_machine_is_refused(networked: Any) -> None:
    async def main(ports: Any) -> Any:
        with pytest.raises(StorageError) as caught:
            await ports.network.listen("192.0.2.77", 5432, lambda connection: None)
        return caught.value

    error = networked.run(main)
    assert "192.0.2.77" in str(error)
    assert "192.0.2.77" in error.hint


def test_many_connections_each_keep_their_own_order(networked: Any) -> None:
    async def main(ports: Any) -> Any:
        def echo(connection: Any) -> None:
            connection.set_callbacks(connection.write, lambda error: None)

        listener = await ports.network.listen(networked.host, 0, echo)
        talks = [Talk(ports, await ports.network.connect(networked.host, listener.port)) for _ in range(30)]
        for turn in range(5):
            for number, talk in enumerate(talks):
                talk.connection.write(b"%d.%d;" % (number, turn))
        return [await talk.until(len(b"".join(b"%d.%d;" % (n, t) for t in range(5)))) for n, talk in enumerate(talks)]

    got = networked.run(main)
    assert got == [b"".join(b"%d.%d;" % (number, turn) for turn in range(5)) for number in range(30)]
