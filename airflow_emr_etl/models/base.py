"""What every model has in common: frozen, closed, and checked."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

from airflow_emr_etl.models.template import is_template


class Model(BaseModel):
    """A frozen value whose unknown fields are errors. Strings may hold Jinja until the task renders them."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    def document(self) -> dict[str, Any]:
        """The fields that differ from their defaults, as plain JSON: what Airflow renders and shows."""
        return self.model_dump(mode="json", exclude_defaults=True)


def _s3_uri(value: str) -> str:
    if not is_template(value) and not value.startswith(("s3://", "s3a://", "s3n://")):
        raise ValueError(f"{value!r} is not an address in S3; write it as s3://bucket/key")
    return value


def _not_blank(value: str) -> str:
    if not value.strip():
        raise ValueError("an empty text names nothing; give it at least one character")
    return value


def one_or_more(value: Any) -> Any:
    """One text alone is taken as a list of one."""
    return (value,) if isinstance(value, str) else value


#: ``s3://bucket/key``, or a template of one.
S3Address = Annotated[str, AfterValidator(_s3_uri)]
Name = Annotated[str, AfterValidator(_not_blank)]
#: Several texts; one text alone is taken as a list of one.
Names = Annotated[tuple[Name, ...], BeforeValidator(one_or_more)]
