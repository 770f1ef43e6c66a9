"""Tables of the warehouse, and where the warehouse is."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from airflow_emr_etl.models.base import Model, Name
from airflow_emr_etl.models.template import is_template

if TYPE_CHECKING:
    from airflow_emr_etl.transfers.redshift_load import RedshiftLoadOperator

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_$]{0,126}")
_TYPE = re.compile(
    r"(?:SMALLINT|INTEGER|BIGINT|REAL|DOUBLE PRECISION|BOOLEAN|DATE|TIMESTAMP|TIMESTAMPTZ"
    r"|(?:VARCHAR|CHAR)\([1-9]\d{0,4}\)|DECIMAL\([1-9]\d?, ?\d{1,2}\))"
)
_ALIASES = {
    "INT": "INTEGER",
    "INT2": "SMALLINT",
    "INT4": "INTEGER",
    "INT8": "BIGINT",
    "FLOAT4": "REAL",
    "FLOAT8": "DOUBLE PRECISION",
    "FLOAT": "DOUBLE PRECISION",
    "BOOL": "BOOLEAN",
    "TIMESTAMP WITHOUT TIME ZONE": "TIMESTAMP",
    "TIMESTAMP WITH TIME ZONE": "TIMESTAMPTZ",
    "VARCHAR(MAX)": "VARCHAR(65535)",
}
_ROLE = re.compile(r"(?i:default)|arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+")


def _identifier(value: str) -> str:
    if not _IDENTIFIER.fullmatch(value):
        raise ValueError(
            f"{value!r} is not a name for Redshift here: letters, digits, _ and $, not beginning with a digit, "
            "at most 127"
        )
    return value.lower()


def _table_name(value: str) -> str:
    parts = value.split(".")
    if len(parts) != 2:
        raise ValueError(f"{value!r} does not say schema and table; write it as analytics.events")
    return ".".join(_identifier(part) for part in parts)


def normal_type(value: str) -> str:
    """A Redshift type in the one spelling that is compared: ``numeric(10,2)`` → ``DECIMAL(10, 2)``. ValueError else."""
    text = re.sub(r"\s+", " ", value.strip().upper())
    text = re.sub(r" ?\( ?", "(", text)
    text = re.sub(r" ?\)", ")", text)
    text = re.sub(r" ?, ?", ", ", text)
    text = re.sub(r"^(?:CHARACTER VARYING|NVARCHAR)(?=\()", "VARCHAR", text)
    text = re.sub(r"^(?:CHARACTER|NCHAR|BPCHAR)(?=\()", "CHAR", text)
    text = re.sub(r"^NUMERIC(?=\()", "DECIMAL", text)
    text = _ALIASES.get(text, text)
    if not _TYPE.fullmatch(text):
        raise ValueError(
            f"{value!r} is not a column type that loads here; valid are SMALLINT, INTEGER, BIGINT, REAL, "
            "DOUBLE PRECISION, DECIMAL(p, s), BOOLEAN, DATE, TIMESTAMP, TIMESTAMPTZ, VARCHAR(n) and CHAR(n)"
        )
    return text


def _role(value: str) -> str:
    if not is_template(value) and not _ROLE.fullmatch(value):
        raise ValueError(f"{value!r} is not the ARN of an IAM role, nor 'default'")
    return value


Identifier = Annotated[str, AfterValidator(_identifier)]
ColumnType = Annotated[str, AfterValidator(normal_type)]


class Column(Model):
    """A column; ``type`` is Redshift's."""

    name: Identifier
    type: ColumnType
    nullable: bool = True


def _column(value: Any) -> Any:
    """``("dt", "DATE")`` and ``"dt DATE"`` are columns too."""
    if isinstance(value, str) and " " in value:
        name, _, kind = value.strip().partition(" ")
        return {"name": name, "type": kind}
    if isinstance(value, tuple | list) and len(value) == 2:
        return {"name": value[0], "type": value[1]}
    return value


def _days(value: Any) -> Any:
    """One column is the first and the last day."""
    return (value, value) if isinstance(value, str) else value


