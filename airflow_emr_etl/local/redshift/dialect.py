"""From a Redshift statement to what Postgres runs in its place.

sqlglot does the bulk. What it cannot or gets wrong is here: table attributes, ``#temp`` names, LISTAGG, date
arithmetic, TRUNCATE's commit, MERGE ... REMOVE DUPLICATES, VACUUM, VARCHAR in bytes, primary keys that bind nobody.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.dialects.redshift import Redshift

from airflow_emr_etl.local.redshift import scan
from airflow_emr_etl.local.redshift.copy_command import CopyCommand, UnloadCommand, parse_copy, parse_unload
from airflow_emr_etl.local.redshift.errors import RedshiftError
from airflow_emr_etl.local.redshift.scan import Kind, Token

# It warns of statements that it hands on as they are; here Postgres is the judge of those.
logging.getLogger("sqlglot").setLevel(logging.ERROR)

BYTES_CHECK = "redshift_bytes_"
_MAX_VARCHAR = 65535


@dataclass(frozen=True)
class TableAttributes:
    """What Redshift remembers of a table and Postgres does not."""

    table: str
    diststyle: str
    distkey: str | None
    sortkeys: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """One Redshift statement, ready to run. ``postgres`` are run in order; the last one's answer is the answer."""

    verb: str
    postgres: tuple[str, ...] = ()
    commits: bool = False
    """It ends the transaction it is in, as TRUNCATE does."""
    outside_transaction: bool = False
    """Refused inside a transaction block."""
    creates_if_absent: bool = False
    """Creates a lasting object unless it exists: such statements take turns."""
    attributes: TableAttributes | None = None
    copy: CopyCommand | None = None
    unload: UnloadCommand | None = None
    create_database: str | None = None
    control: bool = False
    """BEGIN, COMMIT or ROLLBACK."""


# Functions that are Postgres functions of our own (catalog.py), so sqlglot has to leave them alone.
_KEPT_FUNCTIONS = frozenset(
    {
        "GETDATE",
        "DATEADD",
        "DATE_ADD",
        "DATEDIFF",
        "DATE_DIFF",
        "ADD_MONTHS",
        "MONTHS_BETWEEN",
        "LAST_DAY",
        "CONVERT_TIMEZONE",
        "STRTOL",
        "JSON_PARSE",
        "JSON_EXTRACT_PATH_TEXT",
        "SHA2",
        "CHARINDEX",
        "REGEXP_SUBSTR",
    }
)


class _Parser(Redshift.Parser):  # type: ignore[misc, valid-type, unused-ignore]
    FUNCTIONS = {  # noqa: RUF012 - the shape sqlglot asks for
        name: build for name, build in Redshift.Parser.FUNCTIONS.items() if name not in _KEPT_FUNCTIONS
    }


class _LocalRedshift(Redshift):
    Parser = _Parser


_Handler = Callable[[str, list[Token], tuple[str, ...]], Plan]


def translate(text: str) -> Plan:
    """The plan of one statement. Raises RedshiftError for what Redshift, or this stand-in, refuses."""
    try:
        found = scan.tokens(text)
    except scan.ScanError as error:
        raise RedshiftError(f"syntax error: {error}", "42601") from error
    if not found:
        raise RedshiftError("Query is empty", "42601")
    words = tuple(t.text.upper() if t.kind is Kind.WORD else t.text for t in found[:6])
    verb = words[0]
    handler: _Handler | None = _HANDLERS.get(verb)
    return handler(text, found, words) if handler is not None else _general(text, verb)


# -- statements that sqlglot translates ---------------------------------------------------------------------------


def _general(text: str, verb: str) -> Plan:
    return Plan(verb, (_to_postgres(_parse(text)),))


def _parse(text: str) -> exp.Expr:
    try:
        parsed = sqlglot.parse(scan.quote_temporary(text), read=_LocalRedshift)
    except sqlglot.errors.SqlglotError as error:
        raise RedshiftError(f"syntax error: {_one_line(error)}", "42601") from error
    if len(parsed) != 1 or parsed[0] is None:
        raise RedshiftError("syntax error: one statement was expected", "42601")
    return parsed[0]


