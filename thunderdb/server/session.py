"""A client's connection: wire messages in, the SQL session's results out. Runs in the daemon and in the simulator alike.

    on_data → Decoder → queue of messages → `_serve` (one coroutine, runs eagerly) → one write per batch of messages

V1. A statement that never waits runs to its end inside `on_data`; its replies, and those of every message that came with it,
    leave in one write. When it must wait, what is ready is written first, and input queues up meanwhile (V3). A wait for a
    row's lock or for a commit goes on in the callback that ends it (`Later`), any other in a coroutine (`_serve`).
V2. Messages of one client are handled strictly in order, one at a time.
V3. Memory is bounded: input beyond a limit pauses the connection, large results wait for the peer (`drain`).
V4. After an error in the extended protocol every message up to Sync is skipped. Bytes that are not the protocol end the
    connection.
V5. A client that vanishes is cancelled if it waits, and then closed: its transaction is rolled back.

Source: PostgreSQL 15 manual, chapter 55.2 "Message Flow".
"""

from __future__ import annotations

import traceback
from collections import deque
from typing import TYPE_CHECKING, Any, cast

from thunderdb.base.errors import InvariantViolated, NodeStopped, SqlError, ThunderError
from thunderdb.runtime.ports import Connection
from thunderdb.runtime.sync import Future
from thunderdb.server import pgwire
from thunderdb.server.copying import ClientGone, Copying
from thunderdb.server.extended import ExtendedServing
from thunderdb.server.idle import IdleWatch
from thunderdb.server.quick import finished_reply, quick_query, quick_reply, ready
from thunderdb.server.startup import StartUp
from thunderdb.sql.quick import Later
from thunderdb.sql.result import Result

if TYPE_CHECKING:
    from thunderdb.server.sessions import Sessions

MAX_QUEUED_INPUT_BYTES = 1 << 20
WRITE_CHUNK_BYTES = 128 << 10
MAX_WRITE_BUFFER_BYTES = 1 << 20
# A long pipeline lets other clients have a turn after this many messages.
FAIR_MESSAGES = 256


