"""PostgreSQL's frontend/backend protocol 3.0 as values: bytes to messages, replies to bytes. No I/O, no state of a session.

A message is kind (1 byte), length (4 bytes, big-endian, counts itself but not the kind), body. A start-up packet has no kind.

B1. `Decoder.feed` never copies a byte more than twice, however the stream is cut: pieces wait until a message is whole.
B2. A length that no message of its kind can have or an unknown kind ends the stream: the messages before it are returned, then
    one of kind BROKEN with the reason as its body, then nothing ever again. A body that does not parse is a
    `ProtocolViolation` (08P01). Either way the connection ends.
B3. Nothing here decides what a message means; that is session.py.

Source: PostgreSQL 15 manual, chapter 55 "Frontend/Backend Protocol" (message flow, message formats, error fields).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from thunderdb.base.errors import SqlError, ThunderError

# Kinds of messages that a client sends, as byte values.
BIND, CLOSE, COPY_DATA, COPY_DONE, COPY_FAIL = 0x42, 0x43, 0x64, 0x63, 0x66
DESCRIBE, EXECUTE, FLUSH, FUNCTION_CALL, PARSE = 0x44, 0x45, 0x48, 0x46, 0x50
PASSWORD, QUERY, SYNC, TERMINATE = 0x70, 0x51, 0x53, 0x58
BROKEN = 0x00  # not the client's: the decoder's last word

SSL_REQUEST, GSSENC_REQUEST, CANCEL_REQUEST = 80877103, 80877104, 80877102
PROTOCOL_3_0 = 0x00030000
MAX_STARTUP_BYTES = 10_000
MAX_SMALL_BYTES = 10_000
MAX_MESSAGE_BYTES = 256 << 20

_LARGE = frozenset((QUERY, PARSE, BIND, COPY_DATA, FUNCTION_CALL))
_SMALL = frozenset((CLOSE, COPY_DONE, COPY_FAIL, DESCRIBE, EXECUTE, FLUSH, PASSWORD, SYNC, TERMINATE))
_LIMITS = [MAX_MESSAGE_BYTES if kind in _LARGE else MAX_SMALL_BYTES if kind in _SMALL else 0 for kind in range(256)]

_I16, _I32, _U32 = struct.Struct(">h"), struct.Struct(">i"), struct.Struct(">I")
_HEAD = struct.Struct(">BI")


class ProtocolViolation(ThunderError):
    """Bytes that are not the protocol. The connection ends after the error is sent."""

    sqlstate = "08P01"


@dataclass(frozen=True, slots=True)
class Startup:
    """The first packet of a session: protocol version and parameters (user, database, …)."""

    version: int
    parameters: dict[str, str]


@dataclass(frozen=True, slots=True)
class CancelRequest:
    process_id: int
    secret: bytes


@dataclass(frozen=True, slots=True)
class EncryptionRequest:
    """SSLRequest or GSSENCRequest; answered `N` and then start-up begins again."""

    code: int


StartupMessage = Startup | CancelRequest | EncryptionRequest
Message = tuple[int, bytes]


class Decoder:
    """Cuts the byte stream into messages. Starts in start-up framing; `begin_session` switches to framing with kinds."""

    __slots__ = ("_pieces", "_have", "_need", "_started", "_broken")

    def __init__(self) -> None:
        self._broken = False
        self._pieces: list[bytes] = []
        self._have = 0
        self._need = 0
        self._started = False

    @property
    def buffered_bytes(self) -> int:
        return self._have

    def begin_session(self) -> None:
        self._started = True
        self._need = 0

    def lone_query(self, data: bytes) -> bytes | None:
        """The body of a Query message, if the data are just that, and no piece waits for its rest: nearly always."""
        if self._have or len(data) < 5 or data[0] != QUERY or self._broken:
            return None
        size = len(data) - 1
        return data[5:] if _U32.unpack_from(data, 1)[0] == size <= MAX_MESSAGE_BYTES and self._started else None

    def feed(self, data: bytes) -> list[Message]:
        """Return the messages that are now whole, in order; never raises (B2)."""
        if self._broken:
            return []
        if self._pieces:
            self._pieces.append(data)
            self._have += len(data)
            if self._have < self._need:
                return []
            data = b"".join(self._pieces)
            self._pieces.clear()
        messages: list[Message] = []
        position, size = 0, len(data)
        if size >= 5 and _U32.unpack_from(data, 1)[0] == size - 1 <= _LIMITS[data[0]]:  # one whole message: nearly always
            self._have = self._need = 0
            return [(data[0], data[5:])]
        while size - position >= 5:
            kind = data[position]
            length = _U32.unpack_from(data, position + 1)[0]
            if not 4 <= length <= _LIMITS[kind]:
                self._broken = True
                messages.append((BROKEN, _bad_frame(kind, length).encode()))
                return messages
            end = position + 1 + length
            if end > size:
                break
            messages.append((kind, data[position + 5 : end]))
            position = end
        self._keep(data, position, size)
        return messages

    def feed_startup(self, data: bytes) -> StartupMessage | None:
        """Return the next start-up packet once it is whole; bytes behind it stay buffered. Raises: ProtocolViolation."""
        if self._pieces:
            data = b"".join((*self._pieces, data))
            self._pieces.clear()
        size = len(data)
        if size < 4:
            self._keep(data, 0, size)
            return None
        length = _U32.unpack_from(data)[0]
        if not 8 <= length <= MAX_STARTUP_BYTES:
            raise ProtocolViolation(f"invalid length of startup packet: {length}")
        if size < length:
            self._keep(data, 0, size)
            return None
        self._keep(data, length, size)
        return parse_startup(data[4:length])

    def _keep(self, data: bytes, position: int, size: int) -> None:
        rest = size - position
        self._have = rest
        if rest:
            self._pieces.append(data[position:] if position else data)
            whole = rest >= 5 and self._started
            self._need = 1 + _U32.unpack_from(data, position + 1)[0] if whole else 5
        else:
            self._need = 0


def _bad_frame(kind: int, length: int) -> str:
    if not _LIMITS[kind]:
        return f"invalid frontend message type {kind}"
    return f"invalid message length {length} for message type {chr(kind)!r}, at most {_LIMITS[kind]} allowed"


# ---- bodies of what the client sends ------------------------------------------------------------------------------------


def parse_startup(body: bytes) -> StartupMessage:
    """Read a start-up packet's body, without its length. Raises: ProtocolViolation, SqlError 0A000."""
    code = _U32.unpack_from(body)[0]
    if code in (SSL_REQUEST, GSSENC_REQUEST):
        return EncryptionRequest(code)
    if code == CANCEL_REQUEST:
        if not 9 <= len(body) <= 8 + 256:
            raise ProtocolViolation("invalid length of cancel request")
        return CancelRequest(_U32.unpack_from(body, 4)[0], body[8:])
    if code >> 16 != 3:
        raise SqlError("0A000", f"unsupported frontend protocol {code >> 16}.{code & 0xFFFF}: server supports 3.0 to 3.0")
    texts = body[4:].split(b"\0")
    if len(texts) < 2 or texts[-1] or texts[-2] or len(texts) % 2:
        raise ProtocolViolation("invalid startup packet layout: expected terminator as last byte")
    names = [_text(text) for text in texts[:-2]]
    if "" in names[0::2]:
        raise ProtocolViolation("invalid startup packet layout: empty parameter name")
    return Startup(code, dict(zip(names[0::2], names[1::2], strict=True)))