def _to_postgres(tree: exp.Expr) -> str:
    tree = _fold(tree).transform(_rewrite)
    try:
        return str(tree.sql(dialect="postgres"))
    except sqlglot.errors.SqlglotError as error:
        raise RedshiftError(f"not supported by local Redshift: {_one_line(error)}", "0A000") from error


def _one_line(error: Exception) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().splitlines()[0]


def _fold(tree: exp.Expr) -> exp.Expr:
    """Redshift folds every identifier to lower case, quoted ones too."""
    for identifier in tree.find_all(exp.Identifier):
        identifier.set("this", identifier.this.lower())
    return tree


def _rewrite(node: exp.Expr) -> exp.Expr:
    rewrite = _REWRITES.get(type(node))
    return rewrite(node) if rewrite else node


def _rewrite_anonymous(node: exp.Expr) -> exp.Expr:
    name = str(node.this).upper()
    arguments = node.expressions
    if name in ("DATEDIFF", "DATE_DIFF") and len(arguments) == 3:
        return exp.Anonymous(
            this="redshift_datediff", expressions=[_part(arguments[0]), *map(_as_timestamp, arguments[1:])]
        )
    if name in ("DATEADD", "DATE_ADD") and len(arguments) == 3:
        amount = exp.cast(arguments[1], "bigint")
        return exp.Anonymous(
            this="redshift_dateadd", expressions=[_part(arguments[0]), amount, _as_timestamp(arguments[2])]
        )
    if name in ("ADD_MONTHS", "MONTHS_BETWEEN", "LAST_DAY", "CONVERT_TIMEZONE", "NEXT_DAY"):
        positions = {"MONTHS_BETWEEN": (0, 1), "CONVERT_TIMEZONE": (len(arguments) - 1,)}.get(name, (0,))
        return exp.Anonymous(
            this=name.lower(),
            expressions=[_as_timestamp(a) if i in positions else a for i, a in enumerate(arguments)],
        )
    if name == "ISNULL" and len(arguments) == 2:
        return exp.Coalesce(this=arguments[0], expressions=arguments[1:])
    return node


def _part(node: exp.Expr) -> exp.Expr:
    return exp.Literal.string(node.name.lower())


def _as_timestamp(node: exp.Expr) -> exp.Expr:
    # A bare literal would become a timestamptz, Postgres's favourite, and shift.
    return exp.cast(node, exp.DataType.build("timestamp", dialect="postgres"))


def _rewrite_sysdate(node: exp.Expr) -> exp.Expr:
    return exp.Anonymous(this="sysdate_") if node.args.get("sysdate") else node


def _rewrite_within_group(node: exp.Expr) -> exp.Expr:
    inner, order = node.this, node.expression
    return _string_agg(inner, order) if isinstance(inner, exp.GroupConcat) else node


def _rewrite_group_concat(node: exp.Expr) -> exp.Expr:
    # The one inside WITHIN GROUP is handled with its order.
    return node if isinstance(node.parent, exp.WithinGroup) else _string_agg(node, None)


def _string_agg(node: exp.Expr, order: exp.Expr | None) -> exp.Expr:
    value, separator = node.this, node.args.get("separator")
    distinct = isinstance(value, exp.Distinct)
    if distinct:
        inner = value.expressions
        value = inner[0]
        if isinstance(value, exp.Tuple):
            value, separator = value.expressions[0], value.expressions[1]
        elif len(inner) > 1:
            separator = inner[1]
    value = exp.cast(value, "text")
    arguments = (
        f"{'DISTINCT ' if distinct else ''}{_render(value)}, {_render(separator or exp.Literal.string(''))}"
    )
    if order is not None:
        arguments += " " + _render(order).strip()
        if distinct:  # Postgres sorts a DISTINCT aggregate by its own argument only
            arguments = re.sub(r" ORDER BY .*$", f" ORDER BY {_render(value)}", arguments, flags=re.DOTALL)
    return exp.Var(this=f"STRING_AGG({arguments})")


