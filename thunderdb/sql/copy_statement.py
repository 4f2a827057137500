"""COPY statements: their grammar, both the parenthesised options and the older spelling, and what each option may be.

    COPY table [(columns)] FROM STDIN [[WITH] (option [value], …)]
    COPY {table [(columns)] | (query)} TO STDOUT [[WITH] (option [value], …)]
    options: FORMAT text|csv|binary, DELIMITER 'c', NULL 's', HEADER [bool|MATCH], QUOTE 'c', ESCAPE 'c', FREEZE [bool],
             ENCODING 's', FORCE_QUOTE {(columns)|*}, FORCE_NULL (columns), FORCE_NOT_NULL (columns)

Source: PostgreSQL 15, "COPY"; sqlglot leaves the options of COPY opaque, hence a reader of our own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from thunderdb.base.errors import SqlError

_TOKEN = re.compile(
    r"""\s+|--[^\n]*|/\*.*?\*/
    |(?P<estring>[eE]'(?:[^'\\]|\\.|'')*')
    |(?P<string>'(?:[^']|'')*')
    |(?P<quoted>"(?:[^"]|"")*")
    |(?P<word>[^\W\d][\w$]*)
    |(?P<number>-?\d+(?:\.\d+)?)
    |(?P<symbol>.)""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPES = {"t": "\t", "n": "\n", "r": "\r", "b": "\b", "f": "\f"}
_BOOLEANS = {"true": True, "on": True, "1": True, "false": False, "off": False, "0": False}


@dataclass(frozen=True, slots=True)
class CopyOptions:
    """`null` None means the format's default: `\\N` in text, the empty string in csv."""

    format: str = "text"
    delimiter: str = "\t"
    null: str = "\\N"
    header: bool = False
    header_match: bool = False
    quote: str = '"'
    escape: str = '"'
    force_quote: tuple[str, ...] = ()
    force_null: tuple[str, ...] = ()
    force_not_null: tuple[str, ...] = ()
    freeze: bool = False


@dataclass(frozen=True, slots=True)
class CopyStatement:
    """`table` is "" where a query is copied; `columns` is () for all of them."""

    direction: str  # "from" or "to"
    schema: str
    table: str
    columns: tuple[str, ...]
    query: str
    options: CopyOptions = field(default_factory=CopyOptions)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    start: int
    end: int


def parse_copy(sql: str) -> CopyStatement:
    """Read a COPY statement (without its semicolon or with it).

    Raises: SqlError 42601, 22023, 0A000.
    """
    return _Reader(sql).statement()


def _tokenize(sql: str) -> list[_Token]:
    tokens = []
    for match in _TOKEN.finditer(sql):
        kind = match.lastgroup
        if kind is None:
            continue
        text = match[0]
        if kind == "word":
            text = text.lower()
        elif kind == "quoted":
            text = text[1:-1].replace('""', '"')
        elif kind == "string":
            text = text[1:-1].replace("''", "'")
        elif kind == "estring":
            body = text[2:-1].replace("''", "'")
            kind, text = "string", re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[1]), body, flags=re.DOTALL)
        tokens.append(_Token(kind, text, match.start(), match.end()))
    return tokens