def parse_query(body: bytes) -> str:
    """Read the SQL text of a Query message; the hottest of them all."""
    end = len(body) - 1
    if end < 0 or body.find(0) != end:
        raise ProtocolViolation("invalid string in message")
    try:
        return body[:end].decode()
    except UnicodeDecodeError as error:
        raise _bad_encoding(error) from None


def parse_parse(body: bytes) -> tuple[str, str, tuple[int, ...]]:
    """Read Parse: statement name, SQL text, parameter type OIDs (0 = to be inferred)."""
    name, position = _cstring(body, 0)
    sql, position = _cstring(body, position)
    count, position = _count(body, position)
    if len(body) - position != 4 * count:
        raise ProtocolViolation("invalid message format")
    return name, sql, struct.unpack_from(f">{count}I", body, position)


def parse_bind(body: bytes) -> tuple[str, str, tuple[int, ...], list[bytes | None], tuple[int, ...]]:
    """Read Bind: portal, statement, parameter formats, parameter values (None = NULL), result formats."""
    portal, position = _cstring(body, 0)
    statement, position = _cstring(body, position)
    try:
        formats, position = _formats(body, position)
        count, position = _count(body, position)
        values: list[bytes | None] = []
        for _ in range(count):
            size = _I32.unpack_from(body, position)[0]
            position += 4
            if size == -1:
                values.append(None)
                continue
            if size < 0 or position + size > len(body):
                raise ProtocolViolation("insufficient data left in message")
            values.append(body[position : position + size])
            position += size
        results, position = _formats(body, position)
    except struct.error:
        raise ProtocolViolation("insufficient data left in message") from None
    if position != len(body):
        raise ProtocolViolation("invalid message format")
    if len(formats) > 1 and len(formats) != count:
        raise ProtocolViolation(f"bind message has {len(formats)} parameter formats but {count} parameters")
    return portal, statement, formats, values, results


def parse_execute(body: bytes) -> tuple[str, int]:
    """Read Execute: portal, greatest number of rows (0 = all)."""
    portal, position = _cstring(body, 0)
    if len(body) != position + 4:
        raise ProtocolViolation("invalid message format")
    return portal, max(0, _I32.unpack_from(body, position)[0])


def parse_target(body: bytes) -> tuple[str, str]:
    """Read Describe or Close: "S" (statement) or "P" (portal), and its name."""
    if body[:1] not in (b"S", b"P"):
        raise ProtocolViolation(f"invalid subtype {body[:1]!r} of a Describe or Close message")
    name, position = _cstring(body, 1)
    if position != len(body):
        raise ProtocolViolation("invalid message format")
    return chr(body[0]), name