def _render(node: exp.Expr) -> str:
    return str(node.transform(_rewrite).sql(dialect="postgres"))


def _rewrite_approximate(node: exp.Expr) -> exp.Expr:
    return exp.Count(this=exp.Distinct(expressions=[node.this]))


def _rewrite_avg(node: exp.Expr) -> exp.Expr:
    call = exp.Anonymous(this="redshift_avg", expressions=[node.this])
    return (
        exp.alias_(call, "avg")
        if isinstance(node.parent, exp.Select) and node.arg_key == "expressions"
        else call
    )


def _rewrite_type(node: exp.Expr) -> exp.Expr:
    return exp.DataType.build(_postgres_type(node), dialect="postgres", udt=True)


def _postgres_type(node: exp.Expr) -> str:
    kind, sizes = node.this, node.expressions
    if kind in (exp.DataType.Type.VARCHAR, exp.DataType.Type.NVARCHAR, exp.DataType.Type.TEXT):
        size = sizes[0].name.upper() if sizes else "256"
        return f"VARCHAR({_MAX_VARCHAR if size == 'MAX' else size})" if sizes else "VARCHAR"
    if kind is exp.DataType.Type.DECIMAL:
        return f"DECIMAL({', '.join(s.name for s in sizes)})" if sizes else "DECIMAL(18, 0)"
    if kind is exp.DataType.Type.SUPER:
        return "JSONB"
    if kind in (exp.DataType.Type.VARBINARY, exp.DataType.Type.BINARY):
        return "BYTEA"
    return str(node.sql(dialect="postgres"))


_REWRITES: dict[type[Any], Any] = {
    exp.Anonymous: _rewrite_anonymous,
    exp.CurrentTimestamp: _rewrite_sysdate,
    exp.WithinGroup: _rewrite_within_group,
    exp.GroupConcat: _rewrite_group_concat,
    exp.ApproxDistinct: _rewrite_approximate,
    exp.Avg: _rewrite_avg,
    exp.DataType: _rewrite_type,
}


# -- CREATE TABLE -------------------------------------------------------------------------------------------------


def _create(text: str, found: list[Token], words: tuple[str, ...]) -> Plan:
    kind = next((w for w in words[1:] if w in _CREATED), "")
    lasting = not any(w in ("TEMP", "TEMPORARY") for w in words[:4])
    if_absent = any(a.is_word("IF") and b.is_word("NOT") for a, b in pairwise(found))
    if "EXTERNAL" in words[:3]:
        raise RedshiftError("external schemas and tables are not supported by local Redshift", "0A000")
    if kind == "TABLE":
        return _create_table(text, found, if_absent)
    if kind == "DATABASE":
        return Plan("CREATE", create_database=found[2].text.lower())
    if kind in ("PROCEDURE", "FUNCTION", "USER", "GROUP", "ROLE"):
        return Plan("CREATE", (scan.to_postgres_strings(text),))
    if kind == "VIEW":
        text = re.sub(r"\s+WITH\s+NO\s+SCHEMA\s+BINDING\s*$", "", text, flags=re.IGNORECASE)
    if kind not in ("VIEW", "SCHEMA"):
        raise RedshiftError(f"CREATE {words[1]} is not supported by local Redshift", "0A000")
    return Plan("CREATE", (_to_postgres(_parse(text)),), creates_if_absent=if_absent and lasting)


_CREATED = frozenset(
    {"TABLE", "VIEW", "SCHEMA", "DATABASE", "PROCEDURE", "FUNCTION", "USER", "GROUP", "ROLE"}
)


