"""Partitions, resets and silence on the simulated network."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import pytest

from sim.world.world import SimNode, World

MS = 1_000_000
S = 1_000_000_000


class End:
    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.data = b""
        self.closes: list[BaseException | None] = []
        connection.set_callbacks(self._data, self.closes.append)

    def _data(self, data: bytes) -> None:
        self.data += data


def connected(world: World, client: SimNode, server: SimNode) -> tuple[End, End]:
    ends: list[End] = []

    async def listen() -> None:
        await server.ports.network.listen(server.name, 5432, lambda connection: ends.append(End(connection)))

    async def connect() -> End:
        return End(await client.ports.network.connect(server.name, 5432))

    async def both() -> End:
        await server.call(listen())
        return await client.call(connect())

    near = run(world, both())
    world.run_for(10 * MS)
    return near, ends[0]


def run(world: World, coro: Coroutine[Any, Any, Any]) -> Any:
    return world.run(coro, limit_ns=3600 * S)


@pytest.fixture(params=range(5))
def trio(request: pytest.FixtureRequest) -> tuple[World, SimNode, SimNode]:
    world = World(request.param)
    return world, world.node("client"), world.node("server")


def test_a_cut_link_holds_bytes_and_healing_delivers_them_in_order(trio: Any) -> None:
    world, client, server = trio
    near, far = connected(world, client, server)
    sent = b""
    for round_number in range(6):
        for number in range(20):
            sent += b"%d.%d;" % (round_number, number)
            near.connection.write(b"%d.%d;" % (round_number, number))
        if round_number % 2 == 0:
            world.net.partition("client", "server")
        else:
            world.net.heal_all()
        world.run_for(world.streams.stream("test").between(0, MS))
        assert sent.startswith(far.data)
    world.net.heal_all()
    world.run_for(S)
    assert far.data == sent
    assert far.closes == []


def test_what_is_under_way_when_the_link_is_cut_does_not_arrive(trio: Any) -> None:
    world, client, server = trio
    near, far = connected(world, client, server)
    near.connection.write(b"under way")
    world.net.partition("client", "server")
    world.run_for(S)
    assert far.data == b""
    world.net.heal_all()
    world.run_for(S)
    assert far.data == b"under way"


def test_a_one_way_cut_lets_the_other_way_pass(trio: Any) -> None:
    world, client, server = trio
    near, far = connected(world, client, server)
    world.net.partition("client", "server", one_way=True)
    near.connection.write(b"lost in silence")
    far.connection.write(b"heard")
    world.run_for(S)
    assert (near.data, far.data) == (b"heard", b"")


def test_the_sender_gives_up_after_a_while_and_the_reader_never_knows(trio: Any) -> None:
    world, client, server = trio
    near, far = connected(world, client, server)
    world.net.partition("client", "server")
    near.connection.write(b"anyone?")
    world.run_for(60 * S)
    assert [type(error) for error in near.closes] == [ConnectionError]
    assert far.closes == []
    assert world.fired["send_timeout"] == 1


def test_a_killed_process_resets_its_streams(trio: Any) -> None:
    world, client, server = trio
    near, far = connected(world, client, server)
    server.crash(power=False)
    world.run_for(S)
    assert [type(error) for error in near.closes] == [ConnectionResetError]
    assert far.closes == []


def test_a_machine_without_power_is_silent_until_it_is_back(trio: Any) -> None:
    world, client, server = trio
    near, _ = connected(world, client, server)
    server.crash(power=True)
    world.run_for(S)
    assert near.closes == []
    near.connection.write(b"are you there?")
    world.run_for(S)
    assert near.closes == []
    server.restart()
    world.run_for(S)
    assert [type(error) for error in near.closes] == [ConnectionResetError]


def test_unread_bytes_to_a_lost_machine_end_in_a_timeout(trio: Any) -> None:
    world, client, server = trio
    near, far = connected(world, client, server)
    near.connection.write(b"x" * 1000)
    server.crash(power=True)
    world.run_for(60 * S)
    assert len(near.closes) == 1 and isinstance(near.closes[0], ConnectionError)


def test_connecting_over_a_cut_link_times_out_and_to_a_dead_process_is_refused(trio: Any) -> None:
    world, client, server = trio
    connected(world, client, server)

    async def connect() -> Any:
        return await client.ports.network.connect("server", 5432)

    world.net.partition("client", "server")
    with pytest.raises(ConnectionError, match="timed out"):
        run(world, _call(client, connect()))
    world.net.heal_all()
    server.crash(power=False)
    with pytest.raises(ConnectionRefusedError):
        run(world, _call(client, connect()))


async def _call(node: SimNode, coro: Any) -> Any:
    return await node.call(coro)


def test_resets_tell_both_sides(trio: Any) -> None:
    world, client, server = trio
    near, far = connected(world, client, server)
    assert world.net.reset("client", "server") == 1
    world.run_for(S)
    assert [type(error) for error in near.closes + far.closes] == [ConnectionResetError] * 2


def test_what_arrives_before_a_random_reset_is_a_prefix(trio: Any) -> None:
    world, client, server = trio
    world.net.link("client", "server").reset_chance = 0.02
    near, far = connected(world, client, server)
    sent = b""
    for number in range(300):
        if near.closes:
            break
        sent += b"%d;" % number
        near.connection.write(b"%d;" % number)
        world.run_for(MS)
    assert world.fired["connection_reset"] == 1
    assert sent.startswith(far.data)
    assert len(near.closes) == len(far.closes) == 1


def test_streams_are_chunked_at_random_places(trio: Any) -> None:
    world, client, server = trio
    world.net.link("client", "server").split_chance = 1.0
    near, far = connected(world, client, server)
    near.connection.write(bytes(range(256)))
    world.run_for(S)
    assert far.data == bytes(range(256))
    assert world.trace.by_op()["message"] > 1
