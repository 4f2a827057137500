"""The simulated network: byte streams between named hosts, with delay, chunking, resets, partitions and silence.

X1. A stream delivers its bytes in order and without gaps, in pieces cut at random places; what is delivered is a prefix of what
    was written. A side that is closed gets no more.
X2. A link that is cut (in one direction or both) loses nothing by itself: bytes wait for it, as TCP would resend them. After
    `give_up_ns` without progress the sender's side fails; the other side learns of it only when it sends, or never.
X3. A killed process resets its connections (its kernel lives); a machine without power says nothing, and answers with resets
    once it is up again.
X4. No callback is called before `set_callbacks`, nor after `on_close`, which comes exactly once, also for our own close.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from sim.world.kernel import Kernel, PortRevoked, SimScheduler
from sim.world.rand import Streams
from sim.world.trace import Op, Trace
from thunderdb.base.errors import StorageError
from thunderdb.runtime.ports import Connection
from thunderdb.runtime.sync import Future

HIGH_WATER_BYTES = 64 * 1024
MAX_PIECES = 4
LOCAL_NAMES = ("localhost", "127.0.0.1", "0.0.0.0", "::1", "")
_FIRST_FREE_PORT = 40_000


@dataclass(slots=True)
class LinkProfile:
    """One direction between two hosts."""

    delay_ns: int = 200_000
    jitter_ns: int = 100_000
    bytes_per_s: int = 1_000_000_000
    cut: bool = False
    reset_chance: float = 0.0  # per piece
    split_chance: float = 0.25  # per write: delivered in several pieces


Piece = tuple[int, bytes | None]  # number and content; None: the stream ends here


class Side:
    """One side of a stream: the `Connection` port."""

    def __init__(self, net: Net, scheduler: SimScheduler, host: str, peer_host: str, number: int) -> None:
        self.net = net
        self.scheduler = scheduler
        self.host = host
        self.peer_host = peer_host
        self.peer = f"{peer_host}:{number}"
        self.number = number
        self.link = net.link(host, peer_host)
        self.node = net.number_of(host)
        self.other: Side = self
        self.closed = False  # no more callbacks
        self.closing = False  # our own close: no more writes, what was written still goes out
        self.gone = False  # its machine lost power: it does not even answer
        self.paused = False
        self.inbox: list[bytes] = []
        self.eof: tuple[BaseException | None] | None = None
        self.outbox_bytes = 0
        self.sent = 0  # pieces, numbered; a close is the last one
        self.received = 0
        self.early: dict[int, bytes | None] = {}  # arrived before an earlier piece
        self.waiting: list[Piece] = []  # held back by a cut link
        self.waiting_since_ns = 0
        self._on_data: Callable[[bytes], None] | None = None
        self._on_close: Callable[[BaseException | None], None] | None = None
        self._room: list[Future[None]] = []

    # The port.

    def set_callbacks(self, on_data: Callable[[bytes], None], on_close: Callable[[BaseException | None], None]) -> None:
        self._check()
        first = self._on_data is None
        self._on_data = on_data
        self._on_close = on_close
        if first:
            self.scheduler.call_soon(self._deliver)

    @property
    def write_buffer_bytes(self) -> int:
        return self.outbox_bytes

    def write(self, data: bytes) -> None:
        self._check()
        if not self.closed and not self.closing and data:
            self.net.send(self, bytes(data))

    async def drain(self) -> None:
        self._check()
        while self.outbox_bytes > HIGH_WATER_BYTES and not self.closed:
            room: Future[None] = Future(self.scheduler)
            self._room.append(room)
            await room

    def pause(self) -> None:
        self._check()
        self.paused = True

    def resume(self) -> None:
        self._check()
        self.paused = False
        self.scheduler.call_soon(self._deliver)

    def close(self) -> None:
        self._check()
        if not self.closed and not self.closing:
            self.closing = True
            self.net.send_close(self)
            self.scheduler.call_soon(self.ended, None)

    def abort(self) -> None:
        self._check()
        if not self.closed:
            self.closing = True
            self.net.send_reset(self)
            self.scheduler.call_soon(self.ended, None)

    def _check(self) -> None:
        if not self.scheduler.alive:
            raise PortRevoked(self.peer)

    # What the network does to it.

    def arrived(self, number: int, content: bytes | None) -> None:
        """X1: put pieces back in order, whatever way each has come."""
        if number == self.received and content is not None and not (self.early or self.closed or self.eof):
            self.received = number + 1
            self.inbox.append(content)
            self._deliver()
            return
        self.early[number] = content
        while self.received in self.early and not self.closed and self.eof is None:
            content = self.early.pop(self.received)
            self.received += 1
            if content is None:
                self.eof = (None,)
            else:
                self.inbox.append(content)
            self._deliver()

    def _deliver(self) -> None:
        """Hand over what is there, unless nobody listens yet or the reader has paused."""
        inbox, net = self.inbox, self.net
        while inbox and not (self.paused or self.closed or self.closing) and self._on_data is not None:
            data = inbox.pop(0)
            net.trace.event(net.kernel._now, self.node, 3, data, self.number)  # Op.MESSAGE
            self.other.taken(len(data))
            self._on_data(data)
        if self.eof is not None and not self.inbox and not self.paused:
            self.ended(self.eof[0])

    def taken(self, size: int) -> None:
        self.outbox_bytes -= size
        if self.outbox_bytes <= HIGH_WATER_BYTES and self._room:
            rooms, self._room = self._room, []
            for room in rooms:
                room.set_result(None)

    def was_reset(self, error: BaseException) -> None:
        """A reset overtakes bytes that nobody has read yet."""
        if not self.closed:
            self.eof = (error,)
            self.inbox.clear()
            self._deliver()

    def ended(self, error: BaseException | None) -> None:
        """X4: the last callback. Without callbacks yet, it waits for them."""
        if self.closed:
            return
        if self._on_close is None and not self.closing:
            self.eof = self.eof or (error,)
            return
        self.closed = True
        self.inbox.clear()
        self.net.forget(self)
        self.taken(0)
        self.outbox_bytes = 0
        for room in self._room:
            room.set_result(None)
        if self._on_close is not None:
            self._on_close(error)


class SimListener:
    """A port that is listened on."""

    def __init__(
        self, net: Net, host: str, port: int, scheduler: SimScheduler, on_connect: Callable[[Connection], None]
    ) -> None:
        self._net = net
        self.host = host
        self.port = port
        self.scheduler = scheduler
        self.on_connect = on_connect

    async def close(self) -> None:
        self._net.stop_listening(self)


class SimNetwork:
    """One life's view of the network: the `Network` port."""

    def __init__(self, net: Net, host: str, scheduler: SimScheduler) -> None:
        self._net = net
        self._host = host
        self._scheduler = scheduler

    async def connect(self, host: str, port: int) -> Connection:
        if not self._scheduler.alive:
            raise PortRevoked(f"{host}:{port}")
        outcome: Future[Connection] = Future(self._scheduler)
        self._net.connect(self._host, self._scheduler, self._host if host in LOCAL_NAMES else host, port, outcome)
        return await outcome

    async def listen(self, host: str, port: int, on_connect: Callable[[Connection], None]) -> SimListener:
        if not self._scheduler.alive:
            raise PortRevoked(f"{host}:{port}")
        if host not in (*LOCAL_NAMES, self._host):
            message = f"cannot listen on {host}:{port}: Cannot assign requested address"
            raise StorageError(message, f"{host} is not an address of this machine")
        return self._net.listen(self._host, port, self._scheduler, on_connect)


