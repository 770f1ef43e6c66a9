"""S3's XML, in and out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from airflow_emr_etl.local.s3.errors import S3Error

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"

Items = Sequence[tuple[str, Any]]
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f]")


def render(root: str, items: Items, namespace: str = NAMESPACE) -> bytes:
    """A document. An item's value is a scalar, None (left out) or a list of items; names may repeat."""
    attribute = f' xmlns="{namespace}"' if namespace else ""
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<{root}{attribute}>{_items(items)}</{root}>'
    return text.encode()


def _items(items: Items) -> str:
    pieces = []
    for name, value in items:
        if value is None:
            continue
        if isinstance(value, list | tuple):
            inner = _items(value)
        elif isinstance(value, bool):
            inner = str(value).lower()
        else:
            inner = _CONTROL.sub(lambda found: f"&#{ord(found.group())};", escape(str(value)))
        pieces.append(f"<{name}>{inner}</{name}>")
    return "".join(pieces)


def parse(body: bytes, root: str) -> ElementTree.Element:
    """The root element, names stripped of their namespace. Raises S3Error (MalformedXML)."""
    try:
        # Only the holder of the access key gets here, and expat limits what entities may expand to.
        element = ElementTree.fromstring(body)  # noqa: S314
    except ElementTree.ParseError as error:
        raise S3Error("MalformedXML", f"The XML of the request cannot be read: {error}") from None
    for child in element.iter():
        child.tag = child.tag.rpartition("}")[2]
    if element.tag != root:
        raise S3Error("MalformedXML", f"The XML of the request is {element.tag!r} and not {root!r}.")
    return element
