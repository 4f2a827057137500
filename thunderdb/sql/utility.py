"""Utility statements, read by a small parser of our own: transactions, SET and SHOW, PREPARE, EXPLAIN, TRUNCATE, VACUUM …

sqlglot leaves most of these opaque. A statement becomes a `Utility`: a kind, and a few values that depend on the kind.

    kind                    values
    begin                   modes                       (also `start transaction`)
    commit, rollback        chain
    savepoint, release, rollback_to   name
    set                     name, value (None = DEFAULT), local      set_transaction  modes, session
    show, reset             name ("all" for all)
    prepare                 name, types, text           execute  name, arguments (text)     deallocate  name ("" = all)
    explain                 text, analyze               truncate  tables, restart
    vacuum, analyze, checkpoint, discard, lock, noop    whatever they need
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from thunderdb.base.errors import SqlError

_TOKEN = re.compile(
    r"""\s+|--[^\n]*|/\*.*?\*/
    |(?P<string>[eE]?'(?:[^']|'')*')
    |(?P<quoted>"(?:[^"]|"")*")
    |(?P<word>[^\W\d][\w$]*)
    |(?P<number>[+-]?\d+(?:\.\d+)?)
    |(?P<symbol>.)""",
    re.VERBOSE | re.DOTALL,
)
WORDS = frozenset(
    "begin start commit end rollback abort savepoint release set show reset prepare execute deallocate explain truncate vacuum "
    "analyze analyse checkpoint discard lock copy unlisten listen notify reindex cluster declare fetch close move".split()
)
ALLOWED_IN_FAILED = ("rollback", "commit", "rollback_to")
"""The kinds that a failed block takes."""

_FIRST = re.compile(r"\s*(?:(?:--[^\n]*\n|/\*.*?\*/)\s*)*([A-Za-z]+)", re.DOTALL)


@dataclass(slots=True)
class Utility:
    kind: str
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int


def first_word(sql: str) -> str:
    match = _FIRST.match(sql)
    return match[1].lower() if match is not None else ""


def parse_utility(sql: str, offset: int = 0) -> Utility:
    """Raises: SqlError 42601 with position, 0A000."""
    return _Reader(sql, offset).statement()


class _Reader:
    def __init__(self, sql: str, offset: int) -> None:
        self.sql = sql
        self.offset = offset
        self.tokens = [
            _Token(match.lastgroup, match[0], match.start())
            for match in _TOKEN.finditer(sql)
            if match.lastgroup is not None and match[0] != ";"
        ]
        self.at = 0

    # -- tokens

    def peek(self) -> str:
        token = self.tokens[self.at] if self.at < len(self.tokens) else None
        return "" if token is None else token.text.lower() if token.kind == "word" else token.text

    def accept(self, *words: str) -> bool:
        saved = self.at
        for word in words:
            if self.peek() != word:
                self.at = saved
                return False
            self.at += 1
        return True

    def expect(self, word: str) -> None:
        if not self.accept(word):
            raise self.error()

    def error(self) -> SqlError:
        if self.at >= len(self.tokens):
            return SqlError("42601", "syntax error at end of input", position=self.offset + len(self.sql) + 1)
        token = self.tokens[self.at]
        return SqlError("42601", f'syntax error at or near "{token.text}"', position=self.offset + token.at + 1)

    def name(self) -> str:
        if self.at >= len(self.tokens) or self.tokens[self.at].kind not in ("word", "quoted"):
            raise self.error()
        token = self.tokens[self.at]
        self.at += 1
        return token.text.lower() if token.kind == "word" else token.text[1:-1].replace('""', '"')

    def qualified(self) -> tuple[str, str]:
        first = self.name()
        return (first, self.name()) if self.accept(".") else ("", first)

    def rest(self) -> str:
        """The text from here on, which belongs to another statement."""
        if self.at >= len(self.tokens):
            raise self.error()
        return self.sql[self.tokens[self.at].at :]

    def done(self, utility: Utility) -> Utility:
        if self.at < len(self.tokens):
            raise self.error()
        return utility

    # -- statements

    def statement(self) -> Utility:
        word = self.name()
        if word in ("declare", "fetch", "close", "move"):
            raise SqlError("0A000", "cursors in SQL are not supported")
        if word in ("listen", "notify"):
            raise SqlError("0A000", f"{word.upper()} is not supported")
        method = getattr(self, "_" + {"end": "commit", "abort": "rollback", "analyse": "analyze"}.get(word, word), None)
        if method is None:
            raise SqlError("0A000", f"{word.upper()} is not supported")
        found: Utility = method()
        return found

    def _modes(self) -> dict[str, Any]:
        modes: dict[str, Any] = {}
        while self.at < len(self.tokens):
            self.accept(",")
            if self.accept("isolation", "level"):
                if self.accept("serializable"):
                    modes["isolation"] = "serializable"
                elif self.accept("repeatable", "read"):
                    modes["isolation"] = "repeatable read"
                elif self.accept("read", "committed") or self.accept("read", "uncommitted"):
                    modes["isolation"] = "read committed"
                else:
                    raise self.error()
            elif self.accept("read", "only"):
                modes["read_only"] = True
            elif self.accept("read", "write"):
                modes["read_only"] = False
            elif not (self.accept("deferrable") or self.accept("not", "deferrable")):
                raise self.error()
        return modes

    def _begin(self) -> Utility:
        if not self.accept("work"):
            self.accept("transaction")
        return Utility("begin", {"modes": self._modes()})

    def _start(self) -> Utility:
        self.expect("transaction")
        return Utility("begin", {"modes": self._modes()})

    def _chain(self) -> bool:
        if not self.accept("work"):
            self.accept("transaction")
        if self.accept("and"):
            off = self.accept("no")
            self.expect("chain")
            return not off
        return False

    def _commit(self) -> Utility:
        return self.done(Utility("commit", {"chain": self._chain()}))

    def _rollback(self) -> Utility:
        chain = self._chain()
        if not chain and self.accept("to"):
            if self.peek() == "savepoint" and self.at + 1 < len(self.tokens):
                self.at += 1
            return self.done(Utility("rollback_to", {"name": self.name()}))
        return self.done(Utility("rollback", {"chain": chain}))

    def _savepoint(self) -> Utility:
        return self.done(Utility("savepoint", {"name": self.name()}))

    def _release(self) -> Utility:
        if self.peek() == "savepoint" and self.at + 1 < len(self.tokens):
            self.at += 1
        return self.done(Utility("release", {"name": self.name()}))

    def _set(self) -> Utility:
        if self.accept("session", "characteristics", "as", "transaction"):
            return Utility("set_transaction", {"modes": self._modes(), "session": True})
        local = self.accept("local")
        if not local:
            self.accept("session")
        if self.accept("transaction"):
            return Utility("set_transaction", {"modes": self._modes(), "session": False})
        if self.accept("time", "zone"):
            return self.done(Utility("set", {"name": "timezone", "value": self._value(), "local": local}))
        if self.accept("names"):
            return self.done(Utility("set", {"name": "client_encoding", "value": self._value(), "local": local}))
        name = self.name()
        if name in ("role", "authorization") and self.peek() not in ("=", "to"):
            self._value()
            return self.done(Utility("noop", {"tag": "SET"}))
        while self.accept("."):
            name += "." + self.name()
        if not self.accept("="):
            self.expect("to")
        return self.done(Utility("set", {"name": name, "value": self._value(), "local": local}))

    def _value(self) -> str | None:
        if self.accept("default"):
            return None
        parts = []
        while True:
            if self.at >= len(self.tokens):
                raise self.error()
            token = self.tokens[self.at]
            if token.kind == "symbol":
                raise self.error()
            self.at += 1
            quote = token.kind == "string"
            parts.append(token.text[1:-1].replace("''", "'") if quote else token.text.strip('"'))
            if not self.accept(","):
                return ", ".join(parts)

    def _show(self) -> Utility:
        if self.accept("time", "zone"):
            return self.done(Utility("show", {"name": "TimeZone"}))
        if self.accept("transaction", "isolation", "level"):
            return self.done(Utility("show", {"name": "transaction_isolation"}))
        start = self.at
        name = self.name()
        while self.accept("."):
            name += "." + self.name()
        shown = self.tokens[start].text if self.at == start + 1 else name
        return self.done(Utility("show", {"name": shown if name != "all" else "all"}))

    def _reset(self) -> Utility:
        name = self.name()
        while self.accept("."):
            name += "." + self.name()
        return self.done(Utility("reset", {"name": name}))

    def _prepare(self) -> Utility:
        name, kinds = self.name(), []
        if self.accept("("):
            while not self.accept(")"):
                words = [self.name()]
                while self.peek() not in (",", ")", ""):
                    words.append(self.tokens[self.at].text.lower())
                    self.at += 1
                kinds.append(" ".join(words))
                self.accept(",")
        self.expect("as")
        return Utility("prepare", {"name": name, "types": kinds, "text": self.rest()})

    def _execute(self) -> Utility:
        name = self.name()
        arguments = self.rest() if self.peek() == "(" else ""
        return Utility("execute", {"name": name, "arguments": arguments.rstrip().rstrip(";")})

    def _deallocate(self) -> Utility:
        self.accept("prepare")
        return self.done(Utility("deallocate", {"name": "" if self.accept("all") else self.name()}))

    def _explain(self) -> Utility:
        analyze = False
        if self.accept("("):
            depth = 1
            while depth:
                if self.at >= len(self.tokens):
                    raise self.error()
                analyze = analyze or self.peek() == "analyze"
                depth += {"(": 1, ")": -1}.get(self.peek(), 0)
                self.at += 1
        while self.peek() in ("analyze", "verbose"):
            analyze = analyze or self.peek() == "analyze"
            self.at += 1
        return Utility("explain", {"text": self.rest(), "analyze": analyze})

    def _truncate(self) -> Utility:
        self.accept("table")
        tables = []
        while True:
            self.accept("only")
            tables.append(self.qualified())
            self.accept("*")
            if not self.accept(","):
                break
        restart = self.accept("restart", "identity")
        self.accept("continue", "identity")
        if not self.accept("cascade"):
            self.accept("restrict")
        return self.done(Utility("truncate", {"tables": tables, "restart": restart}))

    def _relations(self) -> list[tuple[str, str]]:
        """The tables of VACUUM and ANALYZE; options are read and have no effect."""
        if self.accept("("):
            while not self.accept(")"):
                if self.at >= len(self.tokens):
                    raise self.error()
                self.at += 1
        while self.peek() in ("full", "freeze", "verbose", "analyze") and self.at < len(self.tokens):
            self.at += 1
        tables = []
        while self.at < len(self.tokens):
            tables.append(self.qualified())
            if self.accept("("):
                while not self.accept(")"):
                    self.at += 1
                    if self.at >= len(self.tokens):
                        raise self.error()
            if not self.accept(","):
                break
        return tables

    def _vacuum(self) -> Utility:
        return self.done(Utility("vacuum", {"tables": self._relations()}))

    def _analyze(self) -> Utility:
        return self.done(Utility("analyze", {"tables": self._relations()}))

    def _copy(self) -> Utility:
        return Utility("copy")  # its own grammar, copy_statement.py, reads it

    def _checkpoint(self) -> Utility:
        return self.done(Utility("checkpoint"))

    def _discard(self) -> Utility:
        return self.done(Utility("discard", {"what": self.name()}))

    def _unlisten(self) -> Utility:
        return Utility("noop", {"tag": "UNLISTEN"})

    def _reindex(self) -> Utility:
        return Utility("noop", {"tag": "REINDEX"})

    def _cluster(self) -> Utility:
        return Utility("noop", {"tag": "CLUSTER"})

    def _lock(self) -> Utility:
        self.accept("table")
        tables = [self.qualified()]
        while self.accept(","):
            tables.append(self.qualified())
        return Utility("lock", {"tables": tables})
