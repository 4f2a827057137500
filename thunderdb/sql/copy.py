"""COPY FROM STDIN: bytes in, rows out. A state machine without I/O: `feed(bytes)` returns the rows that are complete.

    state of CopyIn     leaves it when
    header              the first line has come (HEADER), else at once
    rows                `\\.` alone on a line, or binary's -1 row, or finish()
    done                never: what follows is ignored, as PostgreSQL does

C1. A row is returned once, in order, and only when all of it has come; memory held is one incomplete line and one batch.
C2. The fast path (copy_fast.py; text, no backslash, no NUL) gives exactly the bytes that the careful path gives, or
    raises and leaves the chunk to it; the careful path names line and column of what is wrong.
C3. NULLs never come through the fast path of a text column, so NOT NULL needs no look there.

Source: PostgreSQL 15, "COPY", File Formats.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from thunderdb.access.rows import RowCodec
from thunderdb.base.errors import LimitExceeded, SqlError
from thunderdb.sql.copy_fast import fast_parser, is_plain
from thunderdb.sql.copy_statement import CopyOptions

MAX_LINE_BYTES = 256 << 20
BINARY_SIGNATURE = b"PGCOPY\n\xff\r\n\x00"

_TEXT_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


@dataclass(frozen=True, slots=True)
class CopyColumn:
    """A column that the data has. `parse` and `parse_binary` read one value and raise SqlError for a bad one."""

    name: str
    type: str
    typmod: int
    not_null: bool
    parse: Callable[[str], Any]
    parse_binary: Callable[[bytes], Any] | None = None


class CopyDataError(SqlError):
    """Bad data in COPY. `args` is (sqlstate, message, where); `where` names table, line and column."""

    def __init__(self, sqlstate: str, message: str, where: str, detail: str = "") -> None:
        super().__init__(sqlstate, message, detail)
        self.args = (sqlstate, message, where, detail)
        self.where = where


class CopyIn:
    """Rows out of the bytes of COPY FROM STDIN.

    With a `codec` (the columns are all of the table's, in its order) rows are encoded payloads, ready for the tree; without
    one they are lists of values in the order of `columns`.
    """

    def __init__(self, table: str, columns: Sequence[CopyColumn], options: CopyOptions, codec: RowCodec | None = None) -> None:
        self._table = table
        self._columns = tuple(columns)
        self._options = options
        self._codec = codec
        self._tail: list[bytes] = []
        self._tail_size = 0
        self._line = 0
        self._done = False
        self._header_pending = options.header
        self._fast = fast_parser(self._columns, options, codec)
        self._csv_open = ""
        self._binary_started = False
        self.rows = 0

    def feed(self, data: bytes) -> list[Any]:
        """Take a piece of the stream, cut anywhere; return the rows that it completes. Raises: CopyDataError, LimitExceeded."""
        if self._done:
            return []
        if self._options.format == "binary":
            return self._counted(self._feed_binary(data))
        cut = data.rfind(b"\n") + 1
        if cut == 0:
            self._keep(data)
            return []
        chunk = b"".join([*self._tail, data[:cut]]) if self._tail else data[:cut]
        self._tail, self._tail_size = [], 0
        if cut < len(data):
            self._keep(data[cut:])
        return self._counted(self._lines(chunk[:-1]))

    def finish(self) -> list[Any]:
        """The stream has ended: return the last rows. Raises: CopyDataError if it ended inside a row."""
        if self._done:
            return []
        rest = b"".join(self._tail)
        self._tail = []
        if self._options.format == "binary":
            if rest or not self._binary_started:
                raise self._bad("22P04", "unexpected EOF in COPY data")
            return []
        rows = self._lines(rest) if rest else []
        if self._csv_open:
            raise self._bad("22P04", "unterminated CSV quoted field", self._csv_open)
        self._done = True
        return self._counted(rows)

    def _counted(self, rows: list[Any]) -> list[Any]:
        self.rows += len(rows)
        return rows

    def _keep(self, piece: bytes) -> None:
        self._tail.append(piece)
        self._tail_size += len(piece)
        if self._tail_size > MAX_LINE_BYTES:
            raise LimitExceeded(f"a COPY row is longer than {MAX_LINE_BYTES >> 20} MB")

    def _lines(self, chunk: bytes) -> list[Any]:
        """Rows of `chunk`, which ends where a line does."""
        if self._fast is not None and not self._header_pending and b"\\" not in chunk and is_plain(chunk):
            try:
                rows = self._fast(chunk)
            except (ValueError, KeyError, struct.error, OverflowError):
                pass  # C2: the careful path says what is wrong, and where
            else:
                self._line += len(rows)
                return rows
        try:
            text = chunk.decode()
        except UnicodeDecodeError as error:
            self._line += chunk.count(b"\n", 0, error.start) + 1
            bad = chunk[error.start : error.start + 1].hex()
            raise self._bad("22021", f'invalid byte sequence for encoding "UTF8": 0x{bad}') from None
        return self._csv_rows(text) if self._options.format == "csv" else self._text_rows(text)

    # The careful path: one line, one field at a time.

    def _text_rows(self, text: str) -> list[Any]:
        rows: list[Any] = []
        pieces: list[str] = []
        lines = text.split("\n")
        for number, line in enumerate(lines):
            if line.endswith("\\") and (len(line) - len(line.rstrip("\\"))) % 2:
                pieces.append(line)  # an escaped newline is data
                if number == len(lines) - 1:
                    self._tail.insert(0, ("\n".join(pieces) + "\n").encode())
                continue
            self._line += 1 + len(pieces)
            if pieces:
                line = "\n".join([*pieces, line])
                pieces = []
            if line.endswith("\r"):
                line = line[:-1]
            if line == "\\.":
                self._done = True
                break
            if self._header_pending:
                self._check_header([_unescape(item) for item in line.split(self._options.delimiter)])
                continue
            rows.append(self._row(self._text_fields(line), line))
        return rows

    def _text_fields(self, line: str) -> list[str | None]:
        delimiter, null = self._options.delimiter, self._options.null
        if not self._columns and not line:
            return []
        parts = line.split(delimiter)
        if "\\" not in line:
            return [None if part == null else part for part in parts]
        fields: list[str | None] = []
        pending = ""
        for part in parts:
            part = pending + part
            if part.endswith("\\") and (len(part) - len(part.rstrip("\\"))) % 2:
                pending = part + delimiter  # an escaped delimiter is data
                continue
            pending = ""
            fields.append(None if part == null else _unescape(part))
        if pending:
            fields.append(_unescape(pending[: -len(delimiter)]))
        return fields

    def _row(self, fields: list[str | None], line: str) -> Any:
        columns = self._columns
        if len(fields) < len(columns):
            name = columns[len(fields)].name
            raise self._bad("22P04", f'missing data for column "{name}"', line)
        if len(fields) > len(columns):
            raise self._bad("22P04", "extra data after last expected column", line)
        values: list[Any] = []
        for column, item in zip(columns, fields, strict=True):
            if item is None:
                values.append(None)
                continue
            try:
                values.append(column.parse(item))
            except SqlError as error:
                where = f'COPY {self._table}, line {self._line}, column {column.name}: "{_shorten(item)}"'
                raise CopyDataError(error.sqlstate, error.message, where, error.detail) from None
        return self._encoded(values)

    def _encoded(self, values: list[Any]) -> Any:
        if self._codec is None:
            return values
        if None in values:
            for column, value in zip(self._columns, values, strict=True):
                if value is None and column.not_null:
                    message = f'null value in column "{column.name}" of relation "{self._table}" violates not-null constraint'
                    raise self._bad("23502", message)
        return self._codec.encode(values)

    def _check_header(self, names: list[str]) -> None:
        self._header_pending = False
        if not self._options.header_match:
            return
        wanted = [column.name for column in self._columns]
        if len(names) != len(wanted):
            raise self._bad("22P04", f"wrong number of fields in header line: got {len(names)}, expected {len(wanted)}")
        for number, (name, want) in enumerate(zip(names, wanted, strict=True), 1):
            if name != want:
                raise self._bad("22P04", f'column name mismatch in header line field {number}: got "{name}", expected "{want}"')

    # CSV

    def _csv_rows(self, text: str) -> list[Any]:
        quote, escape = self._options.quote, self._options.escape
        rows: list[Any] = []
        for line in text.split("\n"):
            self._line += 1
            if self._csv_open:
                line = f"{self._csv_open}\n{line}"
            if quote in line and _quote_is_open(line, quote, escape):
                self._csv_open = line
                if len(line) > MAX_LINE_BYTES:
                    raise LimitExceeded(f"a COPY row is longer than {MAX_LINE_BYTES >> 20} MB")
                continue
            self._csv_open = ""
            line = line.removesuffix("\r")
            if line == "\\.":
                self._done = True
                break
            fields = self._csv_fields(line)
            if self._header_pending:
                self._check_header([item or "" for item in fields])
                continue
            rows.append(self._row(fields, line))
        return rows

    def _csv_fields(self, line: str) -> list[str | None]:
        options = self._options
        raw = (
            [(part, False) for part in line.split(options.delimiter)]
            if options.quote not in line
            else _split_csv(line, options)
        )
        fields: list[str | None] = []
        for number, (item, quoted) in enumerate(raw):
            name = self._columns[number].name if number < len(self._columns) else ""
            is_null = item == options.null and not quoted
            if is_null and (name in options.force_not_null or options.force_not_null == ("*",)):
                is_null = False
            elif quoted and item == options.null and (name in options.force_null or options.force_null == ("*",)):
                is_null = True
            fields.append(None if is_null else item)
        return fields

    # Binary

    def _feed_binary(self, data: bytes) -> list[Any]:
        buffer = b"".join([*self._tail, data])
        self._tail, self._tail_size = [], 0
        offset = 0
        if not self._binary_started:
            if len(buffer) < 19:
                self._keep(buffer)
                return []
            if buffer[:11] != BINARY_SIGNATURE:
                raise self._bad("22P04", "COPY file signature not recognized")
            extension = struct.unpack_from("!I", buffer, 15)[0]
            if len(buffer) < 19 + extension:
                self._keep(buffer)
                return []
            offset = 19 + extension
            self._binary_started = True
        rows: list[Any] = []
        while len(buffer) - offset >= 2:
            count = struct.unpack_from("!h", buffer, offset)[0]
            if count == -1:
                self._done = True
                return rows
            end = self._binary_end(buffer, offset + 2, count)
            if end < 0:
                break
            rows.append(self._binary_row(buffer, offset + 2, count))
            offset = end
        if offset < len(buffer):
            self._keep(buffer[offset:])
        return rows

    def _binary_end(self, buffer: bytes, offset: int, count: int) -> int:
        """Offset behind the row, or -1 if it is not all there."""
        if count != len(self._columns):
            raise self._bad("22P04", f"row field count is {count}, expected {len(self._columns)}")
        for _ in range(count):
            if len(buffer) - offset < 4:
                return -1
            size = struct.unpack_from("!i", buffer, offset)[0]
            if size < -1:
                raise self._bad("22P04", "invalid field size")
            offset += 4 + max(size, 0)
        return offset if offset <= len(buffer) else -1

    def _binary_row(self, buffer: bytes, offset: int, count: int) -> Any:
        self._line += 1
        values: list[Any] = []
        for column in self._columns:
            size = struct.unpack_from("!i", buffer, offset)[0]
            offset += 4
            if size < 0:
                values.append(None)
                continue
            if column.parse_binary is None:
                raise SqlError("42883", f"no binary input function available for type {column.type}")
            try:
                values.append(column.parse_binary(buffer[offset : offset + size]))
            except (SqlError, struct.error, ValueError) as error:
                where = f"COPY {self._table}, line {self._line}, column {column.name}"
                raise CopyDataError("22P03", f"incorrect binary data format: {error}", where) from None
            offset += size
        return self._encoded(values)

    def _bad(self, sqlstate: str, message: str, line: str = "") -> CopyDataError:
        where = f"COPY {self._table}, line {self._line}"
        return CopyDataError(sqlstate, message, f'{where}: "{_shorten(line)}"' if line else where)


def _shorten(text: str) -> str:
    return text if len(text) <= 100 else text[:100] + "..."


def _unescape(part: str) -> str:
    """Resolve the backslash escapes of the text format. Bytes given in octal or hex must be ASCII or make valid UTF-8."""
    if "\\" not in part:
        return part
    out = bytearray()
    i, end = 0, len(part)
    while i < end:
        at = part.find("\\", i)
        if at < 0 or at == end - 1:
            out += part[i:].encode()
            break
        out += part[i:at].encode()
        char = part[at + 1]
        i = at + 2
        if char in "01234567":
            digits = char
            while len(digits) < 3 and i < end and part[i] in "01234567":
                digits += part[i]
                i += 1
            out.append(int(digits, 8) & 0xFF)
        elif char == "x" and i < end and part[i] in "0123456789abcdefABCDEF":
            digits = ""
            while len(digits) < 2 and i < end and part[i] in "0123456789abcdefABCDEF":
                digits += part[i]
                i += 1
            out.append(int(digits, 16))
        else:
            out += _TEXT_ESCAPES.get(char, char).encode()
    try:
        return out.decode()
    except UnicodeDecodeError as error:
        bad = bytes(out)[error.start : error.start + 1].hex()
        raise SqlError("22021", f'invalid byte sequence for encoding "UTF8": 0x{bad}') from None


def _quote_is_open(line: str, quote: str, escape: str) -> bool:
    """Whether the record goes on behind this newline, because it is inside quotes."""
    if quote == escape:
        return line.count(quote) % 2 == 1
    is_open, i = False, 0
    while i < len(line):
        char = line[i]
        if is_open and char == escape and i + 1 < len(line) and line[i + 1] in (quote, escape):
            i += 1
        elif char == quote:
            is_open = not is_open
        i += 1
    return is_open


def _split_csv(line: str, options: CopyOptions) -> list[tuple[str, bool]]:
    """Fields of a record with quotes: (text, whether any part of it was quoted)."""
    delimiter, quote, escape = options.delimiter, options.quote, options.escape
    fields: list[tuple[str, bool]] = []
    text, quoted, inside, i = [], False, False, 0
    while i < len(line):
        char = line[i]
        if inside:
            if char == escape and i + 1 < len(line) and line[i + 1] in (quote, escape):
                text.append(line[i + 1])
                i += 1
            elif char == quote:
                inside = False
            else:
                text.append(char)
        elif char == quote:
            inside = quoted = True
        elif char == delimiter:
            fields.append(("".join(text), quoted))
            text, quoted = [], False
        else:
            text.append(char)
        i += 1
    fields.append(("".join(text), quoted))
    return fields
