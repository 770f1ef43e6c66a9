"""Statement text, read as far as quotes and comments go: splitting, tokens, named parameters, ``#temp`` names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise


class Kind(Enum):
    WORD = "word"
    STRING = "string"
    QUOTED = "quoted identifier"
    NUMBER = "number"
    OTHER = "punctuation"


@dataclass(frozen=True)
class Token:
    kind: Kind
    text: str
    """As written; of a string or a quoted identifier, what it stands for."""
    start: int
    end: int

    def is_word(self, *words: str) -> bool:
        return self.kind is Kind.WORD and self.text.upper() in words


class ScanError(ValueError):
    """A quote or a comment is not closed."""


_PATTERN = re.compile(
    r"""
      (?P<space>\s+ | --[^\n]*)
    | (?P<comment>/\*)
    | (?P<string>[eE]?'(?:[^'\\]|\\.|'')*')
    | (?P<quoted>"(?:[^"]|"")*")
    | (?P<dollar>\$(?P<tag>[A-Za-z_]*)\$.*?\$(?P=tag)\$)
    | (?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)
    | (?P<word>\#?[^\W\d][\w$]*)
    | (?P<open>['"])
    | (?P<cast>::)
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)


def tokens(text: str) -> list[Token]:
    """Every token except white space and comments. Raises ScanError on an open quote or comment."""
    found: list[Token] = []
    at = 0
    while at < len(text):
        match = _PATTERN.match(text, at)
        assert match is not None
        end = match.end()
        group = match.lastgroup if match.lastgroup != "tag" else "dollar"
        piece = match.group()
        if group == "comment":
            end = _comment_end(text, at)
        elif group == "open":
            raise ScanError(
                f"unterminated quoted {'string' if piece == chr(39) else 'identifier'} at {text[at : at + 30]!r}"
            )
        elif group == "string":
            found.append(Token(Kind.STRING, string_value(piece), at, end))
        elif group == "dollar":
            edge = piece.index("$", 1) + 1
            found.append(Token(Kind.STRING, piece[edge:-edge], at, end))
        elif group == "quoted":
            found.append(Token(Kind.QUOTED, piece[1:-1].replace('""', '"'), at, end))
        elif group == "number":
            found.append(Token(Kind.NUMBER, piece, at, end))
        elif group == "word":
            found.append(Token(Kind.WORD, piece, at, end))
        elif group != "space":
            found.append(Token(Kind.OTHER, piece, at, end))
        at = end
    return found


def _comment_end(text: str, at: int) -> int:
    depth = 0
    for match in re.compile(r"/\*|\*/").finditer(text, at):
        depth += 1 if match.group() == "/*" else -1
        if depth == 0:
            return match.end()
    raise ScanError("unterminated /* comment")


_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}


def string_value(literal: str) -> str:
    """What a string literal stands for. Redshift reads backslash escapes in every string."""
    body = literal[literal.index("'") + 1 : -1]
    return re.sub(
        r"\\(.)|''",
        lambda m: "'" if m.group(1) is None else _ESCAPES.get(m.group(1), m.group(1)),
        body,
        flags=re.DOTALL,
    )


def postgres_literal(value: str) -> str:
    """A literal that means this text in Postgres, whose plain strings know no backslash."""
    escaped = value.replace("'", "''")
    return "E'" + escaped.replace("\\", "\\\\") + "'" if "\\" in value else f"'{escaped}'"


def redshift_literal(value: str) -> str:
    """A literal that means this text in Redshift, where a backslash escapes in every string."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def to_postgres_strings(text: str) -> str:
    """The same statement with every string literal in a form that Postgres reads as Redshift would."""
    pieces, at = [], 0
    for token in tokens(text):
        if token.kind is Kind.STRING and text[token.start] != "$":
            pieces += [text[at : token.start], postgres_literal(token.text)]
            at = token.end
    return "".join([*pieces, text[at:]])


def split(text: str) -> list[str]:
    """The statements of a text, without their semicolons; empty ones are left out."""
    pieces, start = [], 0
    for token in tokens(text):
        if token.kind is Kind.OTHER and token.text == ";":
            pieces.append(text[start : token.start])
            start = token.end
    pieces.append(text[start:])
    return [piece.strip() for piece in pieces if tokens(piece)]


def bind(text: str, parameters: Mapping[str, str]) -> tuple[str, frozenset[str]]:
    """The text with every ``:name`` replaced by its value as a literal, and the names that were used.

    Raises KeyError with the name of a placeholder that has no value.
    """
    found = tokens(text)
    pieces, at, used = [], 0, set()
    for colon, name in pairwise(found):
        if colon.text == ":" and colon.kind is Kind.OTHER and name.kind in (Kind.WORD, Kind.NUMBER):
            if colon.end != name.start:
                continue
            if name.text not in parameters:
                raise KeyError(name.text)
            pieces += [text[at : colon.start], redshift_literal(parameters[name.text])]
            at = name.end
            used.add(name.text)
    return "".join([*pieces, text[at:]]), frozenset(used)


def quote_temporary(text: str) -> str:
    """``#name`` becomes the quoted identifier ``"#name"``, which Postgres and sqlglot both take."""
    pieces, at = [], 0
    for token in tokens(text):
        if token.kind is Kind.WORD and token.text.startswith("#"):
            pieces += [text[at : token.start], f'"{token.text.lower()}"']
            at = token.end
    return "".join([*pieces, text[at:]])
