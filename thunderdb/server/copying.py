"""COPY on a client's connection: its data in, a query's rows out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thunderdb.base.errors import SqlError
from thunderdb.server import pgwire
from thunderdb.sql.result import CopyIn, Result

if TYPE_CHECKING:
    from thunderdb.server.session import Session

# A COPY hands its input on in pieces of about this size, however small the client's messages are.
COPY_PIECE_BYTES = 256 << 10


class ClientGone(Exception):
    """The connection ended while a statement waited for more of its input."""


class Copying:
    """The COPY side of one session."""

    __slots__ = ("_session",)

    def __init__(self, session: Session) -> None:
        self._session = session

    async def copy_in(self, copy: CopyIn) -> None:
        """Carry the client's data to a COPY … FROM STDIN until CopyDone. Raises: SqlError, ClientGone."""
        self._session.out.append(pgwire.copy_in_response(copy.column_count, copy.binary))
        self._session.flush()
        while True:
            try:
                kind, body = await self._session.next_message()
            except ClientGone:
                await self._fail_copy(copy, "the client's connection ended")
                raise
            if kind == pgwire.COPY_DATA:
                await copy.feed(self._take_copy_data(body))
                if self._session.queue:
                    # A fast client must not keep the loop from others: they have a turn after each piece.
                    await self._session.tasks.work("copy_in", 1)
            elif kind == pgwire.COPY_DONE:
                await copy.finish()
                return
            elif kind == pgwire.COPY_FAIL:
                await copy.fail(f"COPY from stdin failed: {pgwire.parse_copy_fail(body)}")
                return
            elif kind not in (pgwire.FLUSH, pgwire.SYNC):
                await self._fail_copy(copy, f"unexpected message type {kind:#04x} during COPY from stdin")
                if kind == pgwire.TERMINATE:
                    raise ClientGone
                raise pgwire.ProtocolViolation(f"unexpected message type {kind:#04x} during COPY from stdin")

    async def _fail_copy(self, copy: CopyIn, reason: str) -> None:
        try:
            await copy.fail(reason)
        except SqlError:
            pass  # `fail` always raises; the caller has its own way to end.

    def _take_copy_data(self, first: bytes) -> bytes:
        """Join the CopyData that has arrived: clients send one message a row, and a row is too small a piece to work on."""
        queue = self._session.queue
        if not queue or queue[0][0] != pgwire.COPY_DATA:
            return first
        pieces, size = [first], len(first)
        while queue and queue[0][0] == pgwire.COPY_DATA and size < COPY_PIECE_BYTES:
            piece = queue.popleft()[1]
            pieces.append(piece)
            size += len(piece)
        return b"".join(pieces)

    async def copy_out(self, result: Result) -> None:
        copy = result.copy_out
        if copy is None:
            return
        self._session.out.append(pgwire.copy_out_response(copy.column_count, copy.binary))
        if result.data:
            self._session.out.append(pgwire.copy_data(result.data))
        if result.more is not None:
            async for chunk in result.more:
                rows = [chunk] if isinstance(chunk, bytes) else chunk
                await self._session.write_chunk(b"".join([pgwire.copy_data(row) for row in rows]))
        self._session.out.append(pgwire.COPY_DONE_REPLY)
