"""The first page of the data docs: the verdict and every expectation, in one file that needs no network.

Great Expectations' own pages, which this one links to, fetch their styles and icons from public hosts when
they are opened, and its own index is blank without them.
"""

from __future__ import annotations

import html
import json
from typing import Any, List, Mapping

from airflow_emr_etl.quality.result import ExpectationResult, GateResult
from airflow_emr_etl.quality.suite import CRITICAL

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: #1d232b;
  background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; vertical-align: top;
  padding: .35rem .7rem .35rem 0; border-bottom: 1px solid #d9dee5; } td:last-child { overflow-wrap: anywhere; }
.mark { font-weight: 600; white-space: nowrap; } .ok { color: #14713a; } .failed { color: #8a5a00; }
.critical { color: #b3191f; } .quiet { color: #5c6673; } code { font-size: .92em; }
"""


def render_page(result: GateResult, pages: Mapping[str, str], notes: Mapping[str, str]) -> str:
    """The page as HTML text.

    Args:
        result: what the gate found. Everything in it is escaped: examples are bytes of somebody's log.
        pages: for each dataset, the relative link to its page by Great Expectations.
        notes: for each expectation's id that has one, the note of its suite.
    """
    failed = len(result.failed())
    verdict = "passed" if result.passed else "failed"
    mark = "ok" if result.passed else "critical"
    total = sum(len(dataset.expectations) for dataset in result.datasets.values())
    parts: List[str] = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{_text(result.suite)}: {verdict}</title><style>{_STYLE}</style></head><body>",
        f'<h1>Suite {_text(result.suite)}: <span class="{mark}">{verdict}</span></h1>',
        f"<p>{total} expectations, {failed} failed: {result.failed_critical} critical, "
        f"{result.failed_warning} warnings. Only a critical one stops the run.</p>",
    ]
    for name, dataset in result.datasets.items():
        parts.append(f"<h2>{_text(name)} <span class='quiet'>{dataset.rows:,} rows</span></h2>")
        parts.append(
            "<table><thead><tr><th>Result</th><th>Severity</th><th>Column</th><th>Expectation</th>"
            "<th>Found</th></tr></thead><tbody>"
        )
        parts.extend(_row(entry, notes.get(entry.id, "")) for entry in dataset.expectations)
        parts.append("</tbody></table>")
        if name in pages:
            parts.append(
                f'<p><a href="{html.escape(pages[name])}">Details of {_text(name)} by Great Expectations</a></p>'
            )
    parts.append("</body></html>")
    return "\n".join(parts) + "\n"


def _row(entry: ExpectationResult, note: str) -> str:
    mark, word = ("ok", "ok") if entry.success else ("failed", "failed")
    if not entry.success and entry.severity == CRITICAL:
        mark = "critical"
    remark = f'<br><span class="quiet">{_text(note)}</span>' if note else ""
    return (
        f'<tr><td class="mark {mark}">{word}</td><td>{_text(entry.severity)}</td>'
        f"<td>{_text(entry.column or '')}</td><td><code>{_text(entry.type)}</code>{remark}</td>"
        f"<td>{_text(entry.found)}{_examples(entry)}</td></tr>"
    )


def _examples(entry: ExpectationResult) -> str:
    if not entry.examples:
        return ""
    shown = ", ".join(_text(_plain(example)) for example in entry.examples)
    return f'<br><span class="quiet">examples: <code>{shown}</code></span>'


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _text(value: str) -> str:
    return html.escape(value)