class _Reader:
    """A cursor over tokens."""

    def __init__(self, text: str, found: list[Token]) -> None:
        self.text, self.found, self.at = text, found, 0

    def peek(self, ahead: int = 0) -> Token | None:
        at = self.at + ahead
        return self.found[at] if at < len(self.found) else None

    def take(self) -> Token:
        token = self.peek()
        if token is None:
            raise RedshiftError("syntax error at end of input", "42601")
        self.at += 1
        return token

    def accept(self, *words: str) -> bool:
        """Take these words when they come next."""
        for ahead, word in enumerate(words):
            token = self.peek(ahead)
            if token is None or not (
                token.is_word(word) or (token.kind is Kind.OTHER and token.text == word)
            ):
                return False
        self.at += len(words)
        return True

    def expect(self, word: str) -> None:
        if not self.accept(word):
            token = self.peek()
            where = f'at or near "{token.text}"' if token else "at end of input"
            raise RedshiftError(f"syntax error {where}", "42601")

    def parenthesised(self) -> list[Token]:
        """The tokens inside the parentheses that come next."""
        self.expect("(")
        start, depth = self.at, 1
        while depth:
            token = self.take()
            if token.kind is Kind.OTHER:
                depth += {"(": 1, ")": -1}.get(token.text, 0)
        return self.found[start : self.at - 1]


@dataclass
class _Attributes:
    diststyle: str | None = None
    distkey: str | None = None
    sortkeys: list[str] = field(default_factory=list)


def _create_table(text: str, found: list[Token], if_absent: bool) -> Plan:
    reader = _Reader(text, found)
    reader.expect("CREATE")
    temporary = reader.accept("LOCAL", "TEMPORARY") or reader.accept("LOCAL", "TEMP")
    temporary = temporary or reader.accept("TEMPORARY") or reader.accept("TEMP")
    reader.expect("TABLE")
    if if_absent:
        for word in ("IF", "NOT", "EXISTS"):
            reader.expect(word)
    name = _name(reader)
    temporary = temporary or name[-1].startswith("#")
    attributes = _Attributes()
    columns: str | None = None
    if (token := reader.peek()) is not None and token.text == "(" and token.kind is Kind.OTHER:
        columns = _columns(text, reader.parenthesised(), attributes)
    query: str | None = None
    while (token := reader.peek()) is not None:
        if reader.accept("AS"):
            query = text[reader.take().start :].strip()
            break
        _table_attribute(reader, attributes)
    rendered = ".".join(_quote(part) for part in name)
    head = f"CREATE {'TEMP ' if temporary else ''}TABLE {'IF NOT EXISTS ' if if_absent else ''}{rendered}"
    if query is not None:
        statement = f"{head}{f' ({columns})' if columns else ''} AS {_to_postgres(_parse(query))}"
    elif columns is None:
        raise RedshiftError("syntax error at end of input", "42601")
    else:
        statement = f"{head} ({columns})"
    style = attributes.diststyle or ("KEY" if attributes.distkey else None)
    kept = None
    if not temporary and (style or attributes.sortkeys):
        kept = TableAttributes(rendered, style or "AUTO(ALL)", attributes.distkey, tuple(attributes.sortkeys))
    return Plan("CREATE", (statement,), creates_if_absent=if_absent and not temporary, attributes=kept)


def _name(reader: _Reader) -> list[str]:
    parts = [_identifier(reader.take())]
    while reader.accept("."):
        parts.append(_identifier(reader.take()))
    return parts


def _identifier(token: Token) -> str:
    if token.kind not in (Kind.WORD, Kind.QUOTED):
        raise RedshiftError(f'syntax error at or near "{token.text}"', "42601")
    return token.text.lower()


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _table_attribute(reader: _Reader, into: _Attributes) -> None:
    if reader.accept("DISTSTYLE"):
        into.diststyle = reader.take().text.upper()
        if into.diststyle not in ("AUTO", "EVEN", "KEY", "ALL"):
            raise RedshiftError(f'invalid DISTSTYLE "{into.diststyle}"', "42601")
    elif reader.accept("DISTKEY"):
        into.distkey = _identifier(reader.parenthesised()[0])
    elif reader.accept("SORTKEY", "AUTO") or reader.accept("ENCODE", "AUTO"):
        pass
    elif (
        reader.accept("COMPOUND", "SORTKEY")
        or reader.accept("INTERLEAVED", "SORTKEY")
        or reader.accept("SORTKEY")
    ):
        into.sortkeys = [_identifier(t) for t in reader.parenthesised() if t.text != ","]
    elif reader.accept("BACKUP"):
        reader.take()
    else:
        token = reader.take()
        raise RedshiftError(f'syntax error at or near "{token.text}"', "42601")