class RedshiftTarget(Model):
    """A database of a Redshift Serverless workgroup or of a cluster. Every field may be a template."""

    workgroup_name: Name | None = None
    cluster_identifier: Name | None = None
    database: Name = "dev"
    iam_role: Annotated[Name, AfterValidator(_role)]
    """What COPY reads S3 with: the ARN of a role that is attached to Redshift, or ``default``."""
    db_user: Name | None = None
    """For a cluster without a secret: the user that temporary credentials are made for."""
    secret_arn: Name | None = None
    """Secrets Manager's ARN; the secret itself stays there."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.workgroup_name is None) == (self.cluster_identifier is None):
            raise ValueError("say either workgroup_name (Serverless) or cluster_identifier (provisioned)")
        return self

    def request(self) -> dict[str, str]:
        """The parameters of a Data API call that say where."""
        named = {
            "WorkgroupName": self.workgroup_name,
            "ClusterIdentifier": self.cluster_identifier,
            "Database": self.database,
            "DbUser": self.db_user,
            "SecretArn": self.secret_arn,
        }
        return {name: value for name, value in named.items() if value is not None}


class Restatement(Model):
    """How staged rows say what of the table they state anew: a span of time of one entity.

    Each staged row takes the place of every row of the same entity (``by``) whose time (``at``) lies within the
    staged row's ``[begin, end]``. ``begin``, ``end`` and ``retracted`` are staging columns.
    """

    by: Identifier
    """Whose rows: a column of the table, such as ``visitor_id``."""
    at: Identifier
    """When a row is: a column of the table, such as ``started_at``."""
    begin: Identifier
    end: Identifier
    retracted: Identifier
    """BOOLEAN: this row only clears its span, and is not inserted."""


class RedshiftTable(Model):
    """A table that one loader writes.

    ``RedshiftTable("analytics.sessions", columns=[…], keys=["session_id"], partition="dt")``
    """

    name: Annotated[str, AfterValidator(_table_name)]
    columns: tuple[Annotated[Column, BeforeValidator(_column)], ...] = ()
    """In the order of the files. Without any, they are taken from the manifest of the first load."""
    keys: tuple[Identifier, ...] = ()
    """What makes a row one of a kind. Redshift enforces no key, so each load asserts it."""
    partition: Identifier | None = None
    """The column whose value a load replaces whole."""
    dist_style: Literal["AUTO", "EVEN", "ALL"] = "AUTO"
    dist_key: Identifier | None = None
    sort_keys: tuple[Identifier, ...] = Field(default=())
    mode: Literal["replace", "merge", "restate"] = "replace"
    """``replace``: a load's rows take the place of the partition's. ``merge``: of the rows with the same keys.
    ``restate``: of both, so that a batch can also carry rows of other partitions; or, with ``restates``, of the
    spans that the rows name and of the same keys. Its manifests carry a ``restatement`` number, and a load older
    than one that is in the table is refused."""
    staging_columns: tuple[Annotated[Column, BeforeValidator(_column)], ...] = ()
    """Columns that the files have after the table's own: the load reads them, the table has them not."""
    restates: Restatement | None = None
    days: Annotated[tuple[Identifier, Identifier] | None, BeforeValidator(_days)] = None
    """The columns from whose first to whose last date a row counts; one name stands for both. Each load then
    records the days that it touched in ``etl.load_days``, for marts to follow. A key keeps its days."""
    key_time: Identifier | None = None
    """A DATE or TIMESTAMP that is part of what a key stands for, such as the time of an event: never NULL, and in all
    states of a key the same, give or take two days. Rows are then replaced by key only within the staged rows' times
    and two days around them, so that a load need not look through the whole table."""

    def __init__(self, name: str | None = None, /, **fields: Any) -> None:
        super().__init__(**(fields if name is None else {"name": name, **fields}))

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.mode == "replace" and self.partition is None:
            raise ValueError(
                f"{self.name} needs partition=, the column whose value a load replaces (or mode='merge')"
            )
        if self.mode in ("merge", "restate") and not self.keys:
            raise ValueError(f"{self.name} needs keys= to {self.mode} by")
        if self.mode == "restate" and self.partition is None and self.restates is None:
            raise ValueError(f"{self.name} needs partition= or restates= to restate by")
        if self.dist_key and self.dist_style != "AUTO":
            raise ValueError(f"{self.name} has both dist_key and dist_style; say one")
        names = [column.name for column in self.columns]
        if len(set(names)) != len(names):
            raise ValueError(f"{self.name} has a column twice: {', '.join(names)}")
        used = {
            *self.keys,
            *self.sort_keys,
            *filter(None, (self.partition, self.dist_key, self.key_time)),
            *(self.days or ()),
        }
        if self.restates:
            used |= {self.restates.by, self.restates.at}
        if names and (unknown := sorted(used - set(names))):
            raise ValueError(f"{self.name} has no column {', '.join(unknown)}; it has {', '.join(names)}")
        kind = next((column.type for column in self.columns if column.name == self.key_time), "DATE")
        if kind not in ("DATE", "TIMESTAMP", "TIMESTAMPTZ"):
            raise ValueError(
                f"{self.name} has key_time={self.key_time!r}, which is {kind}; it must be a time"
            )
        return self

    @model_validator(mode="after")
    def _consistent_staging(self) -> Self:
        if not self.staging_columns and self.restates is None:
            return self
        staged = {column.name: column.type for column in self.staging_columns}
        if not self.columns:
            raise ValueError(f"{self.name} has staging_columns or restates, so it must state its columns too")
        if both := sorted(staged.keys() & {column.name for column in self.columns}):
            raise ValueError(
                f"{self.name} has {', '.join(both)} among columns and staging_columns; say it once"
            )
        if len(staged) != len(self.staging_columns):
            raise ValueError(f"{self.name} has a staging column twice: {', '.join(staged)}")
        if self.restates is None:
            return self
        if self.mode != "restate":
            raise ValueError(f"{self.name} has restates=, which needs mode='restate'; it is {self.mode!r}")
        of_table = {column.name: column.type for column in self.columns}
        begin, end, retracted = self.restates.begin, self.restates.end, self.restates.retracted
        if unknown := sorted({begin, end, retracted} - staged.keys()):
            raise ValueError(
                f"{self.name} has no staging column {', '.join(unknown)}; "
                f"it has {', '.join(staged) or 'none'}. Add it to staging_columns."
            )
        if staged[retracted] != "BOOLEAN":
            raise ValueError(f"{self.name}: {retracted} is {staged[retracted]}; it must be BOOLEAN")
        if len({of_table[self.restates.at], staged[begin], staged[end]}) > 1:
            raise ValueError(
                f"{self.name}: {self.restates.at} is {of_table[self.restates.at]}, {begin} is {staged[begin]} "
                f"and {end} is {staged[end]}; they must be of one type"
            )
        return self

    @property
    def schema_name(self) -> str:
        return self.name.partition(".")[0]

    @property
    def table_name(self) -> str:
        return self.name.partition(".")[2]

    def with_columns(self, columns: tuple[Column, ...]) -> RedshiftTable:
        """The same table with these columns, checked again."""
        return RedshiftTable(**{**self.model_dump(), "columns": columns})

    def load(
        self, task_id: str, *, manifest: str, target: RedshiftTarget, **kwargs: Any
    ) -> RedshiftLoadOperator:
        """A task that loads what a manifest lists into this table, once.

        ``manifest`` is the address of the manifest (templated); ``partition`` the value that it must be for
        (templated); the rest goes to ``RedshiftLoadOperator``.
        """
        # The one way up from the models: a DAG author gets the task where the table is, and pays for Airflow then.
        from airflow_emr_etl.transfers.redshift_load import RedshiftLoadOperator

        return RedshiftLoadOperator(task_id=task_id, table=self, manifest=manifest, target=target, **kwargs)