class _Reader:
    def __init__(self, sql: str) -> None:
        self._sql = sql
        self._tokens = _tokenize(sql)
        self._next = 0

    def statement(self) -> CopyStatement:
        self._expect("copy")
        if self._at("binary"):
            self._next += 1
        schema, table, query = "", "", ""
        columns: tuple[str, ...] = ()
        if self._at("("):
            query = self._query()
        else:
            schema, table = self._table()
            columns = self._names() if self._at("(") else ()
        direction = self._word("from", "to")
        self._endpoint(direction, query)
        options = _checked(self._options(), direction)
        if self._at(";"):
            self._next += 1
        if self._next < len(self._tokens):
            raise self._syntax()
        return CopyStatement(direction, schema, table, columns, query, options)

    def _endpoint(self, direction: str, query: str) -> None:
        if direction == "from" and query:
            raise self._syntax()
        token = self._peek()
        if token is not None and token.kind == "string" or self._at("program"):
            raise SqlError("0A000", "COPY to or from a file or a program is not supported", hint="Use psql's \\copy command.")
        self._word("stdin") if direction == "from" else self._word("stdout")

    def _query(self) -> str:
        start, depth = self._tokens[self._next].end, 0
        while self._next < len(self._tokens):
            token = self._tokens[self._next]
            self._next += 1
            if token.kind == "symbol" and token.text in "()":
                depth += 1 if token.text == "(" else -1
                if depth == 0:
                    return self._sql[start : token.start].strip()
        raise self._syntax()

    def _table(self) -> tuple[str, str]:
        first = self._name()
        if not self._at("."):
            return "", first
        self._next += 1
        return first, self._name()

    def _names(self) -> tuple[str, ...]:
        self._expect("(")
        names = [self._name()]
        while self._at(","):
            self._next += 1
            names.append(self._name())
        self._expect(")")
        return tuple(names)

    def _options(self) -> dict[str, Any]:
        if self._at("with"):
            self._next += 1
        if self._at("("):
            return self._new_options()
        return self._old_options()

    def _new_options(self) -> dict[str, Any]:
        options: dict[str, Any] = {}
        self._expect("(")
        while True:
            name = self._name()
            if name in options:
                raise SqlError("42601", "conflicting or redundant options")
            options[name] = self._option_value()
            if self._at(","):
                self._next += 1
                continue
            self._expect(")")
            return options

    def _option_value(self) -> Any:
        token = self._peek()
        if token is None:
            raise self._syntax()
        if token.text == "(" and token.kind == "symbol":
            return self._names()
        if token.kind == "symbol" and token.text in ",)":
            return None
        self._next += 1
        return token.text

    def _old_options(self) -> dict[str, Any]:
        options: dict[str, Any] = {}
        while (token := self._peek()) is not None and token.kind == "word":
            self._next += 1
            name = token.text
            if name in ("binary", "csv"):
                options["format"] = name
            elif name in ("header", "freeze"):
                options[name] = None
            elif name in ("delimiter", "delimiters", "null", "quote", "escape", "encoding"):
                if self._at("as"):
                    self._next += 1
                options["delimiter" if name == "delimiters" else name] = self._string()
            elif name == "force":
                self._old_force(options)
            else:
                self._next -= 1
                raise self._syntax()
        return options

    def _old_force(self, options: dict[str, Any]) -> None:
        kind = self._word("quote", "not", "null")
        if kind == "not":
            self._word("null")
            kind = "not_null"
        if self._at("*"):
            self._next += 1
            options[f"force_{kind}"] = "*"
            return
        names = [self._name()]
        while self._at(","):
            self._next += 1
            names.append(self._name())
        options[f"force_{kind}"] = tuple(names)

    def _peek(self) -> _Token | None:
        return self._tokens[self._next] if self._next < len(self._tokens) else None

    def _at(self, text: str) -> bool:
        token = self._peek()
        return token is not None and token.kind in ("word", "symbol") and token.text == text

    def _expect(self, text: str) -> None:
        if not self._at(text):
            raise self._syntax()
        self._next += 1

    def _word(self, *choices: str) -> str:
        for choice in choices:
            if self._at(choice):
                self._next += 1
                return choice
        raise self._syntax()

    def _name(self) -> str:
        token = self._peek()
        if token is None or token.kind not in ("word", "quoted"):
            raise self._syntax()
        self._next += 1
        return token.text

    def _string(self) -> str:
        token = self._peek()
        if token is None or token.kind != "string":
            raise self._syntax()
        self._next += 1
        return token.text

    def _syntax(self) -> SqlError:
        token = self._peek()
        if token is None:
            return SqlError("42601", "syntax error at end of input", position=len(self._sql) + 1)
        near = self._sql[token.start : token.end]
        return SqlError("42601", f'syntax error at or near "{near}"', position=token.start + 1)