def parse_copy_fail(body: bytes) -> str:
    message, position = _cstring(body, 0)
    if position != len(body):
        raise ProtocolViolation("invalid message format")
    return message


def _cstring(body: bytes, position: int) -> tuple[str, int]:
    end = body.find(0, position)
    if end < 0:
        raise ProtocolViolation("invalid string in message")
    return _text(body[position:end]), end + 1


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise _bad_encoding(error) from None


def _bad_encoding(error: UnicodeDecodeError) -> SqlError:
    wrong = " ".join(f"0x{byte:02x}" for byte in error.object[error.start : error.start + 4])
    return SqlError("22021", f'invalid byte sequence for encoding "UTF8": {wrong}')


def _count(body: bytes, position: int) -> tuple[int, int]:
    if position + 2 > len(body):
        raise ProtocolViolation("insufficient data left in message")
    return (body[position] << 8) | body[position + 1], position + 2


def _formats(body: bytes, position: int) -> tuple[tuple[int, ...], int]:
    count, position = _count(body, position)
    if not count:
        return (), position
    formats = struct.unpack_from(f">{count}h", body, position)
    if any(code not in (0, 1) for code in formats):
        raise ProtocolViolation("unsupported format code: only 0 (text) and 1 (binary) are known")
    return formats, position + 2 * count


# ---- what the server answers; RowDescription and DataRow are made beside the types, in sql/result.py

AUTHENTICATION_OK = b"R\0\0\0\x08\0\0\0\0"
PARSE_COMPLETE = b"1\0\0\0\x04"
BIND_COMPLETE = b"2\0\0\0\x04"
CLOSE_COMPLETE = b"3\0\0\0\x04"
EMPTY_QUERY = b"I\0\0\0\x04"
PORTAL_SUSPENDED = b"s\0\0\0\x04"
COPY_DONE_REPLY = b"c\0\0\0\x04"
READY = {status: b"Z\0\0\0\x05" + status.encode() for status in "ITE"}
NO_ENCRYPTION = b"N"


def message(kind: bytes, body: bytes) -> bytes:
    return kind + _U32.pack(len(body) + 4) + body


@lru_cache(maxsize=512)
def command_complete(tag: str) -> bytes:
    body = tag.encode()
    return _HEAD.pack(0x43, len(body) + 5) + body + b"\0"


@lru_cache(maxsize=512)
def complete_and_ready(tag: str, status: str) -> bytes:
    """CommandComplete and ReadyForQuery, as they end nearly every answer."""
    return command_complete(tag) + READY[status]


def parameter_status(name: str, value: str) -> bytes:
    return message(b"S", name.encode() + b"\0" + value.encode() + b"\0")


def backend_key_data(process_id: int, secret: bytes) -> bytes:
    return message(b"K", _U32.pack(process_id) + secret)


def negotiate_protocol_version(unknown_options: Sequence[str]) -> bytes:
    options = b"".join(option.encode() + b"\0" for option in unknown_options)
    return message(b"v", _U32.pack(PROTOCOL_3_0) + _U32.pack(len(unknown_options)) + options)


def copy_in_response(columns: int, binary: bool = False) -> bytes:
    return _copy_response(b"G", columns, binary)


def copy_out_response(columns: int, binary: bool = False) -> bytes:
    return _copy_response(b"H", columns, binary)


def _copy_response(kind: bytes, columns: int, binary: bool) -> bytes:
    return message(kind, struct.pack(f">bH{columns}h", int(binary), columns, *[int(binary)] * columns))


def copy_data(data: bytes) -> bytes:
    return _HEAD.pack(COPY_DATA, len(data) + 4) + data


def error_response(
    severity: str,
    sqlstate: str,
    text: str,
    *,
    detail: str = "",
    hint: str = "",
    position: int = 0,
    extra: dict[str, str] | None = None,
) -> bytes:
    """Encode ErrorResponse. `extra`: further fields by letter (s schema, t table, c column, d type, n constraint …)."""
    return _response(b"E", severity, sqlstate, text, detail, hint, position, extra)


def notice_response(severity: str, sqlstate: str, text: str, *, detail: str = "", hint: str = "") -> bytes:
    return _response(b"N", severity, sqlstate, text, detail, hint, 0, None)


def _response(
    kind: bytes, severity: str, sqlstate: str, text: str, detail: str, hint: str, position: int, extra: dict[str, str] | None
) -> bytes:
    values = {"S": severity, "V": severity, "C": sqlstate, "M": text, "D": detail, "H": hint}
    values["P"] = str(position) if position else ""
    if extra:
        values.update(extra)
    # A NUL would end the field early and shift all behind it; it can come in from a client's own text.
    parts = [letter + value.replace("\0", "\\0") for letter, value in values.items() if value]
    return message(kind, "\0".join(parts).encode(errors="replace") + b"\0\0")
