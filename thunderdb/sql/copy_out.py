"""COPY TO STDOUT: rows in, bytes out, in the three formats that `copy` reads. Source: PostgreSQL 15, "COPY", File Formats."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from thunderdb.access.rows import FIXED_FORMATS
from thunderdb.sql.copy import BINARY_SIGNATURE
from thunderdb.sql.copy_statement import CopyOptions


class CopyOut:
    """Rows to the bytes of COPY TO STDOUT. `formats[i]` gives column i's text (or, in binary, its bytes)."""

    def __init__(
        self, names: Sequence[str], types: Sequence[str], formats: Sequence[Callable[[Any], Any]], options: CopyOptions
    ) -> None:
        self._names = list(names)
        self._formats = list(formats)
        self._options = options
        escapes = {"\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"}
        if options.delimiter not in escapes:
            escapes[options.delimiter] = "\\" + options.delimiter
        self._table = str.maketrans(escapes)
        self._quoted = [options.force_quote == ("*",) or name in options.force_quote for name in names]
        # A fixed-size type's text has nothing to escape, unless the delimiter is one of its characters.
        self._escaped = [type_name not in FIXED_FORMATS or options.delimiter != "\t" for type_name in types]

    def start(self) -> bytes:
        """What comes before the first row."""
        if self._options.format == "binary":
            return BINARY_SIGNATURE + bytes(8)
        if not self._options.header:
            return b""
        if self._options.format == "csv":
            return self._csv_line(self._names, [False] * len(self._names))
        return (self._options.delimiter.join(name.translate(self._table) for name in self._names) + "\n").encode()

    def rows(self, rows: Iterable[Sequence[Any]]) -> bytes:
        """A batch of rows; each line is complete."""
        return b"".join(self.each(rows))

    def each(self, rows: Iterable[Sequence[Any]]) -> list[bytes]:
        """One bytes object a row (a CopyData message each, as PostgreSQL sends them)."""
        if self._options.format == "binary":
            return [self._binary_row(row) for row in rows]
        if self._options.format == "csv":
            formats = self._formats
            return [
                self._csv_line([None if v is None else f(v) for f, v in zip(formats, row, strict=True)], self._quoted)
                for row in rows
            ]
        return [self._text_line(row) for row in rows]

    def end(self) -> bytes:
        """What comes behind the last row."""
        return b"\xff\xff" if self._options.format == "binary" else b""

    def _text_line(self, row: Sequence[Any]) -> bytes:
        null, table = self._options.null, self._table
        fields = []
        for value, form, escaped in zip(row, self._formats, self._escaped, strict=True):
            if value is None:
                fields.append(null)
            elif escaped:
                fields.append(form(value).translate(table))
            else:
                fields.append(form(value))
        return (self._options.delimiter.join(fields) + "\n").encode()

    def _csv_line(self, fields: Sequence[str | None], forced: Sequence[bool]) -> bytes:
        options = self._options
        quote, escape, delimiter = options.quote, options.escape, options.delimiter
        out = []
        for text, force in zip(fields, forced, strict=True):
            if text is None:
                out.append(options.null)
                continue
            needs = force or text == options.null or delimiter in text or quote in text or "\n" in text or "\r" in text
            if needs or (text == "\\." and len(fields) == 1):
                if escape != quote:
                    text = text.replace(escape, escape + escape)
                text = f"{quote}{text.replace(quote, escape + quote)}{quote}"
            out.append(text)
        return (delimiter.join(out) + "\n").encode()

    def _binary_row(self, row: Sequence[Any]) -> bytes:
        parts = [struct.pack("!h", len(row))]
        for value, form in zip(row, self._formats, strict=True):
            if value is None:
                parts.append(b"\xff\xff\xff\xff")
                continue
            data = form(value)
            parts.append(struct.pack("!i", len(data)))
            parts.append(data)
        return b"".join(parts)