def _columns(text: str, inside: list[Token], into: _Attributes) -> str:
    return ", ".join(
        rendered for part in _by_comma(inside) if (rendered := _column(_Reader(text, part), into)) is not None
    )


def _by_comma(inside: list[Token]) -> list[list[Token]]:
    parts: list[list[Token]] = [[]]
    depth = 0
    for token in inside:
        if token.kind is Kind.OTHER:
            depth += {"(": 1, ")": -1}.get(token.text, 0)
            if token.text == "," and depth == 0:
                parts.append([])
                continue
        parts[-1].append(token)
    return parts


_CONSTRAINT_WORDS = frozenset({"PRIMARY", "UNIQUE", "FOREIGN", "CONSTRAINT"})
_COLUMN_WORDS = frozenset(
    {
        "DEFAULT",
        "IDENTITY",
        "GENERATED",
        "ENCODE",
        "DISTKEY",
        "SORTKEY",
        "COLLATE",
        "NOT",
        "NULL",
        "PRIMARY",
        "UNIQUE",
        "REFERENCES",
    }
)


def _column(reader: _Reader, into: _Attributes) -> str | None:
    """One column definition, or None for a table constraint, which Redshift never enforces."""
    first = reader.take()
    if first.kind is Kind.WORD and first.text.upper() in _CONSTRAINT_WORDS:
        return None
    if first.is_word("LIKE"):
        source = ".".join(_quote(part) for part in _name(reader))
        defaults = " INCLUDING DEFAULTS" if reader.accept("INCLUDING", "DEFAULTS") else ""
        reader.accept("EXCLUDING", "DEFAULTS")
        return f"LIKE {source}{defaults} INCLUDING CONSTRAINTS"
    name = _identifier(first)
    if reader.peek() is None:
        return _quote(name)  # the column list of CREATE TABLE ... AS
    return f"{_quote(name)} {_column_type_and_rest(reader, name, into)}"


def _column_type_and_rest(reader: _Reader, name: str, into: _Attributes) -> str:
    pieces = [_column_type(reader, name)]
    while reader.peek() is not None:
        if reader.accept("NOT", "NULL"):
            pieces.append("NOT NULL")
        elif reader.accept("NULL") or reader.accept("PRIMARY", "KEY") or reader.accept("UNIQUE"):
            if reader.found[reader.at - 1].is_word("KEY"):
                pieces.append("NOT NULL")  # the part of a primary key that Redshift does enforce
        elif reader.accept("DEFAULT"):
            pieces.append(f"DEFAULT {_expression(reader)}")
        elif reader.accept("IDENTITY") or reader.accept("GENERATED", "BY", "DEFAULT", "AS", "IDENTITY"):
            start, step = [t.text for t in reader.parenthesised() if t.kind is Kind.NUMBER]
            pieces.append(f"GENERATED BY DEFAULT AS IDENTITY (START WITH {start} INCREMENT BY {step})")
        elif reader.accept("ENCODE"):
            reader.take()
        elif reader.accept("DISTKEY"):
            into.distkey = name
        elif reader.accept("SORTKEY"):
            into.sortkeys = [name]
        elif reader.accept("COLLATE"):
            reader.take()
        elif reader.accept("REFERENCES"):
            _name(reader)
            if (token := reader.peek()) is not None and token.text == "(":
                reader.parenthesised()
        else:
            raise RedshiftError(f'syntax error at or near "{reader.take().text}"', "42601")
    return " ".join(pieces)


