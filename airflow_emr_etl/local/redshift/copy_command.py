"""COPY and UNLOAD, read from their tokens. Options that are not carried out are refused by name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from airflow_emr_etl.local.redshift.errors import RedshiftError
from airflow_emr_etl.local.redshift.scan import Kind, Token


class Format(Enum):
    DELIMITED = "delimited"
    CSV = "csv"
    JSON = "json"
    PARQUET = "parquet"


@dataclass
class CopyCommand:
    """``COPY table [(columns)] FROM 's3://…' IAM_ROLE '…' …``"""

    table: tuple[str, ...]
    columns: tuple[str, ...]
    source: str
    format: Format = Format.DELIMITED
    manifest: bool = False
    compression: str | None = None
    delimiter: str | None = None
    quote: str = '"'
    skip_lines: int = 0
    null_as: str = "\\N"
    empty_as_null: bool = False
    blanks_as_null: bool = False
    trim_blanks: bool = False
    truncate_columns: bool = False
    role: str | None = None
    time_format: str | None = None


@dataclass
class UnloadCommand:
    """``UNLOAD ('select …') TO 's3://…' IAM_ROLE '…' …``"""

    query: str
    target: str
    format: Format = Format.DELIMITED
    header: bool = False
    delimiter: str | None = None
    gzip: bool = False
    manifest: bool = False
    overwrite: bool = False
    clean_path: bool = False
    null_as: str = ""
    add_quotes: bool = False
    extension: str | None = None
    role: str | None = None


class _Tokens:
    def __init__(self, found: list[Token]) -> None:
        self._found, self._at = found, 0

    def peek(self) -> Token | None:
        return self._found[self._at] if self._at < len(self._found) else None

    def take(self) -> Token:
        token = self.peek()
        if token is None:
            raise RedshiftError("syntax error at end of input", "42601")
        self._at += 1
        return token

    def accept(self, *words: str) -> str | None:
        token = self.peek()
        if token is not None and (
            token.is_word(*words) or (token.kind is Kind.OTHER and token.text in words)
        ):
            self._at += 1
            return token.text.upper()
        return None

    def expect(self, word: str) -> None:
        if not self.accept(word):
            token = self.peek()
            where = f'at or near "{token.text}"' if token else "at end of input"
            raise RedshiftError(f"syntax error {where}", "42601")

    def string(self, what: str) -> str:
        self.accept("AS")
        token = self.take()
        if token.kind is not Kind.STRING:
            raise RedshiftError(f'{what} needs a string in quotes, not "{token.text}"', "42601")
        return token.text

    def character(self, what: str) -> str:
        value = self.string(what)
        if len(value) != 1:
            raise RedshiftError(f"{what} must be a single character, not {value!r}", "22023")
        return value

    def number(self, what: str) -> int:
        self.accept("AS")
        token = self.take()
        if not token.text.isdigit():
            raise RedshiftError(f'{what} needs a number, not "{token.text}"', "42601")
        return int(token.text)

    def name(self) -> tuple[str, ...]:
        parts = [self.identifier()]
        while self.accept("."):
            parts.append(self.identifier())
        return tuple(parts)

    def identifier(self) -> str:
        token = self.take()
        if token.kind not in (Kind.WORD, Kind.QUOTED):
            raise RedshiftError(f'syntax error at or near "{token.text}"', "42601")
        return token.text.lower()


def parse_copy(found: list[Token]) -> CopyCommand:
    """Raises RedshiftError for a syntax error, a missing role, a credential, or an option that is not carried out."""
    tokens = _Tokens(found)
    tokens.expect("COPY")
    table = tokens.name()
    columns: list[str] = []
    if tokens.accept("("):
        columns.append(tokens.identifier())
        while tokens.accept(","):
            columns.append(tokens.identifier())
        tokens.expect(")")
    tokens.expect("FROM")
    command = CopyCommand(table, tuple(columns), _s3(tokens.string("FROM")))
    while tokens.peek() is not None:
        _copy_option(tokens, command)
    _require_role(command.role, "COPY")
    if command.format is Format.PARQUET and (command.compression or command.skip_lines or command.delimiter):
        raise RedshiftError("COPY from PARQUET takes no GZIP, BZIP2, IGNOREHEADER or DELIMITER", "0A000")
    return command


def _s3(url: str) -> str:
    if not url.startswith("s3://"):
        raise RedshiftError(
            f"local Redshift reads and writes s3:// only, not {url!r} (a table name, emr://, ssh:// or dynamodb://)",
            "0A000",
        )
    return url


_ROLE = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+")


def _role(tokens: _Tokens) -> str:
    if tokens.accept("DEFAULT"):
        return "default"
    value = tokens.string("IAM_ROLE")
    roles = [role.strip() for role in re.split(r",(?=arn:)", value)]
    if value.lower() != "default" and not all(_ROLE.fullmatch(role) for role in roles):
        raise RedshiftError(f"IAM_ROLE {value!r} is not the ARN of a role, nor DEFAULT", "22023")
    return value


def _require_role(role: str | None, verb: str) -> None:
    if role is None:
        raise RedshiftError(f"{verb} needs IAM_ROLE: must specify credentials to access S3", "42601")


_CREDENTIALS = ("CREDENTIALS", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN")


def _refuse_credentials(word: str) -> None:
    if word in _CREDENTIALS:
        raise RedshiftError(
            f"{word} is refused: say IAM_ROLE, so that no credential is in a statement", "0A000"
        )


def _copy_option(tokens: _Tokens, command: CopyCommand) -> None:
    word = tokens.take().text.upper()
    _refuse_credentials(word)
    match word:
        case "IAM_ROLE":
            command.role = _role(tokens)
        case "FORMAT":
            tokens.accept("AS")
            _copy_format(tokens, command, tokens.take().text.upper())
        case "CSV" | "JSON" | "PARQUET":
            _copy_format(tokens, command, word)
        case "MANIFEST":
            command.manifest = True
        case "GZIP" | "BZIP2" | "ZSTD":
            command.compression = word
        case "DELIMITER":
            command.delimiter = tokens.character(word)
        case "QUOTE":
            command.quote = tokens.character(word)
        case "IGNOREHEADER":
            command.skip_lines = tokens.number(word)
        case "NULL":
            command.null_as = tokens.string("NULL AS")
        case "EMPTYASNULL":
            command.empty_as_null = True
        case "BLANKSASNULL":
            command.blanks_as_null = True
        case "TRIMBLANKS":
            command.trim_blanks = True
        case "TRUNCATECOLUMNS":
            command.truncate_columns = True
        case "TIMEFORMAT":
            command.time_format = _time_format(
                word, tokens.string(word), ("auto", "epochsecs", "epochmillisecs")
            )
        case "DATEFORMAT":
            _time_format(word, tokens.string(word), ("auto", "yyyy-mm-dd"))
        case "REGION" | "ENCODING":
            value = tokens.string(word) if word == "REGION" else _encoding(tokens)
            if word == "ENCODING" and value not in ("UTF8", "UTF-8"):
                raise RedshiftError(f"ENCODING {value} is not supported by local Redshift", "0A000")
        case "COMPUPDATE" | "STATUPDATE":
            tokens.accept("ON", "OFF", "TRUE", "FALSE", "PRESET")
        case "COMPROWS" | "MAXERROR":
            number = tokens.number(word)
            if word == "MAXERROR" and number:
                raise RedshiftError("MAXERROR above 0 is not supported by local Redshift", "0A000")
        case (
            "ACCEPTINVCHARS"
            | "ESCAPE"
            | "FILLRECORD"
            | "REMOVEQUOTES"
            | "FIXEDWIDTH"
            | "SHAPEFILE"
            | "AVRO"
            | "ORC"
        ):
            raise RedshiftError(f"COPY option {word} is not supported by local Redshift", "0A000")
        case _:
            raise RedshiftError(
                f'COPY option "{word}" is unknown, or not supported by local Redshift', "42601"
            )


def _encoding(tokens: _Tokens) -> str:
    tokens.accept("AS")
    return tokens.take().text.upper()


def _time_format(word: str, value: str, supported: tuple[str, ...]) -> str:
    if value.lower() not in supported:
        raise RedshiftError(f"{word} {value!r} is not supported by local Redshift; say 'auto'", "0A000")
    return value.lower()


def _copy_format(tokens: _Tokens, command: CopyCommand, word: str) -> None:
    match word:
        case "PARQUET":
            command.format = Format.PARQUET
        case "CSV":
            command.format = Format.CSV
        case "JSON":
            command.format = Format.JSON
            tokens.accept("AS")
            token = tokens.peek()
            if token is not None and token.kind is Kind.STRING:
                option = tokens.take().text
                if option.lower() not in ("auto", "auto ignorecase"):
                    raise RedshiftError(
                        f"JSON {option!r} is not supported by local Redshift; say 'auto'", "0A000"
                    )
        case _:
            raise RedshiftError(f"FORMAT AS {word} is not supported by local Redshift", "0A000")


def parse_unload(found: list[Token]) -> UnloadCommand:
    """Raises RedshiftError like ``parse_copy``."""
    tokens = _Tokens(found)
    tokens.expect("UNLOAD")
    tokens.expect("(")
    query = tokens.string("UNLOAD")
    tokens.expect(")")
    tokens.expect("TO")
    command = UnloadCommand(query, _s3(tokens.string("TO")))
    while tokens.peek() is not None:
        _unload_option(tokens, command)
    _require_role(command.role, "UNLOAD")
    return command


def _unload_option(tokens: _Tokens, command: UnloadCommand) -> None:
    word = tokens.take().text.upper()
    _refuse_credentials(word)
    match word:
        case "IAM_ROLE":
            command.role = _role(tokens)
        case "FORMAT" | "CSV" | "PARQUET":
            if word == "FORMAT":
                tokens.accept("AS")
                word = tokens.take().text.upper()
            if word not in ("CSV", "PARQUET"):
                raise RedshiftError(f"UNLOAD FORMAT AS {word} is not supported by local Redshift", "0A000")
            command.format = Format(word.lower())
        case "HEADER":
            command.header = True
        case "DELIMITER":
            command.delimiter = tokens.character(word)
        case "GZIP":
            command.gzip = True
        case "MANIFEST":
            command.manifest = True
            tokens.accept("VERBOSE")
        case "ALLOWOVERWRITE":
            command.overwrite = True
        case "CLEANPATH":
            command.clean_path = True
        case "ADDQUOTES":
            command.add_quotes = True
        case "NULL":
            command.null_as = tokens.string("NULL AS")
        case "EXTENSION":
            command.extension = tokens.string(word)
        case "PARALLEL":
            tokens.accept("ON", "OFF", "TRUE", "FALSE")
        case "REGION":
            tokens.string(word)
        case "MAXFILESIZE" | "ROWGROUPSIZE":
            tokens.accept("AS")
            tokens.take()
            tokens.accept("MB", "GB")
        case _:
            raise RedshiftError(
                f'UNLOAD option "{word}" is unknown, or not supported by local Redshift', "42601"
            )