class Session:
    """One connection, from its first byte to its rollback."""

    __slots__ = (
        "peer", "pid", "secret", "sessions", "tasks", "_connection", "_decoder", "queue", "_queued_bytes", "_paused", "out",
        "_sql", "_serving", "_waited", "skipping", "_input", "_closed", "_terminating", "_start_up",
        "_stumbled", "_copying", "_extended", "_later", "_idle", "_why_terminating",
    )  # fmt: skip

    def __init__(self, sessions: Sessions, connection: Connection) -> None:
        self.peer = connection.peer
        self.pid = 0
        self.secret = b""
        self.sessions = sessions
        self.tasks = sessions.tasks
        self._connection = connection
        self._decoder = pgwire.Decoder()
        self.queue: deque[pgwire.Message] = deque()
        self._queued_bytes = 0
        self._paused = False
        self.out: list[bytes] = []
        self._sql: Any = None  # SqlSession once start-up is done
        self._serving = False
        self._waited = False
        self.skipping = False
        self._input: Future[None] | None = None
        self._closed = False
        self._terminating = False
        self._why_terminating: SqlError | None = None
        self._idle = IdleWatch(self)
        self._copying = Copying(self)
        self._extended = ExtendedServing(self)
        self._stumbled: BaseException | None = None  # what broke in a quick step
        self._later: Later | None = None  # what the first message in the queue waits for, or has waited for
        self._start_up = StartUp(self, connection, self._decoder)
        connection.set_callbacks(self._start_up.on_data, self._on_close)

    # ---- what the outside calls -----------------------------------------------------------------------------------------

    def cancel(self) -> None:
        if self._sql is not None:
            self._sql.cancel()

    @property
    def sql(self) -> Any:
        return self._sql

    def terminate(self, error: SqlError | None = None) -> None:
        """End this session at the next point between statements, cancelling what runs; `error` says why."""
        self._terminating = True
        self._why_terminating = error
        if self._closed:
            return
        if self._sql is None:
            self._connection.close()
        elif self._serving:
            self.cancel()
            self._wake()
        else:
            self._start_serving()

    def abort(self) -> None:
        self._connection.abort()

    # ---- start-up (startup.py) ------------------------------------------------------------------------------------------

    def begin(self, sql: Any) -> None:
        """The client has been greeted."""
        self._sql = sql
        self._connection.set_callbacks(self._on_data, self._on_close)
        self._on_data(b"")
        if sql.settings.idle_limited and not self._serving:
            self._idle.begin()

    def refuse(self, error: ThunderError) -> None:
        """Say why a connection is not let in, and end it."""
        self._report(error, "FATAL")
        self.flush()
        self.hang_up()

    def hang_up(self) -> None:
        self._closed = True
        self._connection.close()

    # ---- bytes in, bytes out --------------------------------------------------------------------------------------------

    def _on_data(self, data: bytes) -> None:
        if self._idle.timer is not None:
            self._idle.end()
        if not (self._serving or self.skipping or self._closed or self._terminating):
            body = self._decoder.lone_query(data)
            if body is not None:
                self._answer_query(body)
                return
        messages = self._decoder.feed(data)
        if not messages or self._closed:
            return
        self.queue.extend(messages)
        if not self._serving:
            if not self._serve_quickly():
                self._serve_slowly()
            return
        self._queued_bytes += len(data)
        if self._queued_bytes > MAX_QUEUED_INPUT_BYTES and not self._paused:  # V3
            self._paused = True
            self._connection.pause()
        self._wake()

    def _answer_query(self, body: bytes) -> None:
        """Answer a Query message that came alone: what `_serve_quickly` does, with no queue if nothing has to wait."""
        reply = None
        try:
            reply = quick_query(self._sql, body)
        except Exception as error:
            self._stumbled = error
        if reply.__class__ is bytes:
            self.sessions.statements += 1
            self._connection.write(reply)
            if self._sql.settings.idle_limited:
                self._idle.begin()
            return
        self.queue.append((pgwire.QUERY, body))
        if reply is None:
            self._serve_slowly()
        else:
            self._later = later = cast(Later, reply)
            self._serving = True
            later.future.add_done_callback(self._go_on)

    def _serve_quickly(self) -> bool:
        """Answer what is in the queue without a coroutine; return whether nothing is left, or it waits for a `Later`."""
        if self.skipping or self._closed or self._terminating:
            return False
        queue, out = self.queue, self.out
        for _ in range(FAIR_MESSAGES):
            if not self._answer_quickly():
                if self._later is None:
                    break
                self.flush()
                self._serving = True
                self._later.future.add_done_callback(self._go_on)
                return True
            if not queue:
                self._connection.write(out[0] if len(out) == 1 else b"".join(out))
                out.clear()
                if self._sql.settings.idle_limited:
                    self._idle.begin()
                return True
        return False

    def _go_on(self, future: Future[None]) -> None:
        """What the first message waited for is there."""
        self._serving = False
        self._start_serving()
        if not self._serving:
            self._resume()

    def _answer_quickly(self) -> bool:
        """Answer the next message in one synchronous step; False: it has to wait (`_later`), or `_serve` is to do it."""
        kind, body = self.queue[0]
        later, self._later = self._later, None
        try:
            reply = quick_reply(self._sql, kind, body) if later is None else finished_reply(self._sql, kind, later)
        except Exception as error:
            self._stumbled = error
            return False
        if reply.__class__ is not bytes:
            self._later = reply  # type: ignore[assignment]
            return False
        self.queue.popleft()
        self.out.append(reply)
        if kind == pgwire.QUERY or kind == pgwire.EXECUTE:
            self.sessions.statements += 1
        return True

    def _start_serving(self) -> None:
        if not self.queue or not self._serve_quickly():
            self._serve_slowly()

    def _serve_slowly(self) -> None:
        self._serving = True
        self._waited = False
        self.tasks.detach(self._serve(), "session")
        if self._serving:  # V1: it waits now
            self._waited = True
            self.flush()

    def _wake(self) -> None:
        if self._input is not None:
            self._input.set_result(None)
            self._input = None

    def _on_close(self, error: BaseException | None) -> None:
        by_us, self._closed = self._closed, True
        self._start_up.end()
        self._idle.end()
        if self._sql is None:
            self.sessions.forget(self)
        elif by_us:
            return  # `_end` is at work; a cancel would disturb its rollback.
        elif self._serving:  # V5
            self.cancel()
            self._wake()
        else:
            self._start_serving()

    def flush(self) -> None:
        if self.out:
            self._connection.write(b"".join(self.out))
            self.out.clear()

    def _resume(self) -> None:
        self._queued_bytes = 0
        if self._paused:
            self._paused = False
            self._connection.resume()

    async def next_message(self) -> pgwire.Message:
        """Wait for the client's next message, inside a statement. Raises: ClientGone."""
        while not self.queue:
            if self._closed or self._terminating:
                raise ClientGone
            self.flush()
            self._resume()
            self._input = self.tasks.future()
            await self._input
        return self.queue.popleft()

    # ---- the loop over messages -----------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        queue, handled = self.queue, 0
        while not self._closed and not self._terminating:
            if not queue:
                self.flush()
                if self._waited:
                    self._resume()
                self._serving = False
                if self._sql.settings.idle_limited:
                    self._idle.begin()
                return
            handled += 1
            if handled % FAIR_MESSAGES == 0:
                await self.tasks.yield_now()
                continue
            if handled > 1 and not self.skipping and self._stumbled is None:
                if self._answer_quickly():
                    continue
                if self._later is not None:
                    await self._wait_for(self._later.future)
                    continue
            kind, body = queue.popleft()
            try:
                if self._stumbled is not None:
                    await self._stumble(kind)
                elif kind == pgwire.QUERY and not self.skipping:
                    await self._query(body)
                else:
                    await self._extended.serve(self._sql, kind, body)
            except pgwire.ProtocolViolation as violation:
                self.sessions.events.emit("server.protocol_violation", peer=self.peer, reason=violation.message)
                self._report(violation, "FATAL")
                break
            except (NodeStopped, InvariantViolated) as error:
                self._report(error, "FATAL")
                if isinstance(error, InvariantViolated):
                    self.tasks.scheduler.crashed(error)
                break
            except ClientGone:
                break
        await self._end()

    async def _wait_for(self, future: Future[None]) -> None:
        """Wait until it is done; what it fails with is for the step that follows."""
        if self._waited:
            self.flush()
        try:
            await future
        except Exception:
            return

    async def _stumble(self, kind: int) -> None:
        """Report what broke in a quick step: whether the message has had an effect is not known, so it is not done again."""
        error, self._stumbled = self._stumbled, None
        if isinstance(error, (NodeStopped, InvariantViolated)):
            raise error
        if isinstance(error, Exception):
            await self.failed(error)
        if kind in (pgwire.QUERY, pgwire.SYNC):
            self.ready()
        else:
            self.skipping = True

    async def _end(self) -> None:
        """Say good-bye if anyone listens, roll back, and be forgotten (V5)."""
        if self._terminating and not self._closed:
            by_hand = SqlError("57P01", "terminating connection due to administrator command")
            self._report(self._why_terminating or by_hand, "FATAL")
        self.flush()
        self._closed = True
        self._later = None
        self.queue.clear()
        self._connection.close()
        try:
            await self._sql.close()
        except NodeStopped:
            pass  # There is no engine left to roll back in; restart does it.
        except ThunderError as error:
            self.sessions.events.emit("server.rollback_failed", peer=self.peer, error=error.message)
        self.sessions.forget(self)

    # ---- simple protocol ------------------------------------------------------------------------------------------------

    async def _query(self, body: bytes) -> None:
        self.sessions.statements += 1
        results: Any = None
        try:
            results = self._sql.simple(pgwire.parse_query(body))
            async for result in results:
                if result.more is None and result.copy_in is None and result.copy_out is None and not result.empty:
                    notices = self._sql.take_notices()
                    if notices:
                        self._notices(notices)
                    self.out.append(result.description + result.data + pgwire.command_complete(result.tag))
                else:
                    await self.write_result(result, result.description)
        except (pgwire.ProtocolViolation, NodeStopped, InvariantViolated):
            raise
        except ClientGone:
            await results.aclose()
            raise
        except Exception as error:
            if results is not None:
                await results.aclose()
            await self.failed(error)
        self.ready()

    def ready(self) -> None:
        self.out.append(ready(self._sql))
        if self._waited:
            self.flush()

    async def write_result(self, result: Result, description: bytes) -> None:
        """Write a result's parts as they come; the general form of what `_query` does in one line."""
        if result.empty:
            self.out.append(pgwire.EMPTY_QUERY)
            return
        if result.copy_in is not None:
            await self._copying.copy_in(result.copy_in)
        elif result.copy_out is not None:
            await self._copying.copy_out(result)
        else:
            self.out.append(description + result.data)
            if result.more is not None:
                async for chunk in result.more:
                    await self.write_chunk(chunk)
        self._notices(self._sql.take_notices())
        self.out.append(pgwire.PORTAL_SUSPENDED if result.suspended else pgwire.command_complete(result.tag))

    async def write_chunk(self, chunk: bytes) -> None:
        """Pass on part of a large result; wait while the client is slow (V3)."""
        self.out.append(chunk)
        if len(chunk) >= WRITE_CHUNK_BYTES or len(self.out) > 16:
            if self._closed:
                raise ClientGone
            self.flush()
            if self._connection.write_buffer_bytes > MAX_WRITE_BUFFER_BYTES:
                await self._connection.drain()

    # ---- errors and notices ---------------------------------------------------------------------------------------------

    async def failed(self, error: Exception) -> None:
        """Report a statement's error. What is not a ThunderError is a bug of ours: the client gets XX000, the log the place."""
        self.sessions.errors += 1
        if isinstance(error, ThunderError):
            self._notices(self._sql.take_notices())
            self._report(error, "ERROR")
        elif isinstance(error, RecursionError):
            self._report(SqlError("54001", "stack depth limit exceeded", hint="The statement is nested too deeply."), "ERROR")
        else:
            where = "".join(traceback.format_exception(error)).rstrip()
            self.sessions.events.emit("server.statement_crashed", error=f"{type(error).__name__}: {error}", where=where)
            self._report(SqlError("XX000", f"internal error: {type(error).__name__}: {error}"), "ERROR")
        await self._sql.failed()

    def _report(self, error: Exception, severity: str) -> None:
        if isinstance(error, ThunderError):
            detail, position = getattr(error, "detail", ""), getattr(error, "position", 0)
            extra = getattr(error, "fields", None)
            reply = pgwire.error_response(
                severity, error.sqlstate, error.message, detail=detail, hint=error.hint, position=position, extra=extra
            )
        else:
            reply = pgwire.error_response(severity, "XX000", f"internal error: {error}")
        self.out.append(reply)

    def _notices(self, notices: Any) -> None:
        for notice in notices:
            self.out.append(
                pgwire.notice_response(notice.severity, notice.sqlstate, notice.message, detail=notice.detail, hint=notice.hint)
            )