def _checked(raw: dict[str, Any], direction: str) -> CopyOptions:
    """Turn the options as written into CopyOptions with each format's defaults."""
    known = {"format", "delimiter", "null", "header", "quote", "escape", "freeze", "encoding"}
    known |= {"force_quote", "force_null", "force_not_null"}
    for name in raw:
        if name not in known:
            raise SqlError("42601", f'option "{name}" not recognized')
    form = str(raw.get("format") or "text").lower()
    if form not in ("text", "csv", "binary"):
        raise SqlError("22023", f'COPY format "{form}" not recognized')
    csv = form == "csv"
    for name in ("quote", "escape", "force_quote", "force_null", "force_not_null"):
        if name in raw and not csv:
            raise SqlError("0A000", f"COPY {name.replace('_', ' ')} available only in CSV mode")
    encoding = str(raw.get("encoding") or "utf8").lower().replace("-", "")
    if encoding not in ("utf8", "unicode", "sql_ascii"):
        raise SqlError("0A000", f'COPY encoding "{encoding}" is not supported', hint="Use UTF8.")
    header, match = _header(raw, form, direction)
    quote = _one_byte(raw.get("quote") or '"', "quote")
    delimiter = _one_byte(raw.get("delimiter") or ("," if csv else "\t"), "delimiter")
    null = raw.get("null")
    null = ("" if csv else "\\N") if null is None else str(null)
    _check_delimiter(delimiter, null, quote, csv)
    return CopyOptions(
        format=form,
        delimiter=delimiter,
        null=null,
        header=header,
        header_match=match,
        quote=quote,
        escape=_one_byte(raw.get("escape") or quote, "escape"),
        force_quote=_columns(raw, "force_quote"),
        force_null=_columns(raw, "force_null"),
        force_not_null=_columns(raw, "force_not_null"),
        freeze=_boolean(raw, "freeze"),
    )


def _check_delimiter(delimiter: str, null: str, quote: str, csv: bool) -> None:
    if delimiter in "\r\n":
        raise SqlError("22023", "COPY delimiter cannot be newline or carriage return")
    if "\r" in null or "\n" in null:
        raise SqlError("22023", "COPY null representation cannot use newline or carriage return")
    if delimiter in null:
        raise SqlError("0A000", "COPY delimiter must not appear in the NULL specification")
    if csv and delimiter == quote:
        raise SqlError("0A000", "COPY delimiter and quote must be different")
    if not csv and delimiter in "\\.abcdefghijklmnopqrstuvwxyz0123456789":
        raise SqlError("22023", f'COPY delimiter cannot be "{delimiter}"')


def _header(raw: dict[str, Any], form: str, direction: str) -> tuple[bool, bool]:
    match = str(raw.get("header")).lower() == "match"
    if match and direction == "to":
        raise SqlError("22023", 'cannot use "match" with HEADER in COPY TO')
    header = match or _boolean(raw, "header")
    if header and form == "binary":
        raise SqlError("0A000", "cannot specify HEADER in BINARY mode")
    return header, match


def _boolean(raw: dict[str, Any], name: str) -> bool:
    if name not in raw:
        return False
    value = raw[name]
    if value is None:
        return True
    if str(value).lower() not in _BOOLEANS:
        raise SqlError("42601", f"{name} requires a Boolean value")
    return _BOOLEANS[str(value).lower()]


def _columns(raw: dict[str, Any], name: str) -> tuple[str, ...]:
    value = raw.get(name)
    return (value,) if isinstance(value, str) else tuple(value or ())


def _one_byte(value: Any, name: str) -> str:
    text = str(value)
    if len(text) != 1 or not text.isascii():
        raise SqlError("0A000", f"COPY {name} must be a single one-byte character")
    return text