def _column_type(reader: _Reader, name: str) -> str:
    start = reader.take()
    end = start
    while (token := reader.peek()) is not None and not (
        token.kind is Kind.WORD and token.text.upper() in _COLUMN_WORDS
    ):
        if token.text == "(":
            reader.parenthesised()
            end = reader.found[reader.at - 1]
        else:
            end = reader.take()
    written = reader.text[start.start : end.end]
    folded = re.sub(r"\s+", " ", written).upper()
    if text_type := re.fullmatch(
        r"(VARCHAR|NVARCHAR|CHARACTER VARYING|CHAR VARYING|TEXT|CHAR|CHARACTER|NCHAR|BPCHAR) ?(?:\( ?(\d+|MAX) ?\))?",
        folded,
    ):
        word, size = text_type.groups()
        fixed = word in ("CHAR", "CHARACTER", "NCHAR", "BPCHAR")
        if word in ("TEXT", "BPCHAR") or size is None:
            length = 256 if word in ("TEXT", "BPCHAR") or not fixed else 1
        else:
            length = _MAX_VARCHAR if size == "MAX" else int(size)
        if not 0 < length <= (4096 if fixed else _MAX_VARCHAR):
            raise RedshiftError(
                f"length for type {word.lower()} cannot exceed {4096 if fixed else _MAX_VARCHAR}", "22023"
            )
        return f"{'CHAR' if fixed else 'VARCHAR'}({length}) {_bytes_check(name, length)}"
    parsed = exp.DataType.build(written, dialect=_LocalRedshift, udt=True)
    if parsed.this is exp.DataType.Type.USERDEFINED:
        raise RedshiftError(f'type "{written.lower()}" does not exist', "42704")
    return _postgres_type(parsed)


def _bytes_check(column: str, length: int) -> str:
    """Redshift counts a text's bytes where Postgres counts its characters."""
    label = f"{BYTES_CHECK}{length}_{hashlib.sha256(column.encode()).hexdigest()[:12]}"
    return f'CONSTRAINT "{label}" CHECK (octet_length({_quote(column)}::text) <= {length})'


def _expression(reader: _Reader) -> str:
    start = reader.take()
    end, depth = start, 1 if start.text == "(" else 0
    while (token := reader.peek()) is not None:
        if depth == 0 and token.kind is Kind.WORD and token.text.upper() in _COLUMN_WORDS:
            break
        if token.kind is Kind.OTHER:
            depth += {"(": 1, ")": -1}.get(token.text, 0)
        end = reader.take()
    return _to_postgres(_parse("SELECT " + reader.text[start.start : end.end])).removeprefix("SELECT ")


# -- other statements ---------------------------------------------------------------------------------------------


def _alter(text: str, found: list[Token], words: tuple[str, ...]) -> Plan:
    reader = _Reader(text, found)
    reader.expect("ALTER")
    if not reader.accept("TABLE"):
        return Plan("ALTER", (scan.to_postgres_strings(text),))
    name = ".".join(_quote(part) for part in _name(reader))
    if reader.accept("APPEND", "FROM"):
        source = ".".join(_quote(part) for part in _name(reader))
        # What stands behind it on Redshift is moving blocks, so the source is empty afterwards.
        moved = (f"INSERT INTO {name} SELECT * FROM {source}", f"TRUNCATE TABLE {source}")  # noqa: S608 - quoted
        return Plan("ALTER TABLE APPEND", moved, outside_transaction=True)
    if reader.accept("ADD", "COLUMN") or (
        reader.accept("ADD") and not ((t := reader.peek()) and t.text.upper() in _CONSTRAINT_WORDS)
    ):
        ignored = _Attributes()
        column = _column(reader, ignored)
        return Plan("ALTER", (f"ALTER TABLE {name} ADD COLUMN {column}",))
    if reader.accept("ADD") or (reader.found[reader.at - 1].is_word("ADD")):
        return Plan("ALTER")  # a key or a constraint: informational on Redshift
    if reader.accept("ALTER", "COLUMN"):
        column_name = _identifier(reader.take())
        if reader.accept("TYPE"):
            return _widen(name, column_name, reader)
        reader.at -= 1
    if any(
        reader.accept("ALTER", word) for word in ("DISTSTYLE", "DISTKEY", "SORTKEY", "COMPOUND", "ENCODE")
    ):
        return Plan("ALTER")
    return Plan("ALTER", (_to_postgres(_parse(text)),))