class Net:
    """All hosts, links and streams."""

    def __init__(self, kernel: Kernel, trace: Trace, streams: Streams, fired: Counter[str]) -> None:
        self.kernel = kernel
        self.trace = trace
        self.fired = fired
        self.default = LinkProfile()
        self.local = LinkProfile(delay_ns=15_000, jitter_ns=10_000)
        self.give_up_ns = 15_000_000_000
        self.connect_timeout_ns = 5_000_000_000
        self._links: dict[tuple[str, str], LinkProfile] = {}
        self._hosts: dict[str, int] = {}
        self._down: dict[str, None] = {}
        self._listeners: dict[tuple[str, int], SimListener] = {}
        self._sides: dict[Side, None] = {}
        self._next_number = 1
        self._chunks, self._resets, self._delays = (streams.stream(f"net.{name}") for name in ("chunks", "resets", "delay"))

    # What scenarios use.

    def link(self, source: str, target: str) -> LinkProfile:
        """The profile of one direction, for reading and changing."""
        found = self._links.get((source, target))
        if found is None:
            found = self._links[source, target] = replace(self.local if source == target else self.default)
        return found

    def partition(self, one: str, other: str, one_way: bool = False) -> None:
        """Cut the link from `one` to `other`, and back unless `one_way`."""
        self.fired["partition_one_way" if one_way else "partition"] += 1
        self.link(one, other).cut = True
        if not one_way:
            self.link(other, one).cut = True

    def heal(self, one: str, other: str) -> None:
        for source, target in ((one, other), (other, one)):
            self.link(source, target).cut = False
            for side in [side for side in self._sides if side.host == source and side.peer_host == target]:
                self._resend(side)

    def heal_all(self) -> None:
        for source, target in list(self._links):
            self.heal(source, target)

    def reset(self, one: str, other: str) -> int:
        """Reset every stream between two hosts; return how many there were."""
        sides = [side for side in self._sides if side.host == one and side.peer_host == other and not side.closed]
        for side in sides:
            self._reset(side)
        return len(sides)

    def keepalive(self, host: str) -> int:
        """What TCP's keepalive does in the end: reset the host's streams whose peer is gone without its word having arrived."""
        sides = [side for side in self._sides if side.host == host and not side.closed and side.other.closed]
        for side in sides:
            self._reset(side)
        return len(sides)

    # Hosts.

    def add_host(self, host: str, number: int) -> None:
        self._hosts[host] = number

    def number_of(self, host: str) -> int:
        return self._hosts.get(host, 0)

    def node_died(self, host: str, silently: bool) -> None:
        """X3."""
        for key in [key for key in self._listeners if key[0] == host]:
            del self._listeners[key]
        if silently:
            self._down[host] = None
        for side in [side for side in self._sides if side.host == host]:
            side.closed = True
            side.gone = True
            side.waiting.clear()
            del self._sides[side]
            if not silently:
                self.send_reset(side)
            elif side.other.outbox_bytes:
                side.other.scheduler.after(self.give_up_ns, self._give_up_unread, side.other, side.other.outbox_bytes)

    def node_up(self, host: str) -> None:
        self._down.pop(host, None)
        for side in [side for side in self._sides if side.peer_host == host and side.waiting]:
            self._resend(side)

    # Streams.

    def listen(self, host: str, port: int, scheduler: SimScheduler, on_connect: Callable[[Connection], None]) -> SimListener:
        if port == 0:
            port = _FIRST_FREE_PORT
            while (host, port) in self._listeners:
                port += 1
        if (host, port) in self._listeners:
            hint = f"another process listens on port {port}: stop it, or choose another port"
            raise StorageError(f"cannot listen on {host}:{port}: Address already in use", hint)
        listener = self._listeners[host, port] = SimListener(self, host, port, scheduler, on_connect)
        self.trace.event(self.kernel._now, self.number_of(host), Op.LISTEN, b"", port)
        return listener

    def stop_listening(self, listener: SimListener) -> None:
        if self._listeners.get((listener.host, listener.port)) is listener:
            del self._listeners[listener.host, listener.port]

    def connect(self, source: str, scheduler: SimScheduler, target: str, port: int, outcome: Future[Connection]) -> None:
        where = f"{target}:{port}"
        if target not in self._hosts:
            outcome.set_error(ConnectionError(f"cannot connect to {where}: unknown host"))
            return
        if self._unreachable(source, target) or self._unreachable(target, source):
            error = ConnectionError(f"cannot connect to {where}: timed out")
            self.kernel.at(self.connect_timeout_ns, outcome.set_error, error)
            return
        self.kernel.at(self._delay(source, target, 0), self._connect, source, scheduler, target, port, outcome)

    def _connect(self, source: str, scheduler: SimScheduler, target: str, port: int, outcome: Future[Connection]) -> None:
        """The request is there; answer after the way back."""
        if not scheduler.alive:
            return
        back_ns = self._delay(target, source, 0)
        listener = self._listeners.get((target, port))
        if listener is None or not listener.scheduler.alive or target in self._down:
            error = ConnectionRefusedError(f"cannot connect to {target}:{port}: Connection refused")
            self.kernel.at(back_ns, outcome.set_error, error)
            return
        number = self._next_number
        self._next_number += 2
        near = Side(self, scheduler, source, target, number)
        far = Side(self, listener.scheduler, target, source, number + 1)
        near.other, far.other = far, near
        self._sides[near] = self._sides[far] = None
        self.trace.event(self.kernel._now, self.number_of(target), Op.CONNECT, b"", number)
        self.kernel.at(back_ns, outcome.set_result, near)
        listener.scheduler.after(0, listener.on_connect, far)

    def send(self, side: Side, data: bytes) -> None:
        """X1: cut into pieces, each with its own delay."""
        side.outbox_bytes += len(data)
        split_chance = side.link.split_chance
        if len(data) < 2 or split_chance <= 0 or self._chunks.random() >= split_chance:
            self._launch(side, (side.sent, data))
            side.sent += 1
            return
        for content in self._pieces(data):
            self._launch(side, (side.sent, content))
            side.sent += 1

    def _pieces(self, data: bytes) -> list[bytes]:
        stream = self._chunks
        cuts = sorted({stream.between(1, len(data) - 1) for _ in range(stream.between(1, MAX_PIECES - 1))})
        return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]

    def _launch(self, side: Side, piece: Piece) -> None:
        link = side.link
        if link.cut or side.peer_host in self._down:
            self._hold(side, piece)
            return
        size = len(piece[1] or b"")
        if size and link.reset_chance > 0 and self._resets.random() < link.reset_chance:
            self.fired["connection_reset"] += 1
            self.kernel.at(0, self._reset, side)
            return
        delay_ns = self._delay_of(link, size)
        if side.other.gone:
            self.kernel.at(delay_ns, self._answer_reset, side)
        else:
            side.other.scheduler.after(delay_ns, self._land, side, piece)

    def _land(self, side: Side, piece: Piece) -> None:
        """At the far end. A link that was cut meanwhile has swallowed it: it waits at the sender again."""
        if side.link.cut:
            if not side.gone:
                self._hold(side, piece)
            return
        side.other.arrived(*piece)

    def _hold(self, side: Side, piece: Piece) -> None:
        """X2."""
        if not side.waiting:
            side.waiting_since_ns = self.kernel._now
            side.scheduler.after(self.give_up_ns, self._give_up, side, self.kernel._now)
        side.waiting.append(piece)

    def _give_up(self, side: Side, since_ns: int) -> None:
        if side.waiting and side.waiting_since_ns == since_ns:
            self.fired["send_timeout"] += 1
            side.waiting.clear()
            self._sides.pop(side, None)
            side.was_reset(ConnectionError(f"no answer from {side.peer}: timed out"))

    def _give_up_unread(self, side: Side, unread_bytes: int) -> None:
        """Bytes were under way to a machine that lost its power."""
        if not side.closed and side.outbox_bytes >= unread_bytes:
            self.fired["send_timeout"] += 1
            side.was_reset(ConnectionError(f"no answer from {side.peer}: timed out"))

    def _resend(self, side: Side) -> None:
        waiting, side.waiting = side.waiting, []
        for piece in waiting:
            self._launch(side, piece)
        if side.closed and not side.waiting:
            self._sides.pop(side, None)

    def send_close(self, side: Side) -> None:
        """End the stream, behind all bytes."""
        self._launch(side, (side.sent, None))
        side.sent += 1

    def send_reset(self, side: Side) -> None:
        """Tell the other side at once, if it can be told at all."""
        if not self._unreachable(side.host, side.peer_host):
            error = ConnectionResetError(f"connection reset by {side.host}")
            side.other.scheduler.after(self._delay(side.host, side.peer_host, 0), side.other.was_reset, error)

    def _answer_reset(self, side: Side) -> None:
        """A machine that is up, but knows nothing of the stream, resets it."""
        if not side.closed and not self._unreachable(side.peer_host, side.host):
            error = ConnectionResetError(f"connection reset by {side.peer_host}")
            side.scheduler.after(self._delay(side.peer_host, side.host, 0), side.was_reset, error)

    def _reset(self, side: Side) -> None:
        for end in (side, side.other):
            end.scheduler.after(0, end.was_reset, ConnectionResetError("connection reset by peer"))

    def forget(self, side: Side) -> None:
        self.trace.event(self.kernel._now, self.number_of(side.host), Op.CLOSE, b"", side.number)
        if not side.waiting:
            self._sides.pop(side, None)

    def _unreachable(self, source: str, target: str) -> bool:
        return self.link(source, target).cut or target in self._down

    def _delay(self, source: str, target: str, size_bytes: int) -> int:
        return self._delay_of(self.link(source, target), size_bytes)

    def _delay_of(self, link: LinkProfile, size_bytes: int) -> int:
        jitter_ns = int(self._delays.random() * link.jitter_ns)
        return link.delay_ns + jitter_ns + size_bytes * 1_000_000_000 // link.bytes_per_s