def _widen(name: str, column: str, reader: _Reader) -> Plan:
    kind = _column_type(reader, column)
    plain, _, check = kind.partition(" CONSTRAINT ")
    if not check:
        raise RedshiftError("ALTER COLUMN TYPE is for VARCHAR columns only", "0A000")
    # The old size's check has a name that holds the size, so drop whichever is there.
    pattern = f"{BYTES_CHECK}%\\_{hashlib.sha256(column.encode()).hexdigest()[:12]}"
    literal = scan.postgres_literal
    drop = (
        f"DO $$ DECLARE c text; BEGIN SELECT conname INTO c FROM pg_constraint "  # noqa: S608 - literals
        f"WHERE conrelid = {literal(name)}::regclass AND conname LIKE {literal(pattern)}; IF c IS NOT NULL THEN "
        f"EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', {literal(name)}, c); END IF; END $$"
    )
    widen = f"ALTER TABLE {name} ALTER COLUMN {_quote(column)} TYPE {plain}, ADD CONSTRAINT {check}"
    return Plan("ALTER COLUMN TYPE", (drop, widen), outside_transaction=True)


def _merge(text: str, found: list[Token], words: tuple[str, ...]) -> Plan:
    if len(found) > 2 and found[-2].is_word("REMOVE") and found[-1].is_word("DUPLICATES"):
        bare = text[: found[-2].start]
        tree = _parse(bare + " WHEN MATCHED THEN DELETE")
        target, source, on = tree.this, tree.args["using"], tree.args["on"]
        _plain_table(source)
        delete = exp.Delete(this=target, using=[source], where=exp.Where(this=on))
        bare_target = exp.table_(target.this.copy(), db=target.args.get("db"))
        insert = exp.Insert(this=bare_target, expression=exp.select("*").from_(source.copy()).distinct())
        return Plan("MERGE", (_to_postgres(delete), _to_postgres(insert)))
    # sqlglot wraps the values of a plain INSERT VALUES and prints DELETE as a name, so put its output right.
    tree = _parse(text)
    _plain_table(tree.args["using"])
    rendered = _to_postgres(tree)
    rendered = re.sub(r"\bINSERT \(VALUES ?\(", "INSERT VALUES (", rendered)
    if "INSERT VALUES (" in rendered:
        rendered = re.sub(r"\)\)(?=\s|$)", ")", rendered)
    return Plan("MERGE", (rendered,))


def _plain_table(source: exp.Expr) -> None:
    if not isinstance(source, exp.Table):
        raise RedshiftError("the source of MERGE must be a table, not a query", "0A000")


def _truncate(text: str, found: list[Token], words: tuple[str, ...]) -> Plan:
    reader = _Reader(text, found)
    reader.expect("TRUNCATE")
    reader.accept("TABLE")
    name = ".".join(_quote(part) for part in _name(reader))
    return Plan("TRUNCATE", (f"TRUNCATE TABLE {name}",), commits=True)


def _delete(text: str, found: list[Token], words: tuple[str, ...]) -> Plan:
    if len(found) > 1 and not found[1].is_word("FROM"):
        text = f"{text[: found[0].end]} FROM {text[found[1].start :]}"
    return _general(text, "DELETE")


def _lock(text: str, found: list[Token], words: tuple[str, ...]) -> Plan:
    reader = _Reader(text, found)
    reader.expect("LOCK")
    reader.accept("TABLE")
    names = [".".join(_quote(part) for part in _name(reader))]
    while reader.accept(","):
        names.append(".".join(_quote(part) for part in _name(reader)))
    return Plan("LOCK", (f"LOCK TABLE {', '.join(names)} IN ACCESS EXCLUSIVE MODE",))


def _vacuum(text: str, found: list[Token], words: tuple[str, ...]) -> Plan:
    name = next((t for t in reversed(found[1:]) if t.text.upper() not in _VACUUM_WORDS), None)
    return Plan("VACUUM", (f"VACUUM {_dotted(found, name)}".strip(),), outside_transaction=True)


_VACUUM_WORDS = frozenset(
    {"FULL", "SORT", "ONLY", "DELETE", "REINDEX", "RECLUSTER", "BOOST", "TO", "PERCENT"}
)


def _dotted(found: list[Token], last: Token | None) -> str:
    if last is None or last.kind not in (Kind.WORD, Kind.QUOTED):
        return ""
    parts, at = [_quote(last.text.lower())], found.index(last)
    while at >= 2 and found[at - 1].text == ".":
        at -= 2
        parts.insert(0, _quote(found[at].text.lower()))
    return ".".join(parts)


def _analyze(text: str, found: list[Token], words: tuple[str, ...]) -> Plan:
    if len(words) > 1 and words[1] == "COMPRESSION":
        raise RedshiftError("ANALYZE COMPRESSION is not supported by local Redshift", "0A000")
    reader = _Reader(text, found)
    reader.take()
    reader.accept("VERBOSE")
    name = ".".join(_quote(part) for part in _name(reader)) if reader.peek() else ""
    return Plan("ANALYZE", (f"ANALYZE {name}".strip(),))


_IGNORED_SETTINGS = frozenset(
    {
        "QUERY_GROUP",
        "WLM_QUERY_SLOT_COUNT",
        "ENABLE_RESULT_CACHE_FOR_SESSION",
        "ENABLE_CASE_SENSITIVE_IDENTIFIER",
        "ANALYZE_THRESHOLD_PERCENT",
        "DESCRIBE_FIELD_NAME_IN_UPPERCASE",
        "ENABLE_NUMERIC_ROUNDING",
        "JSON_SERIALIZATION_ENABLE",
        "USE_FIPS_SSL",
        "SPECTRUM_ENABLE_PSEUDO_COLUMNS",
        "CAST_SUPER_NULL_ON_ERROR",
    }
)


def _set(text: str, found: list[Token], words: tuple[str, ...]) -> Plan:
    if len(words) > 1 and words[1] in _IGNORED_SETTINGS:
        return Plan(words[0])
    return Plan(words[0], (scan.to_postgres_strings(text),))


def _explain(text: str, found: list[Token], words: tuple[str, ...]) -> Plan:
    at = 2 if len(words) > 1 and words[1] == "VERBOSE" else 1
    return Plan("EXPLAIN", ("EXPLAIN " + _to_postgres(_parse(text[found[at].start :])),))


def _as_written(text: str, found: list[Token], words: tuple[str, ...]) -> Plan:
    return Plan(words[0], (scan.to_postgres_strings(scan.quote_temporary(text)),))


def _copy(text: str, found: list[Token], words: tuple[str, ...]) -> Plan:
    return Plan("COPY", copy=parse_copy(found))


def _unload(text: str, found: list[Token], words: tuple[str, ...]) -> Plan:
    command = parse_unload(found)
    return Plan("UNLOAD", (_to_postgres(_parse(command.query)),), unload=command)


def _control(text: str, found: list[Token], words: tuple[str, ...]) -> Plan:
    return Plan(words[0], control=True)


def _refused(text: str, found: list[Token], words: tuple[str, ...]) -> Plan:
    raise RedshiftError(f"{words[0]} is not supported by local Redshift", "0A000")


_HANDLERS: dict[str, _Handler] = {
    "CREATE": _create,
    "ALTER": _alter,
    "MERGE": _merge,
    "TRUNCATE": _truncate,
    "DELETE": _delete,
    "LOCK": _lock,
    "VACUUM": _vacuum,
    "ANALYZE": _analyze,
    "ANALYSE": _analyze,
    "SET": _set,
    "RESET": _set,
    "SHOW": _as_written,
    "EXPLAIN": _explain,
    "GRANT": _as_written,
    "REVOKE": _as_written,
    "CALL": _as_written,
    "COMMENT": _as_written,
    "DROP": _as_written,
    "DECLARE": _refused,
    "FETCH": _refused,
    "PREPARE": _refused,
    "EXECUTE": _refused,
    "DO": _refused,
    "LISTEN": _refused,
    "NOTIFY": _refused,
    "COPY": _copy,
    "UNLOAD": _unload,
    "BEGIN": _control,
    "START": _control,
    "COMMIT": _control,
    "END": _control,
    "ROLLBACK": _control,
    "ABORT": _control,
}
